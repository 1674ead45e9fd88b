"""What one segment of a log can show, and how its bytes become text: shared by the finders for text and for CSV."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from ckptdoctor.triaging.lines import Segment
from ckptdoctor.triaging.types import Failure, Form, Observation

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_SHOWN = 120
_BEFORE = 80


class Sight(NamedTuple):
    """What a segment shows: a value, or one of the things that help to read the values.

    `label` is a number with a colon at the very start, which may be a rank (`srun --label`) or a counter; `counters` are epoch
    and step on the line. `worse` is a validation whose value is not written, because it was not among the best. `validating`
    marks the progress bar of a validation, `many` a line that says that there are several processes.
    """

    observation: Observation | None = None
    label: int | None = None
    counters: tuple[str, ...] = ()
    worse: Form | None = None
    validating: bool = False
    many: bool = False
    failure: Failure | None = None
    names: tuple[str, ...] = ()
    named: str | None = None


class Finder(Protocol):
    """Looks at the segments of a log in order."""

    def is_dull(self, chunk: bytes, /) -> bool:
        """Whether none of the segments that lie in a chunk can show anything."""

    def look(self, segment: Segment) -> Sight | None:
        """What there is to see, if there is anything."""


def text_of(raw: bytes) -> str:
    """The text of a segment, without colour codes; what is no UTF-8 is replaced."""
    return _ANSI.sub("", raw.decode("utf-8", "replace"))


def excerpt(text: str, at: int) -> str:
    """The part of a text around a position that is worth showing."""
    start = max(0, at - _BEFORE) if len(text) > _SHOWN else 0
    part = text[start : start + _SHOWN].strip()
    return ("..." if start else "") + part + ("..." if start + _SHOWN < len(text) else "")


def number(text: str) -> float | None:
    """The value of a number as logs write it."""
    try:
        return float(text)
    except ValueError:
        return None


def rounding(printed: str) -> float:
    """How far a number may be from what was rounded to it: half a unit of its last digit; 0 for nan and infinity."""
    mantissa, _, exponent = printed.lower().partition("e")
    if not mantissa.strip("+-").replace(".", "", 1).isdecimal():
        return 0.0
    decimals = len(mantissa.partition(".")[2])
    return float(f"0.5e{int(exponent or 0) - decimals}")
