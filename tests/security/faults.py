"""What a disk, a file system and a scheduler can do to a run: a layer in the place of `ckptdoctor.files.system.perform`, which
sees every call to the system, and runs of the command line within this process or in a fork of it.

SQLite's way: the same run again and again, with the first call failing, then the second, until one run makes no more calls.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, TypeAlias

import pytest

from ckptdoctor.cli import main
from ckptdoctor.files import system
from tests.cli.helpers import Done

Call: TypeAlias = Callable[..., Any]
Act: TypeAlias = Callable[[str, Call, tuple[Any, ...]], Any]
"""What happens in the place of a call: its name, the call itself, its arguments."""

SHORTENED = {"pread": 1, "pwrite": 1, "preadv": 1, "copy_file_range": 2, "sendfile": 3}
"""Calls that may do less than they were asked to, and which argument says how much that was."""
CALLS = tuple(
    name for name, each in vars(system).items() if inspect.isfunction(each) and name[0] != "_" and name != "perform"
)
"""All there are."""
CHANGES = (
    *("open", "pwrite", "copy_file_range", "sendfile", "ftruncate", "fsync"),
    *("mkdir", "rename", "exchange", "link", "rmtree"),
)
"""Those after which something is another."""
TAKES_ROOM = {"open", "pwrite", "copy_file_range", "sendfile", "fallocate", "mkdir", "link"}


class Layer:
    """Stands in for `perform`. At the call number `at` (of those in `only`) it does `act` instead, `on` and on if asked to.

    `lacking` are calls that this file system does not know. Nothing is waited for: the machine is not switched off here.
    """

    def __init__(
        self, at: int = 0, act: Act | None = None, *, only: Sequence[str] = (), on: bool = False, lacking: Any = ()
    ) -> None:
        self._at, self._act, self._only, self._on, self._lacking = at, act, frozenset(only), on, frozenset(lacking)
        self._counting = threading.Lock()
        self.count = 0
        self.reached = ""

    def __call__(self, name: str, call: Call, *arguments: Any) -> Any:
        if name in self._lacking:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        call = _checked if name == "fsync" else call
        if self._only and name not in self._only:
            return call(*arguments)
        with self._counting:
            self.count += 1
            here = self._act is not None and (self.count == self._at or (self._on and self.count > self._at))
        if not here or self._act is None:
            return call(*arguments)
        self.reached = self.reached or name
        return self._act(name, call, arguments)


def _checked(descriptor: int) -> None:
    os.fstat(descriptor)


# ---- what can happen ---------------------------------------------------------------------------------------------------


def failing(number: int) -> Act:
    """The call fails, and nothing was done; a descriptor is closed even so."""

    def act(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        if name == "close":
            call(*arguments)
        raise OSError(number, os.strerror(number))

    return act


def answer_lost(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
    """The call is made, and fails all the same: the server did it, and its answer was lost."""
    result = call(*arguments)
    if name == "open":
        os.close(result)
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def no_room(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
    """The disk is full: what takes room fails."""
    if name in TAKES_ROOM and (name != "open" or arguments[1] & os.O_CREAT):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return call(*arguments)


def short(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
    """Half of what was asked for is done, and one byte of one."""
    place = SHORTENED[name]
    amount = arguments[place]
    if name == "preadv":
        half: Any = [amount[0][: _half(len(amount[0]))]]
    else:
        half = _half(amount) if isinstance(amount, int) else amount[: _half(len(amount))]
    return call(*arguments[:place], half, *arguments[place + 1 :])


def _half(count: int) -> int:
    return max(count // 2, min(count, 1))


def signalled(number: int, *, before: bool) -> Act:
    """A signal comes, just before or just after the call."""

    def act(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
        if before:
            os.kill(os.getpid(), number)
            return call(*arguments)
        try:
            return call(*arguments)
        finally:
            os.kill(os.getpid(), number)

    return act


def killed(name: str, call: Call, arguments: tuple[Any, ...]) -> Any:
    """The process is no more."""
    os.kill(os.getpid(), signal.SIGKILL)


class Lines:
    """Interrupts this process at a line that it comes to in some files of `ckptdoctor/files`, the one with the number `at`."""

    def __init__(self, at: int, files: set[str]) -> None:
        self._at, self._files = at, {str(Path(system.__file__).with_name(name)) for name in files}
        self.count = 0
        self.reached = ""

    @contextmanager
    def traced(self) -> Iterator[None]:
        """As long as this lasts."""
        before = sys.gettrace()
        sys.settrace(self._called)
        try:
            yield
        finally:
            sys.settrace(before)

    def _called(self, frame: FrameType, event: str, _: object) -> Any:
        return self._line if frame.f_code.co_filename in self._files else None

    def _line(self, frame: FrameType, event: str, _: object) -> Any:
        if event == "line":
            self.count += 1
            if self.count == self._at:
                self.reached = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                os.kill(os.getpid(), signal.SIGINT)
        return self._line


# ---- runs ----------------------------------------------------------------------------------------------------------------


@contextmanager
def installed(layer: Layer) -> Iterator[Layer]:
    """The layer is the way down."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system, "perform", layer)
        yield layer


def run_here(folder: Path, words: Sequence[str], layer: Layer | None = None) -> Done:
    """`ckptdoctor WORDS` in a folder, in this process; the signals are its own for as long as it takes."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in numbers}
    out, err, there = io.StringIO(), io.StringIO(), os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with (
            pytest.MonkeyPatch.context() as patch,
            installed(layer or Layer()),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            patch.setattr(sys, "argv", ["ckptdoctor", *words])
            with pytest.raises(SystemExit) as ended:
                main()
    finally:
        os.chdir(there)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Done(int(ended.value.code or 0), out.getvalue(), err.getvalue())


class Ended(NamedTuple):
    """How a process of its own ended: its status, negative for the signal that ended it, and what it said on stderr."""

    status: int
    stderr: str


def run_apart(folder: Path, words: Sequence[str], layer: Layer | None = None, *, first: Call | None = None) -> Ended:
    """The same in a fork of this process, which does `first` before anything else."""
    return start_apart(folder, words, layer, first=first)()


def start_apart(
    folder: Path, words: Sequence[str], layer: Layer | None = None, *, first: Call | None = None
) -> Callable[[], Ended]:
    """Begin it, and leave it going; what comes back waits for its end."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 99
        try:
            os.close(reading)
            if first is not None:
                first()
            done = run_here(folder, words, layer)
            os.write(writing, done.stderr.encode()[:60_000])
            status = done.status
        finally:
            os._exit(status)
    os.close(writing)

    def wait() -> Ended:
        with open(reading, "rb") as stream:  # noqa: PTH123
            said = stream.read().decode()
        return Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said)

    return wait
