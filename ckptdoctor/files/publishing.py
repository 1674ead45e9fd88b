"""Where an output stands, and how it gets there: nothing is replaced unasked, nothing is half there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptdoctor.errors import OutputError
from ckptdoctor.files.output import OutputFile, output_error
from ckptdoctor.files.source import reason


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
            output.finish()
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


def temporary_name(final: Path) -> Path:
    """A hidden name beside an output that nothing else has."""
    return final.with_name(f".{final.name[:40]}.{os.getpid()}-{os.urandom(4).hex()}.ckptdoctor-tmp")


def _create_beside(final: Path) -> tuple[Path, int]:
    mode = stat.S_IMODE(final.stat().st_mode) if final.exists() else 0o666
    temporary = temporary_name(final)
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
    sync_place(final)


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


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk; raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_place(final: Path) -> None:
    """The same for an output that has just been put into its place."""
    try:
        sync_folder(final.parent)
    except OSError as error:
        message = f"{final} is written and in place, but its folder could not be synced: {reason(error)}"
        raise OutputError(message, path=final, hint="check the file system before you rely on it") from None
