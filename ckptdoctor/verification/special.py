"""NaN and infinities among packed numbers, counted by their bit patterns with nothing but bytes and integers.

The bytes of a number are taken column by column: `data[3::4]` holds the top byte of every float32. A table marks the bytes
whose exponent bits are all ones; if none is marked, which is nearly always so, the chunk is done at some 3 GB/s. Else the
columns become large integers, and `&` and `bit_count` count exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from ckptdoctor.model import DType


class Specials(NamedTuple):
    """How many numbers are NaN, and how many infinite. The two parts of a complex number count one by one."""

    nan: int = 0
    infinite: int = 0

    def plus(self, more: Specials) -> Specials:
        """Both together."""
        return Specials(self.nan + more.nan, self.infinite + more.infinite)

    @property
    def text(self) -> str:
        """`2 NaN, 1 infinite`."""
        parts = [f"{self.nan:,} NaN"] if self.nan else []
        return ", ".join(parts + ([f"{self.infinite:,} infinite"] if self.infinite else []))


class _Format(NamedTuple):
    """A number of `width` bytes is no finite one if its bits under `mask` are `pattern`; it is infinite if, besides, its
    bits under `fraction` are zero."""

    width: int
    mask: int
    pattern: int
    fraction: int


def _ieee(width: int, exponent: int, fraction: int) -> _Format:
    return _Format(width, exponent, exponent, fraction)


_DOUBLE = _ieee(8, 0x7FF << 52, (1 << 52) - 1)
_SINGLE = _ieee(4, 0x7F800000, 0x7FFFFF)
_HALF = _ieee(2, 0x7C00, 0x3FF)
_FORMATS = {
    **{"float64": _DOUBLE, "complex128": _DOUBLE, "float32": _SINGLE, "complex64": _SINGLE},
    **{"float16": _HALF, "complex32": _HALF, "bfloat16": _ieee(2, 0x7F80, 0x7F)},
    **{"float8_e5m2": _ieee(1, 0x7C, 0x03)},
    # without infinities: NaN is all ones, or the negative zero
    **{"float8_e4m3fn": _ieee(1, 0x7F, 0x07), "float8_e8m0fnu": _ieee(1, 0xFF, 0x01)},
    **dict.fromkeys(("float8_e4m3fnuz", "float8_e5m2fnuz"), _Format(1, 0xFF, 0x80, 0x80)),
}


def specials_of(dtype: DType) -> Callable[[bytes], Specials] | None:
    """A function that counts them in a chunk of whole little-endian numbers; None where a dtype has none (int8, float4)."""
    return _counter(_FORMATS[dtype.name]) if dtype.name in _FORMATS else None


@cache
def _counter(number: _Format) -> Callable[[bytes], Specials]:
    width, none = number.width, Specials()
    special = _columns(width, number.mask, number.pattern)
    infinite = _columns(width, number.fraction, 0)

    def count(data: bytes) -> Specials:
        marked = -1
        for column, table in special:
            flags = data[column::width].translate(table)
            if 1 not in flags:
                return none
            marked &= int.from_bytes(flags, "little")
        zero = marked
        for column, table in infinite:
            zero &= int.from_bytes(data[column::width].translate(table), "little")
        return Specials((marked ^ zero).bit_count(), zero.bit_count())

    return count


def _columns(width: int, mask: int, pattern: int) -> list[tuple[int, bytes]]:
    """For each byte of a number that `mask` touches, the top one first: a table of 1 where its bits are those of `pattern`."""
    columns = []
    for column in reversed(range(width)):
        bits, wanted = mask >> 8 * column & 0xFF, pattern >> 8 * column & 0xFF
        if bits:
            columns.append((column, bytes(byte & bits == wanted for byte in range(256))))
    return columns
