"""Writes torch zip files, record by record: the pickle first, then each storage once, in the order of the pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from ckptdoctor.archive.reading import ArchiveError
from ckptdoctor.archive.writing import ArchiveWriter, Crc
from ckptdoctor.errors import UsageError
from ckptdoctor.files import OutputFile, Span
from ckptdoctor.formats.base import Envelope, FileWriter, WriteOptions, Written
from ckptdoctor.formats.moving import Mover, Sums
from ckptdoctor.formats.tensors import OutputTensor, sha256_of
from ckptdoctor.formats.torch.envelope import contents
from ckptdoctor.formats.torch.reader import TorchCheckpoint, damaged
from ckptdoctor.limits import OverLimit
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.tensors import StorageNode
from ckptdoctor.strided import swapped
from ckptdoctor.text import printable


class TorchWriter(FileWriter):
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
            folder, alignment, records = _frame(origin, options)
        except (ArchiveError, PickleError, OverLimit) as error:
            raise damaged(origin.source.path, error) from None
        archive = ArchiveWriter(output, folder, alignment=alignment)
        with Mover(output, origin.source, options, crcs=True) as mover:
            mover.reserve(len(content.pickle) + sum(storage.nbytes for storage in content.storages))
            archive.record("data.pkl", content.pickle)
            swap = records.get("byteorder") == b"big"
            storages = _Storages(mover, archive, origin, tensors, content.new_storages, swap=swap)
            for name, data in records.items():
                if name == "version":  # torch writes the storages before it
                    storages.write(content.storages)
                archive.record(name, data)
            archive.finish()
            return Written(output.position, storages.digests() if options.digests else {}, check=content.check)


class _Storages:
    """Writes the storages' records and takes the tensors' digests on the way."""

    def __init__(
        self,
        mover: Mover,
        archive: ArchiveWriter,
        origin: Envelope,
        tensors: Sequence[OutputTensor],
        new: Mapping[str, OutputTensor],
        *,
        swap: bool,
    ) -> None:
        self.swap = swap
        self.mover, self.archive, self.source = mover, archive, origin.source
        self.tensors, self.new = tensors, new
        self.weights = {id(tensor) for tensor in tensors}
        self.sums: dict[str, Sums] = {}

    def write(self, storages: Sequence[StorageNode]) -> None:
        """Write them all. The first begins at the same place of a page as in the source, and so, in torch's layout, do those
        that follow it there too."""
        filling = self._filling()
        for number, storage in enumerate(storages):
            name = f"data/{storage.key}"
            tensor = self.new.get(storage.key)
            if tensor is not None:
                like = (
                    tensor.stored.span().offset if tensor.stored and tensor.stored.as_it_lies and not number else None
                )
                self.archive.stream(name, storage.nbytes, partial(self._values, tensor), like=like)
            else:
                span, keys = self._record(storage), filling.get(storage.key, [])
                like = span.offset if not number else None
                self.archive.stream(name, span.size, partial(self._copy, span, keys), like=like)

    def digests(self) -> dict[str, str]:
        """sha256 of the values of every tensor that has some; those that were not digested on the way are read once more."""
        found = {}
        for tensor in self.tensors:
            if tensor.key in self.sums:
                found[tensor.key] = self.sums[tensor.key].sha256
            elif tensor.stored is not None:
                found[tensor.key] = sha256_of(self.source.values(tensor.stored))
        return found

    def _filling(self) -> dict[str, list[str]]:
        """For each storage, the tensors whose values are exactly its bytes."""
        table: dict[str, list[str]] = {}
        for tensor in self.tensors:
            if tensor.stored and tensor.stored.fills_storage:
                table.setdefault(tensor.stored.storage, []).append(tensor.key)
        return table

    def _record(self, storage: StorageNode) -> Span:
        assert isinstance(self.source, TensorGraph)
        start, size, crc = self.source.record(storage.key)
        return Span(self.source.files[0], start, size, crc, storage.key)

    def _copy(self, span: Span, keys: Sequence[str]) -> Crc:
        """Copy a record. With digests its CRC is checked on the way, without them it is carried over."""
        sums = Sums(digest=bool(keys))
        self.mover.span(span, sums)
        self.sums |= dict.fromkeys(keys, sums)

        def crc() -> int:
            return sums.crc or span.crc

        return crc

    def _values(self, tensor: OutputTensor) -> Crc:
        """Write computed values, or those of a tensor of another format."""
        width = tensor.spec.dtype.itemsize // (2 if tensor.spec.dtype.family == "complex" else 1)
        sums = self.mover.tensor(tensor, partial(swapped, width=width) if self.swap and width > 1 else None)
        if id(tensor) in self.weights:  # a copy of the weights has the same keys
            self.sums[tensor.key] = sums
        return lambda: sums.crc


def _frame(origin: Envelope, options: WriteOptions) -> tuple[str, int, dict[str, bytes]]:
    """Folder, alignment and the small records around the storages, in torch's order."""
    if options.weights_only or not isinstance(origin.source, TorchCheckpoint):
        records = {".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little", "version": b"3\n"}
        return "archive", 64, records | {".data/serialization_id": b"0" * 40}
    archive = origin.source.archive
    names = [name for name in archive.names() if name != "data.pkl" and not name.startswith("data/")]
    records = {name: archive.read(name) for name in names}
    alignment = records.get(".storage_alignment", b"64")
    return archive.folder, int(alignment) if alignment in (b"%d" % (1 << n) for n in range(17)) else 64, records
