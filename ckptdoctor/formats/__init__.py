"""Checkpoint formats: one file each, listed in the tables below; a new format is one more file and one more line here."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ckptdoctor.errors import CheckpointNotFound, CorruptCheckpoint, LimitExceeded, UnknownFormat, UsageError
from ckptdoctor.files import head_of, system
from ckptdoctor.formats.base import Checkpoint, Probe, Reader, Writer
from ckptdoctor.lazy import Table
from ckptdoctor.limits import OverLimit

READERS: Table[Reader] = Table(
    {
        "torch": "ckptdoctor.formats.torch.reader:TorchReader",
        "manifest": "ckptdoctor.formats.manifest:ManifestReader",
        "safetensors": "ckptdoctor.formats.safetensors.reader:SafetensorsReader",
        "torch-legacy": "ckptdoctor.formats.legacy.reader:LegacyReader",
        "sharded": "ckptdoctor.formats.sharded.reader:ShardedReader",
        "sharded-torch": "ckptdoctor.formats.sharded.reader:TorchShardsReader",
    }
)
WRITERS: Table[Writer[Any]] = Table(
    {
        "torch": "ckptdoctor.formats.torch.writer:TorchWriter",
        "safetensors": "ckptdoctor.formats.safetensors.writer:SafetensorsWriter",
        "sharded": "ckptdoctor.formats.sharded.writer:ShardedWriter",
        "sharded-torch": "ckptdoctor.formats.sharded.writer:TorchShardsWriter",
    }
)


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint of any known format, recognised by its content.

    Raises CheckpointNotFound, UnknownFormat (with what each format said), CorruptCheckpoint or LimitExceeded.
    """
    try:
        return _opened(_probe(Path(path)), path)
    except OverLimit as over:
        raise LimitExceeded(f"{path}: {over}", path=path, hint=over.hint) from None


def _opened(probe: Probe, path: str | os.PathLike[str]) -> Checkpoint:
    refusals = []
    for reader in READERS.values():
        refusal = reader.refusal(probe)
        if refusal is None:
            return reader.open(probe.path)
        refusals.append(f"{reader.name}: {refusal}")
    from ckptdoctor.formats.lookalikes import lookalike

    if (known := lookalike(probe)) is not None:
        raise known
    tried = "; ".join(refusals)
    raise UnknownFormat(
        f"{path} is no checkpoint of a known format ({tried})",
        path=path,
        hint="checkpoints of torch.save, safetensors files, folders of shards and ckptdoctor manifests are known",
    )


def writer_for(path: str | os.PathLike[str], source_format: str, to: str | None = None) -> Writer[Any]:
    """The writer for an output: the one that is asked for, else by the ending of its name, else the format of the source.

    Raises UsageError for a format that is not known.
    """
    if to is not None:
        if to not in WRITERS:
            raise UsageError(f"no format {to} to write", hint=f"choose from {', '.join(WRITERS)}")
        return WRITERS[to]
    suffix = Path(path).suffix.lower()
    by_suffix = next((writer for writer in WRITERS.values() if suffix in writer.suffixes), None)
    return by_suffix or WRITERS[source_format if source_format in WRITERS else "torch"]


def _probe(path: Path) -> Probe:
    try:
        status = system.stat(path)
        if stat.S_ISDIR(status.st_mode):
            return Probe(path, True, 0, b"")
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointNotFound(f"{path} is not a regular file", path=path, hint="copy it to a file first")
        head = head_of(path, 4096)
    except FileNotFoundError:
        raise CheckpointNotFound(f"there is no file {path}", path=path, hint=_near(path)) from None
    except OSError as error:
        hint = "look at the path and at who may read it"
        raise CheckpointNotFound(f"cannot read {path}: {error.strerror}", path=path, hint=hint) from None
    if not status.st_size:
        raise CorruptCheckpoint(f"{path} is empty", path=path, hint="copy or download it again")
    return Probe(path, False, status.st_size, head)


def _near(path: Path) -> str:
    from ckptdoctor.text import did_you_mean

    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    try:
        near = did_you_mean(path.name, (entry.name for entry in folder.iterdir()))
    except OSError:
        near = None
    return near or f"nothing in {folder} has a name like it"
