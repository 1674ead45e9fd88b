"""Many keys as few exact labels: `blocks.{0..5,20..29}.mlp.{fc1,fc2}.weight` names these keys and no others.

Keys are merged along one segment at a time, and only where all other segments name the same sets; so every label stands for
a full product of its alternatives, and nothing is shown that is not there. Linear in the number of keys, for each segment.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

Names: TypeAlias = tuple[str, ...]
_Row: TypeAlias = tuple[Names, ...]


class Label(NamedTuple):
    """A label and the keys it stands for, in the order in which its alternatives name them."""

    text: str
    keys: tuple[str, ...]


def labels(keys: Iterable[str]) -> list[Label]:
    """Exact labels for distinct keys, in the order of the first of their keys."""
    every = list(keys)
    position = {key: number for number, key in enumerate(every)}
    result = [Label(_label(row), tuple(_product(row))) for row in _merged(every)]
    return sorted(result, key=lambda label: min(position[key] for key in label.keys))


def _merged(keys: Sequence[str]) -> list[_Row]:
    rows: list[_Row] = [tuple((part,) for part in key.split(".")) for key in keys]
    longest = max(map(len, rows), default=0)
    for at in (*reversed(range(longest)), *range(longest)):
        rows = _merge_along(rows, at)
    return rows


def _merge_along(rows: Sequence[_Row], at: int) -> list[_Row]:
    """Rows that differ in segment `at` alone become one."""
    groups: dict[Hashable, list[str]] = {}
    order: dict[Hashable, _Row] = {}
    for row in rows:
        others: Hashable = (row[:at], row[at + 1 :]) if _mergeable(row, at) else (row,)
        order.setdefault(others, row)
        if _mergeable(row, at):
            groups.setdefault(others, []).extend(row[at])
    return [
        (*row[:at], tuple(sorted(groups[others], key=_natural)), *row[at + 1 :]) if others in groups else row
        for others, row in order.items()
    ]


def _mergeable(row: _Row, at: int) -> bool:
    """Whether there is a segment here, and its names cannot be mistaken for the notation of a label."""
    return len(row) > at and not any(set(name) & set("{},") for name in row[at])


def _product(row: _Row) -> list[str]:
    keys = list(row[0])
    for names in row[1:]:
        keys = [f"{key}.{name}" for key in keys for name in names]
    return keys


def _label(row: _Row) -> str:
    return ".".join(names[0] if len(names) == 1 else "{" + ",".join(_ranges(names)) + "}" for names in row)


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


def _natural(name: str) -> tuple[int, int, str]:
    return (0, int(name), name) if _is_number(name) else (1, 0, name)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) < 19 and str(int(name)) == name
