"""Changes of a pickle that keep it one, mostly: opcodes are dropped, doubled, moved and put in the place of others."""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from random import Random
from typing import NamedTuple

from tests import builders as b
from tests.security.fuzzing.blocks import Pool, change, near
from tests.security.fuzzing.entries import Ops, change_entry

GLOBALS = (
    *("collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.complex", "__builtin__.set"),
    *("torch.FloatStorage", "torch.IntStorage", "torch.DoubleStorage", "torch.HalfStorage", "torch.BFloat16Storage"),
    *("torch.LongStorage", "torch.ByteStorage", "torch.BoolStorage", "torch.ComplexFloatStorage", "torch.QInt8Storage"),
    *("torch.storage.UntypedStorage", "torch.cuda.FloatStorage", "torch.float32", "torch.int32", "torch.uint16"),
    *(
        "torch.complex64",
        "torch.bfloat16",
        "torch.quint8",
        "torch.Size",
        "torch.Tensor",
        "torch.nn.parameter.Parameter",
    ),
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state", "os.system"),
    *(
        "torch._utils._rebuild_sparse_tensor",
        "torch._tensor._rebuild_from_type_v2",
        "torch.device",
        "argparse.Namespace",
    ),
)
TEXTS = (
    "",
    "w",
    "weight",
    "storage",
    "0",
    "1",
    "00",
    "cpu",
    "meta",
    "cuda:0",
    "conj",
    "neg",
    "state_dict",
    "\ud800",
    "é",
)
_PARTS = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(2)), b.tuple_(b.number(1)))
_MADE = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(4)), b.tuple_(b.number(1)), b"\x89", b"N")
_ATTRIBUTED = b.call(
    "torch._tensor._rebuild_from_type_v2", b.global_("torch._utils._rebuild_tensor_v2"), b.global_("torch.Tensor"), _MADE,
    b.dict_({"data": b.tensor(shape=(2,))}),
)  # fmt: skip
_LATE = b.text("late") + b"h\xf7" + b.text("neg") + b"\x88s"  # a dict that is used by then
_LISTED = b.list_(b.tuple_(b.text("w"), b.tensor()))
TWISTS = (
    b.text("x") + b.tensor(metadata=b"}q\xf7") + _LATE,
    b.text("x")
    + b.tensor(sizes=b.list_(b.number(2)) + b"q\xf7" + b.list_(b.number(1)))
    + b.text("y")
    + b"h\xf7"
    + b"K\1a",
    b.text("x")
    + b.call("collections.OrderedDict", _LISTED + b"q\xf7")
    + b.text("y")
    + b"h\xf7"
    + b.tuple_(b.text("v"), b.tensor())
    + b"a",
    b.text("x") + b.call("collections.OrderedDict", b.dict_({"w": b.tensor()})),
    b.text("x") + b.global_("collections.OrderedDict") + b.tuple_(_LISTED) + b"\x81",
    b.text("x") + b.tensor() + _PARTS + b"b",
    b.text("x") + b.tensor() + b"}b",
    b.text("x") + _ATTRIBUTED,
    b.text("x")
    + b.call(
        "torch._utils._rebuild_parameter",
        b.call("torch._utils._rebuild_parameter", b.tensor(), b"\x88", b"N"),
        b"\x88",
        b"N",
    ),
    b.text("x") + b.tensor(b.storage(kind="torch.IntStorage")),
    b.text("x") + b.tensor(b.storage(kind="torch.storage.UntypedStorage", numel=16), dtype="torch.int16", shape=(8,)),
)
"""Entries of a dict by which torch, reading them at another moment or in another way than a parser would, could make other
tensors than it finds."""
SNIPPETS = (
    *(
        b.text("x") + b.tensor() + b"s",
        b.text("w") + b.tensor() + b"s",
        b.text("x") + b.dict_({"w": b.tensor()}) + b"s",
    ),
    *(b.number(0) + b.dict_({"w": b.tensor()}) + b"s", b.text("0") + b.dict_({"w": b.tensor()}) + b"s"),
    *(b.tensor(), b.storage(), b.call("collections.OrderedDict"), b.call("torch.Size", b.tuple_(b.number(4)))),
    *(b.call("collections.OrderedDict", b.list_(b.tuple_(b.text("w"), b.tensor()))), b.call("collections.Counter")),
    *(
        b.dict_({"conj": b"\x88"}),
        b.dict_({"neg": b"\x88"}),
        b.tuple_(),
        b.list_(),
        b"]",
        b"}",
        b")",
        b"N",
        b"(",
        b"\x8f",
    ),
    *(
        b"}b",
        _PARTS + b"b",
        b"Nb",
        b")R",
        b")\x81",
        b"\x85",
        b"\x86",
        b"\x87",
        b"a",
        b"e",
        b"s",
        b"u",
        b"0",
        b"2",
        b"Q",
    ),
    *(
        b.number(2**40),
        b.number(-(2**70)),
        b"G\x7f\xf8" + bytes(6),
        b"K\1",
        b"M\1\1",
        b"U\1w",
        b"\x8c\1w",
        b"I1\n",
        b"I01\n",
    ),
)
_PUSHES = frozenset(b"NKMJG\x88\x89)]}X\x8a\x8b\x8cU")
_NUMBERS = frozenset(b"KMJ")


