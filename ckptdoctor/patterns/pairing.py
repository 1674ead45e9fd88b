"""How the two sides of a rule belong together: which group chooses for which, and what is a fan axis.

`pair` is the whole of it. Start there, with section 4 of the design (the paragraph on alternatives) beside you.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ckptdoctor.patterns.pattern import Match, Pattern
from ckptdoctor.patterns.syntax import Capture, Group, PatternError


@dataclass(frozen=True, slots=True)
class Axis:
    """What stands on one side of a rule only: a group (its index and its members), or a capture (its name).

    `text` is the axis as it stands in its pattern, such as `{0..4}` or `{*p}`.
    """

    key: int | str
    members: tuple[str, ...] = ()
    text: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Pairing:
    """The two patterns of a rule and what joins them.

    `groups` are pairs of group indices (in the source, in the target) that make the same choice, in the order of the
    target. `fan_in` are the axes of the source alone, where several source keys meet in one target key; `fan_out` those
    of the target alone, where one source key would have to make several.
    """

    source: Pattern
    target: Pattern
    groups: tuple[tuple[int, int], ...]
    fan_in: tuple[Axis, ...]
    fan_out: tuple[Axis, ...]

    def fill(self, match: Match, place: Sequence[int] = ()) -> str:
        """The target key for a match of the source, at a place of the fan-out axes.

        Raises ValueError where there are more axes than the place has numbers: then the match alone does not decide.
        """
        if not self.fan_out:
            return self.target.fill(match.captures, [match.choices[source] for source, _ in self.groups])
        if len(place) < len(self.fan_out):
            raise ValueError(f"{self.target} has {self.fan_out[0].text}, which {self.source} does not bind")
        captures, choices = dict(match.captures), {target: match.choices[source] for source, target in self.groups}
        for axis, number in zip(self.fan_out, place, strict=True):
            if isinstance(axis.key, int):
                choices[axis.key] = number
            else:
                captures[axis.key] = str(number)
        return self.target.fill(captures, [choices[group] for group in range(len(choices))])


def pair(source: Pattern, target: Pattern) -> Pairing:
    """Settle how the groups and captures of two patterns belong together.

    Groups with the same members in the same order make the same choice; each is used once, from left to right. Those
    that remain pair from left to right, member by member. What stands on one side only is a fan axis.

    Raises PatternError, its offset counted in the target's text, where that cannot be done: groups of unequal length,
    unequal numbers of remaining groups on both sides, a capture of two kinds.
    """
    _check_kinds(source, target)
    same, ours, theirs = _same_groups(source.groups, target.groups)
    if ours and theirs:
        same += _in_order(ours, theirs, source, target)
        ours, theirs = [], []
    return Pairing(
        source,
        target,
        tuple(sorted(same, key=lambda indices: indices[1])),
        _axes(source, ours, target),
        _axes(target, theirs, source),
    )


def _same_groups(
    ours: Sequence[tuple[str, ...]], theirs: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[int, int]], list[int], list[int]]:
    """The pairs of groups with the same members, and the indices that remain on either side."""
    pairs: list[tuple[int, int]] = []
    remaining = list(range(len(ours)))
    for target, members in enumerate(theirs):
        source = next((index for index in remaining if ours[index] == members), None)
        if source is not None:
            pairs.append((source, target))
            remaining.remove(source)
    paired = {target for _, target in pairs}
    return pairs, remaining, [index for index in range(len(theirs)) if index not in paired]


def _in_order(ours: list[int], theirs: list[int], source: Pattern, target: Pattern) -> list[tuple[int, int]]:
    """What remains on both sides, paired from left to right."""
    source_groups, target_groups = _groups(source), _groups(target)
    if len(ours) != len(theirs):
        raise PatternError(
            f"{_counted(source_groups, ours)} in {source} against {_counted(target_groups, theirs)} in {target}",
            offset=target_groups[theirs[0]].offset,
            hint="repeat a group on both sides where the choice is the same, or write one rule for each member",
        )
    for left, right in zip(ours, theirs, strict=True):
        before, after = source_groups[left], target_groups[right]
        if len(before.members) != len(after.members):
            raise PatternError(
                f"{before} has {len(before.members)} members against {len(after.members)} in {after}",
                offset=after.offset,
                hint="groups pair member by member",
            )
    return list(zip(ours, theirs, strict=True))


def _groups(pattern: Pattern) -> list[Group]:
    return [part for part in pattern.parts() if isinstance(part, Group)]


def _counted(groups: list[Group], indices: list[int]) -> str:
    noun = "group" if len(indices) == 1 else "groups"
    return f"{len(indices)} {noun} ({', '.join(str(groups[index]) for index in indices)})"


def _axes(pattern: Pattern, groups: list[int], other: Pattern) -> tuple[Axis, ...]:
    """What stands in `pattern` only, from left to right: these groups, and the captures that `other` does not have."""
    written = _groups(pattern)
    axes = {written[index].offset: Axis(index, written[index].members, str(written[index])) for index in groups}
    first = {part.name: part for part in reversed(list(pattern.parts())) if isinstance(part, Capture)}
    axes |= {part.offset: Axis(name, text=str(part)) for name, part in first.items() if name not in other.captures}
    return tuple(axes[offset] for offset in sorted(axes))


def _check_kinds(source: Pattern, target: Pattern) -> None:
    """A name is of one kind on both sides; only the `:int` need not be repeated."""
    for part in target.parts():
        if not isinstance(part, Capture) or part.name not in source.captures:
            continue
        kind = source.captures[part.name]
        if part.kind != kind and (kind, part.kind) != ("int", "segment"):
            written = Capture(part.name, kind)
            raise PatternError(
                f"{part} is {written} in {source}", offset=part.offset, hint=f"write {written} on both sides"
            )
