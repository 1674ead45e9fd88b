"""Torch files that a listing and torch.load could understand differently: found by mutation fuzzing, and refused."""

from __future__ import annotations

from dataclasses import replace

from tests import builders as b
from tests.security.corpus.cases import Cases, Listed, W, corrupt, file_of, records, torch_with

PARAMETER = "torch._utils._rebuild_parameter"
_TWO = b.tensor(shape=(2,))
_SET_AGAIN = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(2)), b.tuple_(b.number(1))) + b"b"
_CHANGED, _ATTRIBUTES = "changed after it is made", "attributes would change its values"


def _attributed(state: bytes) -> bytes:
    """A tensor that torch makes, and then sets attributes on."""
    made = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(4)), b.tuple_(b.number(1)), b"\x89", b"N")
    function = b.global_("torch._utils._rebuild_tensor_v2")
    return b.call("torch._tensor._rebuild_from_type_v2", function, b.global_("torch.Tensor"), made, state)


def _shared(*opcodes: bytes) -> bytes:
    """Two tensors that are made of one function and one tuple of arguments; then the second is changed."""
    function, _, arguments = b.tensor()[:-1].partition(b"(")
    return function + b"q\1" + b"(" + arguments + b"q\2R" + b.text("v") + b"h\1h\2R" + b"".join(opcodes)


def _doubled(first: bytes, second: bytes) -> bytes:
    return file_of([(key, b.dict_({"w": b.tensor()})) for key in (first, second)])


MEANINGS: Cases = {
    "a key twice": corrupt(b.torch_file(b.pickled(b"}(", W, W, b"u")), "'w' stands twice"),
    "a key twice, once no tensor": corrupt(b.torch_file(b.pickled(b"}(", W, b.text("w"), b"Nu")), "'w' stands twice"),
    "a key twice, in the envelope": corrupt(
        file_of([(b.text("m"), b.dict_({"w": b.tensor()})), (b.text("m"), b"N")]), "'m' stands twice"
    ),
    "a number twice": corrupt(file_of([(b"K\1", b.dict_({"w": b.tensor()})), (b"\x88", b"N")]), "'1' stands twice"),
    "a number and a text that look alike": corrupt(_doubled(b"K\1", b.text("1")), "look alike"),
    "a tensor that is set to another": corrupt(torch_with(b.tensor() + _SET_AGAIN), _CHANGED),
    "a tensor that is set to nothing": corrupt(torch_with(b.tensor() + b"}b"), _CHANGED),
    "a tensor with an element set": corrupt(torch_with(b.tensor() + b"K\0G" + bytes(8) + b"s"), _CHANGED),
    "the second of two alike is set to another": corrupt(file_of({"w": _shared(_SET_AGAIN)}), _CHANGED),
    "two tensors of the same arguments": Listed(file_of({"w": _shared()}), ("w", "v")),
    "a tensor made of too many arguments": corrupt(
        torch_with(b.tensor(metadata=b.dict_({}) + b.dict_({"neg": b"\x88"}))), "made of 8 arguments"
    ),
    "a shape that is a list": corrupt(
        torch_with(b.tensor(sizes=b.list_(b.number(4)) + b.tuple_(b.number(1)))), "shape is no tuple"
    ),
    "a tensor with other values for an attribute": corrupt(
        torch_with(_attributed(b.dict_({"data": _TWO}))), _ATTRIBUTES
    ),
    "a tensor with other values for a slot": corrupt(
        torch_with(_attributed(b.tuple_(b"N", b.dict_({"data": _TWO})))), _ATTRIBUTES
    ),
    "a tensor with an imaginary attribute": corrupt(
        torch_with(_attributed(b.dict_({"imag": b.tensor()}))), _ATTRIBUTES
    ),
    "a tensor with attributes that something makes": corrupt(
        torch_with(_attributed(b.call("collections.Counter"))), _ATTRIBUTES
    ),
    "a parameter with other values for an attribute": corrupt(
        torch_with(b.call(f"{PARAMETER}_with_state", b.tensor(), b"\x88", b"N", b.dict_({"data": _TWO}))), _ATTRIBUTES
    ),
    "a flag that is a number": corrupt(
        torch_with(b.tensor(metadata=b.dict_({"neg": b"K\1"}))), "metadata are no flags"
    ),
    "a flag that is False": corrupt(torch_with(b.tensor(metadata=b.dict_({"neg": b"\x89"}))), "metadata are no flags"),
    "flags that are none": corrupt(torch_with(b.tensor(metadata=b"K\0")), "metadata are no flags"),
    "one storage as two types": corrupt(
        torch_with(b.tensor(), b.tensor(b.storage(kind="torch.IntStorage"))), "has two types"
    ),
    "a storage that is a folder": corrupt(
        records(lambda record: replace(record, attributes=16 * record.name.endswith("data/0"))), "a folder with bytes"
    ),
    "a storage with the name of a folder": corrupt(
        torch_with(b.tensor(b.storage("0/")), storages={"0/": bytes(16)}), "a folder with bytes"
    ),
    "weights under True": Listed(file_of([(b"\x88", b.dict_({"w": b.tensor()}))]), ("w",)),
    "an OrderedDict of a dict": Listed(
        b.torch_file(b.pickled(b.call("collections.OrderedDict", b.dict_({"w": b.tensor()})))), ("w",)
    ),
}
