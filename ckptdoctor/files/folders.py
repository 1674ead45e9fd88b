"""A folder that is written as a whole: its files stand in a temporary folder beside it, which takes its name at the end."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptdoctor.errors import OutputError
from ckptdoctor.files.kernel import exchange
from ckptdoctor.files.output import OutputFile, output_error
from ckptdoctor.files.publishing import sync_folder, sync_place, temporary_name


class OutputFolder:
    """The temporary folder behind an output, at `temporary`, and the sizes of the files that were written into it."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path = path
        self.temporary = temporary
        self.sizes: dict[str, int] = {}

    @contextmanager
    def file(self, name: str) -> Iterator[OutputFile]:
        """A new file in it; synced at the end."""
        place = self.temporary / name
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise output_error(self._path / name, error) from None
        try:
            output = OutputFile(descriptor, self._path / name, place)
            yield output
            output.finish()
            self.sizes[name] = output.position
        finally:
            os.close(descriptor)

    def link(self, source: Path, name: str) -> bool:
        """Make a file in it a hard link to another; whether the file system can."""
        try:
            os.link(os.path.realpath(source), self.temporary / name)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
                return False
            raise output_error(self._path / name, error) from None
        self.sizes[name] = (self.temporary / name).stat().st_size
        return True

    def write_text(self, name: str, text: str) -> None:
        """Write a small text file into it."""
        with self.file(name) as output:
            output.write(text.encode("utf-8"))


def check_output_folder(path: str | os.PathLike[str], *, replaceable: Sequence[str] | None) -> Path:
    """The real path of a folder that is to be written; raises OutputError where something else is there.

    `replaceable` are the files of which all that stands there has to be one, if it may be replaced; None if it may not.
    """
    final = Path(os.path.realpath(path))
    if not final.parent.is_dir():
        raise OutputError(f"there is no folder {final.parent}", path=path, hint=f"mkdir -p {final.parent}")
    if not final.exists():
        return final
    if not final.is_dir():
        raise OutputError(f"{path} exists and is no folder", path=path, hint="give another output")
    found = sorted(each.name for each in final.iterdir())
    if not found:
        return final
    if replaceable is None:
        raise OutputError(f"{path} exists", path=path, hint="give another output, or --overwrite to replace it")
    if foreign := [name for name in found if name not in replaceable]:
        message = f"{path} holds files that ckptdoctor did not write there: {', '.join(map(repr, foreign[:5]))}"
        raise OutputError(message, path=path, hint="give another output, or remove the folder first")
    return final


@contextmanager
def replacing_folder(final: Path) -> Iterator[OutputFolder]:
    """Write into a temporary folder that takes the place of `final` at the end, or goes away if anything is raised.

    `final` has been looked at by `check_output_folder`.
    """
    temporary = temporary_name(final)
    try:
        temporary.mkdir()
    except OSError as error:
        raise output_error(final, error) from None
    try:
        yield OutputFolder(final, temporary)
        _publish(temporary, final)
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(temporary)


def _publish(temporary: Path, final: Path) -> None:
    """Rename; what stood there is then under the temporary name. An empty folder is replaced as if it were not there."""
    try:
        sync_folder(temporary)
        if final.exists() and any(final.iterdir()):
            if not exchange(temporary, final):
                _swap(temporary, final)
        else:
            temporary.rename(final)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            message = f"{final} was made by somebody else meanwhile"
            raise OutputError(message, path=final, hint="nothing was replaced") from None
        raise output_error(final, error) from None
    sync_place(final)


def _swap(temporary: Path, final: Path) -> None:
    """Two renames, where the file system cannot exchange two names; the old folder comes back if the second fails."""
    aside = temporary.with_name(temporary.name + "-old")
    final.rename(aside)
    try:
        temporary.rename(final)
    except OSError:
        aside.rename(final)
        raise
    aside.rename(temporary)
