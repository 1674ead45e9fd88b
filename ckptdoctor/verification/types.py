"""The result as values: a `Verification` of `Check`s, each passed, failed or skipped, with what it found tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from ckptdoctor.health import Health

if TYPE_CHECKING:
    from ckptdoctor.model import Manifest
    from ckptdoctor.receipt import Receipt

Result: TypeAlias = Literal["passed", "failed", "skipped"]


class Problem(NamedTuple):
    """What is wrong with one tensor, or one record, of the output; `text` reads on after the key."""

    key: str
    text: str


class Check(NamedTuple):
    """The result of one check.

    `text` says what was found, and for a skipped check why it was skipped. `checked` counts what was looked at, in `unit`.
    `notes` are worth knowing and no failure.
    """

    id: str
    result: Result
    text: str
    problems: tuple[Problem, ...] = ()
    checked: int = 0
    unit: str = "tensors"
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool | None:
        """None where it was skipped."""
        return None if self.result == "skipped" else self.result == "passed"

    @property
    def found(self) -> int:
        """How many are wrong; 1 where the whole file is."""
        return len(self.problems) or int(self.result == "failed")


def skipped(name: str, why: str) -> Check:
    """A check that could not be made."""
    return Check(name, "skipped", why)


def judged(
    name: str, checked: int, problems: Iterable[Problem], good: str, bad: str, *, notes: Sequence[str] = ()
) -> Check:
    """A check that was made on so many tensors: with problems it has failed. `good` and `bad` are its text."""
    found = tuple(problems)
    return Check(name, "failed" if found else "passed", bad if found else good, found, checked, notes=tuple(notes))


@dataclass(frozen=True, slots=True)
class Verification:
    """What was proven of `output`. `source` and `target` are there if the output was compared with them.

    `health` is what is worth knowing of the numbers, and fails nothing.
    """

    output: Manifest
    receipt: Receipt | None
    source: Manifest | None
    target: Manifest | None
    checks: tuple[Check, ...]
    health: Health = field(default_factory=Health)

    @property
    def passed(self) -> bool:
        """Whether no check failed. One that was skipped did not: `__getitem__` says what was proven."""
        return all(check.result != "failed" for check in self.checks)

    def __getitem__(self, name: str) -> Check:
        """The check of that name."""
        return next(check for check in self.checks if check.id == name)
