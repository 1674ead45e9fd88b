"""Tensors that share memory, because the target shares it or because a map's `tie` says so: what fills one fills all."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import IncompleteGroup, KeyCollision, PlanError, ShapeError
from ckptdoctor.plan import hints
from ckptdoctor.plan.types import Expression, Plan, Step, over_firsts
from ckptdoctor.text import did_you_mean, listing, printable, shape_text

if TYPE_CHECKING:
    from ckptdoctor.keymap import Declaration, KeyMap
    from ckptdoctor.model import Manifest
    from ckptdoctor.patterns import Match, Pattern
    from ckptdoctor.plan.keys import Keys


class Tie(NamedTuple):
    """The first key of those that a map ties together, and the entry that does it."""

    first: str
    declaration: Declaration


def declared_ties(maps: Sequence[KeyMap], target: Manifest, problems: list[PlanError]) -> dict[str, Tie]:
    """For each target key that a map ties to others: to which. What the target ties to one of them belongs to them too."""
    entries = [declaration for key_map in maps for declaration in key_map.tie]
    if not entries:
        return {}
    from ckptdoctor.plan.keys import Keys

    index = Keys(target)
    position = {key: number for number, key in enumerate(target)}
    groups = _native(target)
    tied: dict[str, Declaration] = {}
    for declaration in entries:
        for keys in _frames(declaration, target, index, problems):
            if _fit(declaration, keys, target, problems):
                together = sorted({key for one in keys for key in groups[one]}, key=position.__getitem__)
                groups |= dict.fromkeys(together, together)
                tied |= {key: tied.get(key, declaration) for key in together}
    return {key: Tie(groups[key][0], declaration) for key, declaration in tied.items()}


def _native(target: Manifest) -> dict[str, list[str]]:
    """For each key, those that share its memory in the target."""
    firsts: dict[str, list[str]] = {}
    for key, spec in target.items():
        firsts.setdefault(spec.tied_to or key, []).append(key)
    return {key: keys for keys in firsts.values() for key in keys}


def _frames(declaration: Declaration, target: Manifest, index: Keys, problems: list[PlanError]) -> Iterator[list[str]]:
    """The keys of each choice of captures; where some are not there, a problem instead."""
    where = declaration.location
    frames: dict[tuple[tuple[str, str], ...], list[tuple[Pattern, str, Match]]] = {}
    for pattern in declaration.patterns:
        found = list(index.matching(pattern, problems, where))
        if not found:
            if declaration.optional is None:
                problems.append(hints.unused("tie", (pattern,), where, target, told=len(problems)))
            return
        for key, match in found:
            frames.setdefault(tuple(sorted(match.captures.items())), []).append((pattern, key, match))
    wanted = sum(prod(map(len, pattern.groups)) for pattern in declaration.patterns)
    for captures, matched in frames.items():
        keys = list(dict.fromkeys(key for _, key, _ in matched))
        if len(matched) < wanted:
            problems.append(_incomplete(declaration, dict(captures), keys, target))
        else:
            yield keys


def _incomplete(
    declaration: Declaration, captures: Mapping[str, str], keys: Sequence[str], target: Manifest
) -> PlanError:
    every = (
        pattern.fill(captures, choices)
        for pattern in declaration.patterns
        for choices in product(*(range(len(group)) for group in pattern.groups))
    )
    gap = next(key for key in every if key not in keys)
    return IncompleteGroup(
        f"{listing(keys)} is to share memory with {printable(gap)}, which the target does not have",
        rule=declaration.location,
        keys=(*keys, gap),
        hint=did_you_mean(gap, target) or "name only what is there on every side",
    )


def _fit(declaration: Declaration, keys: Sequence[str], target: Manifest, problems: list[PlanError]) -> bool:
    """Whether these can be one tensor."""
    looks = {key: f"{shape_text(target[key].shape)} {target[key].dtype}" for key in keys}
    if len(keys) > 1 and len(set(looks.values())) == 1:
        return True
    texts = ", ".join(f"{printable(key)} is {look}" for key, look in looks.items())
    message = f"only tensors of one shape and dtype can share memory: {texts}"
    if len(keys) == 1:
        message = f"the tie names {printable(keys[0])} alone"
    hint = "tie tensors of the same shape and dtype"
    problems.append(ShapeError(message, rule=declaration.location, keys=tuple(keys), hint=hint))
    return False


def share(steps: dict[str, Step], ties: Mapping[str, Tie], source: Manifest, problems: list[PlanError]) -> None:
    """A missing tensor is filled through a tensor that shares its memory, whichever of them gets values, or fresh with it."""
    for key, tie in ties.items():
        steps[key] = steps[key]._replace(tie=tie.first)
    if not ties and all(step.target.tied_to is None for step in steps.values()):
        return
    groups: dict[str, list[str]] = {}
    for key, step in steps.items():
        groups.setdefault(step.memory, []).append(key)
    for keys in groups.values():
        if len(keys) > 1:
            problem = _two_producers([steps[key] for key in keys], ties.get(keys[0]), source)
            if problem is None:
                _share_one({key: steps[key] for key in keys}, steps, ties.get(keys[0]))
            else:
                problems.append(problem)


def _share_one(group: Mapping[str, Step], steps: dict[str, Step], tie: Tie | None) -> None:
    filled = next((step for step in group.values() if step.filled), None)
    fresh = max((step for step in group.values() if step.status == "fresh"), key=_says, default=None)
    for key, step in group.items():
        if step.status not in ("missing", "fresh"):
            continue
        if filled is not None and filled.given is not None:
            given = step.target._replace(dtype=filled.given.dtype)
            why = tie.declaration.why if tie is not None else f"shares memory with {filled.target.key}"
            rule = tie.declaration.location if tie is not None else None
            steps[key] = Step(step.target, "tied", given=given, rule=rule, why=why, tie=step.tie)
        elif fresh is not None and (step.status == "missing" or _says(fresh) > _says(step)):
            steps[key] = fresh._replace(target=step.target)


def memories(steps: Sequence[Step], source: Manifest) -> dict[str, Hashable]:
    """For each target key a name for the memory behind it in the output: equal names, shared memory.

    That is what the target or a map ties, if it is to hold the same values; `tied` ones go with the first that has some.
    """
    made: dict[str, Hashable] = {
        step.target.key: (step.memory, _producer(step, source) if step.has_values else None) for step in steps
    }
    firsts: dict[str, Hashable] = {}
    for step in steps:
        if step.status != "tied":
            firsts.setdefault(step.memory, made[step.target.key])
    return made | {step.target.key: firsts[step.memory] for step in steps if step.status == "tied"}


def torn(plan: Plan) -> list[list[Step]]:
    """The tensors that share memory in the target and are made in different ways of the source, together."""
    if not any(step.target.tied_to or step.tie for step in plan.steps):
        return []
    groups: dict[str, list[Step]] = {}
    for step in plan.steps:
        groups.setdefault(step.memory, []).append(step)
    several = (group for group in groups.values() if len(group) > 1)
    return [group for group in several if len(set(_made(group, plan.source))) > 1]


def _made(steps: Iterable[Step], source: Manifest) -> Iterator[Expression]:
    for step in steps:
        if step.filled and step.expression is not None:
            yield over_firsts(step.expression, source)


def _says(step: Step) -> bool:
    return step.init is not None


def _two_producers(group: Sequence[Step], tie: Tie | None, source: Manifest) -> PlanError | None:
    """The error for one memory that would get its values twice. Ties that the target alone makes are the policy's matter."""
    ours = tie is not None or any(map(_says, group))
    made = {step.target.key: step for step in group if ours and (_says(step) or step.filled)}
    producers = {key: _producer(step, source) for key, step in made.items()}
    first = next(iter(producers), None)
    other = next(
        (key for key, producer in producers.items() if first is not None and producer != producers[first]), None
    )
    if first is None or other is None:
        return None
    rule = tie.declaration.location if tie is not None else next(step.rule for step in made.values() if _says(step))
    return KeyCollision(
        f"{printable(first)} and {printable(other)} share memory, and get two values: {_how(made[first])}, and "
        f"{_how(made[other])}",
        rule=rule,
        keys=(first, other),
        hint="let one of them get its values: drop the other's source, take out its rule or its init, or take out the tie",
    )


def _producer(step: Step, source: Manifest) -> tuple[Expression | None, object]:
    expression = None if step.expression is None else over_firsts(step.expression, source)
    return (expression, None) if expression is not None else (None, step.init)


def _how(step: Step) -> str:
    what = f"{printable(step.target.key)} of {listing(step.sources)}" if step.sources else printable(step.target.key)
    by = f"by the entry at {step.rule}" if step.rule is not None else "by its name"
    return f"{what} {by}"
