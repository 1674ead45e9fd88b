"""JSON from files of unknown origin: no doubled names, no NaN, no numbers that overflow, bounded nesting."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)  # possessive: no memory for a way back


class StrictJsonError(ValueError):
    """The text is not JSON, or is JSON of a kind that two readers could read differently."""


def loads(raw: bytes, *, max_nesting: int = 8) -> Any:
    """Parse UTF-8 JSON; raises StrictJsonError."""
    if nesting(raw) > max_nesting:
        raise StrictJsonError(f"it is nested deeper than {max_nesting} levels")
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite
        )
    except UnicodeDecodeError:
        raise StrictJsonError("it is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise StrictJsonError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (ValueError, RecursionError) as error:
        raise StrictJsonError(str(error)) from None


def nesting(raw: bytes) -> int:
    """The deepest level of brackets outside strings, without recursion."""
    deepest = level = 0
    for bracket in re.findall(rb"[\[{\]}]", _STRING.sub(b"", raw)):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise StrictJsonError(f"the name {twice!r} stands twice in one object")
    return result


def _no_constant(name: str) -> NoReturn:
    raise StrictJsonError(f"{name} is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise StrictJsonError(f"the number {text} is out of range")
    return value
