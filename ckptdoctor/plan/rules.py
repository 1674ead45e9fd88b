"""The rules of one map fired on one set of tensors; imported only where there is a map."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ckptdoctor.errors import AmbiguousMatch, CountMismatch, KeyCollision, Location, PlanError, ShapeError
from ckptdoctor.keymap import Declaration, KeyMap, Rule
from ckptdoctor.ops import OpError
from ckptdoctor.patterns import AmbiguousKey, Match, Pattern
from ckptdoctor.plan import hints
from ckptdoctor.plan.stage import Stage, Value
from ckptdoctor.plan.types import Apply, taken_keys
from ckptdoctor.text import plural, printable, shape_text


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
    pairing = rule.pairing
    matches = list(_matches(stage, rule))
    if not matches and rule.optional is None:
        stage.problems.append(hints.unused("rule", rule.sources, rule.location, stage.inputs, stage.dropped))
        return set()
    if pairing is None or pairing.fan_in or pairing.fan_out:
        specs = {key: stage.inputs[key].spec for key, _ in matches}
        stage.problems.append(hints.fan_without_op(rule, matches, specs, stage.target_keys))
        return {key for key, _ in matches}
    produced = 0
    for key, match in matches:
        produced += _produce(stage, rule, key, pairing.fill(match))
    if rule.expect is not None and produced != rule.expect and matches:
        stage.problems.append(
            CountMismatch(
                f"the rule made {plural(produced, 'key')} and expects {rule.expect:,}",
                rule=rule.location,
                keys=tuple(key for key, _ in matches[:5]),
                hint="correct the patterns, or the number",
            )
        )
    return {key for key, _ in matches}


def _matches(stage: Stage, rule: Rule) -> Iterator[tuple[str, Match]]:
    for key in stage.inputs:
        if key in stage.dropped:
            continue
        for pattern in rule.sources:
            match = _match(pattern, key, stage.problems, rule.location)
            if match and not any(_match(but, key, stage.problems, rule.location) for but in rule.excepts):
                yield key, match
                break


def _produce(stage: Stage, rule: Rule, key: str, target_key: str) -> bool:
    """Make one target key; False where that is a problem."""
    value = stage.inputs[key]
    other = stage.made.get(target_key)
    if other is not None:
        stage.problems.append(_collision(rule, key, target_key, other))
        return False
    made = _through_ops(stage, rule, value)
    if made is None:
        return False
    stage.made_of[target_key] = key
    stage.made[target_key] = made._replace(spec=replace(made.spec, key=target_key, tied_to=None, raw_key=None))
    return True


def _through_ops(stage: Stage, rule: Rule, value: Value) -> Value | None:
    """The value after all ops of the rule, judged on shapes."""
    spec, expression = value.spec, value.expression
    for op in rule.ops:
        try:
            ((shape, dtype),) = op.out_specs((spec,))
        except OpError as error:
            message = f"{op.describe()} cannot take {printable(spec.key)} ({shape_text(spec.shape)}): {error}"
            hint = error.hint or "correct the op, or let the rule match other keys"
            stage.problems.append(ShapeError(message, rule=rule.location, keys=(spec.key,), hint=hint))
            return None
        spec, expression = replace(spec, shape=shape, dtype=dtype), Apply(op, (expression,))
    return Value(spec, expression, rule.location)


def _collision(rule: Rule, key: str, target_key: str, other: Value) -> KeyCollision:
    first = ", ".join(taken_keys(other.expression))
    again = "by the same rule" if other.rule == rule.location else f"by the rule at {other.rule}"
    return KeyCollision(
        f"{printable(key)} would become {printable(target_key)}, which is made of {printable(first)} already, {again}",
        rule=rule.location,
        keys=(target_key, key),
        hint="every target key has one producer: make the patterns disjoint, or narrow one with except",
    )
