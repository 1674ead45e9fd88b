"""The page of a comparison: what diff, gate and a dry remap show of a plan and its verdict."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdoctor.model import Manifest
from ckptdoctor.plan import Plan, balance_of
from ckptdoctor.reports.base import Column, Page, Row, Table
from ckptdoctor.reports.keys_table import keys_table
from ckptdoctor.text import listing, plural

if TYPE_CHECKING:
    from ckptdoctor.policy import Verdict


class Comparison(NamedTuple):
    """A plan, judged or not, as a command shows it. `every_key` turns grouping off, `only` are keys to show alone, `facts`
    are lines to show with it."""

    command: str
    plan: Plan
    verdict: Verdict | None = None
    exit_status: int = 0
    every_key: bool = False
    only: frozenset[str] | None = None
    facts: tuple[str, ...] = ()


def comparison_page(comparison: Comparison) -> Page:
    """The page of a diff, a gate or a dry remap."""
    plan, verdict = comparison.plan, comparison.verdict
    tables = [keys_table(plan, every_key=comparison.every_key, only=comparison.only)]
    if verdict is not None:
        tables.append(_checks_table(verdict))
    passed = verdict is None or verdict.passed
    sentence = _sentence(plan) if verdict is None else f"{_judgement(verdict)}: {_sentence(plan)}"
    return Page(
        title=f"{_title(plan.source)} -> {_title(plan.target)}",
        facts=(*_facts(plan), *comparison.facts),
        tables=tuple(table for table in tables if table.rows),
        sentence=sentence,
        tone="plain" if verdict is None else "good" if passed else "bad",
        warnings=(*plan.source.origin.notes, *plan.target.origin.notes, *plan.warnings),
        details=partial(_details, plan),
        data=partial(_data, comparison),
    )


def _judgement(verdict: Verdict) -> str:
    """Passed or failed, and of what the sentence does not speak by itself."""
    failed = [each for each in verdict.findings if not each.passed and each.id not in ("random", "max-random")]
    others = [f"unsafe: {listing(each.keys, 3)}" if each.id == "unsafe" else each.id for each in failed]
    return "passed" if verdict.passed else f"failed ({', '.join(others)})" if others else "failed"


def plan_page(plan: Plan) -> Page:
    """A plan by itself, as a diff shows it."""
    return comparison_page(Comparison("diff", plan))


def verdict_page(verdict: Verdict) -> Page:
    """A verdict by itself, as a gate shows it."""
    return comparison_page(Comparison("gate", verdict.plan, verdict, 0 if verdict.passed else 1))


def _details(plan: Plan) -> Iterable[str]:
    for side, manifest in (("checkpoint", plan.source), ("target", plan.target)):
        origin = manifest.origin
        yield f"{side}: {origin.reference}, kind {origin.kind}, fingerprint {manifest.fingerprint[:16]}"
        yield f"{side}: {manifest.parameters:,} parameters, {manifest.buffers:,} elements of buffers, {manifest.nbytes:,} bytes"
    for key_map in plan.maps:
        yield f"map: {key_map.path}, sha256 {key_map.sha256[:16]}: {key_map.description or 'no description'}"


def _data(comparison: Comparison) -> dict[str, Any]:
    from ckptdoctor.reports.data import comparison_data

    return comparison_data(comparison.command, comparison.plan, comparison.verdict, comparison.exit_status)


def _title(manifest: Manifest) -> str:
    files = f" in {manifest.origin.files:,} files" if manifest.origin.files > 1 else ""
    return f"{manifest.origin.reference} ({plural(len(manifest), 'tensor')}{files})"


def _facts(plan: Plan) -> Iterable[str]:
    for side, manifest in (("checkpoint", plan.source), ("target", plan.target)):
        if manifest.origin.selected:
            yield f"{side}: the weights lie at {manifest.origin.selected}"
        if manifest.origin.stripped:
            yield f"{side}: wrapper segments left out of the keys: {', '.join(manifest.origin.stripped)}"
    for key_map in plan.maps:
        yield f"map: {key_map.path}" + (", the way back" if plan.reverse else "")
    if plan.maps:
        yield _balance(plan)


def _balance(plan: Plan) -> str:
    """Both sides as sums: nothing is lost without a word, and nothing appears from nowhere."""
    sides = []
    for side, classes in balance_of(plan)._asdict().items():
        parts = [f"{amount.elements:,} {name.replace('_', ' ')}" for name, amount in classes.items() if amount.elements]
        total = sum(amount.elements for amount in classes.values())
        sides.append(f"{'checkpoint' if side == 'source' else side} {total:,} = {' + '.join(parts) or '0'}")
    return f"elements: {'; '.join(sides)}"


def _sentence(plan: Plan) -> str:
    total, random = plan.parameters, plan.random_parameters
    if random:
        parts = [
            f"{100 * plan.random_share:.2f}% of the target ({random:,} of {total:,} parameters) "
            "would stay at its random initialisation"
        ]
    else:
        parts = [f"nothing would stay random: all {plural(total, 'parameter')} of the target come from the checkpoint"]
    if plan.fresh_parameters:
        parts[0] += f", {plan.fresh_parameters:,} of them declared fresh"
    buffers = [step for step in plan.steps if step.target.kind == "buffer"]
    if added := sum(step.new for step in buffers if step.filled):
        parts.append(f"{plural(added, 'buffer element')} are added by ops")
    if kept := sum(step.target.numel for step in buffers if not step.has_values):
        parts.append(f"{plural(kept, 'buffer element')} keep the constructor's values")
    unexpected = plan.unused("unexpected")
    if unexpected:
        unused = sum(rest.source.counted for rest in unexpected)
        amount = f"{plural(len(unexpected), 'tensor')} of the checkpoint ({plural(unused, 'parameter')})"
        parts.append(f"{amount} would not be used")
    return "; ".join(parts)


def _checks_table(verdict: Verdict) -> Table:
    columns = (
        Column("CHECK"),
        Column("FOUND", right=True),
        Column("ALLOWED", right=True),
        Column("UNIT"),
        Column("RESULT"),
    )
    rows = tuple(
        Row(
            (finding.id, f"{finding.found:,}", finding.limit, finding.unit, "passed" if finding.passed else "FAILED"),
            "good" if finding.passed else "bad",
        )
        for finding in verdict.findings
    )
    return Table(columns, rows)
