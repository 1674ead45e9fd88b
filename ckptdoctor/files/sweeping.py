"""The hidden folder beside an output in which everything stands until it takes its place: its name, its lock, and its end.

A run that is killed leaves one such folder, `.NAME.HOST.PID-RANDOM.ckptdoctor-tmp`. The next one that writes beside it removes
it, if the host is this one, no process has the PID, and its lock can be taken: on a file system that several hosts share, or
that has no locks, it stays. Only folders of our own are touched, of exactly this form, and no link is followed.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from pathlib import Path

from ckptdoctor.files import system

MODE = 0o700
KEPT = ".kept"
"""In the hidden folder: where an older output waits, between two renames, until the new one stands in its place."""
_NAME = re.compile(r"\..{1,40}\.([0-9A-Za-z-]{1,40})\.([0-9]{1,10})-[0-9a-f]{8}\.ckptdoctor-tmp", re.DOTALL)


def temporary_folder(final: Path) -> Path:
    """A hidden name beside an output that nothing else has."""
    return final.with_name(f".{final.name[:40]}.{_host()}.{os.getpid()}-{os.urandom(4).hex()}.ckptdoctor-tmp")


def lock_of(folder: Path) -> int:
    """A descriptor that locks a folder as long as it is open; raises OSError where it is locked, or cannot be."""
    descriptor = system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        system.flock(descriptor)
    except BaseException:
        system.close(descriptor)
        raise
    return descriptor


def sweep(folder: Path) -> None:
    """Remove what dead runs have left in a folder. It raises nothing: what cannot be removed stays."""
    with suppress(OSError):
        for name in system.listdir(folder):
            found = _NAME.fullmatch(name)
            if found is not None and found[1] == _host() and not _alive(int(found[2])):
                with suppress(OSError):
                    _remove_dead(folder / name)


def discard(temporary: Path) -> None:
    """Remove a hidden folder with all that is in it; an older output that was set aside, and not replaced, comes back."""
    for name in _names(temporary / KEPT):
        _put_back(temporary / KEPT / name, temporary.parent / name)
    with suppress(FileNotFoundError):
        system.rmtree(temporary)


def _names(folder: Path) -> list[str]:
    try:
        return system.listdir(folder)
    except FileNotFoundError:
        return []


def _put_back(kept: Path, final: Path) -> None:
    try:
        system.lstat(final)
    except FileNotFoundError:
        system.rename(kept, final)


def _remove_dead(temporary: Path) -> None:
    descriptor = lock_of(temporary)
    try:
        status = system.fstat(descriptor)
        if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o777 == MODE:
            discard(temporary)
    finally:
        system.close(descriptor)


def _host() -> str:
    """This host, as it stands in names."""
    return re.sub("[^0-9A-Za-z-]", "-", os.uname().nodename)[:40] or "localhost"


def _alive(number: int) -> bool:
    """Whether there is such a process; one that cannot be told from one counts."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
