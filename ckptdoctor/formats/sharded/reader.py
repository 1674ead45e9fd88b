"""Opens a folder of shards as one checkpoint: one flat list of tensors, in the order of the files.

Nothing may be missing, doubled or claimed wrongly: keys and files of the index and of the shards agree exactly, or it is an
error that names them. The shards are closed after they were listed, and opened again for the moment that somebody reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

from ckptdoctor.errors import CheckpointError, CorruptCheckpoint
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader
from ckptdoctor.formats.sharded.index import Index, invalid, read_index
from ckptdoctor.formats.sharded.layout import (
    INDEX,
    SAFETENSORS,
    TORCH,
    Family,
    check_complete,
    file_names,
    find_layout,
    missing_shards,
    shard_path,
)
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.model import Manifest
from ckptdoctor.pickles.parse import Pickle
from ckptdoctor.text import listing, printable, shortened


class ShardedCheckpoint(Checkpoint):
    """An opened folder of shards."""

    family = SAFETENSORS
    format = SAFETENSORS.name

    def __init__(self, path: Path, folder: Path, index: Index | None, shards: Mapping[str, Checkpoint]) -> None:
        super().__init__(path, *chain.from_iterable(shard.files for shard in shards.values()))
        self.folder, self.index, self.shards = folder, index, shards
        self.metadata = _common([shard.metadata for shard in shards.values()])
        left_over = [name for name in file_names(folder) if self.family.is_shard(name) and name not in shards]
        if left_over:
            self.notes = (f"left over in {folder}, in no index, and not read: {listing(left_over)}",)
        try:
            self._manifest = Manifest.joined(shard.manifest(()) for shard in shards.values())
        except ValueError:
            raise _twice(folder, shards) from None
        self.places = {(): len(self._manifest)}
        if index is not None:
            _check_index(index, shards, self._manifest)

    @property
    def parts(self) -> Sequence[Checkpoint]:
        """The shards."""
        return list(self.shards.values())

    @property
    def pickles(self) -> Sequence[Pickle]:
        """Those of all shards."""
        return [pickle for shard in self.shards.values() for pickle in shard.pickles]

    @property
    def stem(self) -> str:
        """How its files are called, up to the number."""
        if self.index is not None:
            return self.index.path.name.removesuffix(self.family.suffix + INDEX)
        return self.family.stem

    def is_weights(self, name: str) -> bool:
        """Whether a file in the folder is a shard, looks like one, or is an index."""
        return name.endswith((SAFETENSORS.suffix, INDEX)) or TORCH.is_shard(name)

    def manifest(self, place: Place) -> Manifest:
        """All tensors of all shards."""
        return self._manifest

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """Every tensor, as its shard stores it."""
        return {key: tensor for shard in self.shards.values() for key, tensor in shard.stored(()).items()}

    def others(self, place: Place) -> list[str]:
        """What is no dense tensor in any shard."""
        return [key for shard in self.shards.values() for key in shard.others(())]


class TorchShards(ShardedCheckpoint):
    """The same with torch files for shards."""

    family = TORCH
    format = TORCH.name


class ShardedReader(Reader):
    """Opens folders of safetensors files, and their index."""

    name = SAFETENSORS.name
    opens: type[ShardedCheckpoint] = ShardedCheckpoint

    def refusal(self, probe: Probe) -> str | None:
        """A folder with such files in it, or an index of them."""
        family = self.opens.family
        if not probe.is_folder and b'"weight_map"' not in probe.head:
            return "no folder, and no index of one"
        return None if find_layout(probe.path, family) is not None else f"no {family.suffix} files in it"

    def open(self, path: Path) -> Checkpoint:
        """Read the index and list every shard; no tensor is read."""
        family = self.opens.family
        layout = find_layout(path, family)
        if layout is None:
            raise CheckpointError(f"there are no {family.suffix} files in {path}", path=path)
        index = None if layout.index_path is None else read_index(layout.index_path)
        names = layout.shards if index is None else tuple(index.files)
        if index is None:
            check_complete(layout.folder, names)
        return self.opens(path, layout.folder, index, _open_shards(layout.folder, names, family))


class TorchShardsReader(ShardedReader):
    """Opens folders of torch files that are called as transformers calls them, and their index."""

    name = TORCH.name
    opens = TorchShards


def _open_shards(folder: Path, names: Sequence[str], family: Family) -> dict[str, Checkpoint]:
    found = {name: shard_path(folder, name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        raise missing_shards(folder, missing)
    shards: dict[str, Checkpoint] = {}
    for name, path in ((name, path) for name, path in found.items() if path is not None):
        if path.is_dir() or name.endswith(INDEX):  # which could name itself
            raise _no_shard(path, folder, family)
        with ExitStack() as failed:
            shard = failed.enter_context(open_checkpoint(path))
            if shard.format not in family.shards or () not in shard.places:
                raise _no_shard(path, folder, family)
            shards[name] = shard
    return shards


def _no_shard(path: Path, folder: Path, family: Family) -> CorruptCheckpoint:
    return CorruptCheckpoint(
        f"{printable(str(path))} is no shard of {folder}: it is no {family.shards[0]} file with a state dict at its root",
        path=path,
        hint="give the file that you want itself",
    )


def _twice(folder: Path, shards: Mapping[str, Checkpoint]) -> CorruptCheckpoint:
    """The error for a key that two shards hold."""
    home: dict[str, str] = {}
    pairs = ((key, name) for name, shard in shards.items() for key in shard.manifest(()))
    key, name = next((key, name) for key, name in pairs if home.setdefault(key, name) != name)
    return CorruptCheckpoint(
        f"{printable(key)} is in two shards of {folder}: {home[key]} and {name}",
        path=folder,
        hint="give the file that you want itself, or move the other out of the folder",
    )


def _check_index(index: Index, shards: Mapping[str, Checkpoint], manifest: Manifest) -> None:
    """Raise CorruptCheckpoint where the index says something else than the shards."""
    for name, keys in index.files.items():
        listed, others = shards[name].manifest(()), shards[name].others(())
        if listed.keys() == set(keys):
            continue
        if absent := [key for key in keys if key not in listed and key not in others]:
            raise invalid(index.path, f"{name} does not hold {listing(absent)}, as it says")
        unlisted = [key for key in listed.keys() - set(keys) if listed[key].tied_to is None]
        if unlisted:
            raise invalid(index.path, f"{name} holds {listing(sorted(unlisted))}, which it does not say")
    size = index.total_size
    if size not in (None, manifest.nbytes) and size != sum(spec.nbytes for spec in manifest.values()):
        said = shortened(f"{size:,}", 40)
        raise invalid(index.path, f"its total_size is {said}, and the tensors have {manifest.nbytes:,} bytes")


def _common(all_metadata: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """What all shards say alike."""
    first, *rest = all_metadata
    return {name: text for name, text in first.items() if all(each.get(name) == text for each in rest)}
