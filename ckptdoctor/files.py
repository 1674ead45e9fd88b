"""Files without surprises: reading that notices truncation and change, writing that leaves the old file or the new one.

`SourceFile` reads at offsets (never through a mapping: a mapped file that shrinks kills the process). `replacing` is the
only way in which anything is written: a temporary file beside the output, fsync, rename, fsync of the folder.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptdoctor.errors import CheckpointNotFound, CorruptCheckpoint, OutputError

CHUNK = 1 << 20
Observer = Callable[[bytes], object]
"""Is shown every chunk of bytes that passes (a digest, a progress bar)."""


class SourceFile:
    """A file opened for reading at offsets. Close it, or use it in a `with`."""

    _descriptor = -1

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointNotFound(f"cannot read {self.path}: {_reason(error)}", path=path) from None
        self._opened = os.fstat(self._descriptor)
        if not stat.S_ISREG(self._opened.st_mode):
            self.close()
            raise CheckpointNotFound(f"{self.path} is not a regular file", path=path)

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._opened.st_size

    def __enter__(self) -> SourceFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()  # for whoever meets an error before there is anything that could be closed

    def close(self) -> None:
        """Close the file; twice does no harm."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def read(self, offset: int, count: int) -> bytes:
        """Exactly `count` bytes at `offset`; raises CorruptCheckpoint where the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise CorruptCheckpoint(f"{self.path} ends before byte {offset + count:,}", path=self.path, hint=TRUNCATED)
        parts = bytearray()
        while len(parts) < count:
            part = self._pread(count - len(parts), offset + len(parts))
            if not part:
                raise CorruptCheckpoint(f"{self.path} became shorter while it was read", path=self.path)
            parts += part
        return bytes(parts)

    def chunks(self, offset: int, count: int) -> Iterator[bytes]:
        """The same bytes, a chunk at a time."""
        while count:
            size = min(CHUNK, count)
            yield self.read(offset, size)
            offset, count = offset + size, count - size

    def check_unchanged(self) -> None:
        """Raise CorruptCheckpoint if the file was written to since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._opened.st_size, self._opened.st_mtime_ns):
            raise CorruptCheckpoint(f"{self.path} changed while it was read", path=self.path, hint="run it again")

    def _pread(self, count: int, offset: int) -> bytes:
        try:
            return os.pread(self._descriptor, count, offset)
        except OSError as error:
            raise CorruptCheckpoint(f"cannot read {self.path}: {_reason(error)}", path=self.path) from None


TRUNCATED = "the file is truncated: copy or download it again"


class OutputFile:
    """The temporary file behind an output: at `temporary`, written up to `position`."""

    def __init__(self, descriptor: int, path: Path, temporary: Path) -> None:
        self._descriptor = descriptor
        self._path = path
        self.temporary = temporary
        self.position = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append all of `data`."""
        view = memoryview(data).cast("B")
        while view:
            try:
                written = os.write(self._descriptor, view)
            except OSError as error:
                raise output_error(self._path, error) from None
            self.position += written
            view = view[written:]

    def copy(self, source: SourceFile, offset: int, count: int, *observers: Observer) -> None:
        """Append `count` bytes of `source` from `offset` on, and show them to the observers."""
        for chunk in source.chunks(offset, count):
            self.write(chunk)
            for observe in observers:
                observe(chunk)

    def sync(self) -> None:
        """Wait until everything is on the disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise output_error(self._path, error) from None


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """The real path to write to (links followed), if it may be written; raises OutputError with the reason if not."""
    final = Path(os.path.realpath(path))
    try:
        mode: int | None = final.stat().st_mode
    except FileNotFoundError:
        mode = None
    except OSError as error:
        raise output_error(final, error) from None
    if mode is not None and not stat.S_ISREG(mode):
        raise OutputError(f"{path} exists and is not a regular file", path=path, hint="give another output")
    if mode is not None and not overwrite:
        raise OutputError(f"{path} exists", path=path, hint="give another output, or --overwrite to replace it")
    if not final.parent.is_dir():
        raise OutputError(f"there is no folder {final.parent}", path=path, hint=f"mkdir -p {final.parent}")
    return final


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[OutputFile]:
    """Write to a temporary file that takes the place of `path` at the end, or goes away if anything is raised."""
    final = check_output(path, overwrite=overwrite)
    temporary, descriptor = _create_beside(final)
    try:
        try:
            output = OutputFile(descriptor, final, temporary)
            yield output
            output.sync()
        finally:
            os.close(descriptor)
        _publish(temporary, final, overwrite=overwrite)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool) -> None:
    """Write a small text file the same safe way."""
    with replacing(path, overwrite=overwrite) as output:
        output.write(text.encode("utf-8"))


def rewrite_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a report, a manifest or a receipt, which may replace an older one of its kind, and nothing else.

    Raises OutputError where something else stands there: a checkpoint, or JSON of another kind.
    """
    check_rewritable(path, text)
    write_text(path, text, overwrite=True)


def check_rewritable(path: str | os.PathLike[str], text: str) -> None:
    """Raise OutputError if `text`, or a text that begins like it, may not be written to `path`.

    JSON of ours begins with its schema, whose name up to the version says the kind.
    """
    final = check_output(path, overwrite=True)
    if not final.exists():
        return
    with final.open("rb") as file:
        head = file.read(4096)
    kind = text.encode()[: text.find("/1")] if text.startswith("{") else b""
    if b"\0" in head or (head and not head.startswith(kind)) or (head.startswith(b"{") and not kind):
        hint = "give another name, or remove it first"
        raise OutputError(f"{path} exists, and is not an older file of this kind", path=path, hint=hint)


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
    return OutputError(f"cannot write {path}: {_reason(error)}", path=path, hint=hints.get(error.errno or 0))


def _create_beside(final: Path) -> tuple[Path, int]:
    mode = stat.S_IMODE(final.stat().st_mode) if final.exists() else 0o666
    temporary = final.with_name(f".{final.name[:40]}.{os.getpid()}-{os.urandom(4).hex()}.ckptdoctor-tmp")
    try:
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        if final.exists():
            os.fchmod(descriptor, mode)
    except OSError as error:
        raise output_error(final, error) from None
    return temporary, descriptor


def _publish(temporary: Path, final: Path, *, overwrite: bool) -> None:
    try:
        if overwrite:
            temporary.replace(final)
        else:
            _link_new(temporary, final)
    except FileExistsError:
        raise OutputError(
            f"{final} was made by somebody else meanwhile", path=final, hint="nothing was replaced"
        ) from None
    except OSError as error:
        raise output_error(final, error) from None
    _sync_folder(final)


def _link_new(temporary: Path, final: Path) -> None:
    """A rename that never replaces: a hard link fails where something exists; file systems without links get a check."""
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:
        if final.exists():
            raise FileExistsError(final) from None
        temporary.replace(final)


def _sync_folder(final: Path) -> None:
    try:
        descriptor = os.open(final.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        message = f"{final} is written and in place, but its folder could not be synced: {_reason(error)}"
        raise OutputError(message, path=final, hint="check the file system before you rely on it") from None


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
