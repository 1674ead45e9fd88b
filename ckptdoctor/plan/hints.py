"""Errors of planning that can say how to mend the map, from the keys and shapes at hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ckptdoctor.errors import Location, PlanError, UnknownTargetKey, UnusedRule
from ckptdoctor.text import did_you_mean, listing, plural, printable

if TYPE_CHECKING:
    from ckptdoctor.keymap import Rule
    from ckptdoctor.model import TensorSpec
    from ckptdoctor.ops import Op
    from ckptdoctor.patterns import Axis, Match, Pattern

Specs: TypeAlias = "Mapping[str, TensorSpec]"


_MOST = 25
"""So many problems get the nearest keys: looking for them is slow, and nobody reads on."""


def unused(
    what: str,
    patterns: Sequence[Pattern],
    where: Location,
    keys: Collection[str],
    dropped: Collection[str] = (),
    *,
    told: int = 0,
) -> UnusedRule:
    """A rule, `fresh` or `drop` that names no key; `told` is the number of problems before this one."""
    hint = _of_unused(patterns, keys, dropped) if told < _MOST else None
    hint = hint or 'correct the pattern, take it out, or say optional: "why"'
    return UnusedRule(
        f"the {what} names no key: {listing(pattern.text for pattern in patterns)}", rule=where, hint=hint
    )


def _of_unused(patterns: Sequence[Pattern], keys: Collection[str], dropped: Collection[str]) -> str | None:
    for pattern in patterns:
        if any(_names(pattern, key) for key in dropped):
            return "the keys it names are dropped; drop comes first"
        if any(key.startswith(pattern.text + ".") for key in keys):
            return f'patterns name whole keys: write "{pattern.text}.{{*p}}"'
    return did_you_mean(patterns[0].text, keys)


def _names(pattern: Pattern, key: str) -> bool:
    from ckptdoctor.patterns import AmbiguousKey

    try:
        return pattern.match(key) is not None
    except AmbiguousKey:
        return True


def unknown_target(
    made: Mapping[str, Sequence[str]], where: Location | None, target: Specs, *, told: int = 0
) -> UnknownTargetKey:
    """A rule that makes keys (each with its sources) which the target does not have."""
    first, sources = next(iter(made.items()))
    more = f", nor {plural(len(made) - 1, 'other key')} that the rule makes" if len(made) > 1 else ""
    near = did_you_mean(first, target) if told < _MOST else None
    return UnknownTargetKey(
        f"the target has no {printable(first)} (made of {listing(sources)}){more}",
        rule=where,
        keys=tuple(made),
        hint=near or "ckptdoctor inspect TARGET lists the target's keys",
    )


def joins(op: Op) -> bool:
    """Whether an op takes several tensors."""
    return op.fan_in or bool(op.input_names)


def lacks_op(rule: Rule) -> bool:
    """Whether some axis of a rule has no op at all."""
    return not any(joins(op) or op.fan_out for op in rule.ops)


def fan_without_op(rule: Rule, matches: Sequence[tuple[str, Match]], sources: Specs, target: Specs | None) -> PlanError:
    """One source key would make several target keys, or several meet in one, and no op says how."""
    if lacks_op(rule) and (problem := _misread(rule)) is not None:
        return problem
    parting = sum(op.fan_out for op in rule.ops)
    if parting < len(rule.fan_out):
        axis = rule.fan_out[parting]
        message = (
            f"{rule.text}: {axis.text} stands on the right only, so one tensor would make several, and no op says how"
        )
        hint = _fitting_members(rule, axis, matches, sources, target) if target is not None else None
        hint = hint or "choose one member, or add the op that makes several of one (split, unstack, broadcast)"
        return PlanError(message, rule=rule.location, hint=hint)
    axis = rule.fan_in[-1 - sum(map(joins, rule.ops))]
    message = (
        f"{rule.text}: {axis.text} stands on the left only, so several tensors would meet in one, and no op says how"
    )
    hint = "choose one member, or add the op that joins them (concat, stack, mean)"
    return PlanError(message, rule=rule.location, hint=hint)


def _misread(rule: Rule) -> PlanError | None:
    """The error where no op is likely to be what was meant: two lists, or one capture under two names."""
    if len(rule.sources) > 1 or len(rule.targets) > 1:
        message = f"{rule.text} has several sources or targets, and no op that says how"
        return PlanError(message, rule=rule.location, hint="write one rule for each, or add the op that joins them")
    left, right = ([axis for axis in axes if not axis.members] for axes in (rule.fan_in, rule.fan_out))
    if not left or not right:
        return None
    alike = [(ours, theirs) for ours in left for theirs in right if str(ours.key).lower() == str(theirs.key).lower()]
    ours, theirs = (alike or [(left[0], right[0])])[0]
    what = "differ only in case" if alike else "stand on one side each"
    message = f"{rule.text}: {ours.text} and {theirs.text} {what}, and captures belong together by their names"
    hint = f"write {ours.text} on both sides" + ("" if alike else ", or where: {..} if one is computed of the other")
    return PlanError(message, rule=rule.location, hint=hint)


def _fitting_members(
    rule: Rule, axis: Axis, matches: Sequence[tuple[str, Match]], sources: Specs, target: Specs
) -> str | None:
    """For `head.{p} -> head.{0..4}.{p}`: the member that takes every source in shape, and those that would be fresh."""
    (pairing,) = rule.pairings
    if not isinstance(axis.key, int) or len(pairing.fan_out) > 1 or not matches:
        return None
    pattern = pairing.target

    def key_of(match: Match, member: int) -> str:
        choices = {ours: match.choices[theirs] for theirs, ours in pairing.groups} | {axis.key: member}
        return pattern.fill(match.captures, [choices[group] for group in range(len(pattern.groups))])

    existing, fitting = [], []
    for member in range(len(axis.members)):
        keys = [(key, key_of(match, member)) for key, match in matches]
        if all(made in target for _, made in keys):
            existing.append(member)
            if all(target[made].shape == sources[key].shape for key, made in keys):
                fitting.append(member)
    if len(fitting) != 1:
        return None
    return _one_member_hint(rule, axis, fitting[0], [member for member in existing if member not in fitting])


def _one_member_hint(rule: Rule, axis: Axis, fitting: int, others: Sequence[int]) -> str:
    source, target = rule.pairings[0].source, rule.pairings[0].target
    hint = f'"{source}" -> "{_chosen(target, axis, axis.members[fitting])}" is what fits in shape'
    if not others:
        return hint
    names = [axis.members[other] for other in others]
    group = f"{{{','.join(names)}}}" if len(names) > 1 else names[0]
    return f'{hint}, with fresh: "{_chosen(target, axis, group)}"'


def _chosen(pattern: Pattern, axis: Axis, text: str) -> str:
    """The pattern with `text` where the axis stands; another group may be written alike."""
    from ckptdoctor.patterns import Group

    offset = [part.offset for part in pattern.parts() if isinstance(part, Group)][int(axis.key)]
    return pattern.text[:offset] + text + pattern.text[offset + len(axis.text) :]
