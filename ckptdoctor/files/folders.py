"""A folder that is written as a whole, file by file."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ckptdoctor.files import system
from ckptdoctor.files.output import OutputFile, adopt, new_file, output_error, status_of, writing
from ckptdoctor.files.staging import sync_folder


class OutputFolder:
    """The temporary folder behind an output, at `temporary`."""

    def __init__(self, path: Path, temporary: Path) -> None:
        self._path = path
        self.temporary = temporary

    def file(self, name: str) -> AbstractContextManager[OutputFile]:
        """A new file in it; synced at the end."""
        return new_file(self.temporary / name, self._path / name)

    def link(self, source: Path, name: str) -> bool:
        """Make a file in it a hard link to another; whether the file system can."""
        try:
            system.link(os.path.realpath(source), self.temporary / name)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES):
                return False
            raise output_error(self._path / name, error) from None
        return True

    def put(self, name: str, text: str) -> None:
        """A small text file."""
        with self.file(name) as output:
            output.write(text.encode("utf-8"))


@contextmanager
def new_folder(place: Path, final: Path) -> Iterator[OutputFolder]:
    """A new folder at `place`, synced at the end, that will stand at `final`: with the mode of what stands there now."""
    old = status_of(final)
    with writing(final):
        system.mkdir(place)
        descriptor = system.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        adopt(descriptor, old, final)
    finally:
        system.close(descriptor)
    yield OutputFolder(final, place)
    with writing(final):
        sync_folder(place)
