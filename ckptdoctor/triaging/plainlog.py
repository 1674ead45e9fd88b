"""What the segments of a plain log show: values of the metric, who wrote them, and the lines that help to read them.

Logs may be gigabytes of progress bars, so most bytes are passed over: a chunk in which no word of interest stands, a segment
without one, a bar that shows the same value as the one before.
"""

from __future__ import annotations

import re

from ckptdoctor.triaging.failures import OF_CHECKPOINT, WORDS, find_failure
from ckptdoctor.triaging.lines import Segment
from ckptdoctor.triaging.metric import Metric, Written, is_bar
from ckptdoctor.triaging.sights import Sight, excerpt, number, text_of
from ckptdoctor.triaging.types import Failure, Form, Observation

_VALIDATING = re.compile(r"\s*(?:\[[^\]]{1,30}\]:?\s*|[0-9]{1,6}:\s*)?Validat(?:ion|ing)\b")
_MANY = re.compile(r"(?:Starting with |MEMBER: [0-9]+/|\bworld[ _]size\W{1,4})0*(?:[2-9]|[1-9][0-9]+)\b", re.IGNORECASE)
_OTHER_WORDS = (b"Validat", b"MEMBER", b"Starting with", b"world", b"World", b"WORLD")
_RANK = re.compile(
    r"\[(?:rank|default|trainer|worker)[ :=]{0,2}([0-9]{1,6})\]|\[[0-9]{1,6},([0-9]{1,6})\]<std"
    r"|\b(?i:rank)[ =:#]{1,3}([0-9]{1,6})\b"
)
_LABEL = re.compile(r"\s{0,8}([0-9]{1,6}):(?=\s|$)")
_COUNTERS = re.compile(r"(?i)\b(epoch|step|iter(?:ation)?)s?\b\W{0,4}([0-9]+(?:\.[0-9]+)?)")
_NAMES = re.compile(r"(?<![\w./-])([A-Za-z_][\w.]{0,40}(?:/\w{1,40})?)['\"]?\s?[=:]\s?[-+]?[0-9]*\.[0-9]")
_LOOKED_AT = 2000
"""Segments at the start of a log that are looked at for rank labels and for names of other metrics."""
_CHUNK_COUNTS_FOR = 100
"""A chunk has few segments where these are long, and none at all if it is empty lines."""


class TextFinder:
    """Finds one metric in the segments of a plain log."""

    def __init__(self, metric: str) -> None:
        self._metric, self._word = Metric(metric), metric.encode()
        self._words = re.compile(b"|".join(map(re.escape, (*WORDS, *_OTHER_WORDS))))
        self._unread = _LOOKED_AT
        self._bar: tuple[bytes, bytes, int] | None = None

    def is_dull(self, chunk: bytes, /) -> bool:
        """Whether nothing in a chunk is of interest."""
        self._unread -= _CHUNK_COUNTS_FOR
        words = (self._word, *WORDS, *_OTHER_WORDS)
        return self._unread <= 0 and not any(word in chunk for word in words)

    def look(self, segment: Segment) -> Sight | None:
        """Most segments have none of the words in them and show nothing."""
        if self._word in segment.raw:
            return None if self._is_same_bar(segment) else self._look_closely(segment)
        if self._unread > 0 or self._words.search(segment.raw):
            self._unread -= 1
            return self._look_around(segment, text_of(segment.raw))
        return None

    def _look_closely(self, segment: Segment) -> Sight | None:
        text = text_of(segment.raw)
        sight = self._look_around(segment, text) or Sight()
        written = self._metric.find(text)
        value = None if written is None else number(written.number)
        if written is None or value is None:
            worse: Form | None = "checkpoint" if self._metric.is_worse(text) else None
            sight = sight._replace(worse=worse, named=self._metric.in_checkpoint_name(text))
        else:
            cut = not segment.whole and written.end == len(text)
            around = excerpt(text, written.start)
            rank = _rank(text, written)
            seen = Observation(value, written.number[:40], segment.line, around, written.form, rank, cut)
            sight = sight._replace(observation=seen, counters=_counters(text))
            self._remember_bar(segment, sight, text, written)
        return None if sight == Sight() else sight

    def _look_around(self, segment: Segment, text: str) -> Sight | None:
        """Everything but values."""
        sight = Sight(label=_label(text))
        if self._unread > 0:
            sight = sight._replace(names=tuple(_NAMES.findall(text)))
        if self._words.search(segment.raw):
            self._bar = None
            sight = sight._replace(
                validating=_VALIDATING.match(text) is not None and is_bar(text),
                many=_MANY.search(text) is not None,
                failure=_failure(segment, text),
            )
        return None if sight == Sight() else sight

    def _remember_bar(self, segment: Segment, sight: Sight, text: str, written: Written) -> None:
        alone = written.form == "bar" and _of_no_rank(sight) and written.end < len(text)
        token = text[written.start : written.end + 1].encode()
        self._bar = (token, segment.raw[:8], len(segment.raw)) if alone else None

    def _is_same_bar(self, segment: Segment) -> bool:
        """Whether this is the last bar drawn again; one with a message behind it is longer."""
        if self._bar is None or not segment.whole:
            return False
        token, start, length = self._bar
        raw = segment.raw
        return token in raw and raw.startswith(start) and len(raw) < length + 24 and raw.count(self._word) == 1


def _of_no_rank(sight: Sight) -> bool:
    """Whether a value is not said to be of some rank."""
    return sight.label is None and sight.observation is not None and sight.observation.rank is None


def _failure(segment: Segment, text: str) -> Failure | None:
    found = find_failure(text)
    if found is None:
        return None
    return Failure(found.kind, segment.line, excerpt(text, found.start), found.kind == OF_CHECKPOINT)


def _rank(text: str, value: Written) -> int | None:
    """The rank that a line names before the value or, unless it is a bar, which others print onto, right behind it."""
    found = _RANK.search(text[: value.start]) or (None if value.form == "bar" else _RANK.search(text[value.end :][:20]))
    return None if found is None else int(next(filter(None, found.groups())))


def _label(text: str) -> int | None:
    match = _LABEL.match(text)
    return None if match is None else int(match[1])


def _counters(text: str) -> tuple[str, ...]:
    return tuple(f"{name.lower()} {count}" for name, count in _COUNTERS.findall(text))
