"""What the arguments of ops may be: `ArgumentKind`, the kinds that several ops share, and the error of all ops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ckptdoctor.model import DType
from ckptdoctor.text import listing, printable


class OpError(ValueError):
    """An op was written wrongly, or cannot take these tensors.

    `.hint` says what to do. `.at` is the way to the offending place in the YAML value, from the op's name inwards.
    """

    def __init__(self, message: str, *, hint: str | None = None, at: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at


@dataclass(frozen=True, slots=True)
class ArgumentKind:
    """What an argument may be: in words, in JSON Schema, and as the function that reads it.

    `read` gets the plain YAML value and gives the field's value; it raises OpError where the value will not do, with a
    message that goes on after the argument's name ("is not a list of whole numbers"). `write` is its way back, for values
    that are not plain; where an argument is left out, the field is None and `write` is not asked.
    """

    schema: Mapping[str, object]
    read: Callable[[object], object]
    write: Callable[[Any], object] | None = None


def argument(kind: ArgumentKind, about: str) -> dict[str, object]:
    """The metadata that makes a dataclass field an argument of an op; `about` describes it for people.

    Write `field(metadata=argument(...))`, with a `default` if the argument may be left out. An argument whose name is a
    word of Python's is a field with an underscore after it: `from_`.
    """
    return {"kind": kind, "about": about}


def plain(kind: ArgumentKind, value: object) -> object:
    """The value of an argument as a map would write it."""
    if kind.write is not None:
        return kind.write(value)
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, DType) else value


def text(value: object) -> str:
    """A plain value as YAML would write it in one line, long lists cut short."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{printable(str(name))}: {text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + listing(map(text, value), limit=12) + "]"
    return str(value).lower() if isinstance(value, bool) else printable(str(value))


def read_integers(value: object) -> tuple[int, ...]:
    """A list of whole numbers, for the arguments that are one. Raises OpError for anything else."""
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise OpError("is not a list of whole numbers", hint="write a list such as [0, 1]")
    return tuple(value)


def _whole(minimum: int | None, what: str, hint: str) -> ArgumentKind:
    def read(value: object) -> int:
        if type(value) is not int or (minimum is not None and value < minimum):
            raise OpError(f"is not {what}", hint=hint)
        return value

    schema: dict[str, object] = {"type": "integer"}
    return ArgumentKind(schema if minimum is None else {**schema, "minimum": minimum}, read)


def _read_flag(value: object) -> bool:
    if type(value) is not bool:
        raise OpError("is neither true nor false", hint="write true or false")
    return value


def word(*words: str) -> ArgumentKind:
    """An argument that is one of these words."""

    def read(value: object) -> object:
        if value not in words:
            raise OpError(f"is not {' or '.join(words)}", hint=f"write {words[0]}")
        return value

    return ArgumentKind({"enum": list(words)}, read)


INTEGER: Mapping[str, object] = {"type": "integer"}
WHOLE = _whole(None, "a whole number", "write a number such as 0 or -1")
COUNT = _whole(1, "a whole number from 1", "write a number such as 2")
SIZE = _whole(0, "a size", "write a whole number, not a negative one")
FLAG = ArgumentKind({"type": "boolean"}, _read_flag)
LIKE = word("target")
