"""Run somebody else's code: its prints go to stderr, globals are put back, failures keep their own traceback."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from ckptdoctor.errors import MissingDependency, TargetNotBuildable
from ckptdoctor.text import printable

_PACKAGE = str(Path(__file__).parents[2])


def require_torch() -> None:
    """Raise MissingDependency unless torch can be imported."""
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingDependency("building a model needs torch", hint="pip install 'ckptdoctor[torch]'") from error


@contextmanager
def user_code(*folders: Path) -> Iterator[None]:
    """While user code runs: `folders` lead `sys.path`, stdout is stderr (ours is for the result), the rest is kept."""
    path = sys.path[:]
    sys.path[:0] = dict.fromkeys(str(folder) for folder in folders)
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr), _generators_put_back():
            yield
    finally:
        sys.path[:] = path


@contextmanager
def _generators_put_back() -> Iterator[None]:
    import random

    import torch

    python, default_dtype, cpu = random.getstate(), torch.get_default_dtype(), torch.get_rng_state()
    numpy = sys.modules.get("numpy")
    array = None if numpy is None else numpy.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_default_dtype(default_dtype)
        torch.set_rng_state(cpu)
        if numpy is not None:
            numpy.random.set_state(array)


def not_buildable(reference: str, what: str, error: BaseException, hint: str | None = None) -> TargetNotBuildable:
    """The error for an exception out of user code; `what` says what was being done."""
    return TargetNotBuildable(
        f"{reference}: {what}: {summary(error)}", reference=reference, hint=hint, traceback=user_traceback(error)
    )


def summary(error: BaseException) -> str:
    """An exception in one printable line."""
    if isinstance(error, SystemExit):
        return f"it called sys.exit({error.code!r})"
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {printable(first)}" if first else type(error).__name__


def user_traceback(error: BaseException) -> str:
    """The traceback as text without the frames of ckptdoctor and the import system, which nobody has to mend."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    part: traceback.TracebackException | None = report
    while part is not None:
        part.stack = traceback.StackSummary.from_list([frame for frame in part.stack if not _ours(frame.filename)])
        part = part.__cause__ or part.__context__
    return "".join(report.format())


def _ours(filename: str) -> bool:
    return filename.startswith((_PACKAGE + "/", "<frozen importlib", "<frozen runpy"))
