"""The output against its receipt: the same tensors, and the same values in them."""

from __future__ import annotations

from collections.abc import Iterator

from ckptdoctor.model import TensorSpec
from ckptdoctor.receipt import Receipt, TensorReceipt, receipt_path
from ckptdoctor.text import listing, plural, printable, shape_text
from ckptdoctor.verification.evidence import Evidence, Side
from ckptdoctor.verification.types import Check, Problem, judged, skipped


def receipt(evidence: Evidence) -> Check:
    """There is a receipt, and it is one of this file: format, keys, shapes and dtypes agree (ties are a check of their own)."""
    record, side = evidence.receipt, evidence.output
    if evidence.receipt_error is not None:
        return Check("receipt", "failed", evidence.receipt_error)
    if record is None:
        return skipped("receipt", f"there is no {receipt_path(evidence.path).name}")
    if record.output["format"] != side.format:
        text = f"a receipt of another file: of the format {printable(record.output['format'])}, this is {side.format}"
        return Check("receipt", "failed", text)
    problems = list(_differences(record, side))
    notes = []
    if record.output["bytes"] != side.manifest.origin.nbytes:
        notes.append(
            f"the file has {side.manifest.origin.nbytes:,} bytes, the receipt says {record.output['bytes']:,}: "
            "it was saved again since"
        )
    bad = f"a receipt of another file: {problems[0].key} {problems[0].text}" if problems else ""
    good = f"{plural(len(side.manifest), 'tensor')} as it lists them"
    return judged("receipt", len(side.manifest), problems, good, printable(bad), notes=notes)


def _differences(record: Receipt, side: Side) -> Iterator[Problem]:
    rows = {row.key: row for row in record.tensors}
    for key, spec in side.manifest.items():
        if key not in rows:
            yield Problem(key, "is in the file, and not in the receipt")
        elif (text := _difference(rows[key], spec)) is not None:
            yield Problem(key, text)
    for key in rows:
        if key not in side.manifest:
            yield Problem(key, "is in the receipt, and not in the file")


def _difference(row: TensorReceipt, spec: TensorSpec) -> str | None:
    recorded, found = (row.shape, row.dtype), (spec.shape, spec.dtype.name)
    if recorded == found:
        return None
    texts = [f"{shape_text(shape)} {dtype}" for shape, dtype in (recorded, found)]
    return f"is {texts[0]} in the receipt, {texts[1]} in the file"


def digests(evidence: Evidence) -> Check:
    """Every tensor has the sha256 that the receipt recorded when it was written."""
    record, side = evidence.record, evidence.output
    if record is None:
        return skipped("digests", evidence.no_record)
    rows = [row for row in record.tensors if row.sha256 is not None]
    if not rows:
        return skipped("digests", "the receipt holds none (--no-digests)")
    wrong = [row.key for row in rows if side.values[row.key].sha256 != row.sha256]
    without = [row.key for row in record.tensors if row.sha256 is None]
    notes = [f"the receipt holds no digest of {listing(without)}"] if without else []
    bad = f"{len(wrong):,} of {plural(len(rows), 'tensor')} have other values than when they were written"
    problems = [Problem(key, "has another sha256 than the receipt says") for key in wrong]
    return judged("digests", len(rows), problems, f"{plural(len(rows), 'sha256 digest')} agree", bad, notes=notes)
