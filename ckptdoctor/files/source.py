"""A file that is read: at offsets, with errors that say what is wrong, and a look at whether it changed meanwhile."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from ckptdoctor.errors import CheckpointNotFound, CorruptCheckpoint
from ckptdoctor.files import system

CHUNK = 1 << 20
_BUFFER = 1 << 18
_HINTS = {
    errno.EIO: "the disk or the way to it has failed: look at its log, take another copy of the file",
    errno.ESTALE: "the file was replaced on its server meanwhile: run it again",
    errno.EACCES: "look at who may read it",
}
TRUNCATED = "the file is truncated: copy or download it again"
Progress: TypeAlias = Callable[[int], object]
"""Is told how many bytes have passed since it was told last."""


def unnoticed(count: int) -> None:
    """The progress that nobody looks at."""


class SourceFile:
    """A file opened for reading at offsets. Close it, or use it in a `with`."""

    _descriptor = -1

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor = self._open()
        self._status = self._fstat(self._descriptor)
        if not stat.S_ISREG(self._status.st_mode):
            self.close()
            raise CheckpointNotFound(f"{self.path} is not a regular file", path=path)

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._status.st_size

    @property
    def is_sparse(self) -> bool:
        """Whether it has holes: zeros that take no place on the disk."""
        return self._status.st_blocks * 512 < self._status.st_size

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # for whoever meets an error before there is anything that could be closed

    def close(self) -> None:
        """Close the file; twice does no harm, and whoever reads again opens it for that moment.

        So a folder of a thousand shards needs no thousand descriptors. A file that is not the same any more is noticed.
        """
        descriptor, self._descriptor = self._descriptor, -1  # first: a signal may come in between
        if descriptor >= 0:
            system.close(descriptor)

    @contextmanager
    def opened(self) -> Iterator[int]:
        """The descriptor, or one for this moment; raises CorruptCheckpoint where the path leads to another file by now."""
        if self._descriptor >= 0:
            yield self._descriptor
            return
        descriptor = self._open()
        try:
            self._check_same(self._fstat(descriptor))
            yield descriptor
        finally:
            system.close(descriptor)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes at `offset`; raises CorruptCheckpoint where the file ends before."""
        self._check_within(offset, count)
        parts = bytearray()
        with self.opened() as descriptor:
            while len(parts) < count:
                part = self._pread(descriptor, count - len(parts), offset + len(parts))
                if not part:
                    raise self.became_shorter()
                if len(part) == count:
                    return part
                parts += part
        return bytes(parts)

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill a buffer with the bytes from an offset on; raises as `read` does."""
        self._check_within(offset, len(buffer))
        with self.opened() as descriptor:
            while buffer:
                found = self.read_some(descriptor, buffer, offset)
                if not found:
                    raise self.became_shorter()
                buffer, offset = buffer[found:], offset + found

    def chunks(self, offset: int, count: int) -> Iterator[bytes]:
        """The same bytes, a chunk at a time."""
        while count:
            size = min(CHUNK, count)
            yield self.read(offset, size)
            offset, count = offset + size, count - size

    def extents(self, offset: int, count: int) -> Iterator[tuple[int, int]]:
        """Begin and end of what is no hole among these bytes."""
        end = offset + count
        while self.is_sparse and offset < end:
            with self.opened() as descriptor:
                begin = _seek(descriptor, offset, os.SEEK_DATA)
                if begin is None or begin >= end:
                    return
                offset = min(_seek(descriptor, begin, os.SEEK_HOLE) or end, end)
            yield begin, offset
        if offset < end:
            yield offset, end

    def check_unchanged(self) -> None:
        """Raise CorruptCheckpoint if the file was written to since it was opened."""
        with self.opened() as descriptor:
            self._check_same(self._fstat(descriptor))

    def became_shorter(self) -> CorruptCheckpoint:
        """The error for a file that ends where it did not when it was opened."""
        return CorruptCheckpoint(f"{self.path} became shorter while it was read", path=self.path)

    def views(self, offset: int, count: int) -> Iterator[memoryview]:
        """The same bytes, in one buffer: each part is gone when the next one comes."""
        if count:
            self._check_within(offset, count)
        buffer = memoryview(bytearray(min(count, _BUFFER)))
        with self.opened() as descriptor:
            while count:
                found = self.read_some(descriptor, buffer[: min(count, _BUFFER)], offset)
                if not found:
                    raise self.became_shorter()
                yield buffer[:found]
                offset, count = offset + found, count - found

    def _check_within(self, offset: int, count: int) -> None:
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CorruptCheckpoint(f"{self.path} ends before byte {offset + count:,}", path=self.path, hint=TRUNCATED)

    def _check_same(self, now: os.stat_result) -> None:
        then = self._status
        if (now.st_ino, now.st_size, now.st_mtime_ns) != (then.st_ino, then.st_size, then.st_mtime_ns):
            raise CorruptCheckpoint(f"{self.path} changed while it was read", path=self.path, hint="run it again")

    def read_some(self, descriptor: int, buffer: memoryview, offset: int) -> int:
        """Read into a buffer from a descriptor that `opened` gave; returns how many bytes came."""
        try:
            return system.preadv(descriptor, buffer, offset)
        except OSError as error:
            raise self._unreadable(error) from None

    def _open(self) -> int:
        try:
            return system.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            message = f"cannot read {self.path}: {reason(error)}"
            raise CheckpointNotFound(message, path=self.path, hint=_HINTS.get(error.errno or 0)) from None

    def _fstat(self, descriptor: int) -> os.stat_result:
        try:
            return system.fstat(descriptor)
        except OSError as error:
            raise self._unreadable(error) from None

    def _pread(self, descriptor: int, count: int, offset: int) -> bytes:
        try:
            return system.pread(descriptor, count, offset)
        except OSError as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: OSError) -> CorruptCheckpoint:
        message = f"cannot read {self.path}: {reason(error)}"
        return CorruptCheckpoint(message, path=self.path, hint=_HINTS.get(error.errno or 0))


class Span(NamedTuple):
    """Bytes of a file. `crc` is the CRC-32 that is on record for them (0: none is), `name` what errors call them."""

    file: SourceFile
    offset: int
    size: int
    crc: int = 0
    name: str = ""

    def chunks(self) -> Iterator[bytes]:
        """The bytes, a chunk at a time."""
        return self.file.chunks(self.offset, self.size)

    def views(self) -> Iterator[memoryview]:
        """The bytes in one buffer: each part is gone when the next one comes."""
        return self.file.views(self.offset, self.size)


def _seek(descriptor: int, offset: int, what: int) -> int | None:
    """The next data or hole from an offset on; None if there is no more, or the file system does not tell."""
    try:
        return system.lseek(descriptor, offset, what)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        return offset if what == os.SEEK_DATA else None


def head_of(path: str | os.PathLike[str], count: int) -> bytes:
    """The first bytes of a file, fewer where it has no more; raises OSError."""
    descriptor, head = system.open(path, os.O_RDONLY | os.O_NONBLOCK), b""
    try:
        while len(head) < count and (part := system.pread(descriptor, count - len(head), len(head))):
            head += part
    finally:
        system.close(descriptor)
    return head


def reason(error: OSError) -> str:
    """What the system says, in its words."""
    return error.strerror or str(error)
