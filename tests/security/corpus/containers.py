"""Containers that two readers could read differently: polyglots, and names that are not one name."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from dataclasses import replace
from typing import Any

from tests import builders as b
from tests.builders import Record
from tests.security.corpus.cases import (
    GOOD,
    PICKLE,
    SAFE,
    Cases,
    Listed,
    Refused,
    corrupt,
    file_of,
    records,
    unknown,
)

_HARM = b.pickled(b.call("os.system", b.text("touch canary")))
_RECORDS = b.torch_records(PICKLE)
_PACKED = zlib.compress(PICKLE, wbits=-15)


def more(*others: Record) -> bytes:
    """The good file with more records after its own."""
    return b.zip_bytes([*_RECORDS, *others])


def changed(name: str, **changes: Any) -> bytes:
    """The good file with one record changed."""
    return records(lambda record: replace(record, **changes) if record.name.endswith(name) else record)


def first(*others: Record) -> bytes:
    """The good file with other records before its own."""
    return b.zip_bytes([*others, *_RECORDS])


def with_zip64() -> bytes:
    """A file with the end records that torch writes always."""
    return _ended(GOOD, 0)


def _ended(data: bytes, shift: int, **fields: int) -> bytes:
    """The good file with zip64 end records; fields of these may be other than they should."""
    body, (_, _, _, _, count, size, start, _) = data[:-22], struct.unpack("<4s4H2IH", data[-22:])
    wide = {"length": 44, "disk": 0, "first": 0, "here": count, "count": count, "size": size, "start": start} | fields
    record = struct.pack(
        "<4sQ2H2I4Q",
        b"PK\x06\x06",
        wide["length"],
        0x031E,
        45,
        wide["disk"],
        wide["first"],
        wide["here"],
        wide["count"],
        wide["size"],
        wide["start"],
    )
    locator = struct.pack(
        "<4sIQI", b"PK\x06\x07", fields.get("locator_disk", 0), len(body) + shift, fields.get("parts", 1)
    )
    return body + record + locator + data[-22:]


def _wide_entry(extra: bytes) -> bytes:
    """One record whose directory entry says 0xFFFFFFFF and leaves its size to this extra field."""
    name = b"archive/data.pkl"
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0x0808, 0, 0, 0, 0, 0, 0, len(name), 0) + name + PICKLE
    fixed = (0, 0, 0x0808, 0, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF, len(name), len(extra), 0, 0, 0, 0, 0)
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fixed) + name + extra
    return local + entry + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local), 0)


def _stretched_directory() -> bytes:
    """The last entry's comment is said to reach beyond the directory."""
    at = GOOD.rindex(b"PK\x01\x02") + 32
    return GOOD[:at] + struct.pack("<H", 9) + GOOD[at + 2 :]


def _on_disk_two() -> bytes:
    at = GOOD.rindex(b"PK\x01\x02") + 34
    return GOOD[:at] + struct.pack("<H", 2) + GOOD[at + 2 :]


