"""Where an output may stand: nothing is replaced unasked, and nothing that is none of ours."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ckptdoctor.errors import OutputError
from ckptdoctor.files import system
from ckptdoctor.files.output import status_of, writing
from ckptdoctor.files.source import head_of


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """The real path to write to (links followed), if it may be written; raises OutputError with the reason if not."""
    final = Path(os.path.realpath(path))
    old = status_of(final)
    if old is not None and not stat.S_ISREG(old.st_mode):
        raise OutputError(f"{path} exists and is not a regular file", path=path, hint="give another output")
    if old is not None and not overwrite:
        raise OutputError(f"{path} exists", path=path, hint="give another output, or --overwrite to replace it")
    _check_parent(final, path)
    return final


def check_output_folder(path: str | os.PathLike[str], *, replaceable: Sequence[str] | None) -> Path:
    """The real path of a folder that is to be written; raises OutputError where something else is there.

    `replaceable` are the files of which all that stands there has to be one, if it may be replaced; None if it may not.
    """
    final = Path(os.path.realpath(path))
    old = status_of(final)
    if old is None:
        _check_parent(final, path)
        return final
    if not stat.S_ISDIR(old.st_mode):
        raise OutputError(f"{path} exists and is no folder", path=path, hint="give another output")
    with writing(final):
        found = sorted(system.listdir(final))
    if not found:
        return final
    if replaceable is None:
        raise OutputError(f"{path} exists", path=path, hint="give another output, or --overwrite to replace it")
    if foreign := [name for name in found if name not in replaceable]:
        message = f"{path} holds files that ckptdoctor did not write there: {', '.join(map(repr, foreign[:5]))}"
        raise OutputError(message, path=path, hint="give another output, or remove the folder first")
    return final


def check_rewritable(path: str | os.PathLike[str], text: str) -> None:
    """Raise OutputError if `text`, or a text that begins like it, may not be written to `path`.

    It may replace an older one of its kind. JSON of ours begins with its schema, whose name up to the version says the kind.
    """
    final = check_output(path, overwrite=True)
    if status_of(final) is None:
        return
    with writing(final):
        head = head_of(final, 4096)
    kind = text.encode()[: text.find("/1")] if text.startswith("{") else b""
    if b"\0" in head or (head and not head.startswith(kind)) or (head.startswith(b"{") and not kind):
        hint = "give another name, or remove it first"
        raise OutputError(f"{path} exists, and is not an older file of this kind", path=path, hint=hint)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to one file; raises OutputError where the system does not tell."""
    statuses = status_of(one), status_of(other)
    return statuses[0] is not None and statuses[1] is not None and os.path.samestat(statuses[0], statuses[1])


def _check_parent(final: Path, path: str | os.PathLike[str]) -> None:
    parent = status_of(final.parent)
    if parent is None or not stat.S_ISDIR(parent.st_mode):
        raise OutputError(f"there is no folder {final.parent}", path=path, hint=f"mkdir -p {final.parent}")
