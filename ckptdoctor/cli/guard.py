"""Exceptions to messages and exit statuses: 0 nothing wrong, 1 findings, 2 could not do it, 130 interrupted (128 + the signal).

An exception never ends as 1, whatever it is: 1 means that a check was made and failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import weakref
from collections.abc import Callable
from typing import Any

from ckptdoctor.errors import CkptDoctorError, KeyMapError, PlanError, TargetNotBuildable, UsageError
from ckptdoctor.text import printable, shortened

FAILED = 2
_STOPPED = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}
_LONGEST = 10_000
"""Characters of a message: whatever it lists or quotes, it is to be read by somebody."""


class Stopped(KeyboardInterrupt):
    """A signal, so that files in the making are removed before the process ends."""

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__()
        self.number = number


def status_of(action: Callable[[], int | None], *, as_json: bool) -> int:
    """Run an action; its exit status, or that of the exception it ended with, which is said on stderr."""
    try:
        return action() or 0
    except CkptDoctorError as error:
        say(_json(error) if as_json else text_of(error))
    except KeyboardInterrupt as error:
        return _stopped(error)
    except BrokenPipeError:
        return FAILED
    except MemoryError as error:
        say("\n".join(["error: not enough memory", "hint: give the process more of it", *_notes(error)]))
    except Exception as error:
        if isinstance(error.__cause__, KeyboardInterrupt):  # a signal in the middle of an import
            return _stopped(error.__cause__)
        _say_other(error, as_json=as_json)
    return FAILED


def say(text: str) -> None:
    """One message on stderr; a closed stderr is nothing to die of."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def open_streams() -> None:
    """A closed stdin, stdout or stderr becomes the null device: else the next file that is opened would take its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode)  # noqa: PTH123, SIM115 - it stays open as long as the process
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            setattr(sys, name, stream)
    for output in (sys.stdout, sys.stderr):
        if hasattr(output, "reconfigure"):
            output.reconfigure(errors="backslashreplace")


class Signals:
    """SIGTERM and SIGHUP unwind like Ctrl-C, and whatever comes while they do is ignored, so that nothing is left behind.

    A signal that this process was started to ignore (`nohup`) stays ignored.
    """

    def __init__(self) -> None:
        self._under_way: Callable[[], Stopped | None] = lambda: None
        self._before: dict[int, Any] = {}
        self.ended = False
        """Whether the exit status stands already."""
        self.number: int | None = None
        """The first signal that came."""

    def catch(self) -> None:
        """From now on."""
        for number in _STOPPED:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._stop)

    def release(self) -> None:
        """No longer."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _stop(self, number: int, _: object) -> None:
        if self.ended or self._under_way() is not None:
            return
        error, self.number = Stopped(number), self.number or number
        self._under_way = weakref.ref(error)
        try:
            raise error
        finally:
            del error  # where somebody swallows it, it is gone, and the next signal is heard again


def close_stdout() -> None:
    """Flush; what cannot be written any more is thrown away, so that the interpreter's own end does not fail over it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def text_of(error: CkptDoctorError) -> str:
    """An error as the command line says it."""
    parts: list[Any]
    if isinstance(error, KeyMapError):
        parts = [f"error: {printable(str(problem))}" for problem in error.problems]
    elif isinstance(error, PlanError):
        parts = [line for problem in error.problems for line in _one(str(problem), problem.hint)]
    else:
        parts = _one(str(error), error.hint)
    if isinstance(error, TargetNotBuildable) and error.traceback:
        parts.append("\n".join(printable(line) for line in error.traceback.rstrip().split("\n")))
    return "\n".join([*parts, *_notes(error)])


def _notes(error: BaseException) -> list[str]:
    """What those have added whom it came through: what is in place, what was left behind."""
    return [f"note: {printable(note)}" for note in getattr(error, "__notes__", ())]


def stopped_early(status: int, signals: Signals) -> int:
    """The exit status where a signal came while commands were looked up: the parser makes a silent 130 of every one."""
    if status != 128 + signal.SIGINT or signals.number in (None, signal.SIGINT):
        return status
    return _stopped(Stopped(signals.number))


def _stopped(error: KeyboardInterrupt) -> int:
    number = error.number if isinstance(error, Stopped) else signal.SIGINT
    notes = [printable(note) for note in getattr(error, "__notes__", ())]
    if notes or number == signal.SIGINT:
        say("; ".join([_STOPPED[signal.Signals(number)], *notes]))
    return 128 + number


def _one(message: str, hint: str | None) -> list[str]:
    return [f"error: {shortened(message, _LONGEST)}", *([f"hint: {shortened(hint, _LONGEST)}"] if hint else [])]


def _json(error: CkptDoctorError) -> str:
    where = error.where
    place = None if where is None else {"file": where.file, "line": where.line, "column": where.column}
    problems = getattr(error, "problems", ())
    body = {
        "code": error.code,
        "message": error.message,
        "path": getattr(error, "path", None),
        "where": place,
        "hint": error.hint,
        "problems": [str(problem) for problem in problems],
        **({"notes": error.__notes__} if hasattr(error, "__notes__") else {}),
    }
    return json.dumps({"error": body})


def _say_other(error: Exception, *, as_json: bool) -> None:
    """A usage error of the command line's parser, or else a defect of ours."""
    if hasattr(error, "show") and hasattr(error, "format_message"):
        if as_json:
            say(_json(UsageError(error.format_message(), hint="--help lists the options")))
        else:
            error.show()
    else:
        _internal(error)


def _internal(error: Exception) -> None:
    import traceback

    trace = traceback.extract_tb(error.__traceback__)
    places = " <- ".join(
        f"{frame.filename.rpartition('ckptdoctor/')[2]}:{frame.lineno}" for frame in reversed(trace[-4:])
    )
    say(
        f"error: internal error: {type(error).__name__}: {printable(str(error))}\n"
        f"hint: this is a defect of ckptdoctor; please report it with this line: {places}"
        + "".join(f"\n{note}" for note in _notes(error))
    )
