"""The elements of a strided view in row-major order, from bytes in a file, without torch or numpy.

A view that is contiguous is read in chunks; any other is gathered row by row from the part of its storage that it spans,
which is then held in memory.
Conjugate and negated views (torch sets a bit instead of changing the bytes) and big-endian files come out as plain
little-endian values.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from itertools import product
from typing import Literal

from ckptdoctor.errors import CorruptCheckpoint, LimitExceeded
from ckptdoctor.files import CHUNK, SourceFile
from ckptdoctor.limits import OverLimit, limits
from ckptdoctor.model import Layout

_FORMATS: dict[int, Literal["B", "H", "I", "Q"]] = {1: "B", 2: "H", 4: "I", 8: "Q"}


def gather(source: SourceFile, start: int, extent: int, layout: Layout, *, big_endian: bool = False) -> Iterator[bytes]:
    """Yield the packed little-endian values of a view whose storage is `extent` bytes from byte `start` of the source on.

    Raises LimitExceeded for a view (a broadcast) of many more bytes than its storage has.
    """
    size, bits = layout.nbytes, layout.dtype.bits
    what = f"{source.path}: a tensor of {size:,} bytes on a storage of {extent:,} bytes"
    if layout.reach * bits > extent * 8:
        raise CorruptCheckpoint(what, path=source.path)
    if size > extent + limits().materialised:
        raise LimitExceeded(what, path=source.path, hint=OverLimit("materialised", what).hint)
    first = start + layout.offset * bits // 8
    if layout.contiguous:
        raw = source.chunks(first, size)
    else:
        raw = _rows(source.read(first, (layout.reach - layout.offset) * bits // 8), layout)
    finish = _finisher(layout, swap=big_endian)
    return map(finish, raw) if finish else raw


def _rows(span: bytes, layout: Layout) -> Iterator[bytes]:
    """Row by row, strided slices of a memoryview over the bytes that the view spans; long rows in pieces."""
    width, stride, shape = layout.dtype.itemsize, layout.stride, layout.shape
    if width > 8:  # memoryview knows no 16-byte elements: take the two halves as a last axis
        width, shape, stride = 8, (*shape, 2), (*(2 * step for step in stride), 1)
    elements = memoryview(span).cast(_FORMATS[width])
    outer, inner, step = shape[:-1], shape[-1], stride[-1]
    longest = CHUNK // width
    pieces = [(at * step, min(longest, inner - at)) for at in range(0, inner, longest)]
    for index in product(*map(range, outer)):
        row = sum(i * s for i, s in zip(index, stride, strict=False))
        for at, count in pieces:
            first = row + at
            if step:
                yield bytes(elements[first : first + (count - 1) * step + 1 : step])
            else:
                yield bytes(elements[first : first + 1]) * count


def _finisher(layout: Layout, *, swap: bool) -> Callable[[bytes], bytes] | None:
    """What has to be done to each chunk, or None. Chunks hold whole elements."""
    parts = 2 if layout.dtype.family == "complex" else 1
    width = layout.dtype.itemsize // parts
    swap = swap and width > 1
    if not (swap or layout.conj or layout.neg):
        return None

    def finish(chunk: bytes) -> bytes:
        data = bytearray(chunk)
        if swap:
            data = bytearray(swapped(data, width))
        if layout.neg and layout.dtype.family == "integer":
            data = _negated(data, width)
        elif layout.neg:
            _flip_signs(data, width, first=0, every=width)
        if layout.conj:
            _flip_signs(data, width, first=width, every=2 * width)
        return bytes(data)

    return finish


def swapped(data: bytes | bytearray, width: int) -> bytes:
    """The same numbers of `width` bytes each in the other byte order."""
    if width == 1:
        return bytes(data)
    values = array(_FORMATS[width], bytes(data))
    values.byteswap()
    return values.tobytes()


def _negated(data: bytearray, width: int) -> bytearray:
    """The negatives of integers, in two's complement."""
    values, mask = array(_FORMATS[width], bytes(data)), (1 << 8 * width) - 1
    return bytearray(array(_FORMATS[width], (-value & mask for value in values)).tobytes())


def _flip_signs(data: bytearray, width: int, *, first: int, every: int) -> None:
    """Flip the top bit of every number from `first` on (the sign of an IEEE number is its last byte's top bit)."""
    top = slice(first + width - 1, None, every)
    data[top] = bytes(byte ^ 0x80 for byte in data[top])
