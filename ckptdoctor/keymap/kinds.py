"""What a field of a map can hold: a `Kind` reads a node and is described by JSON Schema, so that the two stay together.

`Kind.read` gives the value, or puts a problem into the `Log` and gives None. Kinds that hold others go on after a
failure, so that one run finds everything. `at` is the place in the user's terms, such as `rules[3].from`. To give the
language a new sort of value, add a kind here or in `language.py`; where it may stand is decided there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from ckptdoctor.errors import Location, Problem
from ckptdoctor.keymap import document
from ckptdoctor.keymap.document import Node, Refused, Scalar
from ckptdoctor.text import did_you_mean, listing, nearest, printable

T = TypeVar("T")
Schema: TypeAlias = dict[str, Any]

_SORTS = {"int": "the number ", "float": "the number ", "bool": "the truth value ", "timestamp": "the date "}


@dataclass(slots=True)
class Log:
    """The problems so far."""

    problems: list[Problem] = field(default_factory=list)

    def add(self, location: Location, at: str, message: str, hint: str | None = None) -> None:
        """Report a problem; `at` is empty where it is about the whole map."""
        self.problems.append(Problem(location, f"{at}: {message}" if at else message, hint))

    def unlike(self, node: Node, at: str, wanted: str, hint: str | None = None) -> None:
        """Report that something else was wanted, unless what stands there has been reported already."""
        if not isinstance(node, Refused):
            self.add(node.location, at, f"expected {wanted}, found {found(node)}", hint)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What can stand in one place. `words` names it in messages, article included; `schema` is JSON Schema, draft 7.

    A table has `fields`.
    """

    words: str
    schema: Schema
    read: Callable[[Node, str, Log], T | None]
    fields: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table."""

    name: str
    kind: Kind[Any]
    about: str
    required: bool = False


def found(node: Node) -> str:
    """A node in words, for `expected ..., found ...`."""
    if isinstance(node, document.Mapping):
        return "a mapping"
    if isinstance(node, document.Sequence):
        return "a list" if node.items else "an empty list"
    if isinstance(node, Refused) or node.type == "null":
        return "nothing"
    return _SORTS.get(node.type, "the text ") + printable(node.value.strip()) if node.value.strip() else "an empty text"


def quote_hint(node: Node) -> str | None:
    """What to do about a scalar that YAML did not take for a text."""
    if isinstance(node, Scalar) and node.type not in ("str", "null"):
        return f'quote it: "{printable(node.value)}"'
    return None


def text(words: str = "a text", hint: str | None = None) -> Kind[str]:
    """A text that says something; blanks at its ends go."""

    def read(node: Node, at: str, log: Log) -> str | None:
        if isinstance(node, Scalar) and node.type == "str" and node.value.strip():
            return node.value.strip()
        log.unlike(node, at, words, hint or quote_hint(node))
        return None

    return Kind(words, {"type": "string", "minLength": 1}, read)


def whole_number() -> Kind[int]:
    """A whole number of at least 1, in plain digits."""
    words = "a whole number of 1 or more"

    def read(node: Node, at: str, log: Log) -> int | None:
        if isinstance(node, Scalar) and node.type == "int" and node.value.isdecimal() and node.value[0] != "0":
            return int(node.value)
        log.unlike(node, at, words)
        return None

    return Kind(words, {"type": "integer", "minimum": 1}, read)


def list_of(kind: Kind[T], words: str) -> Kind[tuple[T, ...]]:
    """A list, which may be empty."""

    def read(node: Node, at: str, log: Log) -> tuple[T, ...] | None:
        if isinstance(node, document.Sequence):
            return _gathered((kind.read(item, f"{at}[{index}]", log) for index, item in enumerate(node.items)), node)
        log.unlike(node, at, words)
        return None

    return Kind(words, {"type": "array", "items": kind.schema}, read)


def one_or_more(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """One of a kind, or a list of them that is not empty."""
    words = f"{kind.words} or a list of them"
    items = list_of(kind, words)

    def read(node: Node, at: str, log: Log) -> tuple[T, ...] | None:
        if isinstance(node, document.Sequence):
            if node.items:
                return items.read(node, at, log)
            log.unlike(node, at, words)
            return None
        value = kind.read(node, at, log)
        return None if value is None else (value,)

    return Kind(words, {"anyOf": [kind.schema, {**items.schema, "minItems": 1}]}, read)


def table(
    words: str,
    fields: Sequence[Field],
    build: Callable[[dict[str, Any], document.Mapping], T],
    derive: Callable[[dict[str, Any], document.Mapping, str, Log], None] | None = None,
) -> Kind[T]:
    """A mapping with these fields; `build` makes the value of those that are there, if nothing was wrong.

    `derive` sees whatever fields were read well. It judges those that depend on each other, and may add to the values.
    """
    names = [each.name for each in fields]

    def read(node: Node, at: str, log: Log) -> T | None:
        if not isinstance(node, document.Mapping):
            log.unlike(node, at, words, f"its fields are {listing(names, limit=len(names))}")
            return None
        problems = len(log.problems)
        _check_names(node, fields, at, log)
        inside = [each for each in fields if each.name in node.items]
        read = {each.name: each.kind.read(node.items[each.name], _within(at, each.name), log) for each in inside}
        values = {name: value for name, value in read.items() if value is not None}
        complete = len(values) == len(read)
        if derive:
            derive(values, node, at, log)
        return build(values, node) if complete and len(log.problems) == problems else None

    return Kind(words, table_schema(fields), read, tuple(fields))


def table_schema(fields: Sequence[Field]) -> Schema:
    """JSON Schema of a table; nothing beside its fields is allowed."""
    return {
        "type": "object",
        "properties": {each.name: {"description": each.about, **each.kind.schema} for each in fields},
        "required": [each.name for each in fields if each.required],
        "additionalProperties": False,
    }


def _check_names(node: document.Mapping, fields: Sequence[Field], at: str, log: Log) -> None:
    """Nothing unknown is there, nothing required is not."""
    names = [each.name for each in fields]
    misspelt: set[str] = set()
    for name, location in node.keys.items():
        if name not in names:
            misspelt.update(nearest(name, names, limit=1))
            hint = did_you_mean(name, names) or f"the fields here are {listing(names, limit=len(names))}"
            log.add(location, at, f"unknown field {printable(name)}", hint)
    for each in fields:
        if each.required and each.name not in node.items and each.name not in misspelt:
            log.add(node.location, at, f"{each.name} is missing", f"add {each.name} ({each.about})")


def _gathered(values: Iterable[T | None], node: document.Sequence) -> tuple[T, ...] | None:
    """The values if all of them could be read. All are tried."""
    good = tuple(value for value in values if value is not None)
    return good if len(good) == len(node.items) else None


def _within(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
