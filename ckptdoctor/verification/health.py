"""The health of what was written, which is information and fails nothing: constants, equal bytes, and what ops have made of it.

A tensor of one value is worth a warning where an op made it of others, not where the source has it so; of what was cast, the
numbers are counted that the new dtype could not hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.health import FLOATS, Health, Loss, TensorHealth, health_of, identical
from ckptdoctor.model import DTYPES, DType
from ckptdoctor.receipt import TensorReceipt
from ckptdoctor.text import listing, plural
from ckptdoctor.verification.evidence import Evidence, Side

_MOVING = {"cast", "concat", "permute", "rearrange", "reshape", "stack", "transpose"}
"""Ops that hand every number on, if as many come out as went in."""


def health(evidence: Evidence) -> Health:
    """What reading the output told, with the losses of casts where the source is there to be compared with."""
    side, found = evidence.output, dict(evidence.output.values)
    groups = identical(side.manifest, found, side.stored)
    if evidence.record is None or evidence.source is None:
        return Health(found, groups)
    made = [row for row in evidence.record.tensors if row.ops and row.sources]
    losses = {row.key: loss for row in made if (loss := _lost(row, evidence.source)) is not None}
    found |= {key: found[key]._replace(losses={side.manifest[key].dtype: loss}) for key, loss in losses.items()}
    remarks = [*_of_one_value(made, found, evidence.source), *_of_casts(losses, side)]
    return Health(found, groups, tuple(remarks))


def _lost(row: TensorReceipt, source: Side) -> Loss | None:
    """What a cast lost of the numbers of the source; None where that is not known, or nothing was cast."""
    to, names = DTYPES[row.dtype], [op.partition("(")[0] for op in row.ops]
    inputs = [source.manifest[key] for key in row.sources if key in source.manifest]
    same = sum(spec.numel for spec in inputs) == _numel(row) and len(inputs) == len(row.sources)
    if names.count("cast") != 1 or not same or not _MOVING.issuperset(names):
        return None
    if to.name not in FLOATS or not all(spec.dtype.name in FLOATS for spec in inputs):
        return None
    read = [_read(source, key, (to,)) for key in row.sources]
    losses = [each.losses[to] for each in read if each is not None]
    if len(losses) < len(read):
        return None
    return Loss(sum(each.overflow for each in losses), sum(each.to_zero or 0 for each in losses))


def _numel(row: TensorReceipt) -> int:
    count = 1
    for size in row.shape:
        count *= size
    return count


def _read(source: Side, key: str, into: Sequence[DType] = ()) -> TensorHealth | None:
    """None where it is damaged, which the check of the source says."""
    try:
        return health_of(source.manifest[key].dtype, source.chunks(key), into, every_zero=True)
    except CorruptCheckpoint:
        return None


def _of_one_value(made: Sequence[TensorReceipt], found: Mapping[str, TensorHealth], source: Side) -> Iterator[str]:
    """What ops have made one value of tensors that were not."""
    alike: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in made:
        value = found[row.key].constant
        if value is not None and any(_varies(key, source) for key in row.sources):
            alike.setdefault((value, row.ops), []).append(row.key)
    for (value, ops), keys in alike.items():
        yield f"{listing(keys)}: all {value} after {', '.join(ops)}, and not so in the source"


def _varies(key: str, source: Side) -> bool:
    """Whether a tensor of the source has several values."""
    if key not in source.manifest or source.manifest[key].numel < 2:
        return False
    read = _read(source, key)
    return read is not None and read.constant is None


def _of_casts(losses: Mapping[str, Loss], side: Side) -> Iterator[str]:
    for what in ("overflow", "to_zero"):
        lost = {key: count for key, loss in losses.items() if (count := getattr(loss, what))}
        for name in dict.fromkeys(side.manifest[key].dtype.name for key in lost):
            keys = [key for key in lost if side.manifest[key].dtype.name == name]
            count = plural(sum(lost[key] for key in keys), "number")
            how = "overflowed" if what == "overflow" else "became 0"
            yield f"{count} {how} in the cast to {name}, in {plural(len(keys), 'tensor')}: {listing(keys)}"
