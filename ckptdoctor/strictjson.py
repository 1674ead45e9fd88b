"""JSON from files of unknown origin: no doubled names, no NaN, no numbers that overflow, bounded nesting."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn

from ckptdoctor.limits import OverLimit, limits
from ckptdoctor.text import cited

_BRACKETS = bytes.maketrans(b"[]", b"{}")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_PIECE = 1 << 20


class StrictJsonError(ValueError):
    """The text is not JSON, or is JSON of a kind that two readers could read differently."""


def loads(raw: bytes, *, max_nesting: int | None = 8, count_names: Callable[[Any], int] | None = None) -> Any:
    """Parse UTF-8 JSON; raises StrictJsonError, or OverLimit. Without `max_nesting` it is the caller who looks at every level.

    `count_names` says how many names there are in the objects of a document. Where that is the number of colons, none stands
    twice; else (one may stand in a string) the names are looked at object by object, which takes half as long again.
    """
    _check_limits(raw, max_nesting)
    parse = partial(json.loads, parse_constant=_no_constant, parse_float=_finite)
    try:
        text = raw.decode("utf-8")
        if count_names is not None:
            document = parse(text)
            if count_names(document) == raw.count(b":"):
                return document
            del document
        return parse(text, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise StrictJsonError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise StrictJsonError("it is nested too deep") from None
    except StrictJsonError:
        raise
    except ValueError:  # the only other one is that of int()
        raise StrictJsonError("a number has too many digits") from None


def _check_limits(raw: bytes, max_nesting: int | None) -> None:
    """Both are asked of the text, before anything is made of it."""
    if max_nesting is not None:
        most = limits().nesting
        levels = nesting(raw, min(most, max_nesting) + 1)
        if levels > most and most < max_nesting:
            raise OverLimit("nesting", f"it is nested deeper than {most} levels")
        if levels > max_nesting:
            raise StrictJsonError(f"it is nested deeper than {max_nesting} levels")
    most = limits().opcodes
    if len(raw) > most and _values(raw) > most and sum(map(_values, _outside_strings(raw))) > most:
        raise OverLimit("opcodes", f"it has more than {most:,} values")


def _values(raw: bytes) -> int:
    """About the number of values in a text."""
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def nesting(raw: bytes, most: int = 64) -> int:
    """The deepest level of brackets outside strings, without recursion; at `most` levels the counting ends."""
    brackets = b"".join(_outside_strings(raw)).translate(_BRACKETS, _NO_BRACKETS)
    for level in range(most):
        if not brackets:
            return level
        inner = brackets.replace(b"{}", b"")  # what holds nothing goes: one level, from the inside
        if inner == brackets:
            return level + brackets.count(b"{")  # something does not close: the parser will say what
        brackets = inner
    return most


def _outside_strings(raw: bytes) -> Iterator[bytes]:
    """The text between the strings, a piece at a time: a list of all strings would be many times as long as the text."""
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    inside = 0
    for start in range(0, len(unescaped), _PIECE):
        parts = unescaped[start : start + _PIECE].split(b'"')
        yield b"".join(parts[inside::2])
        inside = (inside + len(parts) - 1) % 2


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise StrictJsonError(f"the name {cited(twice)} stands twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise StrictJsonError(f"the number {cited(text)} is out of range")
    return value
