"""torch's zip files: written again to the byte, and read strictly."""

from __future__ import annotations

import io
import os
import struct
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor.archive.reading import Archive, ArchiveError
from ckptdoctor.archive.writing import ArchiveWriter, Crc
from ckptdoctor.errors import CheckpointError, CorruptCheckpoint
from ckptdoctor.files import OutputFile, SourceFile, Span, replacing
from ckptdoctor.limits import OverLimit
from tests import builders as b
from tests.builders import Record

PICKLE = b.pickled(b.dict_({"w": b.tensor()}))


def opened(path: Path, data: bytes) -> Archive:
    return Archive(SourceFile(b.written(path, data)))


def rewritten(source: Path, output: Path) -> bytes:
    """The archive written again, record by record, as it is."""
    with SourceFile(source) as file, replacing(output, overwrite=False) as out:
        archive = Archive(file)
        alignment = archive.read(".storage_alignment") if archive.entry(".storage_alignment") else b"64"
        writer = ArchiveWriter(out, archive.folder, alignment=int(alignment))
        for name in archive.names():
            entry = archive.entry(name)
            assert entry is not None

            def copy(start: int = archive.data_offset(entry), size: int = entry.size, crc: int = entry.crc) -> Crc:
                out.append(Span(file, start, size))
                return lambda: crc

            writer.stream(name, entry.size, copy)
        writer.finish()
    return output.read_bytes()


# ---- the same bytes as torch -------------------------------------------------------------------------------------------


def torch_contents() -> dict[str, tuple[Any, dict[str, Any]]]:
    torch = pytest.importorskip("torch")
    return {
        "plain": (b.state_dict(), {}),
        "lightning": (b.lightning_like(b.state_dict()), {}),
        "awkward": (b.awkward_tensors(), {}),
        "empty": ({}, {}),
        "empty storages": ({f"e{i}": torch.zeros(0) for i in range(3)} | {"w": torch.ones(1)}, {}),
        "every size modulo 64": ({f"w{n}": torch.zeros(n, dtype=torch.uint8) for n in range(1, 131)}, {}),
        "many": ({f"layer.{i}.weight": torch.zeros(i % 3 + 1) for i in range(1200)}, {}),
        "protocol 4": (b.state_dict(), {"pickle_protocol": 4}),
        "no tensors": ([1, 2, 3], {}),
    }


@pytest.mark.parametrize(
    "name",
    ["plain", "lightning", "awkward", "empty", "empty storages", "every size modulo 64", "many", "protocol 4", "no tensors"],
)  # fmt: skip
def test_an_identity_rewrite_is_byte_identical(tmp_path, name):
    import torch

    obj, options = torch_contents()[name]
    torch.save(obj, tmp_path / "model.pt", **options)
    assert rewritten(tmp_path / "model.pt", tmp_path / "out") == (tmp_path / "model.pt").read_bytes()


@pytest.mark.parametrize("filename", ["x.pt", "best-val_loss=0.3557-step=311.ckpt", "é.ckpt", "n" * 200 + ".pt", "a b"])
def test_any_name_of_the_top_folder(tmp_path, filename):
    torch = pytest.importorskip("torch")
    torch.save(b.state_dict(), tmp_path / filename)
    assert rewritten(tmp_path / filename, tmp_path / "out") == (tmp_path / filename).read_bytes()


