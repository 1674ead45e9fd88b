"""Files that cost little to send and would cost much to read: time, memory, depth, or a tail that never ends."""

from __future__ import annotations

import struct
import zlib

from tests import builders as b
from tests.security.corpus.cases import (
    ROW,
    Cases,
    Content,
    Listed,
    Refused,
    beside_w,
    corrupt,
    file_of,
    over,
    torch_with,
    unknown,
)

MILLION = 1_000_000
PRIME = (1 << 61) - 1
"""What Python's hash of a number is taken by: multiples of it have one hash."""
BOMB = b"]q\0" + b"".join(b"0](" + b"h%c" % (n - 1) * 10 + b"eq%c" % n for n in range(1, 60))
"""A billion laughs, and then some: a list of ten times a list of ten times a list."""


def _zip_of_a_million() -> bytes:
    """A directory of a million entries for one record."""
    name, entry = (
        b"a/%07d",
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0x0800, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0),
    )
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0x0800, 0, 0, 0, 0, 0, 0, 9, 0) + b"a/0000000"
    directory = b"".join(entry + name % number for number in range(MILLION))
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 0, 45, 0, 0, MILLION, MILLION, len(directory), len(local))
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(local) + len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(directory), len(local), 0)
    return local + directory + end64 + locator + end


def _bomb(size: int, said: int) -> bytes:
    """A data.pkl of zeros that unpacks to `size` bytes and says another number."""
    packer = zlib.compressobj(9, wbits=-15)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(size >> 20)) + packer.flush()
    first, *others = b.torch_records(b"N.")
    return b.zip_bytes([b.Record(first.name, data, method=8, size=said, packed=len(data), crc=0), *others])


def _optimizer(states: list[tuple[bytes, bytes]], *params: bytes) -> bytes:
    """A file with the states of an optimizer beside the weights."""
    group = b.dict_({"params": b.list_(*params), "lr": b"K\1"})
    optimizer = b.dict_({"state": b.dict_(states), "param_groups": b.list_(group)})
    return file_of({"state_dict": b.dict_({"w": b.tensor()}), "optimizer": optimizer})


def _colliding_ids(count: int) -> bytes:
    """An optimizer whose parameters have numbers with one hash."""
    numbers = [_long(n * PRIME) for n in range(1, count)]
    return _optimizer([(number, _STEP) for number in numbers], *numbers)