def _python_zip() -> bytes:
    """As zipfile writes it: whoever unpacks a checkpoint and packs it again makes one like it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/", b"")
        archive.writestr("archive/data/", b"")
        for record in _RECORDS:
            archive.writestr(record.name, record.data)
    return file.getvalue()


POLYGLOTS: Cases = {
    "bytes before the archive": corrupt(
        b.zip_bytes(_RECORDS, before=b"PK\x03\x04"), "does not begin at the first byte|disagrees"
    ),
    "a script before the archive": unknown(
        b.zip_bytes(_RECORDS, before=b"#!/bin/sh\ntouch canary\n"), "no checkpoint of a known"
    ),
    "a byte after the archive": corrupt(GOOD + b"\n", "has bytes after its end", "truncated"),
    "a pickle after the archive": corrupt(GOOD + _HARM, "has bytes after its end"),
    "64 KiB after the archive": corrupt(GOOD + bytes(70_000), "has bytes after its end"),
    "an archive after the archive": corrupt(GOOD + b.torch_file(_HARM), "first byte|does not end where"),
    "a comment": corrupt(b.zip_bytes(_RECORDS, comment=b"hello"), "bytes after its end"),
    "an archive in a comment": corrupt(
        b.zip_bytes(_RECORDS, comment=b.torch_file(_HARM)), "first byte|does not end where"
    ),
    "two end records": corrupt(GOOD + GOOD[-22:], "does not end where the end record begins"),
    "an end record of nothing": corrupt(
        GOOD[:300] + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, 0, 300, 0), "is empty"
    ),
    "two end records of 64 bits": corrupt(_ended(with_zip64(), 0), "does not end where|disagree"),
    "a zip file in a safetensors file": unknown(b.safetensors_bytes(GOOD), "no checkpoint of a known format"),
    "a zip file as the data of a safetensors file": Listed(
        b.safetensors_bytes({"w": {"dtype": "U8", "shape": [len(GOOD)], "data_offsets": [0, len(GOOD)]}}, GOOD), ("w",)
    ),
    "a zip file after a safetensors file": corrupt(SAFE + GOOD, "before the file does"),
    "a pickle after a safetensors file": corrupt(SAFE + _HARM, "before the file does"),
    "a pickle as the data of a safetensors file": Listed(
        b.safetensors_bytes({"w": {"dtype": "U8", "shape": [len(_HARM)], "data_offsets": [0, len(_HARM)]}}, _HARM),
        ("w",),
    ),
    "a safetensors file that begins as a pickle": Refused(
        b"\x80\2}q\0.\0\0" + SAFE[8:], "unsafe-checkpoint", "bare pickle"
    ),
    "a safetensors file in a zip file": corrupt(more(Record("model.safetensors", SAFE)), "more than one top folder"),
    "a directory of several parts": corrupt(GOOD[:-18] + b"\1\0\0\0" + GOOD[-14:], "several parts"),
    "more entries than there are": corrupt(b.zip_bytes(_RECORDS, count=9), "lists 4 entries, its end record 9"),
    "fewer entries than there are": corrupt(b.zip_bytes(_RECORDS, count=2), "lists 4 entries, its end record 2"),
    "an entry that reaches out of the directory": corrupt(_stretched_directory(), "directory is damaged"),
    "an entry on another disk": corrupt(_on_disk_two(), "directory is damaged"),
    "end records of 64 bits": Listed(with_zip64(), ("w",)),
    "end records of 64 bits elsewhere": corrupt(_ended(GOOD, 4), "not where its locator says"),
    "end records of 64 bits that are longer": corrupt(_ended(GOOD, 0, length=60), "zip64 end record is damaged"),
    "end records of 64 bits that count otherwise": corrupt(_ended(GOOD, 0, count=9), "several parts|disagree"),
    "end records of 64 bits of several parts": corrupt(_ended(GOOD, 0, disk=1), "several parts"),
    "a locator of several parts": corrupt(_ended(GOOD, 0, parts=2), "several parts"),
    "a size that is not in its 64-bit field": corrupt(_wide_entry(b""), "zip64 fields of an entry"),
    "a 64-bit field that is too short": corrupt(_wide_entry(struct.pack("<HHQ", 1, 8, 7)), "zip64 fields of an entry"),
    "two 64-bit fields": corrupt(_wide_entry(struct.pack("<HHQQ", 1, 16, 7, 7) * 2), "zip64 fields of an entry"),
    "a size of 2^63": corrupt(_wide_entry(struct.pack("<HHQQ", 1, 16, 1 << 63, 1 << 63)), "reaches into the next one"),
    "what zipfile writes": Listed(_python_zip(), ("w",)),
    "an encrypted storage": corrupt(changed("data/0", flags=0x0801), "encrypted"),
    "a strongly encrypted storage": corrupt(changed("data/0", flags=0x0841), "encrypted"),
    "a masked header": corrupt(changed("version", flags=0x2800), "encrypted"),
    "patch data": corrupt(changed("data.pkl", flags=0x0820), "encrypted"),
    "a storage packed with bzip2": corrupt(changed("data/0", method=12), "packed in an unusual way"),
    "a deflated storage": corrupt(changed("data/0", deflate=True), "is compressed, which torch never writes"),
    "a deflated storage that says it is stored": corrupt(
        changed("data/0", deflate=True, method=0), "claims 16 bytes|compressed"
    ),
    "a deflated pickle": Listed(changed("data.pkl", deflate=True), ("w",)),
    "a deflated pickle with another checksum": corrupt(
        changed("data.pkl", deflate=True, crc=7, local_crc=7), "checksum"
    ),
    "a deflated pickle with bytes after it": corrupt(
        changed("data.pkl", data=_PACKED + b"hidden", method=8, size=len(PICKLE), crc=0, local_crc=0),
        "does not end where its compressed bytes do",
    ),
    "a pickle with another checksum": corrupt(
        changed("data.pkl", crc=7, local_crc=7), "data.pkl does not match its checksum"
    ),
    "a version with another checksum": corrupt(
        changed("version", crc=7, local_crc=7), "version does not match its checksum"
    ),
    "a byte order with another checksum": corrupt(changed("byteorder", crc=7, local_crc=7), "byteorder does not match"),
    "a serialization id with another checksum": corrupt(
        more(Record("archive/.data/serialization_id", b"0" * 40, crc=7, local_crc=7)), "serialization_id does not match"
    ),
    "a local header of another name": corrupt(
        changed("data.pkl", local_name="archive/data.pk_"), "disagrees with the directory"
    ),
    "a local header of another size": corrupt(
        changed("data.pkl", local_size=12), "disagrees with the directory about its size"
    ),
    "a local header of another checksum": corrupt(
        changed("data.pkl", local_crc=7), "disagrees with the directory about"
    ),
    "a local header that is encrypted": corrupt(GOOD[:6] + b"\1\x08" + GOOD[8:], "disagrees with the directory"),
    "an extra field that reaches into the next record": corrupt(
        changed("data.pkl", local_extra=60_000), "reaches into|ends before"
    ),
    "a record that reaches into the next": corrupt(
        changed("data.pkl", size=400, packed=400), "reaches into the next one"
    ),
    "two entries for one record": corrupt(more(Record("archive/data/1", bytes(16), at=0)), "reaches into the next one"),
    "an entry in the directory": corrupt(
        more(Record("archive/data/1", b"", at=len(GOOD) - 200)), "reaches into|disagrees|directory"
    ),
    "an entry beyond the file": corrupt(
        more(Record("archive/data/1", b"", at=0xFFFFFFFE)), "reaches into the next one"
    ),
}

_TWICE = Record("archive/data.pkl", _HARM)
NAMES: Cases = {
    "data.pkl twice": corrupt(more(_TWICE), "two entries with the name archive/data.pkl"),
    "data.pkl twice, next to each other": corrupt(first(_TWICE), "two entries with the name archive/data.pkl"),
    "a storage twice": corrupt(more(Record("archive/data/0", bytes(16))), "two entries with the name archive/data/0"),
    "data.pkl in capitals": corrupt(more(Record("archive/DATA.PKL", _HARM)), "one name but for case"),
    "data.pkl in capitals, far before": corrupt(first(Record("archive/DATA.PKL", _HARM)), "one name but for case"),
    "a folder in capitals": corrupt(more(Record("ARCHIVE/data.pkl", _HARM)), "more than one top folder"),
    "case beyond ASCII": corrupt(more(Record("archive/\u00c9"), Record("archive/\u00e9")), "one name but for case"),
    "case that folds to two letters": corrupt(
        more(Record("archive/stra\u00dfe"), Record("archive/STRASSE")), "but for case"
    ),
    "two top folders": corrupt(more(Record("other/data.pkl", _HARM)), "more than one top folder"),
    "a folder that begins like the first": corrupt(
        more(Record("archive2/data.pkl", _HARM)), "more than one top folder"
    ),
    "another folder first": corrupt(first(Record("other/data.pkl", _HARM)), "more than one top folder"),
    "an entry beside the folder": corrupt(more(Record("data.pkl", _HARM)), "more than one top folder"),
    "no folder": corrupt(b.zip_bytes([Record("data.pkl", PICKLE)]), "lies in no folder", "unpacked first"),
    "two dots": corrupt(more(Record("archive/../x")), "an entry with the name 'archive/../x'"),
    "two dots in front": corrupt(first(Record("../archive/x")), "an entry with the name"),
    "one dot": corrupt(more(Record("archive/./data.pkl", _HARM)), "an entry with the name 'archive/./data.pkl'"),
    "two slashes": corrupt(more(Record("archive//data.pkl", _HARM)), "an entry with the name 'archive//data.pkl'"),
    "a backslash": corrupt(more(Record("archive\\data.pkl", _HARM)), "an entry with the name"),
    "an absolute name": corrupt(more(Record("/etc/passwd")), "an entry with the name '/etc/passwd'"),
    "an empty name": corrupt(more(Record("")), "an entry with the name ''"),
    "NUL at the end": corrupt(more(Record("archive/data.pkl\0", _HARM)), r"'archive/data.pkl\\x00'"),
    "NUL within": corrupt(more(Record("archive/data.pkl\0.txt", _HARM)), r"data.pkl\\x00.txt"),
    "a name that is no UTF-8": corrupt(more(Record("archive/\udcff")), "whose name is not UTF-8"),
    "a name that moves the cursor": corrupt(more(Record("archive/\x1b[2J")), r"archive/\\x1b\[2J"),
    "a name with a line break": corrupt(more(Record("archive/x\nerror: all is lost")), r"x\\nerror"),
    "a name that turns round": corrupt(more(Record("archive/\u202elkp.atad")), r"\\u202e"),
    "a name of 60,000 letters": Listed(more(Record("archive/" + "x" * 60_000, b"kept")), ("w",)),
    "a name of other letters": Listed(more(Record("archive/\u6a21\u578b/x", b"kept")), ("w",)),
    "a storage outside the folder": corrupt(file_of({"w": b.tensor(b.storage("../../etc/passwd"))}), "no record data/"),
    "a storage that is metadata": corrupt(file_of({"w": b.tensor(b.storage("../version"))}), "no record data/"),
    "a storage of 5,000 digits": Listed(
        file_of({"w": b.tensor(b.storage("9" * 5000))}, {"9" * 5000: bytes(16)}), ("w",)
    ),
    "an absolute storage": corrupt(file_of({"w": b.tensor(b.storage("/etc/passwd"))}), "no record data//etc/passwd"),
}
