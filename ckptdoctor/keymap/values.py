"""The values that only maps have: patterns, sources, ops, the version, the way to the weights, wrapper segments."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ckptdoctor.errors import Location
from ckptdoctor.initialisers import Initialiser, init_schema, parse_init
from ckptdoctor.keymap import document
from ckptdoctor.keymap.document import QUOTE_IT, Node, Refused, Scalar
from ckptdoctor.keymap.kinds import Kind, Log, found, one_or_more, quote_hint, text
from ckptdoctor.ops import Op, OpError, parse_op
from ckptdoctor.patterns import Pattern, PatternError

VERSION = 1

Placed: TypeAlias = tuple[Location, tuple[str, ...], object]
"""Where something is said of a path in the file, the path, and a value."""
Sources: TypeAlias = tuple[tuple[str, ...], tuple[Pattern, ...]]


def _read_pattern(node: Node, at: str, log: Log) -> Pattern | None:
    if not isinstance(node, Scalar) or node.type != "str":
        log.unlike(node, at, "a pattern", QUOTE_IT if isinstance(node, document.Mapping) else quote_hint(node))
        return None
    try:
        return Pattern.parse(node.value)
    except PatternError as error:
        log.add(node.at(error.offset), at, error.message, error.hint)
        return None


PATTERN = Kind("a pattern", {"$ref": "#/definitions/pattern"}, _read_pattern)
PATTERNS = one_or_more(PATTERN)


def _read_sources(node: Node, at: str, log: Log) -> Sources | None:
    if not isinstance(node, document.Mapping) or _looks_unquoted(node):
        patterns = PATTERNS.read(node, at, log)
        return None if patterns is None else ((), patterns)
    read = [PATTERN.read(value, f"{at}.{name}", log) for name, value in node.items.items()]
    patterns = tuple(pattern for pattern in read if pattern is not None)
    return (tuple(node.items), patterns) if len(patterns) == len(read) else None


def _looks_unquoted(node: document.Mapping) -> bool:
    """Whether this is `{p}` or `{q,k}` without quotes: names that hold nothing, where a named input would hold a pattern."""
    return all(isinstance(value, Scalar) and value.type == "null" for value in node.items.values())


_NAMED = {"type": "object", "additionalProperties": PATTERN.schema, "minProperties": 1}

SOURCES: Kind[Sources] = Kind(
    "a pattern, a list of them, or inputs by name", {"anyOf": [*PATTERNS.schema["anyOf"], _NAMED]}, _read_sources
)


_PLAIN: dict[str, Callable[[str], object]] = {
    "int": int,
    "float": float,
    "bool": lambda value: value.lower() in ("yes", "true", "on"),
}


def _read_op(node: Node, at: str, log: Log) -> Op | None:
    if isinstance(node, Refused):
        return None
    try:
        return parse_op(_plain(node))
    except OpError as error:
        log.add(_innermost(node, error.at), at, error.message, error.hint)
        return None


def _plain(node: Node) -> object:
    """A node as the plain value that ops read."""
    if isinstance(node, document.Mapping):
        return {name: _plain(value) for name, value in node.items.items()}
    if isinstance(node, document.Sequence):
        return [_plain(item) for item in node.items]
    if isinstance(node, Refused) or node.type == "null":
        return None
    try:
        return _PLAIN[node.type](node.value) if node.type in _PLAIN else node.value
    except ValueError:  # one of YAML's rarer ways to write a number
        return node.value


def _innermost(node: Node, names: tuple[str, ...]) -> Location:
    """Where the last of these nested names stands, or the last that does."""
    location = node.location
    for name in names:
        if not isinstance(node, document.Mapping) or name not in node.items:
            break
        location, node = node.keys[name], node.items[name]
    return location


def _read_init(node: Node, at: str, log: Log) -> Initialiser | None:
    if isinstance(node, Refused):
        return None
    try:
        return parse_init(_plain(node))
    except OpError as error:
        log.add(_innermost(node, error.at), at, error.message, error.hint)
        return None


INIT = Kind("an init", init_schema(), _read_init)
OP = Kind("an op", {"$ref": "#/definitions/op"}, _read_op)


def _read_version(node: Node, at: str, log: Log) -> int | None:
    if isinstance(node, Scalar) and node.type == "int" and node.value == str(VERSION):
        return VERSION
    if not isinstance(node, Refused):
        hint = f"this ckptdoctor knows version {VERSION}: write ckptdoctor: {VERSION}"
        log.add(node.location, at, f"{found(node)} is no known version of the map language", hint)
    return None


VERSION_NUMBER = Kind(f"the number {VERSION}", {"const": VERSION}, _read_version)


def _read_path(node: Node, at: str, log: Log) -> tuple[str, ...] | None:
    value = text("a path with slashes").read(node, at, log)
    # As `--select` reads it: the root is ".", and slashes too many mean nothing.
    return None if value is None else tuple(step for step in value.split("/") if step not in ("", "."))


PATH = Kind("a path with slashes", {"type": "string", "minLength": 1}, _read_path)


def _read_places(node: Node, at: str, log: Log) -> tuple[Placed, ...] | None:
    """Paths with values, as `{hyper_parameters/kind: new}`."""
    if not isinstance(node, document.Mapping):
        log.unlike(node, at, "paths with values")
        return None
    placed = []
    for name, value in node.items.items():
        path = tuple(step for step in name.split("/") if step)
        if not path:
            log.add(node.keys[name], at, "an empty path", "write hyper_parameters/name")
        placed.append((node.keys[name], path, _plain(value)))
    return tuple(placed)


def _read_place(node: Node, at: str, log: Log) -> Placed | None:
    """A path alone, as in `drop: [callbacks]`."""
    path = PATH.read(node, at, log)
    if path == ():
        log.add(node.location, at, "the root cannot be dropped", "name what is in it")
    return (node.location, path, None) if path else None


PLACES: Kind[tuple[Placed, ...]] = Kind(
    "paths with values", {"type": "object", "additionalProperties": True}, _read_places
)
PLACE: Kind[Placed] = Kind("a path with slashes", {"type": "string", "minLength": 1}, _read_place)


def _read_segment(node: Node, at: str, log: Log) -> str | None:
    value = text("a segment of a key").read(node, at, log)
    if value is not None and "." in value:
        log.add(node.location, at, f"{value} is more than one segment", f"write [{', '.join(value.split('.'))}]")
        return None
    return value


SEGMENT = Kind("a segment of a key", {"type": "string", "pattern": "^[^.]+$"}, _read_segment)
