"""What a rule matches, gathered: the source keys that make something together, and the target keys that they make.

A rename has an instance for each key. Along a fan axis (a group, a number or a list on one side only) several keys meet in
one instance, in the order of the axis; every one of them must be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from math import prod
from typing import NamedTuple, TypeAlias

from ckptdoctor.errors import PlanError
from ckptdoctor.keymap import Rule
from ckptdoctor.keymap.arithmetic import ArithmeticProblem
from ckptdoctor.patterns import Axis, Match, Pairing
from ckptdoctor.plan.gaps import Position, gap, gap_in_target
from ckptdoctor.plan.stage import Stage

_Frame: TypeAlias = tuple[tuple[str, ...], tuple[int, ...]]
Matches: TypeAlias = Sequence[tuple[int, str, Match]]
"""Which pattern of the rule's sources, the key, and how it is read."""
_HUGE = 10**9


class Instance(NamedTuple):
    """`sources` in row-major order over the fan-in axes, whose lengths are `lengths`.

    `outs` are the lengths of the fan-out axes, None where only the op can tell; `target_at` is the key at a place of them.
    """

    sources: tuple[str, ...]
    lengths: tuple[int, ...]
    outs: tuple[int | None, ...]
    target_at: Callable[[Position], str]

    def targets(self, outs: Sequence[int]) -> list[str]:
        """The target keys in row-major order over fan-out axes of these lengths."""
        return [self.target_at(place) for place in product(*map(range, outs))]


def instances(stage: Stage, rule: Rule, matches: Matches) -> Iterator[Instance]:
    """The instances of a rule without `where`. Groups that are not complete become problems of the stage."""
    if not matches:
        return
    if not (rule.fan_in or rule.fan_out):  # then a key is an instance by itself, and nothing can be lacking
        (pairing,) = rule.pairings
        for _, key, match in matches:
            yield Instance((key,), (), (), partial(pairing.fill, match))
        return
    before = len(stage.problems)
    members = _members_of_target(stage, rule)
    if len(stage.problems) == before:
        for frame, group in _groups(rule, matches).items():
            yield from _complete(stage, rule, group, members.get(frame, {}))


class _Group(NamedTuple):
    """The keys of one instance by their places along the fan-in axes, as far as they are there."""

    found: dict[Position, str]
    target_at: Callable[[Position], str]


def _groups(rule: Rule, matches: Matches) -> Mapping[_Frame, _Group]:
    """What matched, by what the keys of one instance have in common."""
    if not rule.pairings:  # lists of literal keys on both sides
        found: dict[Position, str] = {(index,): key for index, key, _ in matches}
        return {((), ()): _Group(found, lambda place: rule.targets[place[0]].fill({}))}
    groups: dict[_Frame, _Group] = {}
    several = len(rule.sources) > 1
    for index, key, match in matches:
        pairing = rule.pairings[index if several else 0]
        position = (index,) if several else _position(rule.fan_in, match)
        group = groups.setdefault(_frame(pairing, match), _Group({}, _filler(rule, pairing, match)))
        group.found[position] = key
    return groups


def _complete(stage: Stage, rule: Rule, group: _Group, numbers: Mapping[str, set[int]]) -> Iterator[Instance]:
    """The instance of a group, unless something is lacking."""
    found, target_at = group
    lengths = _lengths(rule.fan_in, found)
    if prod(lengths) != len(found):
        stage.problems.append(gap(stage, rule, lengths, found))
    elif (problem := gap_in_target(rule, target_at, numbers)) is not None:
        stage.problems.append(problem)
    else:
        outs = tuple(len(axis.members) or _size(numbers.get(str(axis.key))) for axis in rule.fan_out)
        yield Instance(tuple(found[place] for place in sorted(found)), lengths, outs, target_at)


def _size(numbers: set[int] | None) -> int | None:
    return len(numbers) if numbers else None


def where_instances(stage: Stage, rule: Rule, matches: Matches) -> Iterator[Instance]:
    """The instances of a rule with `where`: one for each target key whose source is there."""
    (pairing,) = rule.pairings
    sources = {key for _, key, _ in matches}
    if stage.targets is None:
        message = "where counts the keys of the target, and here is none"
        hint = "name the target; with several maps, let this one be the last"
        stage.problems.append(PlanError(message, rule=rule.location, hint=hint))
        return
    back = {target: source for source, target in pairing.groups}
    for key, match in stage.target_index.matching(pairing.target, stage.problems, rule.location):
        try:
            captures = {**match.captures, **_computed(rule, match)}
        except ArithmeticProblem as problem:
            message = f"{rule.text}: {problem.message}, for {key}"
            stage.problems.append(PlanError(message, rule=rule.location, keys=(key,), hint=problem.hint))
            return
        choices = {back[index]: choice for index, choice in enumerate(match.choices)}
        source = pairing.source.fill(captures, [choices[index] for index in range(len(choices))])
        if source in sources:
            yield Instance((source,), (), (), lambda _, key=key: key)  # type: ignore[misc]


def _computed(rule: Rule, match: Match) -> dict[str, str]:
    numbers = {name: _number(text) for name, text in match.captures.items() if text.isdecimal()}
    return {name: str(expression.value(numbers)) for name, expression in rule.where}


def _frame(pairing: Pairing, match: Match) -> _Frame:
    """What two keys of one instance have in common."""
    shared = tuple(match.captures[name] for name in pairing.target.captures if name in match.captures)
    return shared, tuple(match.choices[source] for source, _ in pairing.groups)


def _position(axes: Sequence[Axis], match: Match) -> Position:
    return tuple(
        match.choices[axis.key] if isinstance(axis.key, int) else _number(match.captures[axis.key]) for axis in axes
    )


def _number(text: str) -> int:
    return int(text) if len(text) < 10 else _HUGE


def _filler(rule: Rule, pairing: Pairing, match: Match) -> Callable[[Position], str]:
    """The target key at a place of the fan-out axes, for the frame of this match."""
    if len(rule.targets) > 1:
        return lambda place: rule.pairings[place[0]].fill(match)
    return partial(pairing.fill, match)


def _members_of_target(stage: Stage, rule: Rule) -> dict[_Frame, dict[str, set[int]]]:
    """For numbers that stand on the target side only: which ones the target has, for each frame."""
    numbers = [axis.key for axis in rule.fan_out if isinstance(axis.key, str) and not axis.members]
    if not numbers or stage.targets is None:
        return {}
    (pairing,) = rule.pairings
    found: dict[_Frame, dict[str, set[int]]] = {}
    for _, match in stage.target_index.matching(pairing.target, stage.problems, rule.location):
        shared = tuple(match.captures[name] for name in pairing.target.captures if name in pairing.source.captures)
        frame = (shared, tuple(match.choices[target] for _, target in pairing.groups))
        members = found.setdefault(frame, {name: set() for name in numbers})
        for name in numbers:
            members[name].add(_number(match.captures[name]))
    return found


def _lengths(axes: Sequence[Axis], found: Mapping[Position, str]) -> tuple[int, ...]:
    """How long each axis is: its members, or one more than the largest number."""
    return tuple(
        len(axis.members) or 1 + max(position[number] for position in found) for number, axis in enumerate(axes)
    )
