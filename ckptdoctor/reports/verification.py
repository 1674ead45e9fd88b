"""The page of a verification: a line for each check, the tensors that are wrong, and what was proven in one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ckptdoctor import __version__
from ckptdoctor.grouping import labels
from ckptdoctor.receipt import receipt_path
from ckptdoctor.reports.base import Column, Page, Row, Table, Tone
from ckptdoctor.reports.data import source_data, target_data
from ckptdoctor.reports.health import health_data, health_tables
from ckptdoctor.text import listing, plural

if TYPE_CHECKING:
    from ckptdoctor.verification import Check, Verification

SCHEMA = "ckptdoctor/verification/1"
_WORDS = {"passed": "passed", "failed": "FAILED", "skipped": "skipped"}
_TONES: dict[str, Tone] = {"passed": "good", "failed": "bad", "skipped": "note"}
_UNPROVEN = {
    "digests": "that the values are those that were written",
    "source": "that they come of the source",
    "load": "that a model takes them",
}


def verification_page(verification: Verification, *, every_key: bool = False) -> Page:
    """The page; `every_key` gives each wrong tensor a row of its own."""
    return Page(
        title=f"{verification.output.origin.reference} ({plural(len(verification.output), 'tensor')})",
        facts=tuple(_facts(verification)),
        tables=tuple(table for table in _tables(verification, every_key) if table.rows),
        sentence=_sentence(verification),
        tone="good" if verification.passed else "bad",
        warnings=tuple(_warnings(verification)),
        data=partial(_data, verification),
    )


def _tables(verification: Verification, every_key: bool) -> Iterator[Table]:
    yield _checks(verification)
    yield _problems(verification, every_key)
    yield from health_tables(verification.health, verification.output, every_key=every_key)


def _facts(verification: Verification) -> Iterator[str]:
    if verification.output.origin.selected:
        yield f"the weights lie at {verification.output.origin.selected}"
    if verification.receipt is not None:
        yield f"receipt: {receipt_path(verification.receipt.path)}"
    if verification.source is not None:
        yield f"source: {verification.source.origin.reference}"
    if verification.target is not None:
        yield f"target: {verification.target.origin.reference}"


def _checks(verification: Verification) -> Table:
    rows = (Row((each.id, _WORDS[each.result], each.text), _TONES[each.result]) for each in verification.checks)
    return Table((Column("CHECK"), Column("RESULT"), Column("FOUND", fold=True)), tuple(rows))


def _problems(verification: Verification, every_key: bool) -> Table:
    """The tensors that are wrong; those with one and the same fault share a row."""
    columns = (Column("CHECK"), Column("KEY", fold=True), Column("WRONG", fold=True))
    rows = (Row((each.id, key, text), "bad") for each in verification.checks for key, text in _faults(each, every_key))
    return Table(columns, tuple(rows))


def _faults(check: Check, every_key: bool) -> Iterator[tuple[str, str]]:
    if every_key:
        yield from check.problems
        return
    alike: dict[str, list[str]] = {}
    for key, text in check.problems:
        alike.setdefault(text, []).append(key)
    for text, keys in alike.items():
        for label in labels(keys):
            yield label.text, text


def _sentence(verification: Verification) -> str:
    failed = [check for check in verification.checks if check.result == "failed"]
    if failed:
        return f"failed: {', '.join(check.id for check in failed)}: {failed[0].text}"
    proven, why = _proven(verification), verification["source"].text.partition(";")[0]
    if verification["source"].passed:
        return f"passed: {proven}"
    if verification["digests"].passed:
        return f"passed: {proven}; compared with the receipt alone, not with the source ({why})"
    unproven = [text for name, text in _UNPROVEN.items() if verification[name].passed is None]
    return f"passed: {proven}; not proven: {listing(unproven)} ({why})"


def _proven(verification: Verification) -> str:
    agrees = []
    if verification["digests"].passed:
        agrees.append("with the receipt")
    if verification["source"].passed and verification.source is not None:
        agrees.append(f"with {verification.source.origin.reference}")
    count = plural(len(verification.output), "tensor")
    parts = [f"{count} agree {' and '.join(agrees)}" if agrees else f"the file is whole ({count})"]
    if verification["load"].passed and verification.target is not None:
        parts.append(f"they fit {verification.target.origin.reference}")
    return ", and ".join(parts)


def _warnings(verification: Verification) -> Iterator[str]:
    yield from verification.output.origin.notes
    for check in verification.checks:
        yield from (f"{check.id}: {note}" for note in check.notes)
    yield from (f"health: {remark}" for remark in verification.health.remarks)


def _data(verification: Verification) -> dict[str, Any]:
    """Names and meanings are those of the comparison's report where both have such a thing."""
    source, target, receipt = verification.source, verification.target, verification.receipt
    return {
        "schema": SCHEMA,
        "tool": __version__,
        "command": "verify",
        "output": source_data(verification.output),
        "receipt": None if receipt is None else str(receipt_path(receipt.path)),
        "source": None if source is None else source_data(source),
        "target": None if target is None else target_data(target),
        "maps": [] if receipt is None else [dict(row) for row in receipt.maps],
        "checks": sorted(map(_check, verification.checks), key=lambda row: row["id"]),
        "health": health_data(verification.health),
        "warnings": list(_warnings(verification)),
        "passed": verification.passed,
        "exit_status": 0 if verification.passed else 1,
    }


def _check(check: Check) -> dict[str, Any]:
    return {
        "id": check.id,
        "limit": "0",
        "found": check.found,
        "unit": check.unit,
        "passed": check.passed,
        "keys": sorted({problem.key for problem in check.problems}),
        "where": None,
        "result": check.result,
        "checked": check.checked,
        "text": check.text,
        "problems": [{"key": key, "text": text} for key, text in sorted(check.problems)],
        "notes": list(check.notes),
    }
