"""Ops that only put runs of bytes in another row (concat, split, slice along the outermost dimension): no memory, no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ckptdoctor.files import Span
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.model import TensorSpec
from ckptdoctor.optimizer import spec_of
from ckptdoctor.plan import Expression, Take, taken_keys


def spans_of(expression: Expression | None, stored: Mapping[str, StoredTensor]) -> list[Span] | None:
    """The bytes of files that are the values of an expression, in order; None where these have to be computed."""
    specs = {key: stored[key].spec for key in taken_keys(expression)}
    if expression is None or any(spec.dtype.bits % 8 for spec in specs.values()):
        return None
    return _spans(expression, stored, specs)


def _spans(
    expression: Expression, stored: Mapping[str, StoredTensor], specs: Mapping[str, TensorSpec]
) -> list[Span] | None:
    if isinstance(expression, Take):
        tensor = stored[expression.key]
        return [tensor.span()] if tensor.as_it_lies else None
    given = tuple(spec_of(inner, specs) for inner in expression.inputs)
    runs = expression.op.runs(given)
    if runs is None:
        return None
    inputs = []
    for inner in expression.inputs:
        if (spans := _spans(inner, stored, specs)) is None:
            return None
        inputs.append(spans)
    width, found = given[0].dtype.itemsize, list[Span]()
    for run in runs[expression.output]:
        for piece in _cut(inputs[run.input], run.begin * width, run.end * width):
            _append(found, piece)
    return found


def _cut(spans: Sequence[Span], begin: int, end: int) -> Iterator[Span]:
    """The bytes from `begin` to before `end` of spans in a row."""
    at = 0
    for span in spans:
        first, last = max(begin - at, 0), min(end - at, span.size)
        if first == 0 and last == span.size:
            yield span
        elif first < last:
            yield span._replace(offset=span.offset + first, size=last - first, crc=0)
        at += span.size


def _append(spans: list[Span], piece: Span) -> None:
    """Add a span, as a part of the last one if it goes on where that ends."""
    last = spans[-1] if spans else None
    if last is not None and last.file is piece.file and last.offset + last.size == piece.offset and last.size:
        spans[-1] = last._replace(size=last.size + piece.size, crc=0)
    elif piece.size:
        spans.append(piece)
