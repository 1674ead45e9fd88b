"""Whole processes side by side: how long each takes and how much memory it has at most, in rounds, in turn.

No side is helped: each starts with its source in the page cache, with no output of an earlier run on the disk and nothing
waiting to be written there. The first in a round is another each time. Memory is what the kernel counts (`ru_maxrss`), which
includes what a process maps of a file and touches. A child begins with the maximum of what started it: whoever calls this
keeps small, imports no torch, and has files made by another process; less than its own 20 MB cannot be told.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple

Command = Sequence[str | Path]
MB = 1_000_000
NO_FSYNC = "import os; os.fsync = lambda descriptor: None; from ckptdoctor.cli import main; main()"
"""None of the others waits for the disk: neither does ours here."""
ckptdoctor: Command = [sys.executable, "-c", NO_FSYNC]


class Process(NamedTuple):
    """One way to do a piece of work: what it is called in the tables, and a command line."""

    name: str
    command: Command


class Room(NamedTuple):
    """The folder that processes write into, made new for each, and the bytes that must be there at the end."""

    path: Path
    least: int = 0


@dataclass(slots=True)
class Figures:
    """What the rounds of one process took: seconds on the clock, and MB at the most."""

    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    failure: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def peak(self) -> float:
        return max(self.memory)

    def over(self, other: Figures) -> float:
        """The median of the ratios to the same rounds of another."""
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


class ProcessFailed(Exception):
    """A process ended with another status than 0, or left too little behind."""


def interleaved(
    processes: Sequence[Process],
    rounds: int,
    *,
    source: Path | None = None,
    room: Room | None = None,
    uncounted: int = 0,
) -> dict[str, Figures]:
    """Figures by name. A process that fails once is not run again, and its failure is kept."""
    found = {process.name: Figures() for process in processes}
    for number in range(rounds + uncounted):
        turn = number % len(processes)
        for name, command in [*processes[turn:], *processes[:turn]]:
            figures = found[name]
            if figures.failure is None:
                try:
                    seconds, memory = _once(command, source, room)
                except ProcessFailed as error:
                    figures.failure = str(error)
                    continue
                if number >= uncounted:
                    figures.seconds.append(seconds)
                    figures.memory.append(memory)
    return found


def run(command: Command) -> tuple[float, float]:
    """Seconds and MB of one process; raises ProcessFailed with the end of what it said."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        start = time.perf_counter()
        try:
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
        except OSError as error:
            raise ProcessFailed(f"not run: {error}") from None
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise ProcessFailed(f"failed with status {process.returncode}: {_last_line(said)}")
    return seconds, usage.ru_maxrss * 1024 / MB


def content_size(path: Path) -> int:
    """Bytes of all files in a folder, or of a file."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _once(command: Command, source: Path | None, room: Room | None) -> tuple[float, float]:
    if source is not None:
        _read(source)
    if room is None:
        return run(command)
    room.path.mkdir()
    try:
        os.sync()
        figures = run(command)
        if (size := content_size(room.path)) < room.least:
            raise ProcessFailed(f"failed: wrote {size:,} bytes where {room.least:,} were to be written")
    finally:
        shutil.rmtree(room.path)
    return figures


def _read(path: Path) -> None:
    """Into the page cache, for whatever it has dropped since."""
    buffer = bytearray(1 << 20)
    for file in (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]:
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass


def _last_line(said: IO[bytes]) -> str:
    """What went wrong; our own errors end with a hint."""
    said.seek(0)
    lines = [line for line in said.read().decode(errors="replace").splitlines() if line.strip() and line[:5] != "hint:"]
    return lines[-1][:200] if lines else "nothing said"
