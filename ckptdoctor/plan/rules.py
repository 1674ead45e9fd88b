"""The rules of one map fired on one set of tensors; imported only where there is a map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ckptdoctor.errors import CountMismatch, KeyCollision, Location, PlanError, ShapeError, UnusedRule
from ckptdoctor.keymap import Declaration, KeyMap, Rule
from ckptdoctor.patterns import Match, Pattern
from ckptdoctor.plan import hints
from ckptdoctor.plan.instances import Instance, Matches, instances, where_instances
from ckptdoctor.plan.keys import match_of
from ckptdoctor.plan.pipeline import misfit_of_ops, through_ops
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


def _drop(stage: Stage, declaration: Declaration) -> None:
    keys = stage.input_index.named(declaration.patterns, stage.problems, declaration.location)
    for key in keys:
        stage.dropped.setdefault(key, (stage.inputs[key], declaration))
    if not keys and declaration.optional is None:
        stage.problems.append(_unused(stage, "drop", declaration.patterns, declaration.location))


def _unused(stage: Stage, what: str, patterns: tuple[Pattern, ...], where: Location) -> UnusedRule:
    return hints.unused(what, patterns, where, stage.inputs, stage.dropped, told=len(stage.problems))


def _run_rule(stage: Stage, rule: Rule) -> set[str]:
    """Fire a rule on every key it matches; returns the keys it took."""
    matches = list(_matches(stage, rule))
    taken = {key for _, key, _ in matches}
    if not matches and rule.optional is None:
        stage.problems.append(_unused(stage, "rule", rule.sources, rule.location))
        return set()
    problem = misfit_of_ops(rule)
    if problem is not None:
        stage.problems.append(_with_hint(stage, rule, matches, problem))
        return taken
    before = len(stage.problems)
    found = list(where_instances(stage, rule, matches) if rule.where else instances(stage, rule, matches))
    produced = sum([_produce(stage, rule, instance) for instance in found])
    if len(stage.problems) > before or not matches:
        return taken
    if not found and rule.optional is None:
        stage.problems.append(_nowhere(rule))
    elif rule.expect is not None and produced != rule.expect:
        stage.problems.append(_another_number(rule, produced, matches))
    return taken


def _nowhere(rule: Rule) -> UnusedRule:
    """The error for a `where` that leads from no target key to a source."""
    return UnusedRule(
        f"{rule.text}: the target has no such key whose source the checkpoint has",
        rule=rule.location,
        hint="compare to with the target's keys, and what where makes of their numbers with the checkpoint's",
    )


def _another_number(rule: Rule, produced: int, matches: Matches) -> CountMismatch:
    return CountMismatch(
        f"the rule made {plural(produced, 'key')} and expects {rule.expect:,}",
        rule=rule.location,
        keys=tuple(key for _, key, _ in matches[:5]),
        hint="correct the patterns, or the number",
    )


def _with_hint(stage: Stage, rule: Rule, matches: Matches, problem: PlanError) -> PlanError:
    """The problem of a fan axis without an op, with what the keys and shapes at hand suggest."""
    if type(problem) is not PlanError or not hints.lacks_op(rule):
        return problem
    specs = {key: stage.inputs[key].spec for _, key, _ in matches}
    return hints.fan_without_op(rule, [(key, match) for _, key, match in matches], specs, stage.target_keys)


def _matches(stage: Stage, rule: Rule) -> Iterator[tuple[int, str, Match]]:
    where, problems = rule.location, stage.problems
    for index, pattern in enumerate(rule.sources):
        for key, match in stage.input_index.matching(pattern, problems, where, but=stage.dropped):
            if not rule.excepts or not any(match_of(but, key, problems, where) for but in rule.excepts):
                yield index, key, match


def _produce(stage: Stage, rule: Rule, instance: Instance) -> int:
    """Make the target keys of an instance; returns how many, 0 where that is a problem."""
    first, outs = instance.sources[0], instance.outs
    if not rule.ops:  # then there is no fan axis either: one tensor becomes one
        return _put(stage, rule, (first, 0), instance.target_at(()), stage.inputs[first])
    known = tuple(size for size in outs if size is not None)
    keys = instance.targets(known) if len(known) == len(outs) else None
    specs = [stage.targets.get(key) for key in keys or ()] if stage.targets is not None else []
    try:
        values, known = through_ops(
            rule, [stage.inputs[key] for key in instance.sources], instance.lengths, outs, specs
        )
    except ShapeError as problem:
        stage.problems += _judged(stage, rule, instance, keys or (), problem)
        return 0
    keys = instance.targets(known) if keys is None else keys
    made = enumerate(zip(keys, values, strict=True))
    return sum([_put(stage, rule, (first, number), key, value) for number, (key, value) in made])


def _judged(stage: Stage, rule: Rule, instance: Instance, keys: Sequence[str], problem: ShapeError) -> list[PlanError]:
    """The problem of an instance, and keys that the target lacks; these alone, where an op was to be like them."""
    targets = stage.targets if stage.targets is not None else dict.fromkeys(keys)
    made = {key: instance.sources for key in keys if key not in targets}
    if not made:
        return [problem]
    unknown = hints.unknown_target(made, rule.location, stage.targets or {}, told=len(stage.problems))
    return [unknown] if any("like" in op.arguments() for op in rule.ops) else [problem, unknown]


def _put(stage: Stage, rule: Rule, place: tuple[str, int], key: str, value: Value) -> bool:
    """Note what makes a target key; False where something else does already."""
    other = stage.made.get(key)
    if other is not None:
        stage.problems.append(_collision(rule, place[0], key, other))
        return False
    stage.made_of[key] = place
    stage.made[key] = Value(value.spec.alone(key), value.expression, rule.location, value.why, value.new)
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
