"""How an output gets to its place: all of it stands in a hidden folder beside it, and then moves, the small files last.

The small files that belong beside an output (its receipt, a sidecar) are complete and synced before the output takes its place,
so that no full disk leaves a new output with an old receipt. From there on only names change.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeAlias

from ckptdoctor.errors import OutputError
from ckptdoctor.files import system
from ckptdoctor.files.kernel import exchange
from ckptdoctor.files.output import new_file, output_error, status_of, writing
from ckptdoctor.files.places import check_rewritable
from ckptdoctor.files.source import reason
from ckptdoctor.files.sweeping import KEPT, MODE, discard, lock_of, sweep, temporary_folder

_Identity: TypeAlias = tuple[int, int]
"""Device and number of a file."""


class Staging:
    """The hidden folder behind an output: `main` is where the output stands until it takes its place at `final`.

    `notes` are what a user should know in the end.
    """

    def __init__(self, final: Path, *, overwrite: bool) -> None:
        self.final = final
        self.notes: list[str] = []
        self._overwrite = overwrite
        self._folder = temporary_folder(final)
        self.main = self._folder / final.name
        self._beside: dict[str, _Identity] = {}
        self._own: _Identity | None = None
        self._lock = -1

    def make(self) -> None:
        """Make the folder, and lock it; what dead runs have left goes first."""
        sweep(self.final.parent)
        with writing(self.final):
            system.mkdir(self._folder, MODE)
        with suppress(OSError):  # without a lock, nobody else gets one either
            self._lock = lock_of(self._folder)

    def put_beside(self, suffix: str, text: str) -> None:
        """A small file that takes its place right after the output, beside it: over an older one of its kind alone."""
        final = self.final.with_name(self.final.name + suffix)
        check_rewritable(final, text)
        with new_file(self._folder / final.name, final) as file:
            file.write(text.encode("utf-8"))
        with writing(final):
            self._beside[final.name] = _identity(self._folder / final.name)

    def publish(self) -> None:
        """Everything takes its place. Raises OutputError, which says so where the output itself is in place."""
        with writing(self.final):
            self._own = _identity(self.main)
        try:
            self._move()
        except OSError as error:
            if not self.placed:  # as it may be: on a network, answers get lost
                raise self._not_moved(error) from None
        self.settle()

    @property
    def placed(self) -> bool:
        """Whether the output stands in its place."""
        return self._own is not None and _is(self.final, self._own)

    def settle(self) -> None:
        """The small files follow; then wait until all names are on the disk. What was done already is not done again."""
        for name, own in self._beside.items():
            final = self.final.with_name(name)
            try:
                system.rename(self._folder / name, final)
            except OSError as error:
                if not _is(final, own):
                    hint = f"{name} is none, or that of an older one: remove {self.final} and run it again"
                    raise self._in_place_but(f"{name} could not be put beside it", error, hint) from None
        try:
            sync_folder(self.final.parent)
        except OSError as error:
            hint = "check the file system before you rely on it"
            raise self._in_place_but("its folder could not be synced", error, hint) from None

    def remove(self) -> None:
        """Remove the folder; where that fails, `notes` say so."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            system.close(lock)
        for _ in range(2):  # what is wrong may be so for a moment
            self.notes.clear()
            try:
                discard(self._folder)
                break
            except OSError as error:
                self.notes.append(f"{self._folder} could not be removed: {reason(error)}")

    def _in_place_but(self, what: str, error: OSError, hint: str) -> OutputError:
        message = f"{self.final} is written and in place, but {what}: {reason(error)}"
        return OutputError(message, path=self.final, hint=hint)

    def _not_moved(self, error: OSError) -> OutputError:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
            message = f"{self.final} was made by somebody else meanwhile"
            return OutputError(message, path=self.final, hint="nothing was replaced")
        return output_error(self.final, error)

    def _move(self) -> None:
        if stat.S_ISDIR(system.stat(self.main).st_mode):
            self._move_folder()
        elif self._overwrite:
            system.rename(self.main, self.final)
        else:
            _link_new(self.main, self.final)

    def _move_folder(self) -> None:
        """What stood there is then in the hidden folder. An empty folder is replaced as if it were not there."""
        there = self._overwrite and status_of(self.final) is not None and system.listdir(self.final)
        if there:
            if exchange(self.main, self.final):
                return
            kept = self._folder / KEPT  # two renames; `discard` takes the first back where the second does not come
            system.mkdir(kept)
            system.rename(self.final, kept / self.final.name)
        system.rename(self.main, self.final)


@contextmanager
def staged(final: Path, *, overwrite: bool) -> Iterator[Staging]:
    """Write at `main`, and beside; at the end all of it takes its place, or goes away if anything is raised.

    `final` has been looked at by `check_output` or `check_output_folder`. A signal that comes once the output is in its place
    does not keep the small files from theirs.
    """
    staging = Staging(final, overwrite=overwrite)
    try:
        try:
            staging.make()
            yield staging
            staging.publish()
        except (KeyboardInterrupt, MemoryError):
            if staging.placed:
                staging.settle()
            raise
        finally:
            staging.remove()
    except BaseException as error:
        staging.remove()  # again, if a signal came in between
        if isinstance(error, KeyboardInterrupt | MemoryError):
            error.add_note(in_place(final) if staging.placed else "nothing was replaced")
        for note in staging.notes:
            error.add_note(note)
        raise


def in_place(final: Path) -> str:
    """How a message says so."""
    return f"{final} is written and in place"


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where the file system knows of such a thing; raises OSError."""
    descriptor = system.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        system.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
            raise
    finally:
        system.close(descriptor)


def _link_new(path: Path, final: Path) -> None:
    """A rename that never replaces: a hard link fails where something exists; file systems without links get a check."""
    try:
        system.link(path, final)
    except FileExistsError:
        raise
    except OSError:
        if status_of(final) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), final) from None
        system.rename(path, final)


def _identity(path: Path) -> _Identity:
    status = system.stat(path)
    return status.st_dev, status.st_ino


def _is(path: Path, own: _Identity) -> bool:
    """Whether this very file stands at a path."""
    with suppress(OSError):
        return _identity(path) == own
    return False
