"""Which files of a folder are the shards of a checkpoint, by the names that Hugging Face gives them.

An index decides, where there is one; without it all files of the kind belong together. A name leads to a regular file in the
folder itself. The one way out that is allowed is that of the hub's cache: `snapshots/REVISION/NAME -> ../../blobs/HASH`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from ckptdoctor.errors import CheckpointError, CorruptCheckpoint
from ckptdoctor.text import listing, plural, printable

INDEX = ".index.json"
_NUMBERED = re.compile(r"(.+)-(\d{5,7})-of-(\d{5,7})(\.\w+)")


class Family(NamedTuple):
    """One kind of folder: the name of the format, those of its shards, and how files are called."""

    name: str
    shards: tuple[str, ...]
    suffix: str
    stem: str

    def is_shard(self, name: str) -> bool:
        """Whether a file of this name is one of the weights. Other torch files are called .bin, too."""
        if not name.endswith(self.suffix):
            return False
        return self.suffix == SAFETENSORS.suffix or re.fullmatch(r".*model(-\d+-of-\d+)?\.bin", name) is not None


SAFETENSORS = Family("sharded", ("safetensors",), ".safetensors", "model")
TORCH = Family("sharded-torch", ("torch", "torch-legacy"), ".bin", "pytorch_model")


class Layout(NamedTuple):
    """A folder with shards: the index, if there is one, and the names of the shards; without an index they are all here."""

    folder: Path
    index_path: Path | None
    shards: tuple[str, ...] = ()


def find_layout(path: Path, family: Family) -> Layout | None:
    """The layout of a folder, or of the folder of an index that is given itself; None where it is of another kind."""
    if not path.is_dir():
        return Layout(path.parent, path) if path.name.endswith(family.suffix + INDEX) else None
    names = file_names(path)
    indexes = [name for name in names if name.endswith(family.suffix + INDEX)]
    if len(indexes) > 1:
        raise CheckpointError(
            f"{path} has {len(indexes)} indexes: {listing(indexes)}",
            path=path,
            hint="give the index that you mean",
        )
    if indexes:
        return Layout(path, path / indexes[0])
    shards = tuple(name for name in names if family.is_shard(name))
    return Layout(path, None, shards) if shards else None


def file_names(folder: Path) -> list[str]:
    """The files in a folder, but for hidden ones, in the order of their names."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if not entry.name.startswith(".")]
    return sorted(name for name in names if not os.path.isdir(folder / name))  # noqa: PTH112 - False for a loop of links


def check_complete(folder: Path, names: Iterable[str]) -> None:
    """Raise CorruptCheckpoint where files are numbered, and one is missing."""
    found = set(names)
    matches = [match for name in found if (match := _NUMBERED.fullmatch(name)) is not None]
    for stem, count, suffix in sorted({(match[1], match[3], match[4]) for match in matches}):
        wanted = (f"{stem}-{number:0{len(count)}d}-of-{count}{suffix}" for number in range(1, int(count) + 1))
        missing = list(islice((name for name in wanted if name not in found), len(found) + 10))
        if missing:
            raise missing_shards(folder, missing)


def missing_shards(folder: Path, names: list[str]) -> CorruptCheckpoint:
    """The error for shards that are not there."""
    what = plural(len(names), "shard")
    return CorruptCheckpoint(f"{folder} lacks {what}: {listing(names)}", path=folder, hint="copy or download it again")


def shard_path(folder: Path, name: str) -> Path | None:
    """The path of a shard, None where it is not there; raises CorruptCheckpoint where its name leads out of the folder."""
    if not name or name in (".", "..") or re.search(r"[/\\\0]", name):
        raise _outside(folder, name)
    path = folder / name
    try:
        if path.is_symlink() and not _is_at_home(path, folder):
            raise _outside(folder, name)
        return path if path.exists() else None
    except OSError as error:  # a name that is too long, a loop of links, a folder that may not be read
        raise CorruptCheckpoint(
            f"cannot look at {printable(name)} in {folder}: {error.strerror}", path=folder
        ) from None


def _is_at_home(link: Path, folder: Path) -> bool:
    real, home = Path(os.path.realpath(link)), Path(os.path.realpath(folder))
    blobs = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    return real.parent in (home, blobs)


def _outside(folder: Path, name: str) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{folder} names a shard outside of it: {printable(name)}",
        path=folder,
        hint="shards are files in the folder itself; put copies there if you trust them",
    )
