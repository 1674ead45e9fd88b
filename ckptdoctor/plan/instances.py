"""What a rule matches, gathered: the source keys that make something together, and the target keys that they make.

A rename has an instance for each key. Along a fan axis (a group, a number or a list on one side only) several keys meet in
one instance, in the order of the axis; every one of them must be there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice, product
from math import prod
from typing import NamedTuple, TypeAlias

from ckptdoctor.errors import IncompleteGroup, PlanError
from ckptdoctor.keymap import Rule
from ckptdoctor.keymap.arithmetic import ArithmeticProblem
from ckptdoctor.patterns import Axis, Match, Pairing, Pattern
from ckptdoctor.plan.stage import Stage
from ckptdoctor.text import did_you_mean, listing

_Frame: TypeAlias = tuple[tuple[str, ...], tuple[int, ...]]
_Position: TypeAlias = tuple[int, ...]
Matches: TypeAlias = Sequence[tuple[int, str, Match]]
"""Which pattern of the rule's sources, the key, and how it is read."""
_HUGE = 10**9


class Instance(NamedTuple):
    """`sources` in row-major order over the fan-in axes, whose lengths are `lengths`.

    `outs` are the lengths of the fan-out axes, None where only the op can tell; `target_at` is the key at a place of them.
    """

    sources: tuple[str, ...]
    lengths: tuple[int, ...]
    outs: tuple[int, ...] | None
    target_at: Callable[[_Position], str]

    def targets(self, outs: Sequence[int]) -> list[str]:
        """The target keys in row-major order over fan-out axes of these lengths."""
        return [self.target_at(place) for place in product(*map(range, outs))]


def instances(stage: Stage, rule: Rule, matches: Matches) -> Iterator[Instance]:
    """The instances of a rule without `where`. Groups that are not complete become problems of the stage."""
    if not matches:
        return
    if not rule.pairings:  # lists of literal keys on both sides
        whole: _Frame = ((), ())
        found: dict[_Position, str] = {(index,): key for index, key, _ in matches}
        yield from _complete(stage, rule, {whole: found}, {whole: lambda place: rule.targets[place[0]].fill({})}, {})
        return
    frames: dict[_Frame, dict[_Position, str]] = {}
    fillers: dict[_Frame, Callable[[_Position], str]] = {}
    several = len(rule.sources) > 1
    for index, key, match in matches:
        pairing = rule.pairings[index if several else 0]
        frame = _frame(pairing, match)
        position = (index,) if several else _position(rule.fan_in, match)
        frames.setdefault(frame, {})[position] = key
        fillers.setdefault(frame, _filler(rule, pairing, match))
    yield from _complete(stage, rule, frames, fillers, _members_of_target(stage, rule))


def _complete(
    stage: Stage,
    rule: Rule,
    frames: Mapping[_Frame, Mapping[_Position, str]],
    fillers: Mapping[_Frame, Callable[[_Position], str]],
    members: Mapping[_Frame, set[_Position]],
) -> Iterator[Instance]:
    for frame, found in frames.items():
        lengths = _lengths(rule.fan_in, found)
        outs: tuple[int, ...] | None = tuple(len(axis.members) for axis in rule.fan_out)
        if any(not axis.members for axis in rule.fan_out):
            known = members.get(frame, set())
            outs = _lengths(rule.fan_out, known) if known else None
            if outs is not None and prod(outs) != len(known):
                stage.problems.append(_gap_in_target(rule, fillers[frame], outs, known))
                continue
            if outs is None and len(rule.fan_out) > 1:
                stage.problems.append(_no_end(rule))
                return
        if prod(lengths) != len(found):
            stage.problems.append(_gap(stage, rule, lengths, found))
            continue
        keys = tuple(found[place] for place in sorted(found))
        yield Instance(keys, lengths, outs, fillers[frame])


def where_instances(stage: Stage, rule: Rule) -> Iterator[Instance]:
    """The instances of a rule with `where`: one for each target key whose source is there."""
    (pairing,) = rule.pairings
    if stage.targets is None:
        message = "where counts the keys of the target, and here is none"
        hint = "name the target; with several maps, let this one be the last"
        stage.problems.append(PlanError(message, rule=rule.location, hint=hint))
        return
    back = {target: source for source, target in pairing.groups}
    for key in stage.targets:
        match = pairing.target.match(key)
        if match is None:
            continue
        try:
            captures = {**match.captures, **_computed(rule, match)}
        except ArithmeticProblem as problem:
            stage.problems.append(PlanError(problem.message, rule=rule.location, keys=(key,), hint=problem.hint))
            return
        choices = {back[index]: choice for index, choice in enumerate(match.choices)}
        source = pairing.source.fill(captures, [choices[index] for index in range(len(choices))])
        if source in stage.inputs and source not in stage.dropped and not any(p.match(source) for p in rule.excepts):
            yield Instance((source,), (), (), lambda _, key=key: key)  # type: ignore[misc]