def _long(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def _empty(count: int) -> bytes:
    """So many empty tensors in safetensors."""
    rows = b",".join(b'"layers.%d.weight":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % n for n in range(count))
    return b.safetensors_bytes(b"{" + rows + b"}")


def _empty_in_torch(count: int, *, alike: bool) -> bytes:
    """The same in a torch file; `alike`: all of them are calls with the arguments of the first."""
    arguments = b"h\2" if alike else b"(h\3K\0(K\0t(K\1t\x89Nt"
    rows = b"".join(b.text(f"w{n}") + b"h\1" + arguments + b"R" for n in range(1, count))
    first = b.global_("torch._utils._rebuild_tensor_v2") + b"q\1(" + b.storage() + b"q\3K\0(K\0t(K\1t\x89Ntq\2R"
    return b.torch_file(b.pickled(b"}(" + b.text("first") + first + rows + b"u"))


def over_time(content: Content, words: str) -> Refused:
    """A file that breaks the rules, and takes a while to build or to read."""
    return corrupt(content, words, costly=True)


_STEP = b.dict_({"step": b"K\1"})
_HUGE = b.number(10**5000)
_FOLLOW = ("--optimizer", "follow")
_NO_LIST = "params is no list of numbers or names"

_BEGINS = b.pickled(b.number(0x1950A86A20F9469CFC6C)) + b.pickled(b.number(1001))
_OLD = _BEGINS + b.pickled(b.dict_({"little_endian": b"\x88"}))
"""A file of torch before 1.6, up to its object."""

EXPENSE: Cases = {
    "20 million opcodes": over(
        lambda: b.torch_file(b.pickled(b"N0" * 10_000_000 + b"N")), "opcodes", "more than 3,000,000 opcodes"
    ),
    "20 million opcodes in an old file": over(
        lambda: _OLD + b.pickled(b"N0" * 10_000_000 + b"N"),
        "opcodes",
    ),
    "20 million marks": over(lambda: b.torch_file(b.pickled(b"(" * 20_000_000)), "opcodes"),
    "20 million lists": over(lambda: b.torch_file(b.pickled(b"]" * 20_000_000)), "opcodes"),
    "three million sets": Listed(
        lambda: beside_w(b.text("x") + b"](" + b"\x8f" * 2_900_000 + b"e"), ("w",), False, False, True
    ),
    "a memo index of 2^31": Listed(beside_w(b"Nr\xff\xff\xff\x7f" + b"N"), ("w",)),
    "a memo index of 2^31 and no more": corrupt(b.torch_file(b.pickled(b"Nr\xff\xff\xff\x7f")[:-1]), "ends early"),
    "a million memo places in a line that collide": over_time(
        lambda: beside_w(b.text("x") + b"N" + b"".join(b"p%d\n" % (n * PRIME) for n in range(1, 500_000))),
        "place in the memo that is no count",
    ),
    "a memo place of 5,000 digits": corrupt(
        beside_w(b"Np" + b"9" * 5000 + b"\nN"), "place in the memo that is no count"
    ),
    "a memo place of -1": corrupt(beside_w(b"Np-1\nN"), "place in the memo that is no count"),
    "a memo place that is empty": corrupt(beside_w(b"h\7N"), "malformed pickle"),
    "a billion laughs": Listed(beside_w(b.text("x") + BOMB), ("w",), costly=True),
    "a billion laughs for a key": Listed(beside_w(BOMB + b"N"), ("w",), True, False),
    "a million deep in tuples": Listed(
        lambda: beside_w(b.text("x") + b")" + b"\x85" * MILLION), ("w",), True, False, True
    ),
    "a million deep in lists": Listed(
        lambda: beside_w(b.text("x") + b"]" * MILLION + b"a" * (MILLION - 1)), ("w",), False, True, True
    ),
    "half a million deep in dicts": Listed(
        lambda: beside_w(b.text("x") + b"}N" * 500_000 + b"N" + b"s" * 500_000), ("w",), False, True, True
    ),
    "half a million deep in calls": Listed(
        lambda: beside_w(b.text("x") + b.global_("evil.C") + b")R" * 500_000), ("w",), False, True, True
    ),
    "half a million deep in frozen sets": Listed(
        lambda: beside_w(b.text("x") + b"(" * 500_000 + b"\x91" * 500_000), ("w",), False, True, True
    ),
    "a key a million deep in tuples": Listed(
        lambda: beside_w(b")" + b"\x85" * MILLION + b"N"), ("w",), False, True, True
    ),
    "a million references to references": corrupt(
        lambda: beside_w(b"N" + b"Q" * MILLION + b"N"), "that is no storage", costly=True
    ),
    "weights 65 levels down": Listed(
        file_of({"w": b.tensor(), "d": b"]" * 65 + b.dict_({"v": b.tensor()}) + b"a" * 65}), ("w",)
    ),
    "a hundred thousand keys that collide": Listed(
        lambda: beside_w(b"".join(_long(n * PRIME) + b"N" for n in range(1, 100_000))), ("w",), True, False, True
    ),
    "numbers that collide in a set": Listed(
        lambda: beside_w(b.text("x") + b"\x8f(" + b"".join(_long(n * PRIME) for n in range(1, 100_000)) + b"\x90"),
        ("w",),
        True,
        False,
        True,
    ),
    "an optimizer of numbers that collide": Listed(
        lambda: _colliding_ids(60_000), ("w",), _NO_LIST, False, True, _FOLLOW
    ),
    "an optimizer of numbers of 5,000 digits": Listed(
        _optimizer([(_HUGE, _STEP)], _HUGE), ("w",), _NO_LIST, False, options=_FOLLOW
    ),
    "an optimizer of a number that is endless to print": Listed(
        _optimizer([(BOMB, _STEP)], b"K\0"), ("w",), "no group has the parameter a list", False, options=_FOLLOW
    ),
    "an optimizer of a state that is endless to print": Listed(
        _optimizer([(b"K\0", b.dict_({"step": BOMB}))], b"K\0"),
        ("w",),
        "neither a tensor nor a number",
        False,
        options=_FOLLOW,
    ),
    "an optimizer of odd numbers that is kept": Listed(_optimizer([(_HUGE, _STEP), (BOMB, _STEP)], _HUGE), ("w",)),
    "LONG4 of 2 GiB": corrupt(b.torch_file(b.pickled(b"\x8b\xff\xff\xff\x7f")), "the pickle ends early"),
    "LONG4 of -1 bytes": corrupt(b.torch_file(b.pickled(b"\x8b\xff\xff\xff\xff")), "the pickle ends early"),
    "LONG4 of 40 MB": Listed(
        lambda: beside_w(b.text("x") + b"\x8b" + struct.pack("<i", 40 << 20) + b"\x7f" * (40 << 20)),
        ("w",),
        True,
        False,
        True,
    ),
    "LONG4 of 40 MB for a key": Listed(
        lambda: beside_w(b"\x8b" + struct.pack("<i", 40 << 20) + b"\x7f" * (40 << 20) + b"N"), ("w",), False, True, True
    ),
    "LONG4 of 40 MB for a size": over_time(
        lambda: torch_with(
            b.tensor(
                b.storage().replace(
                    b.number(4) + b"t", b"\x8b" + struct.pack("<i", 40 << 20) + b"\x7f" * (40 << 20) + b"t"
                )
            )
        ),
        "size of a storage that is no count",
    ),
    "a number of 5,000 digits": corrupt(beside_w(b.text("x") + b"I" + b"9" * 5000 + b"\n"), "malformed pickle"),
    "a long number of 5,000 digits": corrupt(beside_w(b.text("x") + b"L" + b"9" * 5000 + b"L\n"), "malformed pickle"),
    "a float of ten million digits": Listed(
        lambda: beside_w(b.text("x") + b"F" + b"9" * 10_000_000 + b"\n"), ("w",), True, False, True
    ),
    "a float of 1e400": Listed(beside_w(b.text("x") + b"F1e400\n"), ("w",)),
    "a text of 4 GiB": corrupt(b.torch_file(b.pickled(b"X\xff\xff\xff\xff")), "the pickle ends early"),
    "a text of 2^62": corrupt(b.torch_file(b.pickled(b"\x8d" + struct.pack("<Q", 1 << 62), protocol=4)), "ends early"),
    "bytes of 2^62": corrupt(b.torch_file(b.pickled(b"\x8e" + struct.pack("<Q", 1 << 62), protocol=4)), "ends early"),
    "a bytearray of 2^63": corrupt(
        b.torch_file(b.pickled(b"\x96" + struct.pack("<Q", 1 << 63), protocol=5)), "ends early"
    ),
    "a text of 40 MB that takes four times as much": Listed(
        lambda: beside_w(b.text("x") + b.text("a" * (40 << 20) + "\U0001f600")), ("w",), True, False, True
    ),
    "a text of Python 2 of two million escapes": Listed(
        lambda: beside_w(b.text("x") + b"S'" + b"\\n" * 2_000_000 + b"'\n"), ("w",), True, False, True
    ),
    "a text of Python 2 of an unknown escape": corrupt(beside_w(b.text("x") + b"S'\\d'\n"), "unknown escape"),
    "a text of Python 2 of too large an octal": corrupt(beside_w(b.text("x") + b"S'\\777'\n"), "unknown escape"),
    "a text of Python 2 that ends in its escape": corrupt(beside_w(b.text("x") + b"S'\\'\n"), "unknown escape"),
    "a text of Python 2 without its end": corrupt(b.torch_file(b.pickled(b"S'" + b"x" * 100)), "ends early"),
    "a frame longer than the pickle": corrupt(
        b.torch_file(b.pickled(b"\x95" + struct.pack("<Q", 1 << 40) + b"N", protocol=4)), "a frame that is longer"
    ),
    "a frame of 2^64 - 1": corrupt(
        b.torch_file(b.pickled(b"\x95" + b"\xff" * 8 + b"N", protocol=4)), "a frame that is longer"
    ),
    "a frame shorter than what is in it": Listed(
        file_of([(b.text("w"), b"\x95" + struct.pack("<Q", 2) + b.tensor())], protocol=4), ("w",)
    ),
    "a frame in a frame": Listed(
        file_of([(b.text("w"), b"\x95" + struct.pack("<Q", 9) + b"\x95" + bytes(8) + b.tensor())], protocol=4), ("w",)
    ),
    "a hundred thousand globals": over_time(
        lambda: beside_w(b.text("x") + b"](" + b"".join(b"cm%d\nn\n" % n for n in range(100_000)) + b"e"),
        "more than 65,536 different globals",
    ),
    "a hundred thousand codes of extensions": over_time(
        lambda: beside_w(b.text("x") + b"](" + b"".join(b"\x84" + struct.pack("<i", n) for n in range(100_000)) + b"e"),
        "different globals",
    ),
    "half a million empty tensors": over(lambda: _empty(500_000), "opcodes", "more than 3,000,000 values"),
    "half a million empty tensors in a torch file": over(lambda: _empty_in_torch(500_000, alike=False), "opcodes"),
    "200,000 empty tensors": Listed(lambda: _empty(200_000), 200_000, False, False, True),
    "150,000 empty tensors in a torch file": Listed(
        lambda: _empty_in_torch(150_000, alike=False), 150_000, False, False, True
    ),
    "half a million calls with the arguments of one": Listed(
        lambda: _empty_in_torch(500_000, alike=True), 500_000, False, False, True
    ),
    "300,000 entries that are no tensors": Listed(
        lambda: beside_w(b"".join(b.text(f"k{n}") + b"N" for n in range(300_000))), ("w",), False, False, True
    ),
    "a hundred thousand places": Refused(
        lambda: file_of(
            {f"m{n}": b.dict_({"w": b"h\0"}) if n else b.dict_({"w": b.tensor() + b"q\0"}) for n in range(100_000)}
        ),
        "no-state-dict",
        "several places",
        "--select",
        True,
    ),
    "a directory of a million entries": over_time(_zip_of_a_million, "reaches into the next one"),
    "a pickle that unpacks to 64 MB and says 1 MB": over_time(lambda: _bomb(64 << 20, 1 << 20), "data.pkl|version"),
    "a pickle that unpacks to 2 GB": over(lambda: _bomb(64 << 20, 2 << 30), "metadata", "2,147,483,648 bytes long"),
    "a header of 99 MB that is not there": corrupt(b.safetensors_bytes({}, length=99_000_000), "ends beyond the file"),
    "a header of 100 MB of spaces": over(
        lambda: b.safetensors_bytes(b"{" + b" " * 99_999_998 + b"}"), "metadata", "its header is 100,000,000"
    ),
    "a header of 60 MB of spaces": Listed(
        lambda: b.safetensors_bytes(b"{" + b" " * 60_000_000 + b"}"), (), False, False, True
    ),
    "a header of more than 100 MB": unknown(b.safetensors_bytes({}, length=100_000_001), "longer than 100 MB"),
    "a header of a million levels": over_time(
        lambda: b.safetensors_bytes("{" + '"a":[' + "[" * MILLION), "nested too deep"
    ),
    "a header of twenty million empty lists": over(
        lambda: b.safetensors_bytes(b'{"a":[' + b"[]," * 20_000_000 + b"0]}"), "opcodes"
    ),
    "a header of many commas in a text": Listed(
        lambda: b.safetensors_bytes({"__metadata__": {"x": "[,{" * 5_000_000}} | ROW, bytes(8)),
        ("w",),
        False,
        False,
        True,
    ),
    "a header of a 40 MB text that takes four times as much": Listed(
        lambda: b.safetensors_bytes(b'{"__metadata__":{"x":"' + b"a" * (40 << 20) + "\U0001f600".encode() + b'"}}'),
        (),
        False,
        False,
        True,
    ),
    "a manifest of a million levels": over_time(
        b'{"schema": "ckptdoctor/manifest/1", "tensors": ' + b"[" * MILLION, "nested deeper than 8 levels"
    ),
    "a manifest of 100 MB": over(
        lambda: b'{"schema": "ckptdoctor/manifest/1", "tensors": [' + b" " * 100_000_000 + b"]}",
        "metadata",
        "a manifest is",
    ),
    "an old file whose facts are 20 MB": over_time(
        lambda: _BEGINS + b.pickled(b"B" + struct.pack("<I", 20 << 20) + bytes(20 << 20)),
        "record of its machine is longer",
    ),
    "an old file whose object is 100 MB": over(
        lambda: _OLD + b.pickled(b"B" + struct.pack("<I", 100 << 20) + bytes(100 << 20)),
        "metadata",
        "do not end within",
    ),
    "an old file that reads its whole before it fails": over_time(
        lambda: _OLD + b.pickled(b"N" * 2_000_000 + b"\xff"),
        "unknown opcode",
    ),
}
