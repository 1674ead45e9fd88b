"""Tensors on their way into an output: through the kernel where their bytes lie in a file already, else through memory.

Digests are taken on other threads, which read along while the kernel copies: a kernel copies faster than one thread digests.
A writer moves everything first and asks for the sums afterwards.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from ckptdoctor.files import OutputFile, Span
from ckptdoctor.formats.base import Checkpoint, WriteOptions
from ckptdoctor.formats.tensors import OutputTensor, checksum_error, chunks_of

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

THREADS = 2
Convert: TypeAlias = Callable[[memoryview], bytes]
"""Makes the bytes that stand in the file from those of the values (which are little-endian)."""


class Sums:
    """sha256 of values, and CRC-32 of the same as they stand in the output; each 0 or empty where nobody wants it."""

    def __init__(self, *, digest: bool = True) -> None:
        self._sha256 = hashlib.sha256() if digest else None
        self._tasks: list[Future[None]] = []
        self._crc = 0
        self.empty = True
        self.complete = True
        """Whether all bytes are in them; without digests, what the kernel copies is not."""

    @property
    def sha256(self) -> str:
        """The digest, as receipts hold it; raises what reading the bytes raised."""
        self.wait()
        return self._sha256.hexdigest() if self._sha256 is not None else ""

    @property
    def crc(self) -> int:
        """The CRC-32; raises what reading the bytes raised."""
        self.wait()
        return self._crc if self.complete else 0

    def add(self, values: memoryview, written: bytes | memoryview | None) -> int:
        """Values, and the same as they are written where the CRC is wanted; returns the CRC so far."""
        self.empty = False
        if self._sha256 is not None:
            self._sha256.update(values)
        if written is not None:
            self._crc = zlib.crc32(written, self._crc)
        return self._crc

    def read(self, spans: Sequence[Span], *, crc: bool) -> None:
        """Add bytes of files; with `crc`, they stand so in the output. The CRCs that are on record for them are checked."""
        for span in spans:
            alone, found = self.empty, 0
            for chunk in span.views():
                so_far = self.add(chunk, chunk if crc or (alone and span.crc) else None)
                if span.crc:
                    found = so_far if alone else zlib.crc32(chunk, found)
            if found != span.crc:
                raise checksum_error(span.file.path, span.name)

    def add_later(self, task: Future[None]) -> None:
        """What this does belongs to the sums."""
        self._tasks.append(task)

    def wait(self) -> None:
        """Until all is added; raises what went wrong."""
        while self._tasks:
            self._tasks.pop().result()


class Mover:
    """Appends tensors and storages of one source to one output; use it in a `with`. `crcs`: the format records them."""

    def __init__(self, output: OutputFile, source: Checkpoint, options: WriteOptions, *, crcs: bool) -> None:
        self._output, self._source = output, source
        self._progress, self._crcs = options.progress, crcs
        self._threads = _threads() if options.digests else None

    def __enter__(self) -> Mover:
        return self

    def __exit__(self, *_: object) -> None:
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)

    def reserve(self, size: int) -> None:
        """Ask for room for so many bytes, unless the source has holes, which take none."""
        if not any(file.is_sparse for file in self._source.files):
            self._output.reserve(size)

    def tensor(self, tensor: OutputTensor, convert: Convert | None = None) -> Sums:
        """Append the values of a tensor."""
        sums, spans = Sums(digest=self._threads is not None), list[Span]()
        for piece in tensor.pieces(self._source, checked=self._threads is not None):
            if isinstance(piece, Span) and convert is None:
                spans.append(piece)
                continue
            self._spans(spans, sums)
            sums.wait()
            spans = []
            for chunk in chunks_of([piece]):
                self._chunk(memoryview(chunk), convert, sums)
        self._spans(spans, sums)
        return sums

    def span(self, span: Span, sums: Sums) -> None:
        """Append bytes of a file. With digests, the CRC that is on record for them is checked."""
        self._spans([span], sums)

    def _spans(self, spans: Sequence[Span], sums: Sums) -> None:
        if self._threads is None:
            sums.complete = sums.complete and not spans
        elif spans:
            sums.add_later(self._threads.submit(sums.read, spans, crc=self._crcs))
        for span in spans:
            self._output.append(span, self._progress)

    def _chunk(self, values: memoryview, convert: Convert | None, sums: Sums) -> None:
        """Append bytes in memory; they may go when this returns."""
        written = values if convert is None else convert(values)
        summed = written if self._crcs else None
        task = self._threads.submit(sums.add, values, summed) if self._threads is not None else None
        self._output.write(written)
        self._progress(len(values))
        if task is not None:
            task.result()
        else:
            sums.add(values, summed)


def _threads() -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor  # a tenth of a start, for digests alone

    return ThreadPoolExecutor(THREADS)