def _computed(rule: Rule, match: Match) -> dict[str, str]:
    numbers = {name: _number(text) for name, text in match.captures.items() if text.isdecimal()}
    return {name: str(expression.value(numbers)) for name, expression in rule.where}


def _frame(pairing: Pairing, match: Match) -> _Frame:
    """What two keys of one instance have in common."""
    shared = tuple(match.captures[name] for name in pairing.target.captures if name in match.captures)
    return shared, tuple(match.choices[source] for source, _ in pairing.groups)


def _position(axes: Sequence[Axis], match: Match) -> _Position:
    return tuple(
        match.choices[axis.key] if isinstance(axis.key, int) else _number(match.captures[axis.key]) for axis in axes
    )


def _number(text: str) -> int:
    return int(text) if len(text) < 10 else _HUGE


def _filler(rule: Rule, pairing: Pairing, match: Match) -> Callable[[_Position], str]:
    """The target key at a place of the fan-out axes, for the frame of this match."""
    axes = rule.fan_out

    def fill(place: _Position) -> str:
        if len(rule.targets) > 1:
            return rule.pairings[place[0]].fill(match)
        captures, choices = dict(match.captures), {target: match.choices[source] for source, target in pairing.groups}
        for axis, number in zip(axes, place, strict=True):
            if isinstance(axis.key, int):
                choices[axis.key] = number
            else:
                captures[axis.key] = str(number)
        return pairing.target.fill(captures, [choices[group] for group in range(len(pairing.target.groups))])

    return fill


def _members_of_target(stage: Stage, rule: Rule) -> dict[_Frame, set[_Position]]:
    """Where a number stands on the target side only: which places along the fan-out the target has, for each frame."""
    if stage.targets is None or all(axis.members for axis in rule.fan_out):
        return {}
    (pairing,) = rule.pairings
    found: dict[_Frame, set[_Position]] = {}
    for key in stage.targets:
        match = pairing.target.match(key)
        if match is not None:
            shared = tuple(match.captures[name] for name in pairing.target.captures if name in pairing.source.captures)
            frame = (shared, tuple(match.choices[target] for _, target in pairing.groups))
            found.setdefault(frame, set()).add(_position(rule.fan_out, match))
    return found


def _lengths(axes: Sequence[Axis], found: Collection[_Position]) -> tuple[int, ...]:
    """How long each axis is: its members, or one more than the largest number."""
    return tuple(
        len(axis.members) or 1 + max(position[number] for position in found) for number, axis in enumerate(axes)
    )


def _gap(stage: Stage, rule: Rule, lengths: Sequence[int], found: Mapping[_Position, str]) -> PlanError:
    """The error for keys that a fan-in needs and the source does not have."""
    lacking = list(islice((place for place in product(*map(range, lengths)) if place not in found), 4))
    names = [_source_at(rule, place, next(iter(found.values()))) for place in lacking]
    axis = rule.fan_in[-1]
    return IncompleteGroup(
        f"{rule.text}: {len(found):,} of {prod(lengths):,} along {axis.text} are there; no {listing(names, limit=3)}",
        rule=rule.location,
        keys=(*names, *list(found.values())[:3]),
        hint=did_you_mean(names[0], stage.inputs)
        or "all members must be there: name only those that are, or correct them",
    )


def _source_at(rule: Rule, place: _Position, example: str) -> str:
    """The source key at a place of the fan-in axes, in the frame of another key."""
    if len(rule.sources) > 1:
        pattern = rule.sources[place[0]]
        read = next((match for other in rule.sources if (match := other.match(example))), None)
        return _filled(pattern, read.captures) if read else pattern.text
    (pattern,) = rule.sources
    match = pattern.match(example)
    assert match is not None
    captures, choices = dict(match.captures), list(match.choices)
    for axis, number in zip(rule.fan_in, place, strict=True):
        if isinstance(axis.key, int):
            choices[axis.key] = number
        else:
            captures[axis.key] = str(number)
    return pattern.fill(captures, choices)


def _filled(pattern: Pattern, captures: Mapping[str, str]) -> str:
    return pattern.text if pattern.groups or not set(pattern.captures) <= set(captures) else pattern.fill(captures)


def _no_end(rule: Rule) -> PlanError:
    axis = next(axis for axis in rule.fan_out if not axis.members)
    message = f"{rule.text}: how far {axis.text} goes is said by the target's keys, and here are none like it"
    return PlanError(message, rule=rule.location, hint="name the target, or write a range, {0..7}")


def _gap_in_target(
    rule: Rule, target_at: Callable[[_Position], str], outs: Sequence[int], known: set[_Position]
) -> PlanError:
    gap = next(place for place in product(*map(range, outs)) if place not in known)
    return IncompleteGroup(
        f"{rule.text}: the target has {target_at(max(known))}, and no {target_at(gap)}",
        rule=rule.location,
        keys=(target_at(gap),),
        hint="numbers along a fan-out go from 0 upwards without a gap: write a group, {2,5}, for others",
    )
