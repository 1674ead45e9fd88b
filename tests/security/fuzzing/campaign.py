"""Tries mutants in forked children: time and memory of ours are bounded, and the reference may die without harm.

What becomes of each mutant stands in a byte of shared memory, so that it is known also when the child is gone. Everything that
is wrong comes back through a pipe; the test fails with it, and leaves the mutants in files.
"""

from __future__ import annotations

import mmap
import os
import pickle
import re
import shutil
import struct
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ckptdoctor.errors import CkptDoctorError
from ckptdoctor.keymap import KeyMap
from ckptdoctor.receipt import Receipt
from tests.security.fuzzing.bounds import memory, patience, peak, settle
from tests.security.fuzzing.ours import Reading, rewritten
from tests.security.fuzzing.targets import Target
from tests.summary import counted

SECONDS = 2.0
MEMORY = 256 << 20
_OTHERS_MEMORY = 2 << 30
_BATCH = 5_000
_FASTEST = "/dev/shm"
_SHOWN = 12
_NEVER_BEGAN = 3

UNTRIED, REFUSED, OURS_ALONE, SAME, BOTH, CRASHED, WRONG, READING, COMPARING = range(9)
"""What became of a mutant: SAME and BOTH were read by both, SAME as in one of the good files. The last two are while it is
tried: READING is ours to survive, COMPARING the reference's."""
_HEAD = struct.Struct("<QdQQ")  # where the child is, the slowest mutant's seconds, its number, bytes of memory


class Finding(NamedTuple):
    """Something wrong with one mutant."""

    number: int
    what: str


@dataclass
class Tally:
    """What was tried, and what came of it."""

    target: Target
    seed: int
    outcomes: bytes = b""
    findings: list[Finding] = field(default_factory=list)
    slowest: float = 0.0
    slowest_number: int = 0
    memory: int = 0

    def count(self, outcome: int) -> int:
        """Mutants with this outcome."""
        return self.outcomes.count(outcome)

    def __str__(self) -> str:
        kinds = {
            **{"read by both": BOTH, "read by both as a good file is": SAME, "read by us alone": OURS_ALONE},
            **{"refused by us": REFUSED, "a crash of the reference": CRASHED},
        }
        counts = ", ".join(f"{self.count(outcome):,} {kind}" for kind, outcome in kinds.items())
        worst = f"slowest {self.slowest * 1e3:.0f} ms (number {self.slowest_number}), {self.memory >> 20} MiB above the start"
        what = f"{len(self.outcomes):,} mutants of seed {self.seed}: {counts}, {len(self.findings):,} wrong; {worst}"
        return f"{self.target.name}: {what}"


def run(target: Target, count: int, seed: int) -> Tally:
    """Try this many mutants."""
    target.seeds(), target.mutant(seed, 0)  # what is made once, and all imports
    tally = Tally(target, seed)
    shared = mmap.mmap(-1, _HEAD.size + count)
    at = 0
    while at < count:
        with tempfile.TemporaryDirectory(dir=_FASTEST if os.access(_FASTEST, os.W_OK) else None) as folder:
            at = _batch(tally, range(at, min(at + _BATCH, count)), Path(folder), shared)
    _, tally.slowest, tally.slowest_number, tally.memory = _HEAD.unpack_from(shared)
    tally.outcomes = shared[_HEAD.size :]
    shared.close()
    return tally


