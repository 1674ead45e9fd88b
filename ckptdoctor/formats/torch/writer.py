"""Writes torch zip files, record by record: the pickle first, then each storage once, in the order of the pickle."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from ckptdoctor.archive.reading import ArchiveError
from ckptdoctor.archive.writing import ArchiveWriter
from ckptdoctor.errors import UsageError
from ckptdoctor.files import OutputFile
from ckptdoctor.formats.base import Envelope, OutputTensor, WriteOptions, Writer, Written, sha256_of
from ckptdoctor.formats.torch.envelope import contents
from ckptdoctor.formats.torch.reader import TorchCheckpoint, checksum_error, damaged
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.tensors import StorageNode
from ckptdoctor.strided import swapped
from ckptdoctor.text import printable


class TorchWriter(Writer):
    """Writes what torch.load and Lightning read."""

    name = "torch"
    suffixes = (".ckpt", ".pt", ".pth", ".bin")
    keeps_envelope = True

    def write(
        self, output: OutputFile, tensors: Sequence[OutputTensor], origin: Envelope, options: WriteOptions
    ) -> Written:
        """Write a whole file; where the source is a torch file too, everything around the weights comes along."""
        for tensor in tensors:
            if tensor.spec.dtype.bits < 8:
                message = f"torch has no dtype for {printable(tensor.key)} ({tensor.spec.dtype})"
                raise UsageError(message, hint="cast it in a map, or write a safetensors file")
        try:
            content = contents(origin, tensors, options)
            folder, alignment, records = _frame(origin)
        except (ArchiveError, PickleError) as error:
            raise damaged(origin.source.path, error) from None
        archive = ArchiveWriter(output, folder, alignment=alignment)
        archive.record("data.pkl", content.pickle)
        storages = _Storages(output, archive, origin, options, tensors, content.new_storages)
        for name, data in records.items():
            if name == "version":  # torch writes the storages before it
                storages.write(content.storages)
            archive.record(name, data)
        archive.finish()
        return Written(storages.digests, check=content.check)


class _Storages:
    """Writes the storages' records and takes the tensors' digests on the way."""

    def __init__(
        self,
        output: OutputFile,
        archive: ArchiveWriter,
        origin: Envelope,
        options: WriteOptions,
        tensors: Sequence[OutputTensor],
        new: Mapping[str, OutputTensor],
    ) -> None:
        self.output, self.archive, self.options = output, archive, options
        self.source = origin.source
        self.tensors, self.new = tensors, new
        self.weights = {id(tensor) for tensor in tensors}
        self.digests: dict[str, str] = {}

    def write(self, storages: Iterable[StorageNode]) -> None:
        """Write them all; afterwards read once more what was not digested on the way."""
        filling = self._filling()
        for storage in storages:
            tensor = self.new.get(storage.key)
            if tensor is not None:
                self.archive.stream(f"data/{storage.key}", storage.nbytes, partial(self._values, tensor))
            else:
                self._copy(storage, filling.get(storage.key, []))
        for tensor in self.tensors if self.options.digests else ():
            if tensor.stored is not None and tensor.key not in self.digests:
                self.digests[tensor.key] = sha256_of(self.source.values(tensor.stored))

    def _filling(self) -> dict[str, list[str]]:
        """For each storage, the tensors whose values are exactly its bytes."""
        table: dict[str, list[str]] = {}
        for tensor in self.tensors:
            stored = tensor.stored
            if stored and stored.layout.plain and stored.layout.nbytes == stored.extent and not stored.big_endian:
                table.setdefault(stored.storage, []).append(tensor.key)
        return table

    def _copy(self, storage: StorageNode, keys: Sequence[str]) -> None:
        """Copy a record. With digests its CRC is checked on the way, without them it is carried over."""
        assert isinstance(self.source, TensorGraph)
        start, size, recorded = self.source.record(storage.key)
        digest = hashlib.sha256()

        def copy() -> int:
            crc = 0

            def observe(chunk: bytes) -> None:
                nonlocal crc
                crc = zlib.crc32(chunk, crc)
                if keys:
                    digest.update(chunk)

            observers = [observe] if self.options.digests else []
            self.output.copy(self.source.source, start, size, *observers, *self.options.observers)
            if self.options.digests and recorded and crc != recorded:
                raise checksum_error(self.source.source.path, storage.key)
            return crc if self.options.digests else recorded

        self.archive.stream(f"data/{storage.key}", size, copy)
        if self.options.digests:
            self.digests |= dict.fromkeys(keys, digest.hexdigest())

    def _values(self, tensor: OutputTensor) -> int:
        """Write computed values, or those of a tensor of another format; returns their CRC."""
        crc, digest = 0, hashlib.sha256()
        width = tensor.spec.dtype.itemsize // (2 if tensor.spec.dtype.family == "complex" else 1)
        swap = isinstance(self.source, TorchCheckpoint) and self.source.big_endian
        digested = self.options.digests and id(tensor) in self.weights
        observers = [digest.update, *self.options.observers] if digested else self.options.observers
        for chunk in tensor.chunks(self.source):
            data = swapped(chunk, width) if swap else chunk
            crc = zlib.crc32(data, crc)
            self.output.write(data)
            for observe in observers:
                observe(chunk)
        if digested:
            self.digests[tensor.key] = digest.hexdigest()
        return crc


def _frame(origin: Envelope) -> tuple[str, int, dict[str, bytes]]:
    """Folder, alignment and the small records around the storages, in torch's order."""
    if not isinstance(origin.source, TorchCheckpoint):
        records = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little", "version": b"3\n"}
        return "archive", 64, records | {".data/serialization_id": b"0" * 40}
    archive = origin.source.archive
    names = [name for name in archive.names() if name != "data.pkl" and not name.startswith("data/")]
    records = {name: archive.read(name) for name in names}
    alignment = records.get(".storage_alignment", b"64")
    return archive.folder, int(alignment) if alignment in (b"%d" % (1 << n) for n in range(17)) else 64, records
