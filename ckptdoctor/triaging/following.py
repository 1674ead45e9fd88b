"""Watch a log that still grows, up to its first validation or a failure.

The file is opened anew at every look (network file systems show new bytes only then). If it is gone, became shorter, is
another file than before or begins with other bytes, it was truncated or rotated: reading starts again from its beginning.
"""

from __future__ import annotations

import errno
import os
import time
from os import PathLike
from pathlib import Path
from typing import BinaryIO

from ckptdoctor.errors import LogError
from ckptdoctor.triaging.files import Parser, find_log, unreadable
from ckptdoctor.triaging.lines import CHUNK
from ckptdoctor.triaging.types import Reading

INTERVAL = 0.5
"""Seconds between two looks."""
_HEAD = 256


def watch(
    log: str | PathLike[str], metric: str, *, timeout: float | None = None, interval: float = INTERVAL
) -> tuple[Path, Reading]:
    """Wait until there is something to judge by; the file that it stands in, and the reading so far.

    A log that does not exist is waited for. Raises LogError where `timeout` seconds pass before.
    """
    tail, end = Tail(log, metric), None if timeout is None else time.monotonic() + timeout
    while not tail.look():
        left = interval if end is None else min(interval, end - time.monotonic())
        if left <= 0:
            raise _nothing_seen(log, metric, timeout or 0, there=tail.path is not None)
        time.sleep(left)
    return tail.path or Path(log), tail.parser.gathered.reading()


def _nothing_seen(log: str | PathLike[str], metric: str, timeout: float, *, there: bool) -> LogError:
    message = f"no {metric} in {log} within {timeout:g} seconds"
    if there:
        return LogError(message, path=log, hint="wait longer, or name the metric as the log does with --metric")
    return LogError(f"{message}: there is no such log", path=log, hint="look at the path, or wait longer")


class Tail:
    """A log that may grow, shrink, vanish and come back; `parser` has seen all of it that is there."""

    def __init__(self, log: str | PathLike[str], metric: str) -> None:
        self._log, self._metric = log, metric
        self.path: Path | None = None
        self._file: tuple[int, int] | None = None
        self._head = b""
        self._read_to = 0
        self.parser = Parser(Path(log), metric)

    def look(self) -> bool:
        """Read what is new; whether there is something to judge by. Raises LogError for what no waiting will mend."""
        self.path = find_log(self._log)
        if self.path is None:
            self._restart(Path(self._log), None)
            return False
        try:
            with self.path.open("rb") as file:
                self._read(self.path, file)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):
                raise unreadable(self.path, error) from None
        return self.parser.gathered.seen_enough

    def _read(self, path: Path, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        head = file.read(_HEAD)
        if (
            (status.st_dev, status.st_ino) != self._file
            or len(head) < len(self._head)
            or status.st_size < self._read_to
        ):
            self._restart(path, (status.st_dev, status.st_ino))
        elif not head.startswith(self._head):
            self._restart(path, self._file)
        self._head = head
        file.seek(self._read_to)
        while chunk := file.read(CHUNK):
            self._read_to += len(chunk)
            self.parser.feed(chunk)
        self.parser.end(growing=True)

    def _restart(self, path: Path, file: tuple[int, int] | None) -> None:
        """Forget what was read: it is not this log's."""
        self._file, self._head, self._read_to = file, b"", 0
        self.parser = Parser(path, self._metric)
