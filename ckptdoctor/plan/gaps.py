"""Errors for fan axes with gaps: keys that a fan-in needs and the source lacks, numbers that a fan-out skips."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from math import prod
from typing import TypeAlias

from ckptdoctor.errors import IncompleteGroup, PlanError
from ckptdoctor.keymap import Rule
from ckptdoctor.patterns import AmbiguousKey, Match, Pattern
from ckptdoctor.plan.stage import Stage
from ckptdoctor.text import did_you_mean, listing

Position: TypeAlias = tuple[int, ...]
"""A place along the fan axes of a rule, one number for each."""


def gap(stage: Stage, rule: Rule, lengths: Sequence[int], found: Mapping[Position, str]) -> PlanError:
    """The error for keys that a fan-in needs and the source does not have."""
    every = (_place(number, lengths) for number in range(prod(lengths)))
    lacking = list(islice((place for place in every if place not in found), 4))
    names = [_source_at(rule, place, next(iter(found.values()))) for place in lacking]
    axes = " and ".join(axis.text for axis in rule.fan_in)
    return IncompleteGroup(
        f"{rule.text}: {len(found):,} of {prod(lengths):,} along {axes} are there; no {listing(names, limit=3)}",
        rule=rule.location,
        keys=(*names, *list(found.values())[:3]),
        hint=_why_not_there(stage, names[0]),
    )


def _place(number: int, lengths: Sequence[int]) -> Position:
    """The place of this number in row-major order; a number in a key may be too large to write all places out."""
    place = []
    for length in reversed(lengths):
        number, rest = divmod(number, length)
        place.append(rest)
    return tuple(reversed(place))


def _why_not_there(stage: Stage, name: str) -> str:
    if name in stage.dropped:
        return f"{name} is dropped at {stage.dropped[name][1].location}; drop comes first"
    if name in stage.inputs:
        return f"the rule leaves {name} out by its except"
    near = did_you_mean(name, stage.inputs)
    return near or "all members must be there: name only those that are, or correct them"


def _source_at(rule: Rule, place: Position, example: str) -> str:
    """The source key at a place of the fan-in axes, in the frame of another key."""
    if len(rule.sources) > 1:
        pattern = rule.sources[place[0]]
        read = next((match for other in rule.sources if (match := _read(other, example))), None)
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


def _read(pattern: Pattern, key: str) -> Match | None:
    try:
        return pattern.match(key)
    except AmbiguousKey:
        return None


def _filled(pattern: Pattern, captures: Mapping[str, str]) -> str:
    return pattern.text if pattern.groups or not set(pattern.captures) <= set(captures) else pattern.fill(captures)


def gap_in_target(
    rule: Rule, target_at: Callable[[Position], str], numbers: Mapping[str, set[int]]
) -> PlanError | None:
    """The error for numbers of a fan-out that do not go from 0 upwards without a gap."""
    for axis in rule.fan_out:
        known = numbers.get(str(axis.key), set())
        if len(known) <= max(known, default=-1):
            gap = next(number for number in range(max(known)) if number not in known)
            key = target_at(tuple(gap if each is axis else 0 for each in rule.fan_out))
            return IncompleteGroup(
                f"{rule.text}: along {axis.text} the target goes to {max(known):,}, and has no {key}",
                rule=rule.location,
                keys=(key,),
                hint="numbers along a fan-out go from 0 upwards without a gap: write a group, {2,5}, for others",
            )
    return None
