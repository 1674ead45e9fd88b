"""Tensors as formats give and take them: `StoredTensor` is one in a file, `OutputTensor` one that is to be written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.files import CHUNK, SourceFile, Span
from ckptdoctor.model import Layout, TensorSpec

if TYPE_CHECKING:
    from ckptdoctor.formats.base import Checkpoint

Piece: TypeAlias = Span | memoryview
"""A part of a tensor's values: bytes that lie in a file, or bytes in memory."""


class StoredTensor(NamedTuple):
    """A tensor in a file: its spec, the storage that holds it, and how it lies in there.

    Tensors with one `storage` share memory. `start` says at which byte of `file` that storage begins, `extent` how many
    bytes it has; it is a function because finding it may need a read. `crc` is the CRC-32 of the storage, 0 if none is
    on record.
    """

    spec: TensorSpec
    file: SourceFile
    storage: str
    start: Callable[[], int]
    extent: int
    layout: Layout
    crc: int = 0
    big_endian: bool = False

    @property
    def fills_storage(self) -> bool:
        """Whether the values are the bytes of the storage: all of them, as they are."""
        return self.as_it_lies and self.layout.nbytes == self.extent

    @property
    def as_it_lies(self) -> bool:
        """Whether the values are bytes of the file, one after the other."""
        return self.layout.plain and not self.big_endian

    def span(self) -> Span:
        """Those bytes; only for tensors that are `as_it_lies`."""
        first = self.layout.offset * self.layout.dtype.bits // 8
        crc = self.crc if self.fills_storage else 0
        return Span(self.file, self.start() + first, self.layout.nbytes, crc, self.storage)


class OutputTensor(NamedTuple):
    """A tensor to be written under `key` (as it will stand in the file): copied from the source, or computed.

    `tied_to` is a key of the same output whose memory this one shares; a format that can say so writes that memory once.
    `remarks` are what computing it has to say (a rounding error), once that is done. `near` is the file that most of a
    computed one comes from.
    """

    key: str
    spec: TensorSpec
    stored: StoredTensor | None = None
    compute: Callable[[], Iterable[Piece]] | None = None
    tied_to: str | None = None
    remarks: Sequence[str] = ()
    near: SourceFile | None = None

    @property
    def home(self) -> SourceFile | None:
        """The file that it comes from, if it comes from one."""
        return self.stored.file if self.stored is not None else self.near

    def pieces(self, source: Checkpoint, *, checked: bool) -> Iterable[Piece]:
        """The values, packed and little-endian: as bytes of files where they lie there so, else as bytes in memory.

        `checked` says that the checksum of every storage is looked at, which takes reading all of it.
        """
        if self.compute is not None:
            return self.compute()
        if self.stored is None:
            raise ValueError(f"{self.key} is tied: it has no values of its own")
        if self.stored.as_it_lies and (self.stored.fills_storage or not (checked and self.stored.crc)):
            return [self.stored.span()]
        return map(memoryview, source.values(self.stored))


def chunks_of(pieces: Iterable[Piece]) -> Iterator[bytes | memoryview]:
    """The bytes of pieces, a chunk at a time."""
    for piece in pieces:
        if isinstance(piece, Span):
            yield from piece.chunks()
        else:
            yield from (piece[at : at + CHUNK] for at in range(0, len(piece), CHUNK))


def checksum_error(path: Path, storage: str) -> CorruptCheckpoint:
    """The error for a storage whose bytes have changed since they were written."""
    return CorruptCheckpoint(
        f"{path} is damaged: the bytes of storage {storage} do not match their checksum",
        path=path,
        hint="copy or download it again; torch.load does not check this",
    )


def sha256_of(chunks: Iterable[bytes | memoryview]) -> str:
    """The digest of a tensor's values, as receipts hold it."""
    import hashlib

    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(chunk)
    return digest.hexdigest()
