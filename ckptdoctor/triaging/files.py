"""Which file is meant by a log, and how it is read: plain text, a CSV file, or the folder of Lightning's CSVLogger."""

from __future__ import annotations

import errno
import re
import stat
from os import PathLike
from pathlib import Path

from ckptdoctor.errors import LogError
from ckptdoctor.triaging.gathering import Gatherer
from ckptdoctor.triaging.lines import CHUNK, Segment, Splitter
from ckptdoctor.triaging.plainlog import TextFinder
from ckptdoctor.triaging.sights import Finder
from ckptdoctor.triaging.tables import CsvFinder
from ckptdoctor.triaging.types import Reading

_CSV = "metrics.csv"


def find_log(log: str | PathLike[str]) -> Path | None:
    """The file to read: the log itself, or metrics.csv in a CSV logger's folder (its newest version); None if there is none.

    Raises LogError for what is there and can never be read.
    """
    path = Path(log)
    try:
        found = _in_folder(path) if path.is_dir() else path
        mode = found.stat().st_mode if found else None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return None
        raise unreadable(path, error) from None
    if found is not None and mode is not None and not stat.S_ISREG(mode):
        raise LogError(f"{found} is not a regular file", path=found, hint="give the log that the job writes")
    return found


def unreadable(path: Path, error: OSError) -> LogError:
    """The error for a log that is there and cannot be read."""
    return LogError(f"cannot read {path}: {error.strerror or error}", path=path, hint="look at who may read it")


def _in_folder(folder: Path) -> Path | None:
    if (folder / _CSV).exists():
        return folder / _CSV
    versions = [path.parent for path in folder.glob(f"version_*/{_CSV}")]
    return max(versions, key=_version) / _CSV if versions else None


def _version(folder: Path) -> tuple[int, str]:
    number = re.fullmatch(r"version_([0-9]{1,9})", folder.name)
    return (int(number[1]) if number else -1, folder.name)


class Parser:
    """A log on its way from bytes to a reading."""

    def __init__(self, path: Path, metric: str) -> None:
        self._splitter = Splitter()
        self._finder: Finder = CsvFinder(metric) if path.suffix.lower() == ".csv" else TextFinder(metric)
        self.gathered = Gatherer()

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes."""
        segments = self._splitter.skip if self._finder.is_dull(chunk) else self._splitter.feed
        for segment in segments(chunk):
            self._take(segment)

    def end(self, *, growing: bool) -> None:
        """Look at what stands after the last line break. If the log still grows, a number at its very end is not believed."""
        rest = self._splitter.rest()
        if rest is not None:
            self._take(rest, believe_cut=not growing)

    def _take(self, segment: Segment, *, believe_cut: bool = True) -> None:
        sight = self._finder.look(segment)
        if sight is not None and (believe_cut or (sight.observation is not None and not sight.observation.cut)):
            self.gathered.take(sight)


def read_log(path: Path, metric: str) -> Reading:
    """Read a log that is complete; raises LogError."""
    parser = Parser(path, metric)
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                parser.feed(chunk)
    except OSError as error:
        raise unreadable(path, error) from None
    parser.end(growing=False)
    return parser.gathered.reading()
