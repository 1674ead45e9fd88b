"""The health of one tensor, from one pass over its values: `health_of(dtype, chunks)`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from ckptdoctor.health.constants import Run, text_of
from ckptdoctor.health.counting import counter
from ckptdoctor.health.numbers import Limits, Meaning, Span, limits, meaning
from ckptdoctor.model import DType

_BATCH = 1 << 16  # bytes below which chunks are put together: each costs some calls


class Specials(NamedTuple):
    """How many numbers are NaN, and how many infinite. The two parts of a complex number count one by one."""

    nan: int = 0
    infinite: int = 0

    @property
    def text(self) -> str:
        """`2 NaN, 1 infinite`."""
        parts = [f"{self.nan:,} NaN"] if self.nan else []
        return ", ".join(parts + ([f"{self.infinite:,} infinite"] if self.infinite else []))


class Loss(NamedTuple):
    """What a cast would lose: numbers that overflow (to NaN, an infinity, or around), and others than 0 that become 0.

    `to_zero` is None where it was not counted. `vanishes` says that nothing but 0 would be left of a tensor that has something
    else.
    """

    overflow: int
    to_zero: int | None = 0
    vanishes: bool = False


class TensorHealth(NamedTuple):
    """What one pass over a tensor told. The two parts of a complex number count one by one.

    `constant` is the value that all elements have, as text, and `zero` says that it is 0 or -0; neither is said of fewer than
    two elements. `losses` has the dtypes that were asked for.
    """

    sha256: str
    specials: Specials = Specials()
    constant: str | None = None
    zero: bool = False
    losses: Mapping[DType, Loss] = {}


def health_of(
    dtype: DType, chunks: Iterable[bytes], into: Sequence[DType] = (), *, every_zero: bool = False
) -> TensorHealth:
    """Read packed little-endian values once; chunks hold whole elements.

    What would overflow in the dtypes of `into` is counted, and what would become 0: in those of 8 bits, where that is a share
    of nearly any tensor and takes as long as the sha256, only with `every_zero`, or where nothing but 0 would be left.
    """
    import hashlib

    digest, tally = hashlib.sha256(), _Tally(dtype, into, every_zero=every_zero)
    for chunk in _batched(chunks):
        digest.update(chunk)
        tally.add(chunk)
    return tally.result(digest.hexdigest())


def _batched(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Small chunks together; the large ones are handed on."""
    waiting = bytearray()
    for chunk in chunks:
        if len(chunk) < _BATCH:
            waiting += chunk
            if len(waiting) < _BATCH:
                continue
            chunk = b""
        if waiting:
            yield bytes(waiting)
            waiting.clear()
        if chunk:
            yield chunk
    if waiting:
        yield bytes(waiting)


class _Question(NamedTuple):
    """What is to be found out: thresholds that are counted in any case, and those that are watched for whether any number
    reaches them."""

    meaning: Meaning | None
    limits: Mapping[DType, Limits]
    counted: frozenset[int] = frozenset()
    watched: frozenset[int] = frozenset()


@cache
def _question(dtype: DType, into: tuple[DType, ...], every_zero: bool) -> _Question:
    found, each_limits = meaning(dtype), {to: limits(dtype, to) for to in into}
    if found is None:
        return _Question(found, each_limits)
    spans = [found.nan, found.infinite, *(each.overflow for each in each_limits.values())]
    counted = {edge for span in spans if span is not None for edge in span if edge is not None}
    watched = set() if found.nonzero is None else {found.nonzero}
    for to, each in each_limits.items():
        counted.add(1)
        (counted if every_zero or to.bits > 8 else watched).add(each.kept)
    return _Question(found, each_limits, frozenset(counted), frozenset(watched - counted))


class _Tally:
    """Counts of the numbers that reach each threshold.

    As long as all elements are the same these are counted, and the numbers in them only when another one comes, or the end.
    """

    def __init__(self, dtype: DType, into: Sequence[DType], *, every_zero: bool) -> None:
        question = _question(dtype, tuple(into), every_zero)
        self._dtype = dtype
        self._meaning, self._limits, self._counted, self._watched = question
        self._reached = dict.fromkeys(self._counted | self._watched, 0)
        self._run = Run(max(dtype.itemsize, 1))

    def add(self, chunk: bytes) -> None:
        """Look at the next values."""
        if self._run.goes_on(chunk):
            return
        self._add_run()
        head = chunk[:_BATCH] if self._watched else b""  # it leaves little to watch for in the rest
        self._add(head)
        self._add(chunk[len(head) :] if head else chunk)

    def _add_run(self) -> None:
        self._add(self._run.element, self._run.taken())

    def _add(self, chunk: bytes, times: int = 1) -> None:
        if self._meaning is None or not chunk or not times:
            return
        thresholds = _sorted(self._counted | self._watched)
        for at, count in zip(thresholds, counter(self._meaning.order, thresholds)(chunk), strict=True):
            self._reached[at] += count * times
        if self._watched:
            self._watched = frozenset(at for at in self._watched if not self._reached[at])

    def result(self, sha256: str) -> TensorHealth:
        """What there is to say at the end."""
        self._add_run()
        several, zero = self._run.elements > 1, self._all_zero()
        value = text_of(self._dtype, self._run.element) if several and self._run.unbroken else None
        found = self._meaning
        specials = Specials(self._within(found.nan), self._within(found.infinite)) if found is not None else Specials()
        losses = {to: self._loss(limit) for to, limit in self._limits.items()}
        return TensorHealth(sha256, specials, "0" if several and zero else value, several and zero, losses)

    def _all_zero(self) -> bool:
        if self._meaning is None:
            return self._run.unbroken and not any(self._run.element)
        return self._meaning.nonzero is not None and not self._reached[self._meaning.nonzero]

    def _within(self, span: Span | None) -> int:
        if span is None:
            return 0
        return self._reached[span.first] - (self._reached[span.end] if span.end is not None else 0)

    def _loss(self, limit: Limits) -> Loss:
        overflow, kept, nonzero = self._within(limit.overflow), self._reached[limit.kept], self._reached[1]
        known = limit.kept in self._watched | self._counted
        return Loss(overflow, nonzero - kept if known else None, nonzero > kept == 0)


@cache
def _sorted(thresholds: frozenset[int]) -> tuple[int, ...]:
    return tuple(sorted(thresholds))
