"""The output against the source it was made from: copies have the source's bytes, what an op made is made again.

Which tensor came of which is taken from the receipt; the maps are asked again only for what was computed (recomputing.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.receipt import Receipt, TensorReceipt
from ckptdoctor.text import plural, shape_text
from ckptdoctor.verification.evidence import Evidence, Side
from ckptdoctor.verification.recomputing import recomputed
from ckptdoctor.verification.types import Check, Problem, judged, skipped


def source(evidence: Evidence) -> Check:
    """Every tensor holds what the source's tensors, and the ops of the maps, make it hold."""
    record, side = evidence.record, evidence.source
    if record is None:
        return skipped("source", evidence.no_record)
    if side is None:
        return skipped("source", f"{evidence.no_source}; compared with the receipt alone")
    copies = [row for row in record.tensors if is_copy(row)]
    made = [row for row in record.tensors if row.ops and not _is_filled(row)]
    problems = [problem for row in copies if (problem := _copied(row, evidence.output, side)) is not None]
    problems += [problem for row in record.tensors if (problem := _tied(row, evidence.output)) is not None]
    again = recomputed(evidence, record, side, made)
    problems += again.problems
    by_digest = _by_digest(record, again.why_not, made)
    name = side.manifest.origin.reference
    parts = [f"{plural(len(copies), 'tensor')} with the bytes of {name}"]
    parts += [f"{len(made):,} computed again from it"] if made and again.why_not is None else []
    bad = f"{plural(len(problems), 'tensor')} not as {name} has them" + _hint(evidence)
    return judged("source", len(record.tensors), problems, ", ".join([*parts, *by_digest]), bad, notes=_notes(evidence))


def is_copy(row: TensorReceipt) -> bool:
    """Whether a tensor of the output is one of the source, as it was."""
    return not row.ops and len(row.sources) == 1


def _is_filled(row: TensorReceipt) -> bool:
    """Whether its values come of a constructor, which is not run again."""
    return bool(row.ops) and not row.sources and (row.status == "filled" or row.ops[0].startswith("init(model"))


def _copied(row: TensorReceipt, output: Side, source: Side) -> Problem | None:
    (key,) = row.sources
    spec = source.manifest.get(key)
    if spec is None:
        return Problem(row.key, f"comes of {key}, which the source does not have")
    if (spec.shape, spec.dtype.name) != (row.shape, row.dtype):
        return Problem(row.key, f"comes of {key}, which is {shape_text(spec.shape)} {spec.dtype} in the source")
    try:
        same = source.digest(key) == output.values[row.key].sha256
    except CorruptCheckpoint as error:
        return Problem(row.key, f"cannot be compared with {key}: {error.message}")
    named = "" if key == row.target else f"{key} has "
    return None if same else Problem(row.key, f"has other values than {named}in the source")


def _tied(row: TensorReceipt, output: Side) -> Problem | None:
    """What the target ties to another tensor, and the source did not have: it holds the values of the other."""
    if row.sources or row.ops or row.tied_to is None:
        return None
    if output.values[row.key].sha256 != output.values[row.tied_to].sha256:
        return Problem(row.key, f"has other values than {row.tied_to}, to which it is tied")
    return None


def _by_digest(record: Receipt, why_not: str | None, made: Sequence[TensorReceipt]) -> list[str]:
    """What was not compared with the source itself, and why."""
    how = "by digest only" if any(row.sha256 for row in record.tensors) else "not at all"
    parts = [f"{len(made):,} computed ones {how}: {why_not}"] if made and why_not is not None else []
    filled = [row for row in record.tensors if _is_filled(row)]
    return parts + ([f"{len(filled):,} filled by {filled[0].ops[0]} {how}"] if filled else [])


def _hint(evidence: Evidence) -> str:
    """With sound digests it is rather the source that has changed."""
    sound = evidence.found["digests"].passed
    return "; the digests agree with the receipt, so look at the source first" if sound else ""


def _notes(evidence: Evidence) -> list[str]:
    assert evidence.receipt is not None
    assert evidence.source is not None
    recorded, manifest = evidence.receipt.source, evidence.source.manifest
    if (manifest.origin.nbytes, manifest.fingerprint) == (recorded["bytes"], recorded["fingerprint"]):
        return []
    return [
        f"{manifest.origin.reference} is not the very file of the receipt: its size, keys, shapes or ties are others"
    ]
