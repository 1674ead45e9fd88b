"""YAML text to a tree of nodes that know their places. Maps use a plain part of YAML; here the rest is turned down.

The tree is built from the parser's events and not by PyYAML's loader, which resolves aliases before anyone can ask for
them, keeps the last of two equal keys without a word, and stops at the first thing it dislikes. Here all problems are
gathered, and what was refused stands in the tree as `Refused`, so that the rest can still be judged.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from ckptdoctor.errors import Location, Problem
from ckptdoctor.text import printable

QUOTE_IT = "quote the pattern: unquoted, { begins a mapping and * an alias in YAML"

_DEEPEST = 20
_STANDARD = "tag:yaml.org,2002:"
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|#.*")
_BARE_BRACES = re.compile(r"\{[\w*.,:]*\}|[\s\[{,]\*")


@dataclass(frozen=True, slots=True)
class Scalar:
    """A scalar as it was written; `type` is what YAML takes it for (str, int, float, bool, null, ...)."""

    location: Location
    value: str
    type: str
    inset: int | None  # columns before the value (1 for a quote); None where columns and characters part ways

    def at(self, offset: int) -> Location:
        """The place of one character of the value, or of the whole where that cannot be told."""
        if self.inset is None:
            return self.location
        return Location(self.location.file, self.location.line, self.location.column + self.inset + offset)


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    location: Location
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Mapping:
    """A mapping with text keys, no two of them equal; `keys` says where each one stands."""

    location: Location
    items: dict[str, Node]
    keys: dict[str, Location]


@dataclass(frozen=True, slots=True)
class Refused:
    """Something that has been reported already."""

    location: Location


Node: TypeAlias = Scalar | Sequence | Mapping | Refused


def compose(text: str, file: str) -> tuple[Node | None, list[Problem]]:
    """The tree of the document in `text`, and all that is wrong with it as YAML.

    The tree is None where there is none: the text is empty, or so broken that the rest cannot be judged.
    """
    composer = _Composer(text, file)
    return composer.compose(), composer.problems


class _Stop(Exception):
    """Leaves the recursion where nothing more can be read; the problem is on record by then."""


class _Composer:
    """Builds the nodes of one text from the parser's events."""

    def __init__(self, text: str, file: str) -> None:
        import yaml

        self.problems: list[Problem] = []
        self._text = text
        self._file = file
        self._yaml = yaml

    def compose(self) -> Node | None:
        # The C parser is some ten times faster; tests/unit/test_keymap.py holds both to the same marks.
        loader = getattr(self._yaml, "CSafeLoader", self._yaml.SafeLoader)
        unreadable = self._yaml.reader.Reader.NON_PRINTABLE.search(self._text)
        if unreadable:
            character = printable(unreadable[0])
            self._refuse(self._place(unreadable.start()), f"a character that YAML does not allow: {character}")
            return None
        parser = loader(self._text)
        try:
            return self._document(parser)
        except self._yaml.MarkedYAMLError as error:
            self._broken(error)
        except _Stop:
            pass
        finally:
            parser.dispose()
        return None

    def _document(self, parser: Any) -> Node | None:
        self._resolve = parser.resolve
        events = _events(parser)
        root: Node | None = None
        for event in events:
            if not isinstance(event, self._yaml.DocumentStartEvent):
                continue
            if root is not None:
                self._refuse(self._start(event), "a second document", "a map is one document: take the --- out")
                break
            root = self._node(next(events), events, 0)
        return root

    def _node(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        where = self._start(event)
        if isinstance(event, self._yaml.AliasEvent):
            return self._refuse(where, f"an alias, *{event.anchor}", QUOTE_IT)
        if depth > _DEEPEST:
            self._refuse(where, f"nested more than {_DEEPEST} deep")
            raise _Stop
        if event.anchor is not None:
            self._refuse(where, f"an anchor, &{event.anchor}", "a map has no anchors and no aliases: write it out")
        node = self._content(event, events, depth)
        if event.tag is None:
            return node
        return self._refuse(where, f"a tag, {printable(event.tag)}", "a map is plain YAML: leave the tag out")

    def _content(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        if isinstance(event, self._yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, self._yaml.MappingStartEvent):
            return self._mapping(event, events, depth + 1)
        items = []
        while not isinstance(item := next(events), self._yaml.SequenceEndEvent):
            items.append(self._node(item, events, depth + 1))
        return Sequence(self._start(event), tuple(items))

    def _scalar(self, event: Any) -> Scalar:
        tag = self._resolve(self._yaml.ScalarNode, event.value, event.implicit)
        written = self._text[event.start_mark.index : event.end_mark.index]
        quotes = 1 if event.style in ("'", '"') else 0
        exact = written[quotes : len(written) - quotes] == event.value
        return Scalar(self._start(event), event.value, tag.removeprefix(_STANDARD), quotes if exact else None)

    def _mapping(self, event: Any, events: Iterator[Any], depth: int) -> Node:
        mapping = Mapping(self._start(event), {}, {})
        nameless = False
        while not isinstance(key_event := next(events), self._yaml.MappingEndEvent):
            key = self._node(key_event, events, depth)
            value = self._node(next(events), events, depth)
            if isinstance(key, Scalar):
                self._add(mapping, key, value)
                continue
            nameless = True
            if not isinstance(key, Refused):
                self._refuse(key.location, "a field name that is no text", QUOTE_IT)
        # Such a mapping is almost always an unquoted pattern: reported by now, and what it seems to hold says nothing.
        return Refused(mapping.location) if nameless else mapping

    def _add(self, mapping: Mapping, key: Scalar, value: Node) -> None:
        name = key.value
        if key.type == "merge":
            self._refuse(key.location, "a merge key, <<", "a map has no anchors and no aliases: write it out")
        elif name in mapping.items:
            first = mapping.keys[name].line
            self._refuse(key.location, f"{printable(name)} stands here twice", f"it is on line {first} already")
        else:
            mapping.items[name] = value
            mapping.keys[name] = key.location

    def _refuse(self, location: Location, message: str, hint: str | None = None) -> Refused:
        self.problems.append(Problem(location, message, hint))
        return Refused(location)

    def _broken(self, error: Any) -> None:
        """What the parser says, with the hint that most often helps."""
        mark = error.problem_mark or error.context_mark
        line = (self._text.split("\n")[mark.line :] or [""])[0]
        hint = QUOTE_IT if _BARE_BRACES.search(_QUOTED.sub("", line)) else None
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        self._refuse(Location(self._file, mark.line + 1, mark.column + 1), f"not valid YAML: {printable(reason)}", hint)

    def _start(self, event: Any) -> Location:
        return Location(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _place(self, index: int) -> Location:
        before = self._text[:index].split("\n")
        return Location(self._file, len(before), len(before[-1]) + 1)


def _events(parser: Any) -> Iterator[Any]:
    while parser.check_event():
        yield parser.get_event()