class Streams(NamedTuple):
    """What a pickle may be changed into: the opcodes of others, and pieces that are put in."""

    others: Sequence[Ops]
    snippets: Sequence[bytes] = SNIPPETS
    twists: Sequence[bytes] = TWISTS

    def of_a_row(self) -> Streams:
        """The same for files from before 1.6, whose references to storages have a sixth part."""
        parts = ([piece.replace(b"tQ", b"NtQ") for piece in pieces] for pieces in self[1:])
        return Streams(self.others, *parts)


def split(stream: bytes) -> Ops:
    """The opcodes of a stream with their arguments; what cannot be parsed is the last of them."""
    starts = []
    with suppress(ValueError):
        for _, _, at in pickletools.genops(io.BytesIO(stream)):
            starts.append(at or 0)
    return [stream[a:z] for a, z in pairwise([*starts, len(stream)])] or [stream]


def _drop(random: Random, ops: Ops, pool: Streams) -> None:
    at = random.randrange(len(ops))
    del ops[at : at + random.choice((1, 1, 2, 3))]


def _double(random: Random, ops: Ops, pool: Streams) -> None:
    at = random.randrange(len(ops))
    run = ops[at : at + random.choice((1, 1, 2, 4, 12))]
    where = at if random.random() < 0.6 else random.randrange(len(ops))
    ops[where:where] = run


def _swap(random: Random, ops: Ops, pool: Streams) -> None:
    kind = random.choice(ops)[0]
    alike = [at for at, op in enumerate(ops) if op[0] == kind] if random.random() < 0.7 else range(len(ops))
    a, z = random.choice(alike), random.choice(alike)
    ops[a], ops[z] = ops[z], ops[a]


def _renumber(random: Random, ops: Ops, pool: Streams) -> None:
    if places := [at for at, op in enumerate(ops) if op[0] in _NUMBERS]:
        at = random.choice(places)
        there = int.from_bytes(ops[at][1:5], "little", signed=True)
        ops[at] = b.number(near(random, there))


def _reword(random: Random, ops: Ops, pool: Streams) -> None:
    if places := [at for at, op in enumerate(ops) if op[0] == ord("X")]:
        at = random.choice(places)
        raw = random.choice(TEXTS).encode("utf-8", "surrogatepass")
        ops[at] = random.choice((b"X" + len(raw).to_bytes(4, "little") + raw, ops[random.choice(places)]))


def _rename(random: Random, ops: Ops, pool: Streams) -> None:
    if places := [at for at, op in enumerate(ops) if op[0] == ord("c")]:
        ops[random.choice(places)] = b.global_(random.choice(GLOBALS))


def _retarget(random: Random, ops: Ops, pool: Streams) -> None:
    """Another memo slot is read, or written."""
    if places := [at for at, op in enumerate(ops) if op[0] in b"hq"]:
        at = random.choice(places)
        index = ops[random.choice(places)][1:]
        ops[at] = ops[at][:1] + random.choice((index, bytes([random.randrange(256)])))


def _recall(random: Random, ops: Ops, pool: Streams) -> None:
    """A value is replaced by one that was made before."""
    places = [at for at, op in enumerate(ops) if op[0] in _PUSHES]
    slots = [op[1:] for op in ops if op[0] == ord("q")]
    if places and slots:
        ops[random.choice(places)] = b"h" + random.choice(slots)


def _replace(random: Random, ops: Ops, pool: Streams) -> None:
    if places := [at for at, op in enumerate(ops) if op[0] in _PUSHES]:
        other = [op for op in random.choice(pool.others) if op[0] in _PUSHES] or [b"N"]
        ops[random.choice(places)] = random.choice(other)


def _insert(random: Random, ops: Ops, pool: Streams) -> None:
    at = random.randrange(len(ops))
    other = random.choice(pool.others)
    begin = random.randrange(len(other))
    run = other[begin : begin + random.choice((1, 2, 3, 8))]
    ops[at:at] = split(random.choice(pool.snippets)) if random.random() < 0.7 else run


def _twist(random: Random, ops: Ops, pool: Streams) -> None:
    """Before the end of a mapping."""
    if places := [at for at, op in enumerate(ops) if op[0] == ord("u")]:
        at = random.choice(places)
        ops[at:at] = split(random.choice(pool.twists))


def _after_a_call(random: Random, ops: Ops, pool: Streams) -> None:
    """Something is done to an object once it is made."""
    if places := [at for at, op in enumerate(ops) if op[0] in b"R}]"]:
        at = random.choice(places) + 1
        ops[at:at] = split(random.choice(pool.snippets))


CHANGES: tuple[Callable[[Random, Ops, Streams], None], ...] = (
    *(_drop, _double, _swap, _swap, _renumber, _renumber, _renumber, _reword, _reword),
    *(_rename, _rename, _retarget, _recall, _replace, _insert, _insert, _after_a_call, _twist),
)


def change_pickle(random: Random, ops: Ops, pool: Streams, words: Pool) -> bytes:
    """A stream like the one of `ops`: a few opcodes are other ones, or now and then a few bytes."""
    ops = list(ops)
    if random.random() < 0.15:
        return change(random, b"".join(ops), words)
    for _ in range(random.choice((0, 1, 1, 1, 2, 3))):
        change_entry(random, ops)
    for _ in range(random.choice((0, 0, 0, 1, 1, 2, 4))):
        random.choice(CHANGES)(random, ops, pool)
        ops = ops or [b"."]
    return b"".join(ops)
