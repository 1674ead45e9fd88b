"""Tensors of one value: `Run` tells whether it is one, `text_of` which value that is."""

from __future__ import annotations

from ckptdoctor.health.counting import Order
from ckptdoctor.health.numbers import FLOATS, ONE, Float
from ckptdoctor.model import DType

_HEAD = 16  # elements that are looked at before all are compared


class Run:
    """The first element again and again, for as long as nothing else comes. `elements` counts all, until it is broken."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._repeated = b""
        self._waiting = 0
        self.element = b""
        self.elements = 0
        self.unbroken = True

    def goes_on(self, chunk: bytes) -> bool:
        """Whether the next elements, too, are the same as the first."""
        if self.unbroken:
            self.elements += len(chunk) // self._size
            self.unbroken = self._same(chunk)
            self._waiting += len(chunk) // self._size if self.unbroken else 0
        return self.unbroken

    def _same(self, chunk: bytes) -> bool:
        self.element = self.element or chunk[: self._size]
        head = chunk[: _HEAD * self._size]
        if head != self.element * (len(head) // self._size):
            return False
        if len(self._repeated) < len(chunk):
            self._repeated = self.element * (len(chunk) // self._size)
        return chunk == self._repeated[: len(chunk)]

    def taken(self) -> int:
        """How many elements went by since this was asked last."""
        waiting, self._waiting = self._waiting, 0
        return waiting


_NIBBLE = Float(Order(1, bytes(range(256))), 1, 1, 8)  # the four bits of float4_e2m1fn_x2


def text_of(dtype: DType, element: bytes) -> str | None:
    """The value of one packed little-endian element: `0.02`, `-inf`, `1-2j`, `True`, with as many digits as it takes.

    None where the bytes are those of several numbers: pairs of unlike ones, types of 6 bits.
    """
    number = int.from_bytes(element, "little")
    if dtype.bits < 8:
        return None if number else "0"
    if dtype.name == "float4_e2m1fn_x2":
        return _float(_NIBBLE, number & 7, negative=bool(number & 8)) if number >> 4 == number & 15 else None
    if dtype.name == "float8_e8m0fnu":
        return "nan" if number == 0xFF else f"{2.0 ** (number - 127):g}"
    if dtype.family == "bool":
        return str(bool(number))
    if dtype.family == "integer":
        return str(int.from_bytes(element, "little", signed=dtype.name.startswith("int")))
    if dtype.family == "complex":
        half = len(element) // 2
        imaginary = _real(dtype, element[half:])
        return f"{_real(dtype, element[:half])}{'' if imaginary[0] == '-' else '+'}{imaginary}j"
    return _real(dtype, element)


def _real(dtype: DType, element: bytes) -> str:
    format_, top = FLOATS[dtype.name], element[-1]
    rank = int.from_bytes(element[:-1] + format_.order.ranks[top : top + 1], "little")
    return _float(format_, rank, negative=bool(top & 0x80))


def _float(kind: Float, rank: int, *, negative: bool) -> str:
    if rank >= kind.beyond:
        text = "inf" if rank < kind.nan else "nan"
    else:
        value = kind.value(rank) / ONE
        room = value - kind.value(max(rank - 1, 0)) / ONE  # to the next number, and half of it is nearer to this one
        texts = (f"{value:.{digits}g}" for digits in range(6, 18))
        text = next(text for text in texts if 2 * abs(float(text) - value) < room or float(text) == value)
    return "-" + text if negative and text not in ("0", "nan") else text
