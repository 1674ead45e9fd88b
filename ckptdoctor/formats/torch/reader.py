"""Opens torch zip files: the pickle is parsed into inert nodes, every storage is checked against its record and every view
against its storage, before anything is believed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ckptdoctor.archive.reading import Archive, ArchiveError
from ckptdoctor.collector import collector_paused
from ckptdoctor.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, UnknownFormat
from ckptdoctor.files import TRUNCATED, SourceFile
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.limits import OverLimit
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.parse import Pickle, parse
from ckptdoctor.pickles.tensors import StorageNode, TensorView, storage_of
from ckptdoctor.text import listing, shortened

VERSIONS = range(1, 11)
_BYTES = DTYPES["uint8"]
_SMALL = ("byteorder", ".format_version", ".storage_alignment", ".data/serialization_id")
"""Records that torch writes around the storages, beside the version."""


class TorchCheckpoint(TensorGraph, Checkpoint):
    """An opened torch zip file: the graph of its pickle, and a record for each storage."""

    format = "torch"
    has_envelope = True

    def __init__(self, source: SourceFile) -> None:
        super().__init__(source.path, source)
        self.archive = Archive(source)
        self._starts: dict[str, int] = {}
        _check_kind(self.archive, source)
        raw = self.archive.read("data.pkl")
        pickle = parse(raw)
        if pickle.end != len(raw):
            raise PickleError(f"{len(raw) - pickle.end:,} bytes follow the end of its pickle")
        self.big_endian = _byte_order(self.archive) == "big"
        self.hold(pickle, _storages(pickle, self.archive))
        self.places = {place: len(self.pairs(place)) for place in self.nodes}

    def manifest(self, place: Place) -> Manifest:
        """The tensors of one mapping; those that are the same view of one storage are tied."""
        try:
            return self.listed(place)
        except PickleError as error:
            raise damaged(self.path, error) from None

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """The tensors of one mapping, by key."""
        specs = self.manifest(place)
        return {key: self.stored_view(specs[key], view) for key, view in self.pairs(place)}

    def record(self, key: str) -> tuple[int, int, int]:
        """Where the bytes of a storage begin, how many there are, and their CRC (0: not recorded)."""
        try:
            entry = self.archive.storage(f"data/{key}")
            return self.archive.data_offset(entry), entry.size, entry.crc
        except ArchiveError as error:
            raise damaged(self.path, error) from None

    def stored_view(self, spec: TensorSpec, view: TensorView) -> StoredTensor:
        """A tensor of the graph, wherever it stands, as one whose values can be read."""
        key = view.storage.key
        entry = self.archive.storage(f"data/{key}")
        start = partial(self._start, key)
        return StoredTensor(spec, self.files[0], key, start, entry.size, view.layout, entry.crc, self.big_endian)

    def _start(self, key: str) -> int:
        if key not in self._starts:
            self._starts[key] = self.record(key)[0]
        return self._starts[key]


class TorchReader(Reader):
    """Opens zip files that hold a pickle named data.pkl."""

    name = "torch"

    def refusal(self, probe: Probe) -> str | None:
        """A local zip header at the first byte."""
        return None if not probe.is_folder and probe.head.startswith(b"PK\x03\x04") else "no zip file"

    @collector_paused()
    def open(self, path: Path) -> Checkpoint:
        """Parse directory and pickle; no tensor is read."""
        source = SourceFile(path)
        try:
            return TorchCheckpoint(source)
        except (ArchiveError, PickleError) as error:
            source.close()
            raise damaged(path, error) from None
        except BaseException:
            source.close()
            raise


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error to raise for something in a torch file that breaks the rules, or a limit."""
    if isinstance(error, OverLimit):
        return LimitExceeded(f"{path}: {error}", path=path, hint=error.hint)
    hint = TRUNCATED if "truncated" in str(error) else None
    if "did not write it" in str(error):
        hint = "is it an archive that has to be unpacked first?"
    return CorruptCheckpoint(f"{path} is a damaged torch file: {error}", path=path, hint=hint)


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
    if more := [name for name in names if name.casefold().endswith((".pkl", ".pickle")) and name != "data.pkl"]:
        raise ArchiveError(f"it holds another pickle ({listing(more)}) beside the one that torch.load reads")
    for name in _SMALL:
        if archive.entry(name) is not None:
            archive.read(name)


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
        known, nbytes = storages.setdefault(storage.key, storage), storage.nbytes
        if known is not storage and known.nbytes != nbytes:
            raise PickleError(f"storage {shortened(storage.key)} has two sizes")
        if known is not storage and (known.dtype or _BYTES) != (storage.dtype or _BYTES):
            raise PickleError(f"storage {shortened(storage.key)} has two types")  # to torch, it has the first of them
        spare = archive.storage(f"data/{storage.key}").size - nbytes
        if not 0 <= spare < (storage.dtype.itemsize if storage.dtype else 1):
            raise PickleError(
                f"storage {shortened(storage.key)} claims {nbytes:,} bytes, its record differs by {spare:+,}"
            )
    return storages
