"""Changes of a pickle that are most often still good: whole entries of state dicts, and what their tensors are made of.

Other mutants are mostly refused, or the same tensors again; of these, both readers must see the same new ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from random import Random

from tests import builders as b

Ops = list[bytes]
_WIDTHS = (
    ("FloatStorage", "IntStorage"),
    ("HalfStorage", "BFloat16Storage", "ShortStorage"),
    ("ByteStorage", "CharStorage", "BoolStorage"),
    ("DoubleStorage", "LongStorage", "ComplexFloatStorage"),
)
_TYPES = {b.global_(f"torch.{name}"): names for names in _WIDTHS for name in names}
_PUSHES = frozenset(b"NKMJG\x88\x89)]}X\x8a\x8bUhjc")
_FROM_MARK = (b"t", b"u", b"e")
_POPS = {b"\x86": 1, b"\x87": 2, b"R": 1, b"\x81": 1, b"b": 1, b"a": 1, b"s": 2, b"0": 1}
_KEYS = ("x", "y", "w2", "a.b.c", "é", "0", "module.x", "x" * 70)


def entries(ops: Ops) -> list[range]:
    """Where the entries of tensors are, each from its key to what makes the tensor: they hold one reference to a storage."""
    found = [entry for entry in _pairs(ops) if ops[entry.start][0] == ord("X")]
    return [entry for entry in found if sum(ops[at] == b"Q" for at in entry) == 1]


def _pairs(ops: Ops) -> list[range]:
    """Keys with their values, by what lies on the stack: `stack` has where each value on it begins."""
    stack: list[int] = []
    marks: list[tuple[int, int]] = []
    found: list[range] = []
    with suppress(IndexError):
        for at, op in enumerate(ops):
            if op[0] in _PUSHES:
                stack.append(at)
            elif op == b"(":
                marks.append((len(stack), at))
            elif op in _FROM_MARK:
                height, begin = marks.pop()
                items = [*stack[height:], at]
                del stack[height:]
                if op == b"t":
                    stack.append(begin)
                elif op == b"u":
                    found += [range(items[n], items[n + 2]) for n in range(0, len(items) - 2, 2)]
            elif op == b"s":
                found.append(range(stack[-2], at))
            del stack[len(stack) - _POPS.get(op, 0) :]
    return found


def _numbers(ops: Ops, entry: range) -> list[int]:
    return [at for at in entry if ops[at][0] in b"KMJ"]


def _copy(random: Random, ops: Ops, entry: range) -> None:
    copied = [b.text(random.choice(_KEYS)), *ops[entry.start + 1 : entry.stop]]
    at = random.choice((entry.start, entry.stop, *(other.start for other in entries(ops))))
    ops[at:at] = copied


def _drop(random: Random, ops: Ops, entry: range) -> None:
    del ops[entry.start : entry.stop]


def _name(random: Random, ops: Ops, entry: range) -> None:
    ops[entry.start] = b.text(random.choice(_KEYS))


def _tweak(random: Random, ops: Ops, entry: range) -> None:
    """A size, a stride, the offset or the length of the storage is a little more or less."""
    if places := _numbers(ops, entry):
        at = random.choice(places)
        there = int.from_bytes(ops[at][1:5], "little", signed=True)
        ops[at] = b.number(there + random.choice((-2, -1, -1, 1)))


def _exchange(random: Random, ops: Ops, entry: range) -> None:
    """Two of these change places, or one is as another."""
    if places := _numbers(ops, entry):
        one, other = random.choice(places), random.choice(places)
        ops[one], ops[other] = ops[other], random.choice((ops[one], ops[other]))


def _shape(random: Random, ops: Ops, entry: range) -> None:
    """The tensor is a small one of any form, on the same storage."""
    tuples = [at for at in entry if ops[at][0] in b"t\x85\x86\x87"]
    storages = [at for at in entry if ops[at][0] == ord("Q")]
    if storages and len(tuples) > 2:
        start = storages[0] + 1 + (ops[storages[0] + 1][0] == ord("q"))
        ends = [at for at in tuples if at > start][:2]
        if len(ends) == 2:
            count = random.randrange(4)
            sizes = [random.choice((0, 1, 1, 2, 2, 3)) for _ in range(count)]
            strides = [random.choice((0, 1, 2, 3)) for _ in range(count)]
            parts = [
                b.number(random.randrange(3)),
                *(b.tuple_(*map(b.number, numbers)) for numbers in (sizes, strides)),
            ]
            stop = ends[1] + 1 + (ops[ends[1] + 1 : ends[1] + 2] != [] and ops[ends[1] + 1][0] == ord("q"))
            ops[start:stop] = [*parts]


def _flag(random: Random, ops: Ops, entry: range) -> None:
    """It is said to be conjugated or negated."""
    ends = [at for at in entry if ops[at][0] == ord("t")]
    if ends and b"_v2\n" in b"".join(ops[entry.start : entry.stop]):
        ops[ends[-1] : ends[-1]] = [b.dict_({random.choice(("conj", "neg")): b"\x88"})]


def _retype(random: Random, ops: Ops, entry: range) -> None:
    """All storages of one type have another one of its width."""
    if places := [op for op in ops[entry.start : entry.stop] if op in _TYPES]:
        old = random.choice(places)
        new = b.global_(f"torch.{random.choice(_TYPES[old])}")
        ops[:] = [new if op == old else op for op in ops]


CHANGES: tuple[Callable[[Random, Ops, range], None], ...] = (
    *(_copy, _drop, _name, _tweak, _tweak, _exchange, _shape, _shape, _shape, _flag, _retype),
)


def change_entry(random: Random, ops: Ops) -> None:
    """One entry is another one."""
    if found := entries(ops):
        random.choice(CHANGES)(random, ops, random.choice(found))
