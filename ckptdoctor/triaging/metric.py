"""The value of a metric in a line of text: `val_loss=0.3557`, `'val_loss': tensor(0.36)`, a progress bar, a table of results,
a message of ModelCheckpoint or EarlyStopping.

What is *not* a value matters as much: the name of a checkpoint in a path (`best-val_loss=0.3557-step=311.ckpt` is what the
job loads, not what it reached), another metric (`train/val_loss`, `best_val_loss`), a value that is called the best so far.
"""

from __future__ import annotations

import re

from ckptdoctor.triaging.failures import OF_CHECKPOINT, WORDS, kind_of
from ckptdoctor.triaging.lines import Segment
from ckptdoctor.triaging.sights import NUMBER, Sight, excerpt, number, text_of
from ckptdoctor.triaging.types import Failure, Form, Observation

_AFTER = r"(?=$|[\s,;|)\]}'\"│┃%…]|\.(?:\s|$)|Epoch\b|Metric\b|Validation\b)"  # the last three: printed onto a bar
_NOT_THIS = re.compile(r"(?i)\b(?:best|expected|expecting|baseline|target|previous|lowest|reference)[\s\"'_({:=]{0,5}$")
_BAR = re.compile(r"[0-9?](?:it|batch)/s|[0-9?]s/(?:it|batch)|%\||━")
_VALIDATING = re.compile(r"\s*(?:\[[^\]]{1,30}\]:?\s*|[0-9]{1,6}:\s*)?Validat(?:ion|ing)\b")
_MANY = re.compile(r"(?:Starting with |MEMBER: [0-9]+/|\bworld[ _]size\W{1,4})0*(?:[2-9]|[1-9][0-9]+)\b", re.IGNORECASE)
_RANK = re.compile(
    r"\[(?:rank|default|trainer|worker)[ :=]{0,2}([0-9]{1,6})\]|\[[0-9]{1,6},([0-9]{1,6})\]<std"
    r"|\b(?i:rank)[ =:#]{1,3}([0-9]{1,6})\b"
)
_LABEL = re.compile(r"\s{0,8}([0-9]{1,6}):(?=\s|$)")
_COUNTERS = re.compile(r"(?i)\b(epoch|step|iter(?:ation)?)s?\b\W{0,4}([0-9]+(?:\.[0-9]+)?)")
_NAMES = re.compile(r"(?<![\w./-])([A-Za-z_][\w.]{0,40}(?:/\w{1,40})?)['\"]?\s?[=:]\s?[-+]?[0-9]*\.[0-9]")
_LOOKED_AT = 5000
"""Segments at the start of a log that are looked at for rank labels and for names of other metrics."""


class TextFinder:
    """Finds one metric in the segments of a plain log."""

    def __init__(self, metric: str) -> None:
        name = re.escape(metric)
        value = rf"['\"]?(?:[\w.]{{1,30}}\()?({NUMBER}){_AFTER}"
        gap = r"(?:\s{0,40}[=:]\s{0,40}|[\s│┃|]{1,200}(?=['\"]?[-+]?(?:[0-9]*\.[0-9]|(?i:nan|inf))))"
        self._value = re.compile(rf"(?<![\w.\-/\\]){name}['\"]?{gap}{value}")
        self._messages: tuple[tuple[Form, re.Pattern[str]], ...] = (
            ("checkpoint", re.compile(rf"['\"]{name}['\"] reached ({NUMBER}) \(best")),
            ("stopping", re.compile(rf"\bMetric {name} improved.{{0,100}}New best score: ({NUMBER}){_AFTER}")),
        )
        self._worse = re.compile(rf"['\"]{name}['\"] was not in top")
        self._named = re.compile(rf"(?<![A-Za-z0-9_]){name}=([0-9]+\.[0-9]+)[^\s'\"]{{0,200}}\.ckpt")
        self._word = metric.encode()
        self._words = re.compile(b"|".join([b"Validat", b"MEMBER", b"processes", b"orld", *WORDS]))
        self._left = _LOOKED_AT

    def look(self, segment: Segment) -> Sight | None:
        """Most segments have none of the words in them and show nothing."""
        if self._word in segment.raw:
            return self._look_closely(segment)
        if self._left > 0 or self._words.search(segment.raw):
            self._left -= 1
            return self._look_around(text_of(segment.raw), segment.line)
        return None

    def _look_closely(self, segment: Segment) -> Sight | None:
        text = text_of(segment.raw)
        found = self._find(text)
        if found is None:
            if self._worse.search(text):
                return Sight(worse="checkpoint", label=_label(text), counters=_counters(text))
            return self._look_around(text, segment.line, self._named.search(text))
        form, match = found
        value, printed = number(match[1]), match[1][:40]
        if value is None:
            return None
        cut = not segment.whole and match.end() == len(text)
        around = excerpt(text, match.start())
        observation = Observation(value, printed, segment.line, around, form, _rank(text, match, form), cut)
        return Sight(observation, _label(text), _counters(text))

    def _find(self, text: str) -> tuple[Form, re.Match[str]] | None:
        for match in self._value.finditer(text):
            if not _NOT_THIS.search(text[max(0, match.start() - 24) : match.start()]):
                return _form(text, match), match
        messages = ((form, pattern.search(text)) for form, pattern in self._messages)
        return next(((form, match) for form, match in messages if match is not None), None)

    def _look_around(self, text: str, line: int, named: re.Match[str] | None = None) -> Sight | None:
        kind = kind_of(text)
        sight = Sight(
            label=_label(text),
            validating=_VALIDATING.match(text) is not None and _BAR.search(text) is not None,
            many=_MANY.search(text) is not None,
            failure=None if kind is None else Failure(kind, line, excerpt(text, 0), kind == OF_CHECKPOINT),
            names=tuple(_NAMES.findall(text)) if self._left > 0 else (),
            named=named and named[1],
        )
        return None if sight == Sight() else sight


def _form(text: str, match: re.Match[str]) -> Form:
    """In which way a value is written."""
    if _BAR.search(text):
        return "bar"
    return "line" if re.search("[=:]", match[0]) else "table"


def _rank(text: str, value: re.Match[str], form: Form) -> int | None:
    """The rank that a line names before the value or, unless it is a bar, which others print onto, right behind it."""
    found = _RANK.search(text[: value.start()]) or (None if form == "bar" else _RANK.search(text[value.end() :][:20]))
    return None if found is None else int(next(filter(None, found.groups())))


def _label(text: str) -> int | None:
    match = _LABEL.match(text)
    return None if match is None else int(match[1])


def _counters(text: str) -> tuple[str, ...]:
    return tuple(f"{name.lower()} {count}" for name, count in _COUNTERS.findall(text))
