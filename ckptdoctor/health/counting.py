"""How many packed numbers reach a threshold, counted exactly with nothing but bytes and integers.

The bytes of a number are taken column by column: `data[3::4]` holds the top byte of every float32. Nearly all top bytes lie
between two thresholds, where nobody need look further: `translate` deletes them, and what is left tells how many lie below and
above. Only where a top byte is that of a threshold do the lower ones decide. A few such numbers are looked at one by one; of
many, the columns become large integers with a flag in each byte, and `&` and `bit_count` count.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import groupby, pairwise
from typing import NamedTuple, TypeAlias

Counter: TypeAlias = Callable[[bytes], list[int]]
_FEW = 64  # of so many numbers, one is looked at by itself
_SAMPLE = 16  # numbers that tell where most of them lie
_ALL = -1  # the integer in which every flag is set


class Order(NamedTuple):
    """Packed little-endian numbers of `width` bytes, and how they are ordered: by `ranks` of the top byte, then by the others.

    The rank of a number is the integer of its bytes with the rank of the top byte in place of that.
    """

    width: int
    ranks: bytes


@cache
def counter(order: Order, thresholds: tuple[int, ...]) -> Counter:
    """A function that says how many numbers of a chunk reach each threshold, by their ranks; these are sorted and distinct."""
    width, bits = order.width, 8 * (order.width - 1)
    by_top = groupby(thresholds, lambda each: each >> bits)
    edges = [_Edge.of(top, [each - (top << bits) for each in group], order) for top, group in by_top]
    ends = [edge.rank for edge in edges]
    gaps = [_between(order, lower, upper) for lower, upper in pairwise([-1, *ends, 256])]

    def count(data: bytes) -> list[int]:
        top = data[width - 1 :: width]
        sample = sorted(top[:: len(top) // _SAMPLE + 1].translate(order.ranks))
        gap = bisect_right(ends, sample[len(sample) // 2]) if sample else 0
        rest = top.translate(None, gaps[gap])
        between, below, found = len(top) - len(rest), 0, list[int]()
        for number, edge in enumerate(edges):
            below += between if number == gap else 0
            below, rest = below + len(rest), rest.translate(None, edge.lower)
            below, equal = below - len(rest), len(rest)
            rest = rest.translate(None, edge.same)
            equal -= len(rest)
            found += [len(top) - below - low for low in _below(data, top, width, edge, equal)]
            below += equal
        return found

    return count


def _between(order: Order, lower: int, upper: int) -> bytes:
    return bytes(byte for byte, rank in enumerate(order.ranks) if lower < rank < upper)


class _Edge(NamedTuple):
    """The thresholds with one top byte: what they are without it, and the bytes that are lower, and that are the same."""

    rank: int
    rests: tuple[int, ...]
    lower: bytes
    same: bytes
    flags: bytes

    @classmethod
    def of(cls, rank: int, rests: Sequence[int], order: Order) -> _Edge:
        lower = bytes(byte for byte, its in enumerate(order.ranks) if its < rank)
        same = bytes(byte for byte, its in enumerate(order.ranks) if its == rank)
        return cls(rank, tuple(rests), lower, same, bytes(its == rank for its in order.ranks))


def _below(data: bytes, top: bytes, width: int, edge: _Edge, equal: int) -> list[int]:
    """Of the numbers whose top byte is that of an edge, `equal` of them: how many are below each of its thresholds."""
    if not equal or not any(edge.rests):
        return [0] * len(edge.rests)
    if equal == len(top):
        return _narrowed(data, width, width - 2, _ALL, edge.rests)
    flags = top.translate(edge.flags)
    if equal > len(top) // _FEW:
        return _narrowed(data, width, width - 2, int.from_bytes(flags, "little"), edge.rests)
    lows = [int.from_bytes(data[at * width : (at + 1) * width - 1], "little") for at in _places(flags)]
    return [sum(low < rest for low in lows) for rest in edge.rests]


def _places(flags: bytes) -> Iterator[int]:
    at = flags.find(1)
    while at >= 0:
        yield at
        at = flags.find(1, at + 1)


def _narrowed(data: bytes, width: int, column: int, mask: int, rests: Sequence[int]) -> list[int]:
    """Of the numbers flagged in `mask`: how many have lower bytes, from `column` down, that are below each of `rests`."""
    values, bits = data[column::width], 8 * column
    found: list[int] = []
    for byte, group in groupby(rests, lambda rest: rest >> bits):
        lower = [rest - (byte << bits) for rest in group]
        less = values.translate(_less(byte)) if byte else b""
        certain = (int.from_bytes(less, "little") & mask).bit_count() if 1 in less else 0
        equal = 0
        if any(lower):
            same = values.translate(_same(byte))
            equal = int.from_bytes(same, "little") & mask if 0 in same else mask
        deeper = _narrowed(data, width, column - 1, equal, lower) if equal else [0] * len(lower)
        found += [certain + each for each in deeper]
    return found


@cache
def _less(byte: int) -> bytes:
    return bytes(each < byte for each in range(256))


@cache
def _same(byte: int) -> bytes:
    return bytes(each == byte for each in range(256))
