"""The central directory of a torch zip file, its entries, and where their bytes lie."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from ckptdoctor.files import SourceFile
from ckptdoctor.limits import check_metadata
from ckptdoctor.text import cited, printable, shortened

_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR64 = struct.Struct("<4sIQI")
_CENTRAL = struct.Struct("<4s4x2H4x3I4H2xII")  # versions and times mean nothing here
_LOCAL = struct.Struct("<4s5H3I2H")
_MAX32 = 0xFFFFFFFF
_STORED, _DEFLATED = 0, 8
_SECRET = 0x2061
"""Flags of an entry whose bytes are not what they seem: encrypted (bits 0 and 6), patch data (5), masked (13)."""
_FOLDER = 0x10
"""The attribute of a folder, from DOS."""


class ArchiveError(ValueError):
    """The zip container breaks the rules; the message says how."""


class Entry(NamedTuple):
    """One record. `crc` is 0 where the writer did not record it; `limit` is where the next record begins."""

    name: str
    header: int
    size: int
    packed: int
    crc: int
    method: int
    flags: int
    limit: int


class Archive:
    """A torch zip file, opened; raises ArchiveError where the container is not as torch writes it."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.entries = {entry.name: entry for entry in _without_overlap(*_central_directory(source))}
        first = next(iter(self.entries), "")
        self.folder, slash, _ = first.partition("/")
        if not slash:
            raise ArchiveError("its first entry lies in no folder, so torch.save did not write it")
        top = self.folder + "/"
        if not all(name.startswith(top) for name in self.entries):
            raise ArchiveError("the entries lie in more than one top folder")
        folded = {name.casefold() for name in self.entries}
        if len(folded) != len(self.entries):
            raise ArchiveError("two entries have one name but for case")

    def entry(self, name: str) -> Entry | None:
        """The record with this name below the top folder."""
        return self.entries.get(f"{self.folder}/{name}")

    def names(self) -> list[str]:
        """All names below the top folder, in the order of the directory."""
        return [name[len(self.folder) + 1 :] for name in self.entries]

    def read(self, name: str) -> bytes:
        """A record of metadata, unpacked and with its CRC checked."""
        entry = self.entry(name)
        if entry is None:
            raise ArchiveError(f"the archive has no {shortened(name)}")
        check_metadata(max(entry.size, entry.packed), shortened(name))
        raw = self.source.read(self.data_offset(entry), entry.packed)
        if entry.method == _DEFLATED:
            raw = _inflate(raw, entry)
        if len(raw) != entry.size or (entry.crc and zlib.crc32(raw) != entry.crc):
            raise ArchiveError(f"{shortened(name)} does not match its checksum")
        return raw

    def storage(self, name: str) -> Entry:
        """A record of tensor bytes; these must be stored as they are."""
        entry = self.entry(name)
        if entry is None:
            raise ArchiveError(f"the archive has no record {shortened(name)}")
        if entry.method != _STORED or entry.size != entry.packed:
            raise ArchiveError(f"the record {shortened(name)} is compressed, which torch never writes")
        return entry

    def data_offset(self, entry: Entry) -> int:
        """Where the record's bytes begin; its local header is checked against the directory."""
        raw = self.source.read(entry.header, _LOCAL.size)
        signature, _, flags, method, _, _, crc, packed, size, name_length, extra_length = _LOCAL.unpack(raw)
        name = self.source.read(entry.header + _LOCAL.size, name_length)
        start: int = entry.header + _LOCAL.size + name_length + extra_length
        if signature != b"PK\x03\x04" or name != entry.name.encode() or method != entry.method or flags & _SECRET:
            raise ArchiveError(f"the header of {shortened(entry.name)} disagrees with the directory")
        if not flags & 8 and (crc != entry.crc or not {packed, size} <= {entry.packed, entry.size, _MAX32}):
            raise ArchiveError(f"the header of {shortened(entry.name)} disagrees with the directory about its size")
        if start + entry.packed > entry.limit:
            raise ArchiveError(f"the record {shortened(entry.name)} reaches into the next one")
        return start


def _central_directory(source: SourceFile) -> tuple[list[Entry], int]:
    count, size, start = _end_record(source)
    check_metadata(size, "its directory")
    raw = source.read(start, size)
    entries = list(_entries(raw))
    if len(entries) != count:
        raise ArchiveError(f"the directory lists {len(entries):,} entries, its end record {count:,}")
    return entries, start


def _end_record(source: SourceFile) -> tuple[int, int, int]:
    """Number of entries, size and place of the directory."""
    at = source.size - _END.size
    if at < 0 or source.read(0, 4) not in (b"PK\x03\x04", b"PK\x05\x06"):
        raise ArchiveError("it does not begin as a zip file")
    raw = source.read(at, _END.size)
    if raw[:4] != b"PK\x05\x06" or raw[-2:] != b"\0\0":
        raise ArchiveError("the end of the archive is missing: the file is truncated, or has bytes after its end")
    _, disk, first, here, count, size, start, _ = _END.unpack(raw)
    if disk or first or here != count:
        raise ArchiveError("a zip file in several parts")
    end = at
    if at >= _LOCATOR64.size and source.read(at - _LOCATOR64.size, 4) == b"PK\x06\x07":
        _, disk, end, parts = _LOCATOR64.unpack(source.read(at - _LOCATOR64.size, _LOCATOR64.size))
        if disk or parts > 1:
            raise ArchiveError("a zip file in several parts")
        count64, size64, start64 = _end_record64(source, end, at - _LOCATOR64.size)
        narrow = (min(count64, 0xFFFF), min(size64, _MAX32), min(start64, _MAX32))
        if (count, size, start) != narrow:
            raise ArchiveError("the two end records disagree")
        count, size, start = count64, size64, start64
    if start + size != end:
        raise ArchiveError("the directory does not end where the end record begins")
    return count, size, start


