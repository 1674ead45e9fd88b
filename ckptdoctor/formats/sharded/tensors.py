"""The tensors of a checkpoint by themselves, for writers of shards: nothing around them, and no format of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ckptdoctor.formats.base import Checkpoint, Place
from ckptdoctor.formats.sharded.layout import Family
from ckptdoctor.formats.sharded.reader import ShardedCheckpoint
from ckptdoctor.formats.tensors import OutputTensor, StoredTensor
from ckptdoctor.model import Manifest


class Tensors(Checkpoint):
    """A checkpoint without its envelope. It shares the files of the other, and closes none."""

    format = "tensors"

    def __init__(self, checkpoint: Checkpoint) -> None:
        super().__init__(checkpoint.path, *checkpoint.files)
        self._of = checkpoint
        self.metadata = checkpoint.metadata
        self.places = checkpoint.places

    def manifest(self, place: Place) -> Manifest:
        """As the checkpoint says."""
        return self._of.manifest(place)

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """As the checkpoint says."""
        return self._of.stored(place)


def unchanged(tensors: Sequence[OutputTensor], source: Checkpoint, family: Family) -> Checkpoint | None:
    """The shard of the source that holds exactly these tensors under these keys, in a format of the family."""
    homes = {id(tensor.home) for tensor in tensors if tensor.tied_to is None}
    if not isinstance(source, ShardedCheckpoint) or len(homes) != 1:
        return None
    shard = next(shard for shard in source.shards.values() if id(shard.files[0]) in homes)
    old = shard.manifest(())
    if {tensor.key for tensor in tensors} != old.keys() or shard.others(()) or shard.format not in family.shards:
        return None
    same = all(tensor.tied_to == old[tensor.key].tied_to and _copied(tensor) for tensor in tensors)
    return shard if same else None


def _copied(tensor: OutputTensor) -> bool:
    """Whether it is a tensor of the source under its old key, or shares the memory of one."""
    return tensor.tied_to is not None or (tensor.stored is not None and tensor.stored.spec.stored_key == tensor.key)
