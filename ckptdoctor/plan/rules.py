"""The rules of one map fired on one set of tensors; imported only where there is a map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from ckptdoctor.errors import AmbiguousMatch, CountMismatch, KeyCollision, Location, PlanError, ShapeError
from ckptdoctor.keymap import Declaration, KeyMap, Rule
from ckptdoctor.patterns import AmbiguousKey, Match, Pattern
from ckptdoctor.plan import hints
from ckptdoctor.plan.instances import Instance, Matches, instances, where_instances
from ckptdoctor.plan.pipeline import misfit_of_ops, through_ops, wrong_number
from ckptdoctor.plan.stage import Stage, Value
from ckptdoctor.plan.types import taken_keys
from ckptdoctor.text import plural, printable


def fire(stage: Stage, key_map: KeyMap) -> set[str]:
    """Fire all declarations and rules of a map; returns the keys that the rules took."""
    for declaration in key_map.drop:
        _drop(stage, declaration)
    taken: set[str] = set()
    for rule in key_map.rules:
        taken |= _run_rule(stage, rule)
    return taken


def matching(
    patterns: tuple[Pattern, ...], keys: Mapping[str, object], problems: list[PlanError], where: Location
) -> list[str]:
    """The keys that any of the patterns names, in order."""
    return [key for key in keys if any(_match(pattern, key, problems, where) for pattern in patterns)]


def matches_of(
    pattern: Pattern, keys: Mapping[str, object], problems: list[PlanError], where: Location
) -> Iterator[tuple[str, Match]]:
    """The keys that a pattern names, in order, with how it reads them."""
    for key in keys:
        match = _match(pattern, key, problems, where)
        if match is not None:
            yield key, match


def _match(pattern: Pattern, key: str, problems: list[PlanError], where: Location) -> Match | None:
    try:
        return pattern.match(key)
    except AmbiguousKey as error:
        problems.append(AmbiguousMatch(str(error), rule=where, keys=(key,), hint="make the pattern more exact"))
        return None


def _drop(stage: Stage, declaration: Declaration) -> None:
    keys = matching(declaration.patterns, stage.inputs, stage.problems, declaration.location)
    for key in keys:
        stage.dropped.setdefault(key, (stage.inputs[key], declaration))
    if not keys and declaration.optional is None:
        stage.problems.append(hints.unused("drop", declaration.patterns, declaration.location, stage.inputs))


def _run_rule(stage: Stage, rule: Rule) -> set[str]:
    """Fire a rule on every key it matches; returns the keys it took."""
    problem = misfit_of_ops(rule)
    matches = list(_matches(stage, rule))
    if not matches and not rule.where and rule.optional is None:
        stage.problems.append(hints.unused("rule", rule.sources, rule.location, stage.inputs, stage.dropped))
        return set()
    if problem is not None:
        stage.problems.append(_with_hint(stage, rule, matches, problem))
        return {key for _, key, _ in matches}
    before = len(stage.problems)
    found = list(where_instances(stage, rule) if rule.where else instances(stage, rule, matches))
    if rule.where and not found and rule.optional is None and len(stage.problems) == before:
        stage.problems.append(hints.unused("rule", rule.sources, rule.location, stage.inputs, stage.dropped))
    produced = sum(_produce(stage, rule, instance) for instance in found)
    if rule.expect is not None and produced != rule.expect and found:
        stage.problems.append(
            CountMismatch(
                f"the rule made {plural(produced, 'key')} and expects {rule.expect:,}",
                rule=rule.location,
                keys=tuple(key for _, key, _ in matches[:5]),
                hint="correct the patterns, or the number",
            )
        )
    if rule.where:
        return {key for instance in found for key in instance.sources}
    return {key for _, key, _ in matches}


def _with_hint(stage: Stage, rule: Rule, matches: Matches, problem: PlanError) -> PlanError:
    """The problem of a fan axis without an op, with what the keys and shapes at hand suggest."""
    if type(problem) is not PlanError or not hints.lacks_op(rule):
        return problem
    specs = {key: stage.inputs[key].spec for _, key, _ in matches}
    return hints.fan_without_op(rule, [(key, match) for _, key, match in matches], specs, stage.target_keys)


def _matches(stage: Stage, rule: Rule) -> Iterator[tuple[int, str, Match]]:
    for key in _candidates(stage, rule.sources):
        if key in stage.dropped:
            continue
        for index, pattern in enumerate(rule.sources):
            match = _match(pattern, key, stage.problems, rule.location)
            if match and not any(_match(but, key, stage.problems, rule.location) for but in rule.excepts):
                yield index, key, match


def _candidates(stage: Stage, patterns: Sequence[Pattern]) -> Iterable[str]:
    """The keys that could match: those that literal patterns name, else all; a map of many literal rules stays quick."""
    if all(pattern.literal for pattern in patterns):
        return [key for pattern in patterns if (key := pattern.fill({})) in stage.inputs]
    return stage.inputs


def _produce(stage: Stage, rule: Rule, instance: Instance) -> int:
    """Make the target keys of an instance; returns how many, 0 where that is a problem."""
    keys = instance.targets(instance.outs) if instance.outs is not None else None
    values = [stage.inputs[key] for key in instance.sources]
    if rule.ops:
        try:
            known = [stage.targets.get(key) if stage.targets is not None else None for key in keys or ()]
            values = through_ops(rule, values, instance.lengths, instance.outs, known)
        except ShapeError as problem:
            stage.problems.append(problem)
            return 0
    if keys is None:
        keys = instance.targets((len(values),))
    if len(keys) != len(values):
        stage.problems.append(wrong_number(rule, len(values), keys))
        return 0
    first = instance.sources[0]
    return sum(_put(stage, rule, first, key, value) for key, value in zip(keys, values, strict=True))


def _put(stage: Stage, rule: Rule, first: str, key: str, value: Value) -> bool:
    """Note what makes a target key; False where something else does already."""
    other = stage.made.get(key)
    if other is not None:
        stage.problems.append(_collision(rule, first, key, other))
        return False
    stage.made_of[key] = first
    spec = replace(value.spec, key=key, tied_to=None, raw_key=None)
    stage.made[key] = value._replace(spec=spec, rule=rule.location)
    return True


def _collision(rule: Rule, key: str, target_key: str, other: Value) -> KeyCollision:
    first = ", ".join(taken_keys(other.expression))
    again = "by the same rule" if other.rule == rule.location else f"by the rule at {other.rule}"
    return KeyCollision(
        f"{printable(key)} would become {printable(target_key)}, which is made of {printable(first)} already, {again}",
        rule=rule.location,
        keys=(target_key, key),
        hint="every target key has one producer: make the patterns disjoint, or narrow one with except",
    )
