"""Every call to the system that reads or writes files of users, one thin function each; nothing else in the package makes one.

It is what SQLite calls its VFS: `perform` is the one way down, so whoever takes its place (tests/security/faults.py) sees every
call by its name, and can let any of them fail, fall short or be the last. A call that a signal interrupted is made again
here; Python does that itself for most, not for names, reservations and whatever goes through ctypes. All raise OSError.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, TypeAlias, TypeVar

if TYPE_CHECKING:
    from ctypes import CDLL

Name: TypeAlias = str | os.PathLike[str]
T = TypeVar("T")
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD, RENAME_EXCHANGE


def perform(name: str, call: Callable[..., T], *arguments: object) -> T:  # noqa: ARG001 - for whoever takes its place
    """Make a call; `name` is that of the function below."""
    return call(*arguments)


def _again(name: str, call: Callable[..., T], *arguments: object) -> T:
    """Make a call until no signal interrupts it; what the signal's handler raises ends it."""
    while True:
        try:
            return perform(name, call, *arguments)
        except InterruptedError:
            continue


# ---- descriptors -------------------------------------------------------------------------------------------------------


def open(path: Name, flags: int, mode: int = 0o666) -> int:
    """A descriptor, which no child process inherits."""
    return _again("open", os.open, path, flags | os.O_CLOEXEC, mode)


def close(descriptor: int) -> None:
    """Close; what an error could tell here, `fsync` has told before."""
    try:
        perform("close", os.close, descriptor)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise


def pread(descriptor: int, count: int, offset: int) -> bytes:
    """Up to `count` bytes at an offset; none at the end of the file."""
    return _again("pread", os.pread, descriptor, count, offset)


def preadv(descriptor: int, buffer: memoryview, offset: int) -> int:
    """The same into a buffer; returns how many."""
    return _again("preadv", os.preadv, descriptor, [buffer], offset)


def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
    """Write some of `data` at an offset; returns how many bytes, at least one."""
    written = _again("pwrite", os.pwrite, descriptor, data, offset)
    if data and not written:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return written


def copy_file_range(source: int, output: int, count: int, offset: int, position: int) -> int:
    """Copy up to `count` bytes between files in the kernel; returns how many."""
    if not hasattr(os, "copy_file_range"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return _again("copy_file_range", os.copy_file_range, source, output, count, offset, position)


def sendfile(output: int, source: int, offset: int, count: int) -> int:
    """The same, to where `lseek` has put the output."""
    return _again("sendfile", os.sendfile, output, source, offset, count)


def lseek(descriptor: int, offset: int, what: int) -> int:
    """Move, or look for data and holes."""
    return _again("lseek", os.lseek, descriptor, offset, what)


def ftruncate(descriptor: int, size: int) -> None:
    """Make a file so long."""
    _again("ftruncate", os.ftruncate, descriptor, size)


def fallocate(descriptor: int, size: int) -> None:
    """Reserve blocks. Not `os.posix_fallocate`, which writes to every block where the file system cannot."""
    _again("fallocate", _fallocate, descriptor, size)


def fsync(descriptor: int) -> None:
    """Wait until a file or a folder is on the disk."""
    _again("fsync", os.fsync, descriptor)


def fstat(descriptor: int) -> os.stat_result:
    """What an opened file is."""
    return _again("fstat", os.fstat, descriptor)


def fchmod(descriptor: int, mode: int) -> None:
    """Set the mode."""
    _again("fchmod", os.fchmod, descriptor, mode)


def fchown(descriptor: int, owner: int, group: int) -> None:
    """Set owner and group."""
    _again("fchown", os.fchown, descriptor, owner, group)


def flock(descriptor: int) -> None:
    """Lock for this process alone; raises at once where another has locked it, or the file system cannot."""
    _again("flock", fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


# ---- names -------------------------------------------------------------------------------------------------------------


def stat(path: Name) -> os.stat_result:
    """What a path leads to."""
    return _again("stat", os.stat, path)


def lstat(path: Name) -> os.stat_result:
    """What stands at a path, be it a link."""
    return _again("lstat", os.lstat, path)


def listdir(path: Name) -> list[str]:
    """The names in a folder."""
    return _again("listdir", os.listdir, path)


def mkdir(path: Name, mode: int = 0o777) -> None:
    """Make a folder, where nothing is."""
    _again("mkdir", os.mkdir, path, mode)


def rename(path: Name, to: Name) -> None:
    """Move a file over whatever file is there, or a folder to where none, or an empty one, is."""
    _again("rename", os.rename, path, to)


def exchange(path: Name, other: Name) -> None:
    """Exchange two names in one step."""
    _again("exchange", _exchange, path, other)


def link(path: Name, to: Name) -> None:
    """A hard link, where nothing is."""
    _again("link", os.link, path, to)


def rmtree(path: Name) -> None:
    """Remove a folder of our own; follows no link."""
    _again("rmtree", shutil.rmtree, path)


# ---- through the C library ---------------------------------------------------------------------------------------------


def _fallocate(descriptor: int, size: int) -> None:
    import ctypes

    if _library().fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)) == -1:
        raise _last_error()


def _exchange(path: Name, other: Name) -> None:
    if _library().renameat2(_HERE, os.fsencode(path), _HERE, os.fsencode(other), _EXCHANGE) == -1:
        raise _last_error()


def _last_error() -> OSError:
    import ctypes

    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


@cache
def _library() -> CDLL:
    """The C library, if it has these two (Linux)."""
    import ctypes

    library = ctypes.CDLL(None, use_errno=True)
    if not (hasattr(library, "fallocate") and hasattr(library, "renameat2")):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    return library
