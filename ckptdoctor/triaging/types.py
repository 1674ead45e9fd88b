"""The records of a triage, from one value in a log up to the judgement; nothing here reads or decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Case: TypeAlias = Literal["loaded", "loading problem", "another architecture", "flat", "not a number", "infrastructure"]
Form: TypeAlias = Literal["bar", "line", "table", "checkpoint", "stopping", "csv"]
"""How a value was written: in a progress bar (which repeats it), on a line, in a table of results, in a message of
ModelCheckpoint or EarlyStopping, or in a row of a CSV file."""


class Observation(NamedTuple):
    """A value of the metric in a log.

    `printed` is the number as it stands there, `line` counts from 1 (line breaks only, not carriage returns), `text` is what
    is around it, without colour codes. `cut` says that the log ends with the number, which may lack its last digits.
    """

    value: float
    printed: str
    line: int
    text: str
    form: Form = "line"
    rank: int | None = None
    cut: bool = False


class Failure(NamedTuple):
    """A line that says why a job died. `of_checkpoint` marks the one kind that does speak of the checkpoint."""

    kind: str
    line: int
    text: str
    of_checkpoint: bool = False


class Following(NamedTuple):
    """The validations after the first: how many, the lowest of them (None: no value was written), the first that was nan."""

    validations: int
    best: Observation | None = None
    lost: Observation | None = None


NONE_FOLLOW = Following(0)


class Reading(NamedTuple):
    """All that is kept of a log.

    `ranks` are the first values of each rank, where the lines say which rank they are of. `names` are names of metrics that
    were seen, `named` is the value in a checkpoint's name that the log mentions; both are for hints.
    """

    first: Observation | None = None
    ranks: Mapping[int, Observation] = {}
    following: Following = NONE_FOLLOW
    failures: tuple[Failure, ...] = ()
    names: tuple[str, ...] = ()
    named: str | None = None


class Expectation(NamedTuple):
    """What the first validation should be, where that is known from, and the checkpoint that it was taken from, if any."""

    value: float
    source: str
    baseline: str | None = None
    notes: tuple[str, ...] = ()


class Thresholds(NamedTuple):
    """Where one case ends and the next begins.

    `loaded_up_to` and `other_above` are ratios of the first validation to the expectation. `flat` is the share of the first
    validation by which a later one has to be lower, `patience` how many later ones are needed to miss that.
    """

    loaded_up_to: float = 1.12
    other_above: float = 5.6
    flat: float = 0.01
    patience: int = 5


@dataclass(frozen=True, slots=True)
class Triage:
    """What a log says about the start. `case` is the judgement, everything else is its evidence.

    `first` is None where the job failed before any validation; `expectation` and `ratio` are None where there is nothing to
    compare. `next_step` says what to do.
    """

    log: str
    metric: str
    case: Case
    thresholds: Thresholds
    first: Observation | None = None
    expectation: Expectation | None = None
    ratio: float | None = None
    following: Following = NONE_FOLLOW
    failure: Failure | None = None
    notes: tuple[str, ...] = ()
    next_step: str = ""

    @property
    def exit_status(self) -> int:
        """0: loaded. 1: a problem was found. 2: the log says nothing of the checkpoint."""
        return {"loaded": 0, "infrastructure": 2}.get(self.case, 1)
