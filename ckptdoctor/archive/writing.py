"""A zip file in torch's own layout, record by record: what torch.save writes for the same records, to the byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import NamedTuple

from ckptdoctor.files import OutputFile

_MAX32 = 0xFFFFFFFF
_MAX16 = 0xFFFF


class _Written(NamedTuple):
    name: bytes
    header: int
    size: int
    crc: int
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

        def write() -> int:
            self._output.write(data)
            return zlib.crc32(data)

        self.stream(name, len(data), write)

    def stream(self, name: str, size: int, write: Callable[[], int]) -> None:
        """Append a record of `size` bytes: `write` writes them to the output and returns their CRC-32 (0: not recorded)."""
        full = f"{self._folder}/{name}".encode()
        header = self._output.position
        self._output.write(self._local_header(full, header, size))
        crc = write() if size else 0
        if size:
            wide = size >= _MAX32 or header >= _MAX32
            self._output.write(struct.pack("<4sIQQ" if wide else "<4sIII", b"PK\x07\x08", crc, size, size))
        self._written.append(_Written(full, header, size, crc, 0x0808 if size else 0x0800))

    def finish(self) -> None:
        """Append the directory and the end records."""
        start = self._output.position
        for record in self._written:
            self._output.write(_central_header(record))
        end = self._output.position
        count, size = len(self._written), end - start
        self._output.write(
            struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 0x031E, 45, 0, 0, count, count, size, start)
            + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
            + struct.pack(
                "<4s4H2IH", b"PK\x05\x06", 0, 0, *[min(count, _MAX16)] * 2, min(size, _MAX32), min(start, _MAX32), 0
            )
        )

    def _local_header(self, name: bytes, header: int, size: int) -> bytes:
        flags = 0x0808 if size else 0x0800
        wide = _wide_extra(header, size, packed=0)
        start = header + 30 + len(name) + len(wide) + 4
        padding = b"Z" * (-start % self._alignment)
        extra = wide + b"FB" + struct.pack("<H", len(padding)) + padding
        return struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, flags, 0, 0, 0, 0, 0, 0, len(name), len(extra)) + name + extra


def _central_header(record: _Written) -> bytes:
    extra = _wide_extra(record.header, record.size, packed=record.size)
    size, header = min(record.size, _MAX32), min(record.header, _MAX32)
    fixed = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\x01\x02", 0, 0, record.flags, 0, 0, 0, record.crc, size, size),
        *(len(record.name), len(extra), 0, 0, 0, 0, header),
    )
    return fixed + record.name + extra


def _wide_extra(header: int, size: int, *, packed: int) -> bytes:
    """The zip64 extra field, if anything needs it. torch leaves the packed size 0 in local headers."""
    values = ([size, packed] if size >= _MAX32 else []) + ([header] if header >= _MAX32 else [])
    return struct.pack(f"<HH{len(values)}Q", 1, 8 * len(values), *values) if values else b""
