"""How a pattern is written: text in, segments of literals, captures and groups out, or a `PatternError` that points.

A key is a row of segments with dots between. `read_segments` cuts the text at the dots outside braces; `_read_braces`
decides what one pair of braces means. Every way to get it wrong that we have seen people use has its own sentence and
its own hint here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

CaptureKind: TypeAlias = Literal["segment", "int", "many"]

MAX_MEMBERS = 100_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGE = re.compile(r"(0|[1-9][0-9]{0,99})\.\.(0|[1-9][0-9]{0,99})")


class PatternError(ValueError):
    """A pattern, or a pair of them, makes no sense. `.offset` counts characters from 0; `.hint` says what to write."""

    def __init__(self, message: str, *, offset: int = 0, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.offset = offset
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Capture:
    """`{name}`, `{name:int}` or `{*name}`: any text of its kind, which the other side of a rule can use."""

    name: str
    kind: CaptureKind = "segment"
    offset: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return {"segment": "{%s}", "int": "{%s:int}", "many": "{*%s}"}[self.kind] % self.name


@dataclass(frozen=True, slots=True)
class Group:
    """`{a,b}` or `{0..4}`: one of these members."""

    members: tuple[str, ...]
    text: str = field(compare=False)
    offset: int = field(default=0, compare=False)

    def __str__(self) -> str:
        return self.text


Part: TypeAlias = str | Capture | Group
Segment: TypeAlias = tuple[Part, ...]


def read_segments(text: str) -> tuple[Segment, ...]:
    """The segments of a pattern, literals unescaped and never empty.

    Raises PatternError where the text is no pattern.
    """
    if not text:
        raise PatternError("the pattern is empty", hint="name a key, such as head.weight")
    segments: list[Segment] = []
    parts: list[Part] = []
    offset = 0
    while offset < len(text):
        if text[offset] == ".":
            segments.append(_segment(parts, offset))
            parts = []
            offset += 1
        else:
            part, offset = _read_part(text, offset)
            parts.append(part)
    segments.append(_segment(parts, len(text) - 1))
    _check_captures(segments)
    return tuple(segments)


def _segment(parts: list[Part], offset: int) -> Segment:
    """One segment, its neighbouring literals joined."""
    if not parts:
        raise PatternError("an empty segment", offset=offset, hint="a key has one dot between two names")
    joined: list[Part] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        else:
            joined.append(part)
    return tuple(joined)


def _read_part(text: str, offset: int) -> tuple[Part, int]:
    """The part that begins at `offset`, and where the next one does."""
    if text.startswith(("{{", "}}"), offset):
        return text[offset], offset + 2
    if text[offset] == "}":
        raise PatternError(
            "a } that closes nothing", offset=offset, hint="write }} for a literal brace; braces do not nest"
        )
    if text[offset] == "*":
        raise PatternError(
            "* stands for nothing outside braces",
            offset=offset,
            hint="write {name} for one segment, {*name} for several",
        )
    if text[offset] != "{":
        end = _find(text, ".{}*", offset)
        return text[offset:end], end
    end = _find(text, "{}", offset + 1)
    if end == len(text):
        raise PatternError("a { that is never closed", offset=offset, hint="write {{ for a literal brace")
    if text[end] == "{":
        raise PatternError("braces inside braces", offset=end, hint="a group lists plain names: {a,b}")
    return _read_braces(text[offset + 1 : end], offset), end + 1


def _find(text: str, characters: str, start: int) -> int:
    """Where the first of these characters stands, or the end of the text."""
    return min((at for at in (text.find(c, start) for c in characters) if at >= 0), default=len(text))


def _read_braces(body: str, offset: int) -> Part:
    """What `{body}` means."""
    if _NAME.fullmatch(body):
        return Capture(body, "segment", offset)
    if "," in body:
        return _listed(body, offset)
    if ".." in body:
        return _range(body, offset)
    if body.startswith("*"):
        return _many(body, offset)
    if ":" in body:
        return _typed(body, offset)
    hint = "write {name} for any segment, {a,b} for one of several"
    if not body.strip():
        raise PatternError("{} names nothing", offset=offset, hint=hint)
    if body.isdigit():
        hint = f"write {body} without braces for that segment, {{name}} for any"
    raise PatternError(f"{{{body}}} is neither a name nor a group", offset=offset, hint=hint)


def _many(body: str, offset: int) -> Capture:
    name = body[1:]
    if not name:
        raise PatternError("{*} has no name", offset=offset, hint="write {*name}")
    if not _NAME.fullmatch(name):
        raise PatternError(
            f"{{{body}}} has no proper name", offset=offset, hint="write {*name}, the name of letters, digits and _"
        )
    return Capture(name, "many", offset)


def _typed(body: str, offset: int) -> Capture:
    name, _, kind = body.partition(":")
    if not _NAME.fullmatch(name):
        raise PatternError(f"{{{body}}} has no proper name", offset=offset, hint="write {name:int}")
    if kind != "int":
        raise PatternError(
            f"{{{body}}} is of an unknown kind", offset=offset, hint=f"write {{{name}:int}} or {{{name}}}"
        )
    return Capture(name, "int", offset)


def _range(body: str, offset: int) -> Group:
    ends = _RANGE.fullmatch(body)
    if ends is None:
        raise PatternError(
            f"{{{body}}} is not a range", offset=offset, hint="write {0..4}: two whole numbers, the second one included"
        )
    first, last = int(ends[1]), int(ends[2])
    if last <= first:
        hint = f"write {first} without braces" if first == last else f"write {{{last}..{first}}}"
        raise PatternError(f"the range {{{body}}} does not ascend", offset=offset, hint=hint)
    if last - first >= MAX_MEMBERS:
        raise PatternError(
            f"the range {{{body}}} has more than {MAX_MEMBERS:,} members",
            offset=offset,
            hint="write {name:int} for any number",
        )
    return Group(tuple(map(str, range(first, last + 1))), f"{{{body}}}", offset)


def _listed(body: str, offset: int) -> Group:
    members = tuple(body.split(","))
    for member in members:
        reason = _why_no_member(member)
        if reason:
            raise PatternError(f"{{{body}}}: {reason[0]}", offset=offset, hint=reason[1])
    if len(set(members)) < len(members):
        twice = next(member for member in members if members.count(member) > 1)
        raise PatternError(f"{{{body}}} lists {twice} twice", offset=offset)
    return Group(members, f"{{{body}}}", offset)


def _why_no_member(member: str) -> tuple[str, str] | None:
    if not member:
        return "an empty member", "write {a,b}, or two rules where one key lacks the part"
    if member != member.strip():
        return "a space beside a member", "write {a,b} without spaces"
    if "." in member:
        return (
            "a dot inside a group",
            "a group stands for one segment, a range {0..4} stands alone: write one rule for each",
        )
    if "*" in member:
        return "a * inside a group", "members are plain names"
    return None


def _check_captures(segments: list[Segment]) -> None:
    """One `{*name}` at most, and as a whole segment; a name has one kind."""
    kinds: dict[str, Capture] = {}
    for segment in segments:
        for part in segment:
            if not isinstance(part, Capture):
                continue
            if part.kind == "many":
                _check_many(part, segment, any(seen.kind == "many" for seen in kinds.values()))
            first = kinds.setdefault(part.name, part)
            if first.kind != part.kind:
                raise PatternError(f"{part} was {first} before", offset=part.offset, hint=f"write {first} both times")


def _check_many(part: Capture, segment: Segment, another: bool) -> None:
    if len(segment) > 1:
        raise PatternError(f"{part} is only a part of a segment", offset=part.offset, hint=f"write {{{part.name}}}")
    if another:
        raise PatternError(
            f"{part} is the second of its kind", offset=part.offset, hint="a pattern may hold one {*name}"
        )
