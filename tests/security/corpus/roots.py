"""Torch files whose pickle is no state dict, or hardly one: roots of every kind, and odd things beside the weights."""

from __future__ import annotations

from tests import builders as b
from tests.security.corpus.cases import Cases, Listed, Refused, W, beside_w, corrupt, file_of, torch_with, without

PARAMETER = "torch._utils._rebuild_parameter"
DOUBLING = b"K\1\x85" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(200))
DEEP_PARAMETERS = b.global_(PARAMETER) * 20_000 + b.tensor() + b"\x85R" * 20_000
DEEP_DICTS = (b"}" + b.text("k")) * 20_000 + b.dict_({"w": b.tensor()}) + b"s" * 20_000


def _root(*opcodes: bytes) -> Refused:
    return Refused(b.torch_file(b.pickled(*opcodes)), "no-state-dict", "no state dict in it", "inspect")


ROOTS: Cases = {
    "None": _root(b"N"),
    "True": _root(b"\x88"),
    "a number": _root(b"K\1"),
    "a number of 20,000 bits": _root(b.number(1 << 20_000)),
    "not a number": _root(b"G\x7f\xf8\0\0\0\0\0\0"),
    "a text": _root(b.text("state_dict")),
    "bytes": _root(b"C\4\0\0\0\0"),
    "a list": _root(b.list_(b.text("w"))),
    "a list of tensors": _root(b.list_(b.tensor(), b.tensor())),
    "a tuple of itself": _root(b"(]q\0h\0h\0\x86t"),
    "a list of itself": _root(b"]q\0h\0a"),
    "a set": _root(b"\x8f(", b.text("w"), b"\x90"),
    "a tensor": _root(b.tensor()),
    "a storage": _root(b.storage()),
    "a global": _root(b.global_("torch.Tensor")),
    "an empty dict": _root(b"}"),
    "a dict of numbers": _root(b.dict_([(b"K\1", b.tensor())])),
    "a dict of itself": _root(b"}q\0", b.text("state_dict"), b"h\0s"),
    "a Counter of tensors": _root(b.call("collections.Counter", b.dict_({"w": b.tensor()}))),
    "several places alike": Refused(
        file_of({f"m{n}": b.dict_({"w": b.tensor()}) for n in range(1000)}),
        "no-state-dict",
        "several places .* and 988 more",
        "--select",
    ),
    "an empty pickle": corrupt(b.torch_file(b""), "ends early"),
    "nothing but STOP": corrupt(b.torch_file(b"."), "does not end with one object"),
    "two objects": corrupt(b.torch_file(b"NN."), "does not end with one object"),
    "a mark that stays": corrupt(b.torch_file(b"N(."), "does not end with one object"),
    "a pickle without an end": corrupt(b.torch_file(b.pickled(b.dict_({"w": b.tensor()}))[:-1]), "ends early"),
    "a pickle of protocol 9": corrupt(b.torch_file(b.pickled(b.dict_({"w": b.tensor()}), protocol=9)), "protocol 9"),
    "an opcode that there is not": corrupt(b.torch_file(b.pickled(b"\xff")), "unknown opcode"),
    "a buffer outside": corrupt(b.torch_file(b.pickled(b"\x97", protocol=5)), "outside the pickle"),
    "a key without a value": corrupt(b.torch_file(b.pickled(b"}(", W, b.text("k"), b"u")), "key without a value"),
    "no pickle": Refused(without("data.pkl"), "unknown-format", "without a data.pkl", "unpacked"),
    "no version": corrupt(without("version"), "version record is missing"),
    "version 0": corrupt(torch_with(b.tensor(), version=b"0\n"), "version record"),
    "version 11": corrupt(torch_with(b.tensor(), version=b"11\n"), "version record"),
    "a version that is no number": corrupt(torch_with(b.tensor(), version=b"3.1"), "version record"),
    "a byte order between": corrupt(torch_with(b.tensor(), byteorder=b"middle"), "byte order"),
    "an empty byte order": corrupt(torch_with(b.tensor(), byteorder=b""), "byte order"),
    "a reference that is no storage": corrupt(torch_with(b.text("module") + b"Q"), "that is no storage"),
    "a reference that is text": corrupt(torch_with(b"Pstorage\n"), "that is no storage"),
    "a reference that holds itself": corrupt(b.torch_file(b.pickled(b"]q\0(h\0h\0h\0h\0h\0tQa")), "no storage"),
    "a byte order that is not said": Listed(without("byteorder"), ("w",)),
    "version 10": Listed(torch_with(b.tensor(), version=b"10"), ("t0",)),
    "an empty key": Listed(file_of({"": b.tensor()}), ("",)),
    "a parameter of a parameter": Listed(
        torch_with(b.tensor(), b.call(PARAMETER, b.call(PARAMETER, b.tensor()))), ("t0",), to_safetensors=True
    ),
    "keys that no dict could hold": Listed(beside_w(b"]N", b"}]", b"K\1}", b")N"), ("w",)),
    "a key of 5,000 digits": Listed(beside_w(b.number(10**5000) + b.dict_({"x": b.tensor()})), ("w",)),
    "a mapping that holds itself": Listed(b.torch_file(b.pickled(b"}q\0(", b.text("me") + b"h\0" + W, b"u")), ("w",)),
    "parameters of parameters": Listed(file_of({"w": b.tensor(), "p": DEEP_PARAMETERS}), ("w",)),
    "keys that double without end": Listed(beside_w(DOUBLING + b"]"), ("w",)),
    "values that double without end": Listed(beside_w(b.text("x") + DOUBLING), ("w",), True, False),
    "a key of very deep tuples": Listed(beside_w(b")" + b"\x85" * 20_000 + b"N"), ("w",)),
    "a value of very deep tuples": Listed(beside_w(b.text("x") + b")" + b"\x85" * 20_000), ("w",)),
    "mappings within mappings": Listed(file_of({"w": b.tensor(), "deep": DEEP_DICTS}), ("w",)),
    "lists within lists": Listed(file_of({"w": b.tensor(), "deep": b"]" * 20_000 + b"a" * 19_999}), ("w",)),
}
