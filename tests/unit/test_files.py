"""Reading notices truncation and change; writing leaves the old file or the new one, and no debris."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor.errors import CheckpointNotFound, CorruptCheckpoint, OutputError
from ckptdoctor.files import CHUNK, SourceFile, Span, check_output, replacing, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def replaced(path: Path, data: bytes, *, overwrite: bool = False) -> None:
    with replacing(path, overwrite=overwrite) as output:
        output.write(data)


# ---- writing ---------------------------------------------------------------------------------------------------------


def test_a_new_file_appears_whole_and_alone(tmp_path):
    path = tmp_path / "new"
    with replacing(path, overwrite=False) as output:
        output.write(b"one")
        output.write(bytearray(b"two"))
        output.write(memoryview(b"three"))
        assert output.position == 11
        assert not path.exists()
    assert path.read_bytes() == b"onetwothree"
    assert names(tmp_path) == ["new"]


def test_the_mode_of_a_new_file_is_what_the_umask_leaves(tmp_path):
    old = os.umask(0o027)
    try:
        replaced(tmp_path / "new", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_what_exists_is_replaced_only_if_asked(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(OutputError, match="exists") as caught:
        replaced(path, b"new")
    assert "--overwrite" in (caught.value.hint or "")
    assert path.read_bytes() == b"old"
    replaced(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o777, 0o404])
def test_replacing_keeps_the_mode(tmp_path, mode):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    path.chmod(mode)
    replaced(path, b"new", overwrite=True)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_what_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "f"
    with pytest.raises(OutputError, match="meanwhile"), replacing(path, overwrite=False):
        path.write_bytes(b"theirs")
    assert path.read_bytes() == b"theirs"
    assert names(tmp_path) == ["f"]


def test_without_hard_links_a_file_is_still_published(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    replaced(tmp_path / "new", b"x")
    assert (tmp_path / "new").read_bytes() == b"x"
    with pytest.raises(OutputError, match="meanwhile"), replacing(tmp_path / "other", overwrite=False):
        (tmp_path / "other").write_bytes(b"theirs")
    assert (tmp_path / "other").read_bytes() == b"theirs"
    assert names(tmp_path) == ["new", "other"]


def test_a_link_is_followed_and_stays(tmp_path):
    (tmp_path / "real").mkdir()
    real, link = tmp_path / "real" / "f", tmp_path / "link"
    real.write_bytes(b"old")
    link.symlink_to(real)
    replaced(link, b"new", overwrite=True)
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert (names(tmp_path), names(tmp_path / "real")) == (["link", "real"], ["f"])


def test_a_link_to_nothing_yet_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "to be")
    replaced(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "to be").read_bytes() == b"new"


def refused_paths(folder: Path) -> Iterator[tuple[str, Path]]:
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    (folder / "file").write_bytes(b"")
    (folder / "loop").symlink_to(folder / "loop")
    yield "not a regular file", folder / "fifo"
    yield "not a regular file", folder / "folder"
    yield "not a regular file", Path("/dev/null")
    yield "no folder", folder / "missing" / "f"
    yield "Not a directory", folder / "file" / "f"
    yield "symbolic links", folder / "loop"
    yield "too long", folder / ("n" * 300)


@pytest.mark.parametrize("number", range(7))
def test_what_cannot_be_an_output_is_refused_and_nothing_changes(tmp_path, number):
    message, path = list(refused_paths(tmp_path))[number]
    before = names(tmp_path)
    with pytest.raises(OutputError, match=message) as caught:
        replaced(path, b"x", overwrite=True)
    assert path.name[:20] in str(caught.value)
    assert names(tmp_path) == before


class Stopped(BaseException):
    pass


def half(path: Path, kind: type[BaseException]) -> None:
    with replacing(path, overwrite=True) as output:
        output.write(b"half")
        raise kind


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, SystemExit, Stopped, MemoryError])
@pytest.mark.parametrize("old", [None, b"old"])
def test_whatever_is_raised_leaves_the_old_state(tmp_path, kind, old):
    path = tmp_path / "f"
    if old is not None:
        path.write_bytes(old)
    with pytest.raises(kind):
        half(path, kind)
    assert names(tmp_path) == ([] if old is None else ["f"])
    assert old is None or path.read_bytes() == old


def test_no_descriptor_stays_open(tmp_path):
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    replaced(tmp_path / "f", b"x")
    with pytest.raises(ValueError, match="stop"), replacing(tmp_path / "g", overwrite=True):
        raise ValueError("stop")
    with pytest.raises(CheckpointNotFound):
        SourceFile(tmp_path)
    with SourceFile(tmp_path / "f"):
        pass
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


@pytest.mark.parametrize(
    "name",
    ["n" * 255, "é" * 127, "日" * 85, "name with\nline break", "-rf", " "],
    ids=["255 bytes", "254 bytes of accents", "255 bytes of Japanese", "line break", "option", "space"],
)
def test_any_name_that_the_file_system_takes(tmp_path, name):
    replaced(tmp_path / name, b"x")
    replaced(tmp_path / name, b"y", overwrite=True)
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"y"


def test_write_text_is_utf_8(tmp_path):
    write_text(tmp_path / "f", "é\n", overwrite=False)
    assert (tmp_path / "f").read_bytes() == b"\xc3\xa9\n"


def test_check_output_gives_the_real_path(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "f")
    assert check_output(tmp_path / "link", overwrite=False) == (tmp_path / "f").resolve()


IN_A_PROCESS = """
import sys
from ckptdoctor.errors import OutputError
from ckptdoctor.files import replacing
{before}
try:
    with replacing(sys.argv[1], overwrite=True) as output:
        for _ in range(64):
            output.write(bytes(1 << 16))
