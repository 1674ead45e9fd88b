"""Bytes from file to file as the kernel does it best.

Measured on ext4 (benchmarks/): with the output preallocated and both places alike modulo a page, `copy_file_range` is as fast
as `cp` or faster, and on a file system with reflinks it shares the blocks. Unlike modulo a page, pages have to be taken apart;
then a buffer that fits into the cache, written page by page, is faster than the kernel.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import CDLL
    from pathlib import Path

PAGE = 4096
STEP = 1 << 26
"""Bytes that are copied at most before anybody hears of it."""
_BUFFER = 1 << 18
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
_UNABLE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}


def copy_some(source: int, offset: int, output: int, position: int, count: int) -> int:
    """Copy up to `count` bytes between two descriptors; returns how many went (0: the source ends). Raises OSError."""
    count = min(count, STEP)
    if (offset - position) % PAGE == 0:
        if count > _BUFFER:  # whole pages by themselves: a file system with reflinks shares no others
            count = -offset % PAGE or count - (offset + count) % PAGE
        try:
            if moved := _in_kernel(source, offset, output, position, count):
                return moved
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
    return _through_buffer(source, offset, output, position, count)


def preallocate(descriptor: int, size: int) -> None:
    """Reserve blocks for a file, where the file system can; raises OSError where there is no room for them.

    Not `os.posix_fallocate`, which writes to every block where the file system cannot.
    """
    library = _library()
    if library is None or size <= 0:
        return
    import ctypes

    if library.fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == -1:
        number = ctypes.get_errno()
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(number, os.strerror(number))


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, where the file system can; whether it could. Raises OSError."""
    library = _library()
    if library is None or not hasattr(library, "renameat2"):
        return False
    import ctypes

    if library.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNABLE:
        return False
    raise OSError(number, os.strerror(number))


def _in_kernel(source: int, offset: int, output: int, position: int, count: int) -> int:
    if hasattr(os, "copy_file_range"):
        try:
            return os.copy_file_range(source, output, count, offset, position)
        except OSError as error:
            if error.errno not in _UNABLE:
                raise
    os.lseek(output, position, os.SEEK_SET)
    return os.sendfile(output, source, offset, count)


def _through_buffer(source: int, offset: int, output: int, position: int, count: int) -> int:
    """By way of memory; every write but the first begins at a page of the output."""
    moved, buffer = 0, memoryview(bytearray(min(count, _BUFFER)))
    while moved < count:
        size = min(count - moved, _BUFFER - (position + moved) % PAGE)
        found = os.preadv(source, [buffer[:size]], offset + moved)
        if not found:
            break
        written = 0
        while written < found:
            written += os.pwrite(output, buffer[written:found], position + moved + written)
        moved += found
    return moved


@cache
def _library() -> CDLL | None:
    """The C library, if it has fallocate (Linux)."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    return library if hasattr(library, "fallocate") else None
