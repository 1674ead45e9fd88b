"""An inverse plan as a map: literal rules, and patterns where they say exactly the same.

Nothing is written here on trust. A rule is composed, read again as a user's would be, and fired on the manifests; only if it
makes the very expressions of the inverse it goes into the map. Where one does not, another way to say it is tried: first the
rule of the old map with its sides exchanged, then the keys of each instance, then each key by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ckptdoctor.errors import KeyMapError, Location, UsageError
from ckptdoctor.keymap import KeyMap, Rule, parse_map
from ckptdoctor.keymap.load import LARGEST
from ckptdoctor.ops import Op
from ckptdoctor.ops.copying import Broadcast
from ckptdoctor.ops.joining import Split, Unstack
from ckptdoctor.ops.layout import Reshape
from ckptdoctor.ops.slicing import Slice
from ckptdoctor.plan.inverse import FRESH, Inversion, Lost
from ckptdoctor.plan.map_text import Entry, declared, dumped, entry, escaped
from ckptdoctor.plan.rules import fire
from ckptdoctor.plan.stage import Stage, Value
from ckptdoctor.plan.types import Apply, Expression, Step, Take, taken_keys
from ckptdoctor.plan.ways import Specs
from ckptdoctor.text import bytes_text, plural, printable


class InverseMap(NamedTuple):
    """The text of a map, and all that does not come back by it: what is lost, and what the map language cannot say."""

    text: str
    lost: tuple[Lost, ...]


def inverse_map(inversion: Inversion, key_map: KeyMap, *, about: Iterable[str] = ()) -> InverseMap:
    """The inverse of the plan of one map, written as a map from that plan's target to its source.

    `about` are lines of comment that stand above it. Raises UsageError where it would be too long to be read again.
    """
    writer = _Writer(inversion)
    rules = list(writer.rules(key_map.rules))
    lost = (*inversion.lost, *writer.unsaid)
    document = {
        "ckptdoctor": 1,
        "description": f"the inverse of {key_map.path}",
        "rules": rules,
        "fresh": list(declared(_fresh(inversion, lost))),
        "drop": list(declared(_dropped(inversion, writer.unsaid), _optional)),
        "envelope": _envelope(inversion),
    }
    text = "".join(f"# {printable(line)}\n" for line in about) + dumped(document)
    if len(text.encode()) > LARGEST:
        message = (
            f"the inverse needs {plural(len(rules), 'rule')}, {bytes_text(len(text))}, and a map has at most 1 MiB"
        )
        raise UsageError(message, hint="ckptdoctor remap --reverse goes the same way without a map")
    return InverseMap(text, lost)


class _Writer:
    """Finds rules for the steps of an inverse plan; `unsaid` are those for which there is none."""

    def __init__(self, inversion: Inversion) -> None:
        plan = inversion.plan
        self.unsaid: list[Lost] = []
        self._specs = Specs(plan.source)
        self._target = plan.target
        self._values = {key: Value(spec, Take(key)) for key, spec in plan.source.items()}
        filled = [step for step in plan.steps if step.filled and step.expression is not None]
        reads = Counter(key for step in filled for key in set(step.sources))
        self._steps = [step for step in filled if not (step.status == "loaded" and reads[step.sources[0]] == 1)]

    def rules(self, rules: Iterable[Rule]) -> Iterator[Entry]:
        """The entries, in the order of the rules that they undo."""
        by_rule: dict[Location | None, dict[str, Expression]] = {rule.location: {} for rule in rules}
        for step in self._steps:
            assert step.expression is not None
            by_rule.setdefault(step.rule, {})[step.target.key] = step.expression
        rule_at = {rule.location: rule for rule in rules}
        for where, wanted in by_rule.items():
            exchanged = _exchanged(rule_at.get(where) if where is not None else None, wanted)
            if exchanged is not None and self._says(exchanged, wanted, self._values):
                yield exchanged
            else:
                for instance in _instances(wanted):
                    yield from self._literally(instance, where)

    def _literally(self, wanted: Mapping[str, Expression], where: Location | None) -> Iterator[Entry]:
        """Rules that name the keys of one instance: all in one, else one for each."""
        together = _literal(wanted)
        if self._says(together, wanted, self._read_by(wanted)):
            yield together
            return
        for key, expression in wanted.items():
            alone = {key: _alone(expression, self._specs)}
            rule = _literal(alone)
            if self._says(rule, alone, self._read_by(alone)):
                yield rule
            else:
                reason = "the map language has no rule for it; ckptdoctor remap --reverse needs none"
                ops = [op.name for op in _spine(expression)]
                self.unsaid.append(Lost((key,), where, ", ".join(ops) or "rename", reason))

    def _read_by(self, wanted: Mapping[str, Expression]) -> dict[str, Value]:
        return {key: self._values[key] for expression in wanted.values() for key in taken_keys(expression)}

    def _says(self, rule: Entry, wanted: Mapping[str, Expression], inputs: Mapping[str, Value]) -> bool:
        """Whether a rule, fired on these tensors, makes these expressions and nothing else."""
        try:
            key_map = parse_map(dumped({"ckptdoctor": 1, "rules": [rule]}))
        except KeyMapError:
            return False
        stage = Stage(inputs, self._target, self._target)
        fire(stage, key_map)
        return not stage.problems and {key: value.expression for key, value in stage.made.items()} == wanted


def _exchanged(rule: Rule | None, wanted: Mapping[str, Expression]) -> Entry | None:
    """The rule with its sides exchanged and its ops undone, if all that it made is undone in the same way."""
    spines = {_spine(expression) for expression in wanted.values()}
    if rule is None or len(spines) != 1 or rule.where or rule.input_names:
        return None
    (ops,) = spines
    return entry([pattern.text for pattern in rule.targets], [pattern.text for pattern in rule.sources], ops)


def _instances(wanted: Mapping[str, Expression]) -> Iterator[Mapping[str, Expression]]:
    """The keys that one op parts, in its order; any other key by itself."""
    groups: dict[object, dict[str, Expression]] = {}
    for key, expression in wanted.items():
        ops = _spine(expression)
        parted = any(op.fan_out for op in ops)
        groups.setdefault((tuple(taken_keys(expression)), ops, None if parted else key), {})[key] = expression
    for group in groups.values():
        yield dict(sorted(group.items(), key=lambda item: _outputs(item[1])))


def _spine(expression: Expression) -> tuple[Op, ...]:
    """The ops on the way of the first input, in the order in which they are applied."""
    ops: list[Op] = []
    while isinstance(expression, Apply):
        ops.append(expression.op)
        expression = expression.inputs[0]
    return tuple(reversed(ops))


def _outputs(expression: Expression) -> tuple[int, ...]:
    """Which output of each of them it is."""
    outputs: list[int] = []
    while isinstance(expression, Apply):
        outputs.append(expression.output)
        expression = expression.inputs[0]
    return tuple(reversed(outputs))


def _alone(expression: Expression, specs: Specs) -> Expression:
    """The same values by ops that make one tensor each: an output of `split` is a slice."""
    if isinstance(expression, Take):
        return expression
    op, place = expression.op, expression.output
    inputs = tuple(_alone(inner, specs) for inner in expression.inputs)
    if isinstance(op, Broadcast):
        return inputs[0]
    outputs = specs.outputs(op, expression.inputs)
    if isinstance(op, Split):
        start = sum(spec.shape[op.dim] for spec in outputs[:place])
        return Apply(Slice(op.dim, start, start + outputs[place].shape[op.dim]), inputs)
    if isinstance(op, Unstack):
        return Apply(Reshape(outputs[place].shape), (Apply(Slice(op.dim, place, place + 1), inputs),))
    return Apply(op, inputs, place)


def _literal(wanted: Mapping[str, Expression]) -> Entry:
    first = next(iter(wanted.values()))
    return entry([escaped(key) for key in taken_keys(first)], [escaped(key) for key in wanted], _spine(first))


def _fresh(inversion: Inversion, lost: Iterable[Lost]) -> Iterator[tuple[str, str]]:
    """The keys of the plan's target that get no values, with the reason."""
    for step in inversion.plan.steps:
        if step.status == "fresh" and step.why:
            yield step.target.key, step.why
    for each in lost:
        for key in each.keys:
            yield key, f"{each.place} is not undone: {each.reason}"


def _dropped(inversion: Inversion, unsaid: Iterable[Lost]) -> Iterator[tuple[str, str]]:
    """The keys of the plan's source that are left out, with the reason."""
    for rest in inversion.plan.unused("dropped"):
        yield rest.source.key, rest.why or "nothing needs it"
    gone = {key for each in unsaid for key in each.keys}
    kept = {key for step in inversion.plan.steps if step.target.key not in gone for key in step.sources}
    for step in inversion.plan.steps:
        if step.target.key in gone:
            yield from ((key, f"{step.target.key} cannot be made of it in a map") for key in _only(step, kept))


def _optional(why: str) -> Entry:
    return {"optional": "it need not have been written"} if why.startswith(FRESH) else {}


def _only(step: Step, kept: set[str]) -> list[str]:
    return [key for key in dict.fromkeys(step.sources) if key not in kept]


def _envelope(inversion: Inversion) -> Entry:
    paths = ["/".join(edit.path) for key_map in inversion.plan.maps for edit in key_map.envelope]
    return {"drop": paths} if paths else {}