def _batch(tally: Tally, numbers: range, folder: Path, shared: mmap.mmap) -> int:
    """Have a child try these; returns the number that comes next, which is earlier where the child died."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        _child(_Trial(tally.target, tally.seed, folder, shared), numbers, writes)
    os.close(writes)
    with open(reads, "rb") as pipe:  # noqa: PTH123
        while True:
            try:
                tally.findings.append(Finding(*pickle.load(pipe)))
            except EOFError:
                break
    _, status = os.waitpid(child, 0)
    if status == 0:
        return numbers.stop
    if os.waitstatus_to_exitcode(status) == _NEVER_BEGAN:
        raise RuntimeError("the fuzzing itself fails before the first mutant; what the child said is on stderr")
    number = _HEAD.unpack_from(shared)[0]
    if shared[_HEAD.size + number] == COMPARING and os.WIFSIGNALED(status):
        shared[_HEAD.size + number] = CRASHED
    else:
        shared[_HEAD.size + number] = WRONG
        tally.findings.append(Finding(number, f"the process ended with status {os.waitstatus_to_exitcode(status)}"))
    return int(number) + 1


def _child(trial: _Trial, numbers: range, pipe: int) -> NoReturn:
    status = _NEVER_BEGAN
    try:
        settle()
        trial.begin()
        status = 1
        with open(pipe, "wb", buffering=0) as out:
            for number in numbers:
                if (what := trial.tried(number)) is not None:
                    out.write(pickle.dumps((number, what)))
        status = 0
    except BaseException:
        traceback.print_exc(limit=-5)
    finally:
        os._exit(status)


class _Trial:
    """Tries one mutant after the other."""

    def __init__(self, target: Target, seed: int, folder: Path, shared: mmap.mmap) -> None:
        self.target, self.seed, self.shared = target, seed, shared
        self.inside, self.out, self.examples = (folder / name for name in ("in", "out", "good"))

    def begin(self) -> None:
        """What is done once, in the child."""
        for folder in (self.inside, self.out, self.examples):
            folder.mkdir()
        self.good = [_comparable(reading) for reading in self.target.readings(self.examples)]
        self.at_start = peak()

    def tried(self, number: int) -> str | None:
        """What is wrong with this mutant."""
        _HEAD.pack_into(self.shared, 0, number, *_HEAD.unpack_from(self.shared)[1:])
        files = self.target.mutant(self.seed, number)
        _emptied(self.inside)
        path = self.target.write(self.inside, files)
        outcome, what = self._outcome(path, number)
        self._note(number, WRONG if what is not None else outcome)
        return what

    def _outcome(self, path: Path, number: int) -> tuple[int, str | None]:
        self._note(number, READING)
        ours, what = self._timed(number, lambda: self.target.read(path))
        if what is not None or isinstance(ours, CkptDoctorError):
            return REFUSED, what
        outcome = OURS_ALONE
        references = [self.target.reference] + [self.target.second] * (
            self.target.second is not None and number % 4 == 0
        )
        for reference in references:
            self._note(number, COMPARING)
            try:
                with memory(_OTHERS_MEMORY), patience():
                    theirs = reference(path)  # type: ignore[misc]
            except Exception:
                continue
            outcome, what = SAME if _comparable(ours) in self.good else BOTH, self.target.difference(ours, theirs)
            if what is not None:
                return WRONG, what
        if self.target.rewrite and number % 16 == 0:
            self._note(number, READING)
            what = self._identity(path, number, ours)
        return outcome, what

    def _identity(self, path: Path, number: int, ours: Any) -> str | None:
        _emptied(self.out)
        out = self.out / (path.name if path.is_file() else "folder")
        found, what = self._timed(number, lambda: rewritten(path, out, ours))
        return what or (str(found) if found is not None else None)

    def _timed(self, number: int, read: Callable[[], Any]) -> tuple[Any, str | None]:
        """What is read, or our error, and what must not be: another error, too much time, too much memory."""
        found, what, started = None, None, time.process_time()
        try:
            with memory(MEMORY), patience():
                found = read()
        except CkptDoctorError as error:
            found = error
        except Exception as error:
            what = _described(error)
        took = time.process_time() - started
        _, slowest, slowest_number, most = _HEAD.unpack_from(self.shared)
        if took > slowest:
            slowest, slowest_number = took, number
        most = max(most, peak() - self.at_start)
        _HEAD.pack_into(self.shared, 0, number, slowest, slowest_number, most)
        return found, what or (f"it took {took:.1f} seconds" if took > SECONDS else None)

    def _note(self, number: int, outcome: int) -> None:
        self.shared[_HEAD.size + number] = outcome


def _comparable(reading: Any) -> Any:
    """A reading without the name of the file, and a checkpoint's without what is not compared."""
    if isinstance(reading, KeyMap):
        return replace(reading, path="", sha256="")
    if isinstance(reading, Receipt):
        return reading._replace(path="")
    return reading.tensors if isinstance(reading, Reading) else reading


def _emptied(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108


def _described(error: BaseException) -> str:
    """An error that is none of ours, with the place it comes from."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:200]} ({places})"


def report(tally: Tally, folder: Path) -> str:
    """The tally, and the first of each kind of finding with the file that shows it."""
    kinds: dict[str, list[Finding]] = {}
    for finding in sorted(tally.findings):
        kinds.setdefault(re.sub(r"'[^']*'|b\"[^\"]*\"|\d+", "_", finding.what)[:120], []).append(finding)
    lines = [str(tally)]
    for alike in list(kinds.values())[:_SHOWN]:
        first = alike[0]
        place = folder / f"{tally.target.name}-{tally.seed}-{first.number}"
        place.mkdir()
        tally.target.write(place, tally.target.mutant(tally.seed, first.number))
        lines.append(f"  {len(alike)} times, first number {first.number} (left in {place}): {first.what}")
    return "\n".join(lines)


def check(tally: Tally, folder: Path) -> None:
    """Fail with what was found, or where too few mutants were read by both."""
    assert not tally.findings, report(tally, folder)
    tried, new = len(tally.outcomes), tally.count(BOTH)
    assert new + tally.count(SAME) >= tally.target.least * tried, f"too few to compare: {tally}"
    assert new >= tally.target.least_new * tried, f"too few that are new: {tally}"
    assert not tally.count(UNTRIED), tally


def run_checked(target: Target, config: Any, folder: Path, record: Callable[[str, object], None]) -> None:
    """What a test does: as many mutants as the options say, counted and said."""
    tally = run(target, config.getoption("--mutants"), config.getoption("--fuzz-seed"))
    print(tally)
    check(tally, folder)
    record(counted("mutants"), len(tally.outcomes))
