"""Which elements of a tensor: for each dimension the indices, and all elements whose indices are among them."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from math import prod
from typing import TypeAlias

Indices: TypeAlias = range | frozenset[int]
Box: TypeAlias = tuple[Indices, ...]
_MOST = 8  # boxes of which the common elements are counted: that takes 2 ** 8 steps
_LONGEST = 2**20  # indices that are written out one by one


def whole(shape: tuple[int, ...]) -> Box:
    """All elements of a tensor."""
    return tuple(map(range, shape))


def elements(box: Box) -> int:
    """How many they are."""
    return prod(map(len, box))


def along(box: Box, dim: int, indices: Indices) -> Box:
    """With other indices along a dimension."""
    if isinstance(indices, frozenset) and indices and max(indices) - min(indices) < len(indices):
        indices = range(min(indices), max(indices) + 1)
    return (*box[:dim], indices, *box[dim + 1 :])


def between(indices: Indices, start: int, stop: int) -> Indices:
    """Those from `start` to before `stop`, counted from `start`."""
    if isinstance(indices, range):
        first, last = (max(-((indices.start - end) // indices.step), 0) for end in (start, stop))
        return moved(indices[first:last], -start)
    return frozenset(index - start for index in indices if start <= index < stop)


def chosen(indices: Indices, taken: range | tuple[int, ...]) -> Indices:
    """What stands at these places of those that are taken."""
    if isinstance(indices, range) and isinstance(taken, range):
        return taken[indices.start : indices.stop : indices.step]
    return frozenset(taken[index] for index in indices)


def moved(indices: Indices, by: int) -> Indices:
    """Every index so much further."""
    if isinstance(indices, range):
        return range(indices.start + by, indices.stop + by, indices.step)
    return frozenset(index + by for index in indices)


def together(boxes: Iterable[Box]) -> int | None:
    """How many elements are in any of these boxes of one tensor; None where that takes too long to say."""
    joined = list(dict.fromkeys(boxes))
    if any(not _is_span(indices) and len(indices) > _LONGEST for box in joined for indices in box):
        return None
    for dim in range(len(joined[0]) if joined else 0):
        joined = _joined_along(joined, dim)
    if len(joined) > _MOST:
        return None
    count = 0
    for number in range(1, len(joined) + 1):
        common = sum(elements(_common(some)) for some in combinations(joined, number))
        count += common if number % 2 else -common
    return count


def _joined_along(boxes: list[Box], dim: int) -> list[Box]:
    """With those made one that differ along one dimension only."""
    groups: dict[Box, list[Indices]] = {}
    for box in boxes:
        groups.setdefault((*box[:dim], range(0), *box[dim + 1 :]), []).append(box[dim])
    return [along(box, dim, indices) for box, every in groups.items() for indices in _either(every)]


def _either(every: list[Indices]) -> list[Indices]:
    """The indices that are in any of these: as one, where that is not too long."""
    spans = sorted((each for each in every if isinstance(each, range) and each.step == 1), key=lambda each: each.start)
    joined: list[Indices] = []
    at = spans[0] if spans else range(0)
    for each in spans:
        if each.start > at.stop:
            joined.append(at)
            at = each
        at = range(at.start, max(at.stop, each.stop))
    joined += [at] if spans else []
    joined += [each for each in every if not _is_span(each)]
    if len(joined) == 1 or sum(map(len, joined)) > _LONGEST:
        return joined
    return [frozenset[int]().union(*joined)]


def _common(boxes: tuple[Box, ...]) -> Box:
    """The elements that are in all of them."""
    return tuple(_both(every) for every in zip(*boxes, strict=True))


def _both(every: tuple[Indices, ...]) -> Indices:
    spans = [each for each in every if isinstance(each, range) and each.step == 1]
    span = range(max((each.start for each in spans), default=0), min((each.stop for each in spans), default=0))
    rest = [frozenset(each) for each in every if not _is_span(each)]
    if not rest:
        return span
    common = frozenset.intersection(*rest)
    return frozenset(index for index in common if index in span) if spans else common


def _is_span(indices: Indices) -> bool:
    return isinstance(indices, range) and indices.step == 1
