"""Exceptions to messages and exit statuses: 0 nothing wrong, 1 findings, 2 could not do it, 130 interrupted.

An exception never ends as 1, whatever it is: 1 means that a check was made and failed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ckptdoctor.errors import CkptDoctorError, KeyMapError, PlanError, TargetNotBuildable
from ckptdoctor.text import printable

FAILED, INTERRUPTED = 2, 130


class Terminated(KeyboardInterrupt):
    """SIGTERM, so that files in the making are removed before the process ends."""


@contextmanager
def guarded(*, as_json: Callable[[], bool]) -> Iterator[None]:
    """Run a command's body; every exception becomes a message on stderr and an exit status."""
    try:
        yield
    except CkptDoctorError as error:
        say(_json(error) if as_json() else _text(error))
        _exit(FAILED)
    except Terminated:
        _exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        say("interrupted; nothing was left behind")
        _exit(INTERRUPTED)
    except BrokenPipeError:
        _exit(FAILED)
    except MemoryError:
        say("error: not enough memory\nhint: give the process more of it")
        _exit(FAILED)
    except Exception as error:  # the last net: a defect of ours, said as such, with everything a report needs
        _internal(error)
        _exit(FAILED)


def say(text: str) -> None:
    """One message on stderr; a closed stderr is nothing to die of."""
    try:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def catch_signals() -> None:
    """SIGTERM unwinds like Ctrl-C."""

    def terminate(*_: Any) -> NoReturn:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)


def _exit(status: int) -> NoReturn:
    import typer

    raise typer.Exit(status)


def _text(error: CkptDoctorError) -> str:
    parts: list[Any]
    if isinstance(error, KeyMapError):
        parts = [f"error: {printable(str(problem))}" for problem in error.problems]
    elif isinstance(error, PlanError):
        parts = [line for problem in error.problems for line in _one(str(problem), problem.hint)]
    else:
        parts = _one(str(error), error.hint)
    if isinstance(error, TargetNotBuildable) and error.traceback:
        parts.append("\n".join(printable(line) for line in error.traceback.rstrip().split("\n")))
    return "\n".join(parts)


def _one(message: str, hint: str | None) -> list[str]:
    return [f"error: {printable(message)}", *([f"hint: {printable(hint)}"] if hint else [])]


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
    }
    return json.dumps({"error": body})


def _internal(error: Exception) -> None:
    import traceback

    trace = traceback.extract_tb(error.__traceback__)
    places = " <- ".join(
        f"{frame.filename.rpartition('ckptdoctor/')[2]}:{frame.lineno}" for frame in reversed(trace[-4:])
    )
    say(
        f"error: internal error: {type(error).__name__}: {printable(str(error))}\n"
        f"hint: this is a defect of ckptdoctor; please report it with this line: {places}"
    )
