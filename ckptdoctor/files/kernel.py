"""Bytes from file to file as the kernel does it best.

Measured on ext4 (benchmarks/): with the output preallocated and both places alike modulo a page, `copy_file_range` is as fast
as `cp` or faster, and on a file system with reflinks it shares the blocks. Unlike modulo a page, pages have to be taken apart;
then a buffer that fits into the cache, written page by page, is faster than the kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from ckptdoctor.files import system

PAGE = 4096
STEP = 1 << 26
"""Bytes that are copied at most before anybody hears of it."""
_BUFFER = 1 << 18
_UNABLE = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EPERM}
_UNCLEAR = {errno.EIO, errno.ESTALE}
"""The kernel does not say on which side; whoever reads and writes does."""
Read: TypeAlias = Callable[[int, memoryview, int], int]
"""Fills a buffer from a descriptor at an offset, with an error of the source's own."""


def copy_some(source: int, offset: int, output: int, position: int, count: int, read: Read) -> int:
    """Copy up to `count` bytes between two descriptors; returns how many went (0: the source ends).

    Raises OSError where they cannot be written, and what `read` raises.
    """
    count = min(count, STEP)
    if (offset - position) % PAGE == 0:
        if count > _BUFFER:  # whole pages by themselves: a file system with reflinks shares no others
            count = -offset % PAGE or count - (offset + count) % PAGE
        try:
            if moved := _in_kernel(source, offset, output, position, count):
                return moved
        except OSError as error:
            if error.errno not in _UNABLE | _UNCLEAR:
                raise
    return _through_buffer(source, offset, output, position, count, read)


def preallocate(descriptor: int, size: int) -> None:
    """Reserve blocks for a file, where the file system can; raises OSError where there is no room for them."""
    try:
        if size > 0:
            system.fallocate(descriptor, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step, where the file system can; whether it could. Raises OSError."""
    try:
        system.exchange(one, other)
    except OSError as error:
        if error.errno in _UNABLE:
            return False
        raise
    return True


def _in_kernel(source: int, offset: int, output: int, position: int, count: int) -> int:
    try:
        return system.copy_file_range(source, output, count, offset, position)
    except OSError as error:
        if error.errno not in _UNABLE:
            raise
    system.lseek(output, position, os.SEEK_SET)
    return system.sendfile(output, source, offset, count)


def _through_buffer(source: int, offset: int, output: int, position: int, count: int, read: Read) -> int:
    """By way of memory; every write but the first begins at a page of the output."""
    moved, buffer = 0, memoryview(bytearray(min(count, _BUFFER)))
    while moved < count:
        size = min(count - moved, _BUFFER - (position + moved) % PAGE)
        found = read(source, buffer[:size], offset + moved)
        if not found:
            break
        written = 0
        while written < found:
            written += system.pwrite(output, buffer[written:found], position + moved + written)
        moved += found
    return moved
