"""The value of a metric in a line of text: `val_loss=0.3557`, `'val_loss': tensor(0.36)`, a progress bar, a table of results,
a message of ModelCheckpoint or EarlyStopping.

What is *not* a value matters as much: the name of a checkpoint in a path (`best-val_loss=0.3557-step=311.ckpt` is what the
job loads, not what it reached), another metric (`train/val_loss`, `best_val_loss`), a value that is called the best so far.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from ckptdoctor.triaging.types import Form

NUMBER = r"[-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|(?i:nan|inf(?:inity)?))"
_AFTER = r"(?=$|[\s,;|)\]}'\"│┃%…]|\.(?:\s|$)|Epoch\b|Metric\b|Validation\b)"  # the last three: printed onto a bar
_GAP = r"(?:\s{0,40}[=:]\s{0,40}|[\s│┃|]{1,200}(?=['\"]?[-+]?(?:[0-9]*\.[0-9]|(?i:nan|inf))))"
_NOT_THIS = re.compile(r"(?i)\b(?:best|expected|expecting|baseline|target|previous|lowest|reference)[\s\"'_({:=]{0,5}$")
_BAR = re.compile(r"[0-9?](?:it|batch)/s|[0-9?]s/(?:it|batch)|%\||━")


class Written(NamedTuple):
    """A number of the metric in a text: in which form, as which text, from where to where."""

    form: Form
    number: str
    start: int
    end: int


class Metric:
    """The patterns for one name."""

    def __init__(self, name: str) -> None:
        escaped = re.escape(name)
        value = rf"['\"]?(?:[\w.]{{1,30}}\()?({NUMBER}){_AFTER}"
        self._value = re.compile(rf"(?<![\w.\-/\\]){escaped}['\"]?{_GAP}{value}")
        self._messages: tuple[tuple[Form, re.Pattern[str]], ...] = (
            ("checkpoint", re.compile(rf"['\"]{escaped}['\"] reached ({NUMBER}) \(best")),
            ("stopping", re.compile(rf"\bMetric {escaped} improved.{{0,100}}New best score: ({NUMBER}){_AFTER}")),
        )
        self._worse = re.compile(rf"['\"]{escaped}['\"] was not in top")
        self._named = re.compile(rf"(?<![A-Za-z0-9_]){escaped}=([0-9]+\.[0-9]+)[^\s'\"]{{0,200}}\.ckpt")

    def find(self, text: str) -> Written | None:
        """The first value in a text."""
        for match in self._value.finditer(text):
            if not _NOT_THIS.search(text[max(0, match.start() - 24) : match.start()]):
                return _written(_form(text, match[0]), match)
        messages = ((form, pattern.search(text)) for form, pattern in self._messages)
        return next((_written(form, match) for form, match in messages if match is not None), None)

    def is_worse(self, text: str) -> bool:
        """Whether ModelCheckpoint says that a validation was not among the best."""
        return self._worse.search(text) is not None

    def in_checkpoint_name(self, text: str) -> str | None:
        """The value in the name of a checkpoint that a text mentions."""
        match = self._named.search(text)
        return match and match[1]


def is_bar(text: str) -> bool:
    """Whether a text is drawn as a progress bar (by tqdm or Rich)."""
    return _BAR.search(text) is not None


def _written(form: Form, match: re.Match[str]) -> Written:
    return Written(form, match[1], match.start(), match.end())


def _form(text: str, found: str) -> Form:
    if is_bar(text):
        return "bar"
    return "line" if "=" in found or ":" in found else "table"
