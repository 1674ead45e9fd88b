"""What the bits of floating-point numbers mean: which are none, which are 0, and which another dtype cannot hold.

Without its sign, such a number is an integer that grows with the magnitude: its rank. So being NaN, 0, or too large for float16
is lying on one side of a threshold. The thresholds follow from the digits and exponents of the formats.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

from ckptdoctor.health.counting import Order
from ckptdoctor.model import DTYPES, DType

_NARROW = ("float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
ONE = 1 << 1100
"""Of all numbers that there are, and of those halfway between two, each is a multiple of 1 / ONE."""
_ANY_SIGN = bytes(byte & 0x7F for byte in range(256))


class Span(NamedTuple):
    """Ranks from `first` to before `end`; None: to the last."""

    first: int
    end: int | None = None


class Float(NamedTuple):
    """A floating-point format. `beyond` is the first rank that is no finite number, an infinity if there is one."""

    order: Order
    fraction: int
    bias: int
    beyond: int
    infinite: bool = False

    @classmethod
    def ieee(cls, width: int, fraction: int) -> Float:
        """With infinities and NaN in the highest exponent."""
        exponents = (1 << 8 * width - 1 - fraction) - 1
        return cls(Order(width, _ANY_SIGN), fraction, exponents // 2, exponents << fraction, infinite=True)

    @property
    def nan(self) -> int:
        """The first rank that is NaN."""
        return self.beyond + self.infinite

    def value(self, rank: int) -> int:
        """The magnitude as a multiple of 1 / `ONE`; for the ranks beyond, what would follow if the format went on."""
        exponent, digits = rank >> self.fraction, rank & (1 << self.fraction) - 1
        if exponent:
            digits += 1 << self.fraction
        return (digits * ONE << max(exponent, 1)) >> self.bias + self.fraction

    def reaching(self, to: Float, rank: int) -> int:
        """The least of the ranks here that are rounded to at least this one there: to the nearest, of two to the even one."""
        if self is _DOUBLE and to.order.width < _SINGLE.order.width:  # as torch does: in two steps
            rank, to = _SINGLE.reaching(to, rank), _SINGLE
        middle = (to.value(rank - 1) + to.value(rank)) // 2
        find = bisect_right if rank % 2 else bisect_left
        return find(range(self.beyond), middle, key=self.value)


_DOUBLE, _SINGLE, _HALF = Float.ieee(8, 52), Float.ieee(4, 23), Float.ieee(2, 10)
_ONE_NAN = Order(1, bytes(byte if byte == 0x80 else byte & 0x7F for byte in range(256)))  # where -0 would be
FLOATS: Mapping[str, Float] = {
    **{"float64": _DOUBLE, "complex128": _DOUBLE, "float32": _SINGLE, "complex64": _SINGLE},
    **{"float16": _HALF, "complex32": _HALF, "bfloat16": Float.ieee(2, 7), "float8_e5m2": Float.ieee(1, 2)},
    "float8_e4m3fn": Float(Order(1, _ANY_SIGN), 3, 7, 0x7F),
    "float8_e4m3fnuz": Float(_ONE_NAN, 3, 8, 0x80),
    "float8_e5m2fnuz": Float(_ONE_NAN, 2, 16, 0x80),
}
_POWERS = Order(1, bytes(range(256)))  # float8_e8m0fnu: an exponent, no sign, no zero
_PAIRS = Order(1, bytes(byte & 0x77 for byte in range(256)))  # float4_e2m1fn_x2: 0 if both halves are


class Meaning(NamedTuple):
    """What lies where in the order of a dtype. `nonzero` is the first rank that is not 0, None where there is no 0."""

    order: Order
    nonzero: int | None = 1
    nan: Span | None = None
    infinite: Span | None = None


@cache
def meaning(dtype: DType) -> Meaning | None:
    """What the numbers of a floating-point or complex dtype mean; None for others, and for the types of 6 bits."""
    if dtype.name in FLOATS:
        each = FLOATS[dtype.name]
        return Meaning(each.order, 1, Span(each.nan), Span(each.beyond, each.nan) if each.infinite else None)
    if dtype.name == "float8_e8m0fnu":
        return Meaning(_POWERS, None, Span(0xFF))
    return Meaning(_PAIRS) if dtype.name == "float4_e2m1fn_x2" else None


def can_be_nan(dtype: DType) -> bool:
    """Whether there is something else than numbers among those of a dtype."""
    found = meaning(dtype)
    return found is not None and found.nan is not None


class Limits(NamedTuple):
    """What another dtype cannot hold: the numbers that overflow, and those other than 0 below rank `kept`, which become 0."""

    overflow: Span
    kept: int


@cache
def limits(dtype: DType, to: DType) -> Limits:
    """What a cast as torch makes it loses, between two dtypes of FLOATS."""
    source, target = FLOATS[dtype.name], FLOATS[to.name]
    end = source.beyond if target.infinite else source.nan
    return Limits(Span(source.reaching(target, target.beyond), end), source.reaching(target, 1))


@cache
def narrower(dtype: DType) -> tuple[DType, ...]:
    """The usual dtypes to which somebody may want to cast: those of fewer bits, and of 16 bits the other one."""
    if dtype.name == "complex128":
        return (DTYPES["complex64"],)
    if dtype.name not in FLOATS or dtype.family == "complex":
        return ()
    others = (DTYPES[name] for name in _NARROW if name != dtype.name)
    return tuple(to for to in others if to.bits < dtype.bits or to.bits == dtype.bits == 16)
