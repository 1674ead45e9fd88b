"""What stops the tool. Everything that is merely *found* (a random tensor, a failed check) is a value, not an exception.

    CkptDoctorError                 has .hint: one line that says what to do
      UsageError                    the options contradict each other, or a value makes no sense
      MissingDependency             an optional package is needed and not installed
      ConfigError                   .path: the project's defaults cannot be used
      CheckpointError               .path
        CheckpointNotFound          nothing is at that path, or it may not be read
        UnknownFormat               which formats were tried, and why each said no
        CorruptCheckpoint           truncated, overlapping, bad header, shard missing
        LimitExceeded               asks for more than `Limits` allow; the hint names the flag
        UnsafeCheckpoint            would need code to be run; names it
        NoStateDict                 the weights were not found, or in two places; lists the candidates
      TargetError                   .reference
        TargetNotFound              did you mean
        TargetNotBuildable          the constructor raised: its own traceback last
      KeyMapError                   .problems: all of them, each with line and column
      PlanError                     .rule, .keys, .problems (several at once)
        KeyCollision  ShapeError  UnusedRule  UnknownTargetKey  IncompleteGroup  AmbiguousMatch  CountMismatch
      PolicyNotMet                  .verdict, .table: a checkpoint was to be loaded and would fill too little
      WeightsNotLoaded              .problems: a model does not hold what its checkpoint was written with
      LogError                      .path: a log cannot be read, or holds nothing to judge
      OutputError                   exists, no space, not writable; nothing half-written is left

Errors carry data; the command line makes text and the exit status (2) of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike, fspath
from typing import Any, NamedTuple


class Location(NamedTuple):
    """A place in a text file; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class Problem(NamedTuple):
    """One thing wrong in a map: where, what, and what to do about it."""

    location: Location
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.location}: {self.message}" + (f"; {self.hint}" if self.hint else "")


class CkptDoctorError(Exception):
    """Base of every error that ckptdoctor raises on purpose.

    `message` is one sentence that says what and where, `hint` one line that says what to do.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def code(self) -> str:
        """A stable name for machines: the class name in kebab case (`corrupt-checkpoint`)."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(self).__name__).lower()

    @property
    def where(self) -> Location | None:
        """The place in a map that the error is about, if there is one."""
        return None


class UsageError(CkptDoctorError):
    """The request itself makes no sense: options that contradict each other, a limit that is no number."""


class MissingDependency(CkptDoctorError):
    """An optional package is needed and not installed."""


class _PathError(CkptDoctorError):
    def __init__(self, message: str, *, path: str | PathLike[str], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.path = fspath(path)


class ConfigError(_PathError):
    """The project's defaults (`ckptdoctor.yaml`, `pyproject.toml`) cannot be used."""


class CheckpointError(_PathError):
    """A checkpoint cannot be used; `.path` says which."""


class CheckpointNotFound(CheckpointError):
    """Nothing is at that path, or it may not be read."""


class UnknownFormat(CheckpointError):
    """No format recognises the file; the message lists what each one said."""


class CorruptCheckpoint(CheckpointError):
    """The file is of a known format and breaks its rules: truncated, overlapping, a lying header."""


class LimitExceeded(CheckpointError):
    """The file asks for more than the limits allow (`ckptdoctor.Limits`); the hint names the flag that allows more."""


class UnsafeCheckpoint(CheckpointError):
    """Reading the weights would need code from the file to be run."""


class NoStateDict(CheckpointError):
    """The weights were not found in the file, or were found in several places; `.candidates` lists these."""

    def __init__(
        self, message: str, *, path: str | PathLike[str], hint: str | None = None, candidates: Sequence[str] = ()
    ) -> None:
        super().__init__(message, path=path, hint=hint)
        self.candidates = tuple(candidates)


class TargetError(CkptDoctorError):
    """A target cannot be used; `.reference` is what the user wrote."""

    def __init__(self, message: str, *, reference: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reference = reference


class TargetNotFound(TargetError):
    """The module, file or name of the target does not exist."""


class TargetNotBuildable(TargetError):
    """The constructor raised; `.traceback` holds its own traceback."""

    def __init__(self, message: str, *, reference: str, hint: str | None = None, traceback: str = "") -> None:
        super().__init__(message, reference=reference, hint=hint)
        self.traceback = traceback


class KeyMapError(CkptDoctorError):
    """A map is wrong by itself. `.problems` are all of them, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda problem: problem.location))
        super().__init__("\n".join(str(problem) for problem in self.problems))

    @property
    def where(self) -> Location | None:
        """The first place."""
        return self.problems[0].location if self.problems else None


class PlanError(CkptDoctorError):
    """A map does not fit these two manifests. `.problems` are all of them; a single error is its own only problem."""

    def __init__(
        self,
        message: str,
        *,
        rule: Location | None = None,
        keys: Sequence[str] = (),
        hint: str | None = None,
        problems: Sequence[PlanError] = (),
    ) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.keys = tuple(keys)
        self.problems: tuple[PlanError, ...] = tuple(problems) or (self,)

    @classmethod
    def of(cls, problems: Sequence[PlanError]) -> PlanError:
        """The error to raise for these problems: the only one as it is, several as one that holds them all."""
        if len(problems) == 1:
            return problems[0]
        return PlanError("\n".join(str(problem) for problem in problems), problems=problems)

    @property
    def where(self) -> Location | None:
        """The first place."""
        return self.rule

    def __str__(self) -> str:
        if self.rule is None:
            return self.message
        return f"{self.rule}: {self.message}"


class KeyCollision(PlanError):
    """Two producers for one key."""


class ShapeError(PlanError):
    """What a rule makes has not the shape that the target wants, or an op cannot take its input."""


class UnusedRule(PlanError):
    """A rule, a `fresh` or a `drop` matched nothing."""


class UnknownTargetKey(PlanError):
    """A rule makes a key that the target does not have."""


class IncompleteGroup(PlanError):
    """Members of a fan-in or fan-out are missing."""


class AmbiguousMatch(PlanError):
    """A pattern matches one key in two ways."""


class CountMismatch(PlanError):
    """A rule made another number of target keys than its `expect` says."""


class PolicyNotMet(CkptDoctorError):
    """A checkpoint was to be loaded into a model and does not fill it as the policy asks; nothing was loaded.

    `.verdict` (a `ckptdoctor.Verdict`) holds the plan and the findings, `.table` shows them; the message ends with it.
    """

    def __init__(self, message: str, *, verdict: Any, table: str, hint: str | None = None) -> None:
        super().__init__(f"{message}\n\n{table}", hint=hint)
        self.verdict = verdict
        self.table = table


class WeightProblem(NamedTuple):
    """What is wrong with one tensor of a model; `text` reads on after the key and a colon.

    `kind` is `values`, `other` (those of another tensor), `dtype`, `shape`, `unreadable` (without values: on the meta device,
    sparse, quantised), `missing` (the file does not have it) or `unexpected` (the model does not have it).
    """

    key: str
    kind: str
    text: str


class WeightsNotLoaded(CkptDoctorError):
    """A model does not hold the tensors of a receipt. `.problems` (WeightProblem) are all that is wrong, tensor by tensor."""

    def __init__(self, message: str, *, problems: Sequence[WeightProblem], hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = tuple(problems)


class LogError(_PathError):
    """A training log cannot be read, or holds nothing that could be judged."""


class OutputError(_PathError):
    """The output cannot be written. What was there before is still there; nothing half-written is left.

    Or what comes after it cannot be done: then the message begins with "... is written and in place, but".
    """
