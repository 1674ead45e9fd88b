"""Many keys as few exact labels: `blocks.{0..5,20..29}.mlp.{fc1,fc2}.weight` names these keys and no others.

Keys are merged along one segment at a time, and only where all other segments name the same sets; so every label stands for
a full product of its alternatives, and nothing is shown that is not there. Linear in the number of keys, for each segment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from itertools import chain, product
from math import prod
from operator import itemgetter
from typing import NamedTuple, TypeAlias

Names: TypeAlias = tuple[str, ...]
_Row: TypeAlias = tuple[str | Names, ...]
"""The segments of a label: one name, or several."""


class Label(NamedTuple):
    """A label, and what each of its segments can be."""

    text: str
    segments: _Row

    @property
    def size(self) -> int:
        """How many keys it stands for."""
        return prod(len(_names(segment)) for segment in self.segments)

    @property
    def first(self) -> str:
        """The first of them."""
        return ".".join(_names(segment)[0] for segment in self.segments)

    @property
    def keys(self) -> tuple[str, ...]:
        """All of them, in the order in which the alternatives name them."""
        return tuple(map(".".join, product(*map(_names, self.segments))))


def labels(keys: Iterable[str]) -> list[Label]:
    """Exact labels for distinct keys, in the order of the first of their keys."""
    rows: list[_Row] = [tuple(key.split(".")) for key in keys]
    lengths = [*map(len, rows)] or [0]
    longest, shortest = max(lengths), min(lengths)
    for at in (*reversed(range(longest)), *range(longest)):
        names = set(map(itemgetter(at), rows)) if at < shortest else {row[at] for row in rows if len(row) > at}
        if len(names) > 1:  # where all have one name, none can differ in it alone
            rows = _merge_along(rows, at, {name for name in names if _is_notation(name)})
    return [Label(_label(row), row) for row in rows]


def _merge_along(rows: Sequence[_Row], at: int, alone: Container[str | Names]) -> list[_Row]:
    """Rows that differ in segment `at` alone become one, in the place of the first; what is `alone` there stays as it is."""
    groups: defaultdict[object, list[_Row]] = defaultdict(list)
    for row in rows:
        if len(row) > at and row[at] not in alone:
            groups[row[:at] + row[at + 1 :]].append(row)
        else:
            groups[None, row].append(row)
    return [group[0] if len(group) == 1 else _joined(group, at) for group in groups.values()]


def _joined(rows: Sequence[_Row], at: int) -> _Row:
    names = sorted(chain.from_iterable(_names(row[at]) for row in rows), key=_natural)
    return (*rows[0][:at], tuple(names), *rows[0][at + 1 :])


def _is_notation(segment: str | Names) -> bool:
    """Whether a name could be mistaken for the notation of a label; where there are several, that was asked."""
    return isinstance(segment, str) and not {"{", "}", ","}.isdisjoint(segment)


def _names(segment: str | Names) -> Names:
    return (segment,) if isinstance(segment, str) else segment


def _label(row: _Row) -> str:
    return ".".join(part if isinstance(part, str) else "{" + ",".join(_ranges(part)) + "}" for part in row)


def _ranges(names: Names) -> list[str]:
    """Runs of three or more numbers as `a..b`; everything else as it is."""
    parts: list[str] = []
    run: list[str] = []
    for name in (*names, ""):
        if run and not (_is_number(name) and _is_number(run[-1]) and int(name) == int(run[-1]) + 1):
            parts += run if len(run) < 3 else [f"{run[0]}..{run[-1]}"]
            run = []
        run.append(name)
    return parts


@lru_cache(10_000)
def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if _is_number(name) else (1, 0, name)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 19 and str(int(name)) == name