@pytest.mark.parametrize(("option", "value"), [("compute_crc32", False), ("storage_alignment", 4096)])
def test_other_settings_of_torch(tmp_path, option, value):
    torch = pytest.importorskip("torch")
    from torch.utils.serialization import config

    with config.patch({f"save.{option}": value}):
        torch.save(b.state_dict(), tmp_path / "m.pt")
    assert rewritten(tmp_path / "m.pt", tmp_path / "out") == (tmp_path / "m.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        crcs = {info.CRC for info in archive.infolist() if info.file_size}
    assert (crcs == {0}) == (option == "compute_crc32")


HUGE = {"a": (1 << 32) + 5, "b": 3, "c": 0, "d": (1 << 32) - 1, "e": 7}


def huge_file(path: Path) -> Path:
    """8 GiB as torch.save lays them out, a few blocks on the disk: the storages are holes."""
    torch = pytest.importorskip("torch")
    with torch.serialization.skip_data():
        torch.save({key: torch.empty(size, dtype=torch.uint8) for key, size in HUGE.items()}, path)
    assert path.stat().st_blocks * 512 < 1 << 20
    return path


def outside_storages(path: Path, archive: Archive) -> bytes:
    """Everything but the bytes of the two large storages."""
    spans = [(archive.data_offset(entry), entry.size) for entry in map(archive.storage, ("data/0", "data/3"))]
    at, parts = 0, []
    with path.open("rb") as file:
        for start, size in spans:
            file.seek(at)
            parts.append(file.read(start - at))
            at = start + size
        file.seek(at)
        return b"".join([*parts, file.read()])


def test_records_beyond_4_gib_are_read(tmp_path):
    with SourceFile(huge_file(tmp_path / "huge.pt")) as source:
        archive = Archive(source)
        check_all(archive)
        entries = [archive.storage(f"data/{number}") for number in range(5)]
        assert [entry.size for entry in entries] == list(HUGE.values())
        assert archive.data_offset(entries[4]) > 1 << 33


def test_an_identity_rewrite_beyond_4_gib_is_byte_identical(tmp_path):
    """Headers, descriptors, directory and end records; the holes are not copied."""
    path = huge_file(tmp_path / "huge.pt")
    descriptor = os.open(tmp_path / "out", os.O_RDWR | os.O_CREAT)
    output = OutputFile(descriptor, tmp_path / "out", tmp_path / "out")
    with SourceFile(path) as source:
        archive = Archive(source)
        writer = ArchiveWriter(output, archive.folder)
        for name in archive.names():
            entry = archive.entry(name)
            assert entry is not None

            def hole(size: int = entry.size, crc: int = entry.crc) -> Crc:
                output.position += size
                return lambda: crc

            if name.startswith("data/"):
                writer.stream(name, entry.size, hole)
            else:
                writer.record(name, archive.read(name))
        writer.finish()
        os.close(descriptor)
        assert outside_storages(tmp_path / "out", archive) == outside_storages(path, archive)
    assert (tmp_path / "out").stat().st_size == path.stat().st_size


# ---- strictness --------------------------------------------------------------------------------------------------------


def records(**changes: Any) -> list[Record]:
    """The honest records, with changes to the storage's."""
    return [
        replace(record, **changes) if record.name.endswith("data/0") else record for record in b.torch_records(PICKLE)
    ]


def check_all(archive: Archive) -> None:
    """What a reader does: every record is read or located."""
    for name in archive.names():
        if name.startswith("data/"):
            archive.data_offset(archive.storage(name))
        else:
            archive.read(name)


BAD = {
    "bytes before": b.zip_bytes(b.torch_records(PICKLE), before=b"#!/bin/sh\n"),
    "bytes before, offsets as if none": b"1234" + b.torch_file(PICKLE),
    "bytes after": b.torch_file(PICKLE) + b"\n",
    "many bytes after": b.torch_file(PICKLE) + bytes(70_000),
    "a comment": b.zip_bytes(b.torch_records(PICKLE), comment=b"hello"),
    "another archive after": b.torch_file(PICKLE) * 2,
    "a name twice": b.zip_bytes([*records(), Record("archive/data.pkl", b"N.")]),
    "a storage twice": b.zip_bytes([*records(), Record("archive/data/0", bytes(16))]),
    "names that differ in case": b.zip_bytes([*records(), Record("archive/DATA.PKL", b"N.")]),
    "names that differ in case beyond ASCII": b.zip_bytes([*records(), Record("archive/É"), Record("archive/é")]),
    "two top folders": b.zip_bytes([*records(), Record("other/x")]),
    "a second folder that begins like the first": b.zip_bytes([*records(), Record("archive2/x")]),
    "an entry beside the folder": b.zip_bytes([*records(), Record("x")]),
    "no folder at all": b.zip_bytes([Record("data.pkl", b"N.")]),
    "no entries": b.zip_bytes([]),
    "a name that leads out": b.zip_bytes([*records(), Record("archive/../x")]),
    "an absolute name": b.zip_bytes([Record("/archive/data.pkl", b"N.")]),
    "an empty name": b.zip_bytes([*records(), Record("")]),
    "a name with NUL": b.zip_bytes([*records(), Record("archive/data.pkl\0x")]),
    "a name that is no UTF-8": b.zip_bytes([*records(), Record("archive/\udcff")]),
    "encrypted": b.zip_bytes(records(flags=0x0801)),
    "packed with bzip2": b.zip_bytes(records(method=12)),
    "a compressed storage": b.zip_bytes(records(deflate=True)),
    "a storage with two sizes": b.zip_bytes(records(packed=12)),
    "a compressed storage that says it is stored": b.zip_bytes(records(deflate=True, method=0)),
    "a record that reaches into the next": b.zip_bytes(records(size=400, packed=400)),
    "an extra field that reaches into the next": b.zip_bytes(records(local_extra=30)),
    "two entries for one record": b.zip_bytes([*records(), Record("archive/data/1", bytes(16), at=0)]),
    "an entry in the directory": b.zip_bytes([*records(), Record("archive/data/1", b"", at=400)]),
    "an entry far away": b.zip_bytes([*records(), Record("archive/data/1", b"", at=0xFFFFFFFE)]),
    "another name in the local header": b.zip_bytes(records(local_name="archive/data/1")),
    "a longer name in the local header": b.zip_bytes(records(local_name="archive/data/00000000")),
    "another size in the local header": b.zip_bytes(records(local_size=12)),
    "another checksum in the local header": b.zip_bytes(records(local_crc=7)),
    "more entries than there are": b.zip_bytes(records(), count=9),
    "fewer entries than there are": b.zip_bytes(records(), count=2),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_breaks_the_rules_is_refused(tmp_path, name):
    with pytest.raises((ArchiveError, CorruptCheckpoint)):
        check_all(opened(tmp_path / "f", BAD[name]))


FINE = {
    "torch's layout without alignment": b.torch_file(PICKLE),
    "gaps between records": b.zip_bytes(records(gap=b"\0" * 100)),
    "a deflated pickle": b.zip_bytes([replace(record, deflate=record.name.endswith("pkl")) for record in records()]),
    "no checksums": b.zip_bytes([replace(record, crc=0, local_crc=0) for record in records()]),
}


def test_records_that_overlap_are_refused_before_any_is_read(tmp_path):
    for name in ("a record that reaches into the next", "two entries for one record", "an entry in the directory"):
        with pytest.raises(ArchiveError, match="reaches into the next"):
            opened(tmp_path / "f", BAD[name])


@pytest.mark.parametrize("name", FINE)
def test_what_torch_reads_is_read(tmp_path, name):
    archive = opened(tmp_path / "f", FINE[name])
    check_all(archive)
    torch = pytest.importorskip("torch")
    assert torch.load(tmp_path / "f", weights_only=True)["w"].tolist() == [1, 2, 3, 4]
    assert archive.read("data.pkl") == PICKLE
    start = archive.data_offset(archive.storage("data/0"))
    assert archive.source.read(start, 16) == struct.pack("<4f", 1, 2, 3, 4)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("change", [{"crc": 1}, {"size": 5}, {"size": 1 << 20}])
def test_a_pickle_that_does_not_match_its_checksum_or_size(tmp_path, deflate, change):
    first = replace(records()[0], deflate=deflate, **change)
    with pytest.raises((ArchiveError, CorruptCheckpoint)):
        opened(tmp_path / "f", b.zip_bytes([first, *records()[1:]])).read("data.pkl")


def test_a_pickle_that_unpacks_to_more_than_it_says_stops_there(tmp_path):
    first = replace(records()[0], data=bytes(50_000_000), deflate=True, size=100, local_size=100)
    started = time.perf_counter()
    archive = opened(tmp_path / "f", b.zip_bytes([first, *records()[1:]]))
    with pytest.raises(ArchiveError, match="checksum"):
        archive.read("data.pkl")
    assert time.perf_counter() - started < 2


def test_metadata_larger_than_its_limit_is_not_read(tmp_path):
    first = replace(records()[0], deflate=True, size=(1 << 26) + 1)
    with pytest.raises(OverLimit, match="bytes long"):
        opened(tmp_path / "f", b.zip_bytes([first, *records()[1:]])).read("data.pkl")


def test_records_that_are_not_there(tmp_path):
    archive = opened(tmp_path / "f", b.torch_file(PICKLE))
    assert archive.entry("data/7") is None
    with pytest.raises(ArchiveError, match="no data/7"):
        archive.read("data/7")
    with pytest.raises(ArchiveError, match="no record data/7"):
        archive.storage("data/7")


def torch_bytes() -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save({"w": torch.arange(5.0), "e": torch.zeros(0), "names": ["x"]}, file)
    return file.getvalue()


def test_every_truncation_is_refused(tmp_path):
    for data in (torch_bytes(), b.torch_file(PICKLE)):
        for end in range(len(data)):
            with pytest.raises((ArchiveError, CheckpointError)):
                check_all(opened(tmp_path / "f", data[:end]))


def test_a_flipped_byte_is_read_or_refused_and_never_anything_else(tmp_path):
    outcomes = {"read": 0, "refused": 0}
    for data in (torch_bytes(), b.torch_file(PICKLE)):
        for at in range(len(data)):
            for flip in (0x01, 0x08, 0x80, 0xFF):
                changed = bytearray(data)
                changed[at] ^= flip
                try:
                    check_all(opened(tmp_path / "f", bytes(changed)))
                    outcomes["read"] += 1
                except (ArchiveError, CheckpointError, OverLimit):
                    outcomes["refused"] += 1
    assert all(count > 100 for count in outcomes.values())


# ---- zip64 -------------------------------------------------------------------------------------------------------------


def end64(data: bytes) -> int:
    return data.rindex(b"PK\x06\x06")


ZIP64 = {
    "another count": (lambda at: at + 32, struct.pack("<Q", 99)),
    "another size of the directory": (lambda at: at + 40, struct.pack("<Q", 50)),
    "another start of the directory": (lambda at: at + 48, struct.pack("<Q", 7)),
    "no end record where the locator says": (lambda at: at + 56 + 8, struct.pack("<Q", 3)),
    "an end record of another kind": (lambda at: at, b"PK\x06\x05"),
    "a directory beyond the file": (lambda at: at + 48, struct.pack("<Q", 1 << 60)),
    "another count in the small end record": (lambda at: at + 56 + 20 + 10, struct.pack("<H", 3)),
    "another start in the small end record": (lambda at: at + 56 + 20 + 16, struct.pack("<I", 3)),
}


@pytest.mark.parametrize("name", ZIP64)
def test_zip64_records_that_disagree_are_refused(tmp_path, name):
    data = bytearray(torch_bytes())
    place, value = ZIP64[name]
    at = place(end64(data))
    data[at : at + len(value)] = value
    with pytest.raises((ArchiveError, CorruptCheckpoint)):
        opened(tmp_path / "f", bytes(data))


def test_bytes_between_the_end_records_are_refused(tmp_path):
    data = torch_bytes()
    at = end64(data) + 56
    with pytest.raises(ArchiveError, match="not where its locator says"):
        opened(tmp_path / "f", data[:at] + b"unexpected" + data[at:])


def test_zip64_fields_hold_what_the_small_ones_cannot(tmp_path):
    """A directory whose entries say 0xFFFFFFFF and leave size and place to the extra field, as for large files."""
    body = PICKLE
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 0, 0x0808, 0, 0, 0, 0, 0, 0, 16, 0) + b"archive/data.pkl" + body
    extra = struct.pack("<HHQQQ", 1, 24, len(body), len(body), 0)
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 0, 0, 0x0808, 0, 0, 0, zlib.crc32(body), *[0xFFFFFFFF] * 2,
                        16, len(extra), 0, 0, 0, 0, 0xFFFFFFFF) + b"archive/data.pkl" + extra  # fmt: skip
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), len(local), 0)
    assert opened(tmp_path / "f", local + entry + end).read("data.pkl") == body
