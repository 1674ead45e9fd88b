"""A file that is written, and what its errors mean."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptdoctor.errors import OutputError
from ckptdoctor.files import system
from ckptdoctor.files.kernel import copy_some, preallocate
from ckptdoctor.files.source import Progress, Span, reason, unnoticed

_HINTS = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "your quota is used up: free some space or write elsewhere",
    errno.EFBIG: "the file system or a limit (ulimit -f) does not take a file this large: write elsewhere, or in shards",
    errno.EROFS: "the file system is read-only: write elsewhere",
    errno.EACCES: "you may not write there: write elsewhere",
    errno.EPERM: "you may not write there: write elsewhere",
    errno.EIO: "the disk or the way to it has failed: look at its log, write elsewhere",
    errno.ESTALE: "its folder was replaced on the server meanwhile: run it again",
    errno.ENOENT: "its folder, or what was written there, has gone meanwhile: run it again",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "give a shorter name",
}


class OutputFile:
    """The temporary file behind an output: at `temporary`, written up to `position`."""

    def __init__(self, descriptor: int, path: Path, temporary: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self.temporary = temporary
        self.position = 0

    def reserve(self, size: int) -> None:
        """Ask for room for `size` bytes, which makes writing faster, and its end come early where there is none."""
        with writing(self._path):
            preallocate(self._descriptor, size)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`."""
        self.rewrite(self.position, data)
        self.position += memoryview(data).nbytes

    def rewrite(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Write over what stands at a position."""
        view = memoryview(data).cast("B")
        with writing(self._path):
            while view:
                written = system.pwrite(self._descriptor, view, position)
                position += written
                view = view[written:]

    def append(self, span: Span, progress: Progress = unnoticed) -> None:
        """Append bytes of another file, holes as holes; raises CorruptCheckpoint where that ends before."""
        shift, read = self.position - span.offset, span.file.read_some
        with span.file.opened() as source:
            for offset, end in span.file.extents(span.offset, span.size):
                while offset < end:
                    with writing(self._path):
                        moved = copy_some(source, offset, self._descriptor, offset + shift, end - offset, read)
                    if not moved:
                        raise span.file.became_shorter()
                    offset += moved
                    progress(moved)
        self.position += span.size
        if span.file.is_sparse:
            self._reach(self.position)

    def _reach(self, size: int) -> None:
        """Make the file so long at least: a hole at its end is nothing that was written."""
        with writing(self._path):
            if system.fstat(self._descriptor).st_size < size:
                system.ftruncate(self._descriptor, size)

    def finish(self) -> None:
        """Give back what was reserved and not used, and wait until everything is on the disk."""
        with writing(self._path):
            if system.fstat(self._descriptor).st_size != self.position:
                system.ftruncate(self._descriptor, self.position)
            system.fsync(self._descriptor)


@contextmanager
def new_file(place: Path, final: Path) -> Iterator[OutputFile]:
    """A new file at `place`, synced at the end, that will stand at `final`: with the mode of what stands there now.

    As root also with its owner and group, where the file system lets.
    """
    old = status_of(final)
    with writing(final):
        mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
        descriptor = system.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
    try:
        adopt(descriptor, old, final)
        output = OutputFile(descriptor, final, place)
        yield output
        output.finish()
    finally:
        system.close(descriptor)


def adopt(descriptor: int, old: os.stat_result | None, final: Path) -> None:
    """Give a new file or folder the mode of the one that it replaces, and to root's the owner; raises OutputError."""
    if old is None:
        return
    if os.geteuid() == 0:
        with suppress(OSError):  # before the mode, of which it takes bits
            system.fchown(descriptor, old.st_uid, old.st_gid)
    with writing(final):
        system.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def status_of(path: Path) -> os.stat_result | None:
    """What stands at a path, links followed; None where nothing does. Raises OutputError where the system does not tell."""
    try:
        return system.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise output_error(path, error) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What the system refuses in here is an OutputError of `path`."""
    try:
        yield
    except OSError as error:
        raise output_error(path, error) from None


def output_error(path: Path, error: OSError) -> OutputError:
    """An OSError of writing as an OutputError with a hint."""
    return OutputError(f"cannot write {path}: {reason(error)}", path=path, hint=_HINTS.get(error.errno or 0))