except OutputError as error:
    print(type(error).__name__, error, error.hint, sep="|")
"""


def in_a_process(path: Path, before: str = "", *wrapper: str) -> str:
    command = [*wrapper, sys.executable, "-c", IN_A_PROCESS.format(before=before), str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_a_file_size_limit_is_an_output_error(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))"
    kind, message, hint = in_a_process(path, limit).strip().split("|")
    assert kind == "OutputError"
    assert "File too large" in message
    assert str(path) in message
    assert "ulimit" in hint
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_full_disk_is_an_output_error(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        (disk / "f").write_bytes(b"old")
        kind, message, hint = in_a_process(disk / "f").strip().split("|")
        assert (kind, (disk / "f").read_bytes(), names(disk)) == ("OutputError", b"old", ["f"])
        assert "No space left" in message
        assert "free some space" in hint
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_full_device_is_an_output_error(tmp_path):
    """/dev/full behind the output: the same error without a disk to fill."""
    before = (
        "import os; whole, new = os.open, os.O_CREAT | os.O_EXCL\n"
        "os.open = lambda p, flags, *mode, **at: whole('/dev/full' if flags & new else p, flags & ~new, *mode, **at)"
    )
    kind, message, hint = in_a_process(tmp_path / "f", before).strip().split("|")
    assert kind == "OutputError"
    assert "No space left" in message
    assert "free some space" in hint
    assert names(tmp_path) == []


def test_what_cannot_be_synced_is_not_published(tmp_path, monkeypatch):
    def broken(_: int) -> None:
        raise OSError(5, "Input/output error")

    (tmp_path / "f").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        replaced(tmp_path / "f", b"new", overwrite=True)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_folder_that_does_not_sync_is_said_and_the_file_is_there(tmp_path, monkeypatch):
    whole = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    with pytest.raises(OutputError, match="written and in place"):
        replaced(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_a_folder_that_knows_no_sync_needs_none(tmp_path, monkeypatch):
    whole = os.fsync

    def only_files(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", only_files)
    replaced(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"new"


def test_interrupted_writes_go_on(tmp_path, monkeypatch):
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, data, offset: whole(descriptor, data[:1000], offset))
    replaced(tmp_path / "f", bytes(range(256)) * 100)
    assert (tmp_path / "f").read_bytes() == bytes(range(256)) * 100


# ---- reading ---------------------------------------------------------------------------------------------------------


def test_exact_reads_and_chunks(tmp_path):
    data = os.urandom(2 * CHUNK + 7)
    (tmp_path / "f").write_bytes(data)
    with SourceFile(tmp_path / "f") as source:
        assert source.size == len(data)
        assert source.read(3, 10) == data[3:13]
        assert source.read(len(data), 0) == b""
        assert [len(chunk) for chunk in source.chunks(5, 2 * CHUNK)] == [CHUNK, CHUNK]
        assert b"".join(source.chunks(1, len(data) - 1)) == data[1:]
        assert list(source.chunks(9, 0)) == []
    source.close()


@pytest.mark.parametrize(("offset", "count"), [(0, 11), (10, 1), (11, 0), (-1, 1), (0, -1), (1 << 70, 1)])
def test_reads_beyond_the_file_are_refused(tmp_path, offset, count):
    (tmp_path / "f").write_bytes(bytes(10))
    with SourceFile(tmp_path / "f") as source, pytest.raises(CorruptCheckpoint, match="ends before") as caught:
        source.read(offset, count)
    assert caught.value.hint
    assert caught.value.path == str(tmp_path / "f")


def test_short_reads_go_on(tmp_path, monkeypatch):
    whole = os.pread
    (tmp_path / "f").write_bytes(bytes(range(100)))
    monkeypatch.setattr(os, "pread", lambda descriptor, count, offset: whole(descriptor, min(count, 7), offset))
    with SourceFile(tmp_path / "f") as source:
        assert source.read(10, 50) == bytes(range(10, 60))


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(bytes(1000))
    with SourceFile(path) as source:
        os.truncate(path, 500)
        assert source.read(0, 500) == bytes(500)
        with pytest.raises(CorruptCheckpoint, match="became shorter"):
            source.read(400, 200)


@pytest.mark.parametrize("change", ["grows", "rewritten", "touched"])
def test_a_file_that_changes_is_noticed(tmp_path, change):
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with SourceFile(path) as source:
        source.check_unchanged()
        if change == "touched":
            os.utime(path, ns=(1, 1))
        else:
            path.write_bytes(b"older" if change == "grows" else b"new")
            os.utime(path, ns=(2, 2))
        with pytest.raises(CorruptCheckpoint, match="changed while") as caught:
            source.check_unchanged()
    assert caught.value.hint


def test_a_file_that_goes_away_is_read_to_its_end(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"data")
    with SourceFile(path) as source:
        path.unlink()
        assert source.read(0, 4) == b"data"


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    outcome: list[BaseException] = []

    def opens() -> None:
        for path in (tmp_path / "fifo", tmp_path, tmp_path / "missing", Path("/dev/null")):
            try:
                SourceFile(path)
            except CheckpointNotFound as error:
                outcome.append(error)

    thread = threading.Thread(target=opens, daemon=True)  # a FIFO without a writer would block for ever
    thread.start()
    thread.join(10)
    assert len(outcome) == 4


def test_errors_of_the_disk_are_errors_of_the_checkpoint(tmp_path, monkeypatch):
    def broken(*_: object) -> bytes:
        raise OSError(5, "Input/output error")

    (tmp_path / "f").write_bytes(b"data")
    with SourceFile(tmp_path / "f") as source:
        monkeypatch.setattr(os, "pread", broken)
        with pytest.raises(CorruptCheckpoint, match="Input/output error"):
            source.read(0, 1)


# ---- moving bytes ------------------------------------------------------------------------------------------------------

PLACES = [(0, 0), (4096, 4096), (4096, 0), (8, 8), (8, 16), (4095, 1), (64, 4100)]


def moved(folder: Path, offset: int, position: int, count: int) -> bytes:
    """Bytes of a source, written from a position on."""
    with SourceFile(folder / "source") as source, replacing(folder / "out", overwrite=True) as output:
        output.reserve(position + count + 10_000)
        output.write(bytes(position))
        output.append(Span(source, offset, count))
        output.write(b"end")
    data = (folder / "out").read_bytes()
    assert data[:position] == bytes(position)
    assert data[-3:] == b"end"
    return data[position:-3]


@pytest.fixture
def random_source(tmp_path: Path) -> bytes:
    data = os.urandom(3_000_001)
    (tmp_path / "source").write_bytes(data)
    return data


@pytest.mark.parametrize(("offset", "position"), PLACES)
def test_bytes_arrive_wherever_they_lay(tmp_path, random_source, offset, position):
    for count in (0, 1, 4096, 2_900_001):
        assert moved(tmp_path, offset, position, count) == random_source[offset : offset + count]


@pytest.mark.parametrize("missing", [("copy_file_range",), ("copy_file_range", "sendfile")])
@pytest.mark.parametrize("number", [errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_file_system_that_cannot_is_served_in_another_way(tmp_path, monkeypatch, random_source, missing, number):
    tried = []

    def unable(*_: object) -> int:
        tried.append(number)
        raise OSError(number, os.strerror(number))

    for name in missing:
        monkeypatch.setattr(os, name, unable)
    assert moved(tmp_path, 4096, 8192, 2_000_000) == random_source[4096:2_004_096]
    assert tried


@pytest.mark.parametrize("name", ["copy_file_range", "preadv"])
def test_what_moves_in_small_steps_arrives_whole(tmp_path, monkeypatch, random_source, name):
    whole, offset = getattr(os, name), 4096 if name == "copy_file_range" else 4097

    def reluctant(*arguments: Any) -> int:
        if name == "preadv":
            return whole(arguments[0], [arguments[1][0][:777]], *arguments[2:])
        return whole(*arguments[:2], min(arguments[2], 777), *arguments[3:])

    monkeypatch.setattr(os, name, reluctant)
    assert moved(tmp_path, offset, 4096, 100_000) == random_source[offset : offset + 100_000]


@pytest.mark.parametrize("position", [0, 1])
def test_a_source_that_shrinks_while_it_is_moved_is_noticed(tmp_path, random_source, position):
    source = SourceFile(tmp_path / "source")
    os.truncate(tmp_path / "source", 10_000)
    with replacing(tmp_path / "out", overwrite=True) as output:
        output.write(bytes(position))
        with pytest.raises(CorruptCheckpoint, match="became shorter"):
            output.append(Span(source, 0, 1_000_000))
    (tmp_path / "out").unlink()
    assert names(tmp_path) == ["source"]


def test_holes_stay_holes(tmp_path):
    size = 64 << 20
    with (tmp_path / "source").open("wb") as file:
        file.seek(size // 2)
        file.write(b"middle")
        file.truncate(size)
    expected = bytes(size // 2) + b"middle" + bytes(size // 2 - 6)
    for position in (0, 4096, 7):
        with SourceFile(tmp_path / "source") as source, replacing(tmp_path / "out", overwrite=True) as output:
            output.write(bytes(position))
            output.append(Span(source, 0, size))
        assert (tmp_path / "out").read_bytes() == bytes(position) + expected
        assert (tmp_path / "out").stat().st_blocks * 512 < 1 << 20
    with SourceFile(tmp_path / "source") as source, replacing(tmp_path / "out", overwrite=True) as output:
        output.append(Span(source, size // 2 + 3, size // 4))
        output.write(b"end")
    assert (tmp_path / "out").read_bytes() == b"dle" + bytes(size // 4 - 3) + b"end"


def test_a_closed_source_is_read_again_unless_it_is_another_file_by_now(tmp_path, random_source):
    source = SourceFile(tmp_path / "source")
    source.close()
    assert source.read(5, 3) == random_source[5:8]
    assert b"".join(map(bytes, source.views(5, 300_000))) == random_source[5:300_005]
    (tmp_path / "source").write_bytes(b"x" * len(random_source))
    with pytest.raises(CorruptCheckpoint, match="changed"):
        source.read(5, 3)


def test_no_room_is_said_before_anything_is_copied(tmp_path, random_source):
    with (
        pytest.raises(OutputError, match=r"No space left|too large"),
        replacing(tmp_path / "out", overwrite=False) as output,
    ):
        output.reserve(1 << 50)
    assert names(tmp_path) == ["source"]
