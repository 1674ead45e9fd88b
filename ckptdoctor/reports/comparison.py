"""The page of a comparison: what diff, gate and a dry remap show of a plan and its verdict."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdoctor.grouping import labels
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.plan import Plan, Remainder, Step, balance_of
from ckptdoctor.reports.base import Column, Page, Row, Table, Tone
from ckptdoctor.text import plural, shape_text

if TYPE_CHECKING:
    from ckptdoctor.policy import Verdict

_MARKS = {
    "missing": "+",
    "fresh": "+",
    "unexpected": "-",
    "dropped": "-",
    "mismatched": "~",
    "renamed": "~",
    "computed": "~",
}
_TONES: dict[str, Tone] = {
    "missing": "bad",
    "mismatched": "bad",
    "unexpected": "note",
    "fresh": "note",
    "dropped": "note",
}
_ORDER = ("loaded", "tied", "renamed", "computed", "fresh", "missing", "mismatched", "unexpected", "dropped")
_COLUMNS = (
    Column("STATUS"),
    Column("KEY", fold=True),
    Column("CHECKPOINT"),
    Column("TARGET"),
    Column("PARAMETERS", right=True),
)


class Comparison(NamedTuple):
    """A plan, judged or not, as a command shows it. `every_key` turns grouping off, `only` are keys to show alone."""

    command: str
    plan: Plan
    verdict: Verdict | None = None
    exit_status: int = 0
    every_key: bool = False
    only: frozenset[str] | None = None


class _Line(NamedTuple):
    """One tensor of either side as a row shows it."""

    status: str
    key: str
    sources: tuple[str, ...]
    given: TensorSpec | None
    wanted: TensorSpec | None
    parameters: int
    why: str | None
    come: str

    @property
    def alike(self) -> Hashable:
        """Lines that are equal in this may stand in one row."""
        kind = self.wanted.kind if self.wanted else None
        return (
            self.status,
            _look(self.given),
            _look(self.wanted),
            kind,
            self.why,
            self.come,
            len(self.sources),
            self.parameters == 0,
        )


def comparison_page(comparison: Comparison) -> Page:
    """The page of a diff, a gate or a dry remap."""
    plan, verdict = comparison.plan, comparison.verdict
    tables = [_keys_table(comparison)]
    if verdict is not None:
        tables.append(_checks_table(verdict))
    passed = verdict is None or verdict.passed
    sentence = _sentence(plan)
    if verdict is not None:
        sentence = ("passed: " if passed else "failed: ") + sentence
    return Page(
        title=f"{_title(plan.source)} -> {_title(plan.target)}",
        facts=tuple(_facts(plan)),
        tables=tuple(table for table in tables if table.rows),
        sentence=sentence,
        tone="plain" if verdict is None else "good" if passed else "bad",
        warnings=(*plan.source.origin.notes, *plan.target.origin.notes, *plan.warnings),
        details=partial(_details, plan),
        data=partial(_data, comparison),
    )


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
    return f"{manifest.origin.reference} ({plural(len(manifest), 'tensor')})"


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


def _keys_table(comparison: Comparison) -> Table:
    lines = [_step_line(step, comparison.plan.source) for step in comparison.plan.steps]
    lines += [_remainder_line(rest) for rest in comparison.plan.remainders if rest.status != "mismatched"]
    if comparison.only is not None:
        lines = [line for line in lines if not comparison.only.isdisjoint((line.key, *line.sources))]
    position = {(line.status, line.key): number for number, line in enumerate(lines)}
    groups: dict[Hashable, list[_Line]] = {}
    for line in lines:
        alone: Hashable = (line.status, line.key) if comparison.every_key else None
        alike = alone or (line.status if line.status == "loaded" else line.alike)
        groups.setdefault(alike, []).append(line)
    rows = [row for group in groups.values() for row in _rows(group, comparison.every_key)]
    rows.sort(key=lambda row: (_ORDER.index(row[0].status), position[row[0].status, row[0].key]))
    return Table(_COLUMNS, tuple(row for _, row in rows))


def _step_line(step: Step, source: Manifest) -> _Line:
    sources = step.sources if step.status in ("renamed", "computed") else ()
    why = f"{step.why}; init {step.init.describe()}" if step.init is not None else step.why
    if step.filled and step.new:
        why = f"{plural(step.new, 'element')} of it new"
    come = _come(step, source) if step.status == "computed" else _cell(step.given)
    return _Line(step.status, step.target.key, sources, step.given, step.target, step.target.counted, why, come)


def _come(step: Step, source: Manifest) -> str:
    """The shapes of what a tensor is computed of, in short."""
    shapes = [shape_text(source[key].shape) for key in dict.fromkeys(step.sources)]
    if len(set(shapes)) == 1:
        return shapes[0] if len(shapes) == 1 else f"{len(shapes)} of {shapes[0]}"
    return " + ".join(shapes) if len(shapes) < 4 else f"{len(shapes)} tensors"


def _remainder_line(rest: Remainder) -> _Line:
    spec = rest.source
    return _Line(rest.status, spec.key, (), spec, None, spec.counted, rest.why, _cell(spec))


def _rows(group: Sequence[_Line], every_key: bool) -> Iterable[tuple[_Line, Row]]:
    """Rows of lines that may stand together, each with its first line."""
    first = group[0]
    if first.status == "loaded" and not every_key:
        parameters = sum(line.parameters for line in group)
        others = sum(1 for line in group if line.given and line.wanted and line.given.dtype != line.wanted.dtype)
        note = f" ({others:,} of them in another dtype)" if others else ""
        yield first, _row(first, plural(len(group), "key") + note, "", "", parameters)
        return
    by_key = {line.key: line for line in group}
    for label in labels(by_key):
        lines = [by_key[key] for key in label.keys]
        for text, part in _with_sources(label.text, lines):
            parameters = sum(line.parameters for line in part)
            yield part[0], _row(part[0], text, part[0].come, _cell(part[0].wanted), parameters)


def _with_sources(text: str, lines: Sequence[_Line]) -> Iterable[tuple[str, Sequence[_Line]]]:
    """The label, followed by that of the sources if one label names them in the same order; else key by key."""
    if not lines[0].sources:
        yield text, lines
        return
    flat = [source for line in lines for source in line.sources]
    found = labels(flat) if len(set(flat)) == len(flat) else []
    if len(found) == 1 and list(found[0].keys) == flat:
        yield f"{text} <- {found[0].text}", lines
        return
    for line in lines:
        yield f"{line.key} <- {' + '.join(line.sources)}", [line]


def _row(line: _Line, text: str, given: str, wanted: str, parameters: int) -> Row:
    if line.given and line.wanted and given and line.given.dtype != line.wanted.dtype:
        given, wanted = f"{given} {line.given.dtype}", f"{wanted} {line.wanted.dtype}"
    count = f"{parameters:,}" if parameters or not _is_buffer(line) else "buffer"
    if line.why and line.status in ("fresh", "dropped", "tied", "computed"):
        text += f"  ({line.why})"
    mark = _MARKS.get(line.status, " ")
    return Row((f"{mark} {line.status}", text, given, wanted, count), _TONES.get(line.status, "plain"))


def _is_buffer(line: _Line) -> bool:
    return line.wanted is not None and line.wanted.kind == "buffer"


def _look(spec: TensorSpec | None) -> Hashable:
    return None if spec is None else (spec.shape, spec.dtype)


def _cell(spec: TensorSpec | None) -> str:
    return "" if spec is None else shape_text(spec.shape)


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
