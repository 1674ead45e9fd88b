"""A file that is written, and what its errors mean."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptdoctor.errors import OutputError
from ckptdoctor.files.kernel import copy_some, preallocate
from ckptdoctor.files.source import Progress, Span, reason, unnoticed


class OutputFile:
    """The temporary file behind an output: at `temporary`, written up to `position`."""

    def __init__(self, descriptor: int, path: Path, temporary: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self._reserved = 0
        self.temporary = temporary
        self.position = 0

    def reserve(self, size: int) -> None:
        """Ask for room for `size` bytes, which makes writing faster, and its end come early where there is none."""
        with self._errors():
            preallocate(self._descriptor, size)
        self._reserved = size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`."""
        self.rewrite(self.position, data)
        self.position += memoryview(data).nbytes

    def rewrite(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Write over what stands at a position."""
        view = memoryview(data).cast("B")
        with self._errors():
            while view:
                written = os.pwrite(self._descriptor, view, position)
                position += written
                view = view[written:]

    def append(self, span: Span, progress: Progress = unnoticed) -> None:
        """Append bytes of another file; raises CorruptCheckpoint where that ends before."""
        offset, end = span.offset, span.offset + span.size
        with span.file.opened() as source:
            while offset < end:
                with self._errors():
                    moved = copy_some(source, offset, self._descriptor, self.position, end - offset)
                if not moved:
                    raise span.file.became_shorter()
                offset += moved
                self.position += moved
                progress(moved)

    def finish(self) -> None:
        """Give back what was reserved and not used, and wait until everything is on the disk."""
        with self._errors():
            if self._reserved > self.position:
                os.ftruncate(self._descriptor, self.position)
            os.fsync(self._descriptor)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise output_error(self._path, error) from None


def output_error(path: Path, error: OSError) -> OutputError:
    """An OSError of writing as an OutputError with a hint."""
    hints = {
        errno.ENOSPC: "free some space or write elsewhere; nothing was left behind",
        errno.EDQUOT: "your quota is used up: free some space or write elsewhere; nothing was left behind",
        errno.EFBIG: "the file system or a limit (ulimit -f) does not take a file this large",
        errno.EROFS: "the file system is read-only: write elsewhere",
        errno.EACCES: "you may not write there: write elsewhere",
        errno.ENOTDIR: "a part of the path is a file, not a folder",
    }
    return OutputError(f"cannot write {path}: {reason(error)}", path=path, hint=hints.get(error.errno or 0))
