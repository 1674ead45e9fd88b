"""A zip file in torch's own layout, record by record: what torch.save writes for the same records, to the byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from ckptdoctor.files import PAGE, OutputFile

_MAX32 = 0xFFFFFFFF
_MAX16 = 0xFFFF


Crc: TypeAlias = Callable[[], int]
"""Says the CRC-32 of a record (0: not recorded); asked at the end, so that it may be taken while other records are written."""


class _Written(NamedTuple):
    name: bytes
    header: int
    end: int
    size: int
    crc: Crc
    flags: int


class ArchiveWriter:
    """Appends records below one top folder to an output. `alignment` is where storages begin, in bytes (torch: 64)."""

    def __init__(self, output: OutputFile, folder: str, *, alignment: int = 64) -> None:
        self._output = output
        self._folder = folder
        self._alignment = alignment
        self._written: list[_Written] = []

    def record(self, name: str, data: bytes) -> None:
        """Append a small record that is in memory."""
        crc = zlib.crc32(data)

        def write() -> Crc:
            self._output.write(data)
            return lambda: crc

        self.stream(name, len(data), write)

    def stream(self, name: str, size: int, write: Callable[[], Crc], *, like: int | None = None) -> None:
        """Append a record of `size` bytes, which `write` writes to the output.

        With `like`, its bytes begin at the same place of a page as that offset does, if the alignment allows it.
        """
        full = f"{self._folder}/{name}".encode()
        header = self._output.position
        self._output.write(self._local_header(full, header, size, like))
        crc = write() if size else _no_crc
        end = self._output.position
        if size:
            self._output.write(_descriptor(header, size, 0))
        self._written.append(_Written(full, header, end, size, crc, 0x0808 if size else 0x0800))

    def finish(self) -> None:
        """Put the CRCs where they belong; append the directory and the end records."""
        start, directory = self._output.position, bytearray()
        for record in self._written:
            if crc := record.crc():
                self._output.rewrite(record.end, _descriptor(record.header, record.size, crc))
            directory += _central_header(record, crc)
        self._output.write(directory)
        end = self._output.position
        count, size = len(self._written), end - start
        self._output.write(
            struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, start)
            + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
            + struct.pack(
                "<4s4H2IH", b"PK\x05\x06", 0, 0, *[min(count, _MAX16)] * 2, min(size, _MAX32), min(start, _MAX32), 0
            )
        )

    def _local_header(self, name: bytes, header: int, size: int, like: int | None) -> bytes:
        flags = 0x0808 if size else 0x0800
        wide = _wide_extra(header, size, packed=0)
        start = header + 30 + len(name) + len(wide) + 4
        if like is None or like % self._alignment or self._alignment > PAGE:
            padding = b"Z" * (-start % self._alignment)
        else:
            padding = b"Z" * ((like - start) % PAGE)
        extra = wide + b"FB" + struct.pack("<H", len(padding)) + padding
        return struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra


def _no_crc() -> int:
    return 0


def _descriptor(header: int, size: int, crc: int) -> bytes:
    wide = size >= _MAX32 or header >= _MAX32
    return struct.pack("<4sIQQ" if wide else "<4sIII", b"PK\x07\x08", crc, size, size)


def _central_header(record: _Written, crc: int) -> bytes:
    extra = _wide_extra(record.header, record.size, packed=record.size)
    size, header = min(record.size, _MAX32), min(record.header, _MAX32)
    fixed = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\x01\x02", 0, 0, record.flags, 0, 0, 0, crc, size, size),
        *(len(record.name), len(extra), 0, 0, 0, 0, header),
    )
    return fixed + record.name + extra


def _wide_extra(header: int, size: int, *, packed: int) -> bytes:
    """The zip64 extra field, if anything needs it. torch leaves the packed size 0 in local headers."""
    values = ([size, packed] if size >= _MAX32 else []) + ([header] if header >= _MAX32 else [])
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
