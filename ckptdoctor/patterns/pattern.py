"""A parsed pattern: `match` reads a key into captures and choices, `fill` writes a key from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import getitem
from typing import NamedTuple

from ckptdoctor.patterns.syntax import Capture, CaptureKind, Group, Part, Segment, read_segments

# Two captures that share one segment can divide it in many ways. What each may take is bounded, so that a hostile key
# of megabytes costs milliseconds; no name of a module is anywhere near as long.
_LONGEST_PART = 255


class Match(NamedTuple):
    """How a pattern reads one key: the text of each capture, and for each group which member (counted from 0)."""

    captures: Mapping[str, str]
    choices: tuple[int, ...]


class AmbiguousKey(ValueError):
    """A pattern matches `.key` in two ways; `.readings` are two of them."""

    def __init__(self, pattern: str, key: str, readings: tuple[Match, Match]) -> None:
        super().__init__(f"{pattern} matches {key} in two ways")
        self.pattern = pattern
        self.key = key
        self.readings = readings


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern for whole keys, anchored at both ends. Patterns of equal text are equal.

    `captures` are the names in the order of their first use, with their kinds. `groups` are the members of each group,
    ranges written out. `literal` says that the pattern is one key and nothing else.
    """

    text: str
    segments: tuple[Segment, ...] = field(repr=False, compare=False)
    captures: Mapping[str, CaptureKind] = field(repr=False, compare=False)
    groups: tuple[tuple[str, ...], ...] = field(repr=False, compare=False)
    literal: bool = field(repr=False, compare=False)
    _matcher: _Matcher = field(repr=False, compare=False)
    _template: str = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """The pattern that `text` writes.

        Raises PatternError, with the offset of the offending character.
        """
        segments = read_segments(text)
        parts = [part for segment in segments for part in segment]
        captures = {part.name: part.kind for part in parts if isinstance(part, Capture)}
        groups = tuple(part.members for part in parts if isinstance(part, Group))
        literal = not captures and not groups
        return cls(text, segments, captures, groups, literal, _Matcher(text, segments), _template(segments))

    @property
    def prefix(self) -> str:
        """What every key begins with that the pattern matches."""
        return self._matcher.prefix

    @property
    def landmarks(self) -> Iterator[tuple[int, str]]:
        """The literal segments after the prefix, with their places in every key that matches (after `{*name}` from the end)."""
        in_prefix, shift = True, 0
        for place, segment in enumerate(self.segments):
            first = segment[0]
            if len(segment) > 1 or not isinstance(first, str):
                in_prefix = False
                shift = -len(self.segments) if isinstance(first, Capture) and first.kind == "many" else shift
            elif not in_prefix:
                yield place + shift, first

    def match(self, key: str) -> Match | None:
        """How this pattern reads the whole of `key`, or None if it does not.

        Raises AmbiguousKey if there is more than one way.
        """
        return self._matcher.match(key)

    def fill(self, captures: Mapping[str, str], choices: Sequence[int] = ()) -> str:
        """The key with these captures and these members of the groups; captures of other names are left alone.

        Raises KeyError for a capture and IndexError for a choice that is not given.
        """
        return self._template.format(*map(getitem, self.groups, choices), **captures)

    def parts(self) -> Iterator[Part]:
        """The parts from left to right, the dots left out."""
        return (part for segment in self.segments for part in segment)

    def __str__(self) -> str:
        return self.text


def _template(segments: tuple[Segment, ...]) -> str:
    """What `str.format` makes a key of: captures go in by name, members of the groups in their order."""
    return ".".join("".join(map(_field, segment)) for segment in segments)


def _field(part: Part) -> str:
    if isinstance(part, str):
        return part.replace("{", "{{").replace("}", "}}")
    return f"{{{part.name}}}" if isinstance(part, Capture) else "{}"


class _Matcher:
    """The regular expressions of one pattern.

    A regular expression tries its readings in an order: the first difference between two readings decides, and with
    greedy captures the longer one comes first, with members in their order the earlier one. With lazy captures and the
    members reversed the same readings come in the opposite order. So the two expressions find the first and the last of
    all readings, and there is only one reading exactly if they find the same. A segment with one variable part can be
    read in one way only, and one `{*name}` takes whatever number of segments the others leave; the second expression is
    there only for patterns that need it.
    """

    __slots__ = ("_choices", "_first", "_last", "_names", "_text", "prefix")

    def __init__(self, text: str, segments: tuple[Segment, ...]) -> None:
        self._text = text
        self.prefix = _literal_prefix(segments)
        self._names: dict[str, int] = {}
        self._choices: list[tuple[int, dict[str, int]]] = []
        self._number_slots(segments)
        self._first = re.compile(self._expression(segments, greedy=True))
        branching = any(sum(not isinstance(part, str) for part in segment) > 1 for segment in segments)
        self._last = re.compile(self._expression(segments, greedy=False)) if branching else None

    def _number_slots(self, segments: tuple[Segment, ...]) -> None:
        """Which group of the expression belongs to which capture or group of the pattern."""
        count = 0
        for part in (part for segment in segments for part in segment):
            if isinstance(part, Group):
                count += 1
                self._choices.append((count, {member: choice for choice, member in enumerate(part.members)}))
            elif isinstance(part, Capture) and part.name not in self._names:
                count += 1
                self._names[part.name] = count

    def _expression(self, segments: tuple[Segment, ...], *, greedy: bool) -> str:
        seen: set[str] = set()
        return r"\.".join(_segment_expression(segment, self._names, seen, greedy=greedy) for segment in segments)

    def match(self, key: str) -> Match | None:
        if not key.startswith(self.prefix):
            return None
        found = self._first.fullmatch(key)
        if found is None:
            return None
        reading = self._reading(found)
        last = self._last.fullmatch(key) if self._last else None
        if last and (other := self._reading(last)) != reading:
            raise AmbiguousKey(self._text, key, (reading, other))
        return reading

    def _reading(self, found: re.Match[str]) -> Match:
        captures = {name: found[slot] for name, slot in self._names.items()}
        return Match(captures, tuple([choices[found[slot]] for slot, choices in self._choices]))


def _literal_prefix(segments: tuple[Segment, ...]) -> str:
    """What every key that can match begins with."""
    done: list[str] = []
    for segment in segments:
        if not all(isinstance(part, str) for part in segment):
            return "".join(f"{text}." for text in done) + (segment[0] if isinstance(segment[0], str) else "")
        done.append("".join(map(str, segment)))
    return ".".join(done)


def _segment_expression(segment: Segment, slots: Mapping[str, int], seen: set[str], *, greedy: bool) -> str:
    alone = sum(not isinstance(part, str) for part in segment) == 1
    return "".join(_part_expression(part, slots, seen, alone=alone, greedy=greedy) for part in segment)


def _part_expression(part: Part, slots: Mapping[str, int], seen: set[str], *, alone: bool, greedy: bool) -> str:
    if isinstance(part, str):
        return re.escape(part)
    if isinstance(part, Group):
        members = part.members if greedy else part.members[::-1]
        return "(" + "|".join(map(re.escape, members)) + ")"
    if part.name in seen:
        return rf"(?:\{slots[part.name]})"
    seen.add(part.name)
    if part.kind == "many":
        return r"([^.]++(?:\.[^.]++)*)"
    lazy = "" if greedy else "?"
    if part.kind == "int":
        return f"(0|[1-9][0-9]*{lazy})" if alone else f"(0|[1-9][0-9]{{0,{_LONGEST_PART - 1}}}{lazy})"
    return f"([^.]+{lazy})" if alone else f"([^.]{{1,{_LONGEST_PART}}}{lazy})"
