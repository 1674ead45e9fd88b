"""Opens torch zip files: the pickle is parsed into inert nodes, every storage is checked against its record and every view
against its storage, before anything is believed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from ckptdoctor.archive.reading import Archive, ArchiveError
from ckptdoctor.errors import CorruptCheckpoint, UnknownFormat
from ckptdoctor.files import TRUNCATED, SourceFile
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader, StoredTensor
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.nodes import CallNode, DictNode, Node, mapping_pairs
from ckptdoctor.pickles.parse import Pickle, parse
from ckptdoctor.pickles.tensors import StorageNode, TensorView, storage_of, view_of

OPTIMIZER_KEYS = ("optimizer_states", "optimizer", "optimizer_state_dict", "optimizers")
VERSIONS = range(1, 11)


class TorchCheckpoint(Checkpoint):
    """An opened torch zip file: the graph of its pickle, and a record for each storage."""

    format = "torch"
    has_envelope = True

    def __init__(self, source: SourceFile) -> None:
        super().__init__(source)
        self.archive = Archive(source)
        _check_kind(self.archive, source)
        self.pickle: Pickle = parse(self.archive.read("data.pkl"))
        self.globals = self.pickle.globals
        self.big_endian = _byte_order(self.archive) == "big"
        self.storages = _storages(self.pickle, self.archive)
        self.views = _checked_views(self.pickle)
        self.nodes = dict(_tensor_mappings(self.pickle.root, self.views))
        self.places = {place: len(self.pairs(place)) for place in self.nodes}

    def manifest(self, place: Place) -> Manifest:
        """The tensors of one mapping; those that are the same view of one storage are tied."""
        try:
            return _manifest(self.pairs(place))
        except ValueError as error:
            raise CorruptCheckpoint(f"{self.path}: {error}", path=self.path) from None

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """The tensors of one mapping, by key."""
        specs = self.manifest(place)
        return {key: self._stored(specs[key], view) for key, view in self.pairs(place)}

    def pairs(self, place: Place) -> list[tuple[str, TensorView]]:
        """Keys and views of the tensors at a place, in order."""
        pairs = mapping_pairs(self.nodes[place]) or []
        return [
            (key, self.views[id(value)]) for key, value in pairs if isinstance(key, str) and id(value) in self.views
        ]

    def others(self, place: Place) -> list[str]:
        """Entries of the mapping that are no dense tensors."""
        if not place:
            return []  # at the root of a file, everything else is the envelope
        pairs = mapping_pairs(self.nodes[place]) or []
        return [str(key) for key, value in pairs if id(value) not in self.views]

    def has_optimizer(self) -> bool:
        """Whether the root names optimizer states that are not empty."""
        pairs = mapping_pairs(self.pickle.root) or []
        return any(key in OPTIMIZER_KEYS and (not isinstance(value, list) or value) for key, value in pairs)

    @property
    def free_storage(self) -> str:
        """The first name, counting up, that no storage has and none behind it."""
        return str(1 + max((int(key) for key in self.storages if key.isdecimal()), default=-1))

    def record(self, key: str) -> tuple[int, int, int]:
        """Where the bytes of a storage begin, how many there are, and their CRC (0: not recorded)."""
        entry = self.archive.storage(f"data/{key}")
        return self.archive.data_offset(entry), entry.size, entry.crc

    def _stored(self, spec: TensorSpec, view: TensorView) -> StoredTensor:
        key = view.storage.key
        extent = self.archive.storage(f"data/{key}").size
        return StoredTensor(spec, key, partial(self._start, key), extent, view.layout, self.big_endian)

    def _start(self, key: str) -> int:
        try:
            return self.record(key)[0]
        except ArchiveError as error:
            raise CorruptCheckpoint(f"{self.path} is damaged: {error}", path=self.path) from None


class TorchReader(Reader):
    """Opens zip files that hold a pickle named data.pkl."""

    name = "torch"

    def refusal(self, probe: Probe) -> str | None:
        """A local zip header at the first byte."""
        return None if not probe.is_folder and probe.head.startswith(b"PK\x03\x04") else "no zip file"

    def open(self, path: Path) -> Checkpoint:
        """Parse directory and pickle; no tensor is read."""
        source = SourceFile(path)
        try:
            return TorchCheckpoint(source)
        except (ArchiveError, PickleError) as error:
            source.close()
            hint = TRUNCATED if "truncated" in str(error) else None
            raise CorruptCheckpoint(f"{path} is a damaged torch file: {error}", path=path, hint=hint) from None


def _check_kind(archive: Archive, source: SourceFile) -> None:
    names = archive.names()
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        message = f"{source.path} is a TorchScript archive: a program with weights, not a checkpoint"
        raise UnknownFormat(message, path=source.path, hint="save torch.jit.load(path).state_dict() with torch.save")
    if archive.entry("data.pkl") is None:
        message = f"{source.path} is a zip file without a data.pkl: torch.save did not write it"
        raise UnknownFormat(message, path=source.path, hint="is it an archive that has to be unpacked first?")
    if archive.entry("version") is None or archive.read("version").strip() not in [str(v).encode() for v in VERSIONS]:
        raise ArchiveError("its version record is missing or unknown")


def _byte_order(archive: Archive) -> str:
    if archive.entry("byteorder") is None:
        return "little"
    order = archive.read("byteorder")
    if order not in (b"little", b"big"):
        raise ArchiveError("its byte order is neither little nor big")
    return order.decode()


def _storages(pickle: Pickle, archive: Archive) -> dict[str, StorageNode]:
    """Every storage that the pickle refers to, checked against its record."""
    storages: dict[str, StorageNode] = {}
    for node in pickle.persistent:
        storage = storage_of(node)
        if storage is None:
            raise PickleError("a reference to something outside the file that is no storage")
        known = storages.setdefault(storage.key, storage)
        if known.nbytes != storage.nbytes:
            raise PickleError(f"storage {storage.key} has two sizes")
        spare = archive.storage(f"data/{storage.key}").size - storage.nbytes
        if not 0 <= spare < (storage.dtype.itemsize if storage.dtype else 1):
            raise PickleError(
                f"storage {storage.key} claims {storage.nbytes:,} bytes, its record differs by {spare:+,}"
            )
    return storages


def _checked_views(pickle: Pickle) -> dict[int, TensorView]:
    """Every tensor of the file by the identity of its node, checked against its storage."""
    views = {}
    for call in pickle.calls:
        if (view := view_of(call)) is not None:
            layout = view.layout
            if len(layout.shape) > 64 or layout.reach * layout.dtype.itemsize > view.storage.nbytes:
                raise PickleError(
                    f"a tensor of shape {layout.shape[:64]} reaches beyond its storage {view.storage.key}"
                )
            views[id(call)] = view
    return views


def _tensor_mappings(root: Node, views: Mapping[int, TensorView]) -> Iterator[tuple[Place, Node]]:
    """Every mapping that directly holds tensors under text keys, from the root down through mappings and lists."""
    work: list[tuple[Place, Node]] = [((), root)]
    seen: set[int] = set()
    while work:
        place, node = work.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        pairs = list(enumerate(node)) if isinstance(node, list | tuple) else mapping_pairs(node) or []
        if any(isinstance(key, str) and id(value) in views for key, value in pairs):
            yield place, node
        work += [
            ((*place, str(key)), value)
            for key, value in reversed(pairs)
            if type(value) in (DictNode, CallNode, list, tuple)
            and id(value) not in views
            and isinstance(key, str | int)
        ]


def _manifest(pairs: Sequence[tuple[str, TensorView]]) -> Manifest:
    first_of: dict[object, str] = {}
    specs = []
    for key, view in pairs:
        layout = view.layout
        first = first_of.setdefault((view.storage.key, layout), key) if layout.nbytes else key
        tied_to = None if first == key else first
        specs.append(TensorSpec(key, layout.shape, layout.dtype, "parameter" if view.parameter else "unknown", tied_to))
    return Manifest(specs)
