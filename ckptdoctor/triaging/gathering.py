"""What a judgement needs of a log, kept while it goes by: the first validation, the first of each rank, how many follow and
the best of them, the first failure of each kind. Memory does not grow with the log.

The difficulty is to count validations, not lines. A progress bar repeats the last value until the next validation; several
processes print the same value; one validation may be in a bar, in a message and in a table. So values are counted by track:
one for each rank and form, and a value opens a new validation of its track or is known to repeat the last one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptdoctor.triaging.sights import Sight, rounding
from ckptdoctor.triaging.types import NONE_FOLLOW, Failure, Following, Form, Observation, Reading

MAX_TRACKS = 20_000
_MAX_NAMES = 50
_MAX_SEEN = 64
_Key = tuple[int | None, Form]


class _Track:
    """The validations of one rank in one form."""

    def __init__(self, first: Observation, counters: tuple[str, ...], bars: int) -> None:
        self.first = self.last = first
        self.counters, self.bars = counters, bars
        self.seen = {first.printed}
        self.after = NONE_FOLLOW

    def take(self, value: Observation, counters: tuple[str, ...], bars: int, many: bool) -> None:
        """Count a value, unless it repeats the last validation."""
        repeats = self._repeats_bar(value, bars) if value.form == "bar" else self._repeats(value, counters, many)
        self.last, self.counters, self.bars = value, counters, bars
        if repeats:
            return
        self.seen.add(value.printed)
        validations, best, lost = self.after
        if value.value != value.value:
            lost = lost or value
        elif best is None or value.value < best.value:
            best = value
        self.after = Following(validations + 1, best, lost)

    def worse(self) -> None:
        """Count a validation that is only said to be none of the best."""
        self.after = self.after._replace(validations=self.after.validations + 1)

    def _repeats_bar(self, value: Observation, bars: int) -> bool:
        """A bar shows a value again and again; only the bar of a validation in between makes it a new one."""
        if bars != self.bars or len(self.seen) > _MAX_SEEN:
            self.seen.clear()
        return value.printed in self.seen

    def _repeats(self, value: Observation, counters: tuple[str, ...], many: bool) -> bool:
        same = value.printed == self.last.printed
        if counters or self.counters:
            return counters == self.counters and (same or many)
        return same and many


class Gatherer:
    """Takes what the segments of a log show, in order; `reading` is the sum so far."""

    def __init__(self) -> None:
        self._first: Observation | None = None
        self._first_label: int | None = None
        self._label = -1
        self._labels_are_ranks = False
        self._many = False
        self._bars = 0
        self._named: str | None = None
        self._names: dict[str, None] = {}
        self._failures: dict[str, Failure] = {}
        self._plain: dict[_Key, _Track] = {}
        self._labelled: dict[_Key, _Track] = {}
        self._ranked: dict[_Key, _Track] = {}

    def take(self, sight: Sight) -> None:
        """Keep what matters of one segment."""
        self._many = self._many or sight.many
        self._bars += sight.validating
        self._named = self._named or sight.named
        for name in sight.names if len(self._names) < _MAX_NAMES else ():
            self._names[name] = None
        if sight.failure is not None:
            self._failures.setdefault(sight.failure.kind, sight.failure)
        if sight.label is not None:
            self._labels_are_ranks = self._labels_are_ranks or sight.label < self._label
            self._label = sight.label
        if sight.worse is not None:
            self._worse(sight.worse)
        if sight.observation is not None:
            self._observe(sight.observation, sight)

    def _observe(self, value: Observation, sight: Sight) -> None:
        if self._first is None:
            self._first, self._first_label = value, sight.label
        if value.rank is not None:
            self._count(self._ranked, value, sight.counters, many=False)
            return
        if sight.label is not None:
            self._count(self._labelled, value._replace(rank=sight.label), sight.counters, many=False)
        counters = sight.counters if sight.label is None else (*sight.counters, str(sight.label))
        self._count(self._plain, value, counters, many=self._many)

    def _count(self, tracks: dict[_Key, _Track], value: Observation, counters: tuple[str, ...], *, many: bool) -> None:
        key = (value.rank, value.form)
        if key in tracks:
            tracks[key].take(value, counters, self._bars, many)
        elif len(tracks) < MAX_TRACKS:
            tracks[key] = _Track(value, counters, self._bars)

    def _worse(self, form: Form) -> None:
        for tracks in (self._plain, self._labelled, self._ranked):
            for (_, other), track in tracks.items():
                if other == form:
                    track.worse()

    @property
    def seen_enough(self) -> bool:
        """Whether there is something to judge by."""
        return self._first is not None or bool(self._failures)

    def reading(self) -> Reading:
        """What the log has shown so far."""
        failures, names = tuple(self._failures.values()), tuple(self._names)
        if self._first is None:
            return Reading(failures=failures, names=names, named=self._named)
        tracks = self._ranked | (self._labelled if self._labels_are_ranks else self._plain)
        lead = self._first.rank
        if lead is None and self._labels_are_ranks:
            lead = self._first_label
        own = [track for (rank, _), track in tracks.items() if rank == lead]
        first = _sharper(self._first._replace(rank=lead), [track.first for track in own])
        following = max((track.after for track in own), key=lambda after: after.validations, default=NONE_FOLLOW)
        return Reading(first, _firsts(tracks), following, failures, names, self._named)


def _firsts(tracks: Mapping[_Key, _Track]) -> dict[int, Observation]:
    """The first value of each rank."""
    firsts: dict[int, Observation] = {}
    for (rank, _), track in tracks.items():
        if rank is not None and (rank not in firsts or track.first.line < firsts[rank].line):
            firsts[rank] = track.first
    return dict(sorted(firsts.items()))


def _sharper(first: Observation, others: Iterable[Observation]) -> Observation:
    """The same validation with more digits, if it is written in another form too: bars show three decimals."""
    for other in sorted(others, key=lambda each: rounding(each.printed)):
        agrees = abs(other.value - first.value) <= rounding(first.printed) * 1.001
        if agrees and rounding(other.printed) < rounding(first.printed):
            return other
    return first
