"""Opens torch files from before 1.6: every storage is checked against the file, every view against its storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.files import TRUNCATED, SourceFile
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader
from ckptdoctor.formats.legacy.row import Row, begins_row, read_row
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.parse import Pickle
from ckptdoctor.pickles.tensors import StorageNode, TensorView, storage_of


class LegacyCheckpoint(TensorGraph, Checkpoint):
    """An opened file: the graph of the object, and where each storage begins. The values are little-endian always."""

    format = "torch-legacy"
    has_envelope = True

    def __init__(self, source: SourceFile) -> None:
        super().__init__(source.path, source)
        row = read_row(source)
        self._pickles = row.pickles
        self.hold(row.contents, _storages(row.contents))
        self._starts = _starts(source, row, self.storages)
        self.places = {place: len(self.pairs(place)) for place in self.nodes}

    @property
    def pickles(self) -> Sequence[Pickle]:
        """The object's, and those around it."""
        return self._pickles

    def manifest(self, place: Place) -> Manifest:
        """The tensors of one mapping; those that are the same view of one storage are tied."""
        try:
            return self.listed(place)
        except PickleError as error:
            raise _damaged(self.path, error) from None

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """The tensors of one mapping, by key."""
        specs = self.manifest(place)
        return {key: self.stored_view(specs[key], view) for key, view in self.pairs(place)}

    def record(self, key: str) -> tuple[int, int, int]:
        """Where the bytes of a storage begin and how many there are; there are no checksums."""
        return self._starts[key], self.storages[key].nbytes, 0

    def stored_view(self, spec: TensorSpec, view: TensorView) -> StoredTensor:
        """A tensor of the graph, wherever it stands, as one whose values can be read."""
        start = self._starts[view.storage.key]
        return StoredTensor(spec, self.files[0], view.storage.key, lambda: start, view.storage.nbytes, view.layout)


class LegacyReader(Reader):
    """Opens files that begin with the pickled magic number."""

    name = "torch-legacy"

    def refusal(self, probe: Probe) -> str | None:
        """The first pickle is the magic number, in whatever protocol."""
        return None if begins_row(probe.head) else "no magic number of torch.save before 1.6"

    def open(self, path: Path) -> Checkpoint:
        """Parse the pickles and find the storages; no tensor is read."""
        source = SourceFile(path)
        try:
            return LegacyCheckpoint(source)
        except PickleError as error:
            source.close()
            raise _damaged(path, error) from None
        except BaseException:
            source.close()
            raise


def _damaged(path: Path, error: PickleError) -> CorruptCheckpoint:
    hint = TRUNCATED if "ends early" in str(error) else None
    return CorruptCheckpoint(f"{path} is a damaged torch file: {error}", path=path, hint=hint)


def _storages(pickle: Pickle) -> dict[str, StorageNode]:
    """Every storage that the object refers to: one size and, unless it is empty, one type for each."""
    storages: dict[str, StorageNode] = {}
    for node in pickle.persistent:
        storage = storage_of(node)
        if storage is None:
            raise PickleError("a reference to something outside the file that is no storage")
        if not (storage.key.isascii() and storage.key.isdecimal() and len(storage.key) <= 20):
            raise PickleError("a storage whose key is no number")
        known = storages.setdefault(storage.key, storage)
        if (known.numel, known.nbytes) != (storage.numel, storage.nbytes):
            raise PickleError(f"storage {storage.key} has two sizes")
        if known.dtype != storage.dtype and known.nbytes:
            raise PickleError(f"storage {storage.key} has two types")
    return storages


def _starts(source: SourceFile, row: Row, storages: Mapping[str, StorageNode]) -> dict[str, int]:
    """Where the values of each storage begin. They lie without gaps from the last pickle to the end of the file."""
    if set(row.keys) != storages.keys():
        raise PickleError("its list of storages is not the list of those that its tensors lie in")
    starts, at = {}, row.end
    for key in row.keys:
        storage = storages[key]
        if at + 8 + storage.nbytes > source.size:
            raise PickleError(f"it ends early, before the end of storage {key}")
        if storage.numel not in _counts(source.read(at, 8), row):
            raise PickleError(f"storage {key} has another size than its tensors say")
        starts[key] = at + 8
        at += 8 + storage.nbytes
    if at != source.size:
        raise PickleError(f"{source.size - at:,} bytes follow its last storage")
    return starts


def _counts(raw: bytes, row: Row) -> list[int]:
    """The number of elements before a storage; big-endian machines once wrote it in their own order."""
    return [int.from_bytes(raw, "little")] + ([] if row.little_endian else [int.from_bytes(raw, "big")])
