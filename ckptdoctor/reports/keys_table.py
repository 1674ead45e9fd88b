"""The table of a comparison: what becomes of every tensor, many in one row where they are alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from ckptdoctor.grouping import labels
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.plan import Plan, Remainder, Step
from ckptdoctor.reports.base import Column, Row, Table, Tone
from ckptdoctor.text import plural, shape_text

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
_NOTHING = Manifest(())
_COLUMNS = (
    Column("STATUS"),
    Column("KEY", fold=True),
    Column("CHECKPOINT"),
    Column("TARGET"),
    Column("PARAMETERS", right=True),
)


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


def keys_table(plan: Plan, *, every_key: bool = False, only: frozenset[str] | None = None) -> Table:
    """The table: one row for all that is loaded and one for what else is alike, or one a key; of the keys in `only` alone."""
    found: defaultdict[str, list[Step | Remainder]] = defaultdict(list)
    for step in plan.steps:
        found[step.status].append(step)
    for rest in plan.remainders:
        if rest.status != "mismatched":
            found[rest.status].append(rest)
    rows: list[Row] = []
    for status in _ORDER:
        items = found[status]
        if only is not None:
            items = [item for item in items if not only.isdisjoint(_keys(item))]
        if every_key:
            rows += [_row_alone(_line(item, plan.source)) for item in items]
        elif items:
            rows += _folded(items, plan.source)
    return Table(_COLUMNS, tuple(rows))


def _keys(item: Step | Remainder) -> tuple[str, ...]:
    if isinstance(item, Remainder):
        return (item.source.key,)
    return (item.target.key, *(item.sources if item.status in ("renamed", "computed") else ()))


def _folded(items: Sequence[Step | Remainder], source: Manifest) -> Iterable[Row]:
    """Rows of what has one status. What one side alone has may be a whole checkpoint: nothing is made for each of it."""
    match items[0].status:
        case "loaded":
            return [_loaded_row(items)]
        case "missing" | "unexpected":
            return _one_sided(items)
    return _grouped([_line(item, source) for item in items])


def _one_sided(items: Sequence[Step | Remainder]) -> Iterable[Row]:
    specs = [item.source if isinstance(item, Remainder) else item.target for item in items]
    position = {spec.key: number for number, spec in enumerate(specs)}
    groups: defaultdict[Hashable, list[str]] = defaultdict(list)
    for spec in specs:
        groups[spec.shape, spec.dtype.name, spec.kind, spec.tied_to is None].append(spec.key)
    rows = []
    for label in (label for keys in groups.values() for label in labels(keys)):
        number = position[label.first]
        line = _line(items[number])
        rows.append((number, _row(line, label.text, line.come, _cell(line.wanted), line.parameters * label.size)))
    return (row for _, row in sorted(rows))


def _loaded_row(items: Sequence[Step | Remainder]) -> Row:
    steps = [item for item in items if isinstance(item, Step)]
    differ = [step for step in steps if step.given is None or step.given.dtype is not step.target.dtype]
    others = sum(step.other_dtype for step in differ)
    note = f" ({others:,} of them in another dtype)" if others else ""
    parameters = sum([step.target.counted for step in steps])
    return _row(_line(steps[0]), plural(len(steps), "key") + note, "", "", parameters)


def _row_alone(line: _Line) -> Row:
    text = next(iter(_with_sources(line.key, (line,))))[0] if line.sources else line.key
    return _row(line, text, line.come, _cell(line.wanted), line.parameters)


def _grouped(lines: Sequence[_Line]) -> Iterable[Row]:
    """Rows of lines of one status, in the order of the first line of each."""
    groups: dict[Hashable, list[_Line]] = {}
    for line in lines:
        groups.setdefault(line.alike, []).append(line)
    position = {line.key: number for number, line in enumerate(lines)}
    rows = [row for group in groups.values() for row in _rows(group)]
    return (row for _, row in sorted(rows, key=lambda row: position[row[0].key]))


def _line(step: Step | Remainder, source: Manifest = _NOTHING) -> _Line:
    if isinstance(step, Remainder):
        spec = step.source
        return _Line(step.status, spec.key, (), spec, None, spec.counted, step.why, _cell(spec))
    sources = step.sources if step.status in ("renamed", "computed") else ()
    why = f"{step.why}; init {step.init.describe()}" if step.init is not None else step.why
    if step.new and step.filled:
        why = f"{plural(step.new, 'element')} of it new"
    come = _come(step, source) if step.status == "computed" else _cell(step.given)
    return _Line(step.status, step.target.key, sources, step.given, step.target, step.target.counted, why, come)


def _come(step: Step, source: Manifest) -> str:
    """The shapes of what a tensor is computed of, in short."""
    shapes = [shape_text(source[key].shape) for key in dict.fromkeys(step.sources)]
    if len(set(shapes)) == 1:
        return shapes[0] if len(shapes) == 1 else f"{len(shapes)} of {shapes[0]}"
    return " + ".join(shapes) if len(shapes) < 4 else f"{len(shapes)} tensors"


def _rows(group: Sequence[_Line]) -> Iterable[tuple[_Line, Row]]:
    """Rows of lines that may stand together, each with its first line."""
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
    if given and line.given and line.wanted and line.given.dtype.name != line.wanted.dtype.name:
        given, wanted = f"{given} {line.given.dtype}", f"{wanted} {line.wanted.dtype}"
    count = f"{parameters:,}" if parameters or not _is_buffer(line) else "buffer"
    if line.why and line.status in ("fresh", "dropped", "tied", "computed"):
        text += f"  ({line.why})"
    mark = _MARKS.get(line.status, " ")
    return Row((f"{mark} {line.status}", text, given, wanted, count), _TONES.get(line.status, "plain"))


def _is_buffer(line: _Line) -> bool:
    return line.wanted is not None and line.wanted.kind == "buffer"


def _look(spec: TensorSpec | None) -> Hashable:
    return None if spec is None else (spec.shape, spec.dtype.name)


def _cell(spec: TensorSpec | None) -> str:
    return "" if spec is None else _shape_cell(spec.shape)


_shape_cell = lru_cache(1000)(shape_text)  # many tensors have one shape