def _end_record64(source: SourceFile, at: int, limit: int) -> tuple[int, int, int]:
    if at + _END64.size != limit:
        raise ArchiveError("the zip64 end record is not where its locator says")
    signature, length, _, _, disk, first, here, count, size, start = _END64.unpack(source.read(at, _END64.size))
    if signature != b"PK\x06\x06" or length != _END64.size - 12:
        raise ArchiveError("the zip64 end record is damaged")
    if disk or first or here != count:
        raise ArchiveError("a zip file in several parts")
    return count, size, start


def _entries(raw: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(raw):
        if raw[at : at + 4] != b"PK\x01\x02" or at + _CENTRAL.size > len(raw):
            raise ArchiveError("the directory is damaged")
        fields = _CENTRAL.unpack_from(raw, at)
        _, flags, method, crc, packed, size, name_length, extra_length, comment_length, disk, attributes, header = (
            fields
        )
        names_at = at + _CENTRAL.size
        extra_at = names_at + name_length
        at = extra_at + extra_length + comment_length
        if _MAX32 in (size, packed, header):
            size, packed, header = _wide(raw[extra_at : extra_at + extra_length], size, packed, header)
        name = _name(raw[names_at:extra_at])
        if at > len(raw) or disk:
            raise ArchiveError("the directory is damaged")
        if (attributes & _FOLDER or name.endswith("/")) and (size or packed):  # which torch does not read
            raise ArchiveError(f"the entry {shortened(name)} is a folder with bytes in it")
        if flags & _SECRET or method not in (_STORED, _DEFLATED):
            raise ArchiveError(f"the entry {shortened(name)} is encrypted or packed in an unusual way")
        yield Entry(name, header, size, packed, crc, method, flags, 0)


def _wide(extra: bytes, *values: int) -> list[int]:
    """The values with those of the zip64 extra field in place of 0xFFFFFFFF; there is one such field, with exactly these."""
    found = []
    while len(extra) >= 4:
        tag, length = struct.unpack_from("<HH", extra)
        if tag == 1:
            found.append(extra[4 : 4 + length])
        extra = extra[4 + length :]
    count = values.count(_MAX32)
    if [len(wide) for wide in found] != [8 * count]:
        raise ArchiveError("the zip64 fields of an entry are damaged")
    wide = iter(struct.unpack(f"<{count}Q", found[0]))
    return [next(wide) if value == _MAX32 else value for value in values]


def _name(raw: bytes) -> str:
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ArchiveError("an entry whose name is not UTF-8") from None
    if not _is_plain(name):
        raise ArchiveError(f"an entry with the name {cited(name)}")
    return name


def _is_plain(name: str) -> bool:
    """Whether a name means one thing to everybody: a path downwards, of letters that can be seen."""
    if "\\" in name or not (name.isprintable() or printable(name) == name):
        return False
    return name[:1] != "/" and "//" not in name and {".", "..", ""}.isdisjoint(name.removesuffix("/").split("/"))


def _without_overlap(entries: list[Entry], directory: int) -> list[Entry]:
    """The entries with their limits, if no two overlap and none reaches into the directory."""
    if not entries:
        raise ArchiveError("the archive is empty")
    ordered = sorted(entries, key=lambda entry: entry.header)
    limits = [entry.header for entry in ordered[1:]] + [directory]
    limited, smallest = {}, _LOCAL.size
    for entry, limit in zip(ordered, limits, strict=True):
        if entry.header + smallest + len(entry.name.encode()) + entry.packed > limit:
            raise ArchiveError(f"the record {shortened(entry.name)} reaches into the next one")
        if entry.name in limited:
            raise ArchiveError(f"two entries with the name {shortened(entry.name)}")
        limited[entry.name] = Entry(*entry[:-1], limit)
    if ordered[0].header != 0:
        raise ArchiveError("the archive does not begin at the first byte of the file")
    return [limited[entry.name] for entry in entries]


def _inflate(raw: bytes, entry: Entry) -> bytes:
    inflater = zlib.decompressobj(-15)
    try:
        unpacked = inflater.decompress(raw, entry.size + 1)
    except zlib.error as error:
        raise ArchiveError(f"{shortened(entry.name)} cannot be unpacked: {error}") from None
    if len(unpacked) == entry.size and (not inflater.eof or inflater.unused_data):
        raise ArchiveError(f"{shortened(entry.name)} does not end where its compressed bytes do")
    return unpacked
