"""One file that takes its place, or is as it was."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ckptdoctor.errors import OutputError
from ckptdoctor.files.output import OutputFile, new_file
from ckptdoctor.files.places import check_output, check_rewritable
from ckptdoctor.files.staging import in_place, staged


@contextmanager
def replacing(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[OutputFile]:
    """Write to a temporary file that takes the place of `path` at the end, or goes away if anything is raised."""
    final = check_output(path, overwrite=overwrite)
    with staged(final, overwrite=overwrite) as staging, new_file(staging.main, final) as output:
        yield output


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


@contextmanager
def once_in_place(final: str | os.PathLike[str]) -> Iterator[None]:
    """What goes wrong in here does so when an output is in its place already, and says so."""
    try:
        yield
    except OutputError as error:
        message = f"{in_place(Path(final))}, but {error.message}"
        raise OutputError(message, path=error.path, hint=error.hint) from None
    except BaseException as error:
        error.add_note(in_place(Path(final)))
        raise
