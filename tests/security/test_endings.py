"""What ends a run from outside, or stands in its way: limits, small and read-only disks, other writers, a changing source."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch

from ckptdoctor.files import system
from tests.security.faults import Layer, failing, run_apart, run_here, start_apart
from tests.summary import counted

Count: TypeAlias = Callable[[str, object], None]
REMAP = ["remap", "base.pt", "-m", "map.yaml", "-o", "out.pt"]
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    write_source(tmp_path / "work" / "base.pt", 0)
    (tmp_path / "work" / "map.yaml").write_text('ckptdoctor: 1\nrules: [{from: "a.{p}", to: "b.{p}"}]\n')
    return tmp_path / "work"


def write_source(path: Path, seed: int, *, size: int = 40) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.save({f"a.{n}": torch.randn(size, size, generator=generator) for n in "xyz"}, path)


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def debris(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if "ckptdoctor-tmp" in name]  # noqa: PTH208


def with_older(folder: Path) -> dict[str, bytes]:
    """The folder with an older output and its receipt."""
    write_source(folder / "other.pt", 1)
    assert run_here(folder, [*REMAP[:1], "other.pt", *REMAP[2:]]).status == 0
    return tree(folder)


def refused(status: int, said: str, *parts: str) -> None:
    """One error that says what and where, and a hint."""
    assert status == 2, said
    assert (said.count("error:"), said.count("hint:")) == (1, 1), said
    for part in parts:
        assert part in said, said


# ---- limits and disks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 100, 5_000, 15_000])
def test_a_limit_on_the_size_of_files(folder: Path, size: int, record_property: Count) -> None:
    before = with_older(folder)
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # noqa: E731
    ended = run_apart(folder, [*REMAP, "--overwrite"], first=limit)
    refused(ended.status, ended.stderr, "File too large", "ulimit -f", "out.pt")
    assert (tree(folder), debris(folder)) == (before, [])
    record_property(counted("faults"), 1)


@contextmanager
def mounted(*words: str) -> Iterator[None]:
    """A mount, in a namespace that only this process sees; skips where none may be made."""
    shown = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if shown.returncode:
        pytest.skip(f"nothing can be mounted here: {shown.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", words[-1]], check=True)


def needs_mounts() -> None:
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("mounting needs root")


@pytest.mark.parametrize("room", [16, 24, 32, 40, 48, 52, 56, 60])
def test_a_disk_that_runs_full_in_the_middle(folder: Path, room: int, record_property: Count) -> None:
    """A tmpfs of so many KiB, with an older output and the source on it: the new one finds less and less room."""
    needs_mounts()
    before = with_older(folder)
    disk = folder.parent / "disk"
    disk.mkdir()
    kept = sum(-(-len(data) // 4096) * 4 for data in before.values())
    with mounted("-t", "tmpfs", "-o", f"size={kept + room}k", "tmpfs", str(disk)):
        for name, data in before.items():
            (disk / name).write_bytes(data)
        done = run_here(disk, [*REMAP, "--overwrite"])
        assert debris(disk) == []
        if done.status:
            refused(done.status, done.stderr, "No space left", "free some space")
            assert tree(disk) == before
        else:
            assert tree(disk)["out.pt"] != before["out.pt"]
            assert run_here(disk, ["verify", "out.pt"]).status == 0
        assert (room > 20) or done.status, "what is copied alone has 20 KiB"
    record_property(counted("faults"), 1)


def test_a_disk_that_is_read_only(folder: Path, record_property: Count) -> None:
    needs_mounts()
    before = with_older(folder)
    with mounted("--bind", str(folder), str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        for words in ([*REMAP, "--overwrite"], [*REMAP[:-1], "new.pt"]):
            done = run_here(folder, words)
            refused(done.status, done.stderr, "Read-only file system", "write elsewhere", words[5])
    assert (tree(folder), debris(folder)) == (before, [])
    record_property(counted("faults"), 2)


def test_a_folder_in_which_nobody_may_write(folder: Path, record_property: Count) -> None:
    before = with_older(folder)

    def be_nobody() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)

    with tempfile.TemporaryDirectory() as name:  # all may look into it, which is not so of pytest's own
        place = Path(shutil.copytree(folder, name, dirs_exist_ok=True))
        place.chmod(0o555)
        for words in ([*REMAP, "--overwrite"], [*REMAP[:-1], "new.pt"]):
            ended = run_apart(place, words, first=be_nobody)
            refused(ended.status, ended.stderr, "Permission denied", "write elsewhere", words[5])
        assert (tree(place), debris(place)) == (before, [])
        place.chmod(0o755)
    record_property(counted("faults"), 2)


# ---- others at the same time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["out.pt", "out"])
def test_three_writers_at_once(folder: Path, output: str, record_property: Count) -> None:
    """Each of them ends well, and what is there in the end is what one of them wrote."""
    words = {}
    for number in range(3):
        write_source(folder / f"base{number}.pt", number)
        words[number] = ["remap", f"base{number}.pt", "-m", "map.yaml", "--overwrite", "-o", output]
        words[number] += ["--to", "sharded", "--shard-size", "7kB"] if output == "out" else []
    wanted = {}
    for number, each in words.items():
        assert run_here(folder, each).status == 0
        wanted[number] = content(folder / output)
    for _ in range(5):
        waiting = [start_apart(folder, each, Layer()) for each in words.values()]
        ended = [wait() for wait in waiting]
        assert [each.status for each in ended] == [0, 0, 0], ended
        assert content(folder / output) in wanted.values()
        assert debris(folder) == []
        verified = run_here(folder, ["verify", output])
        receipt = (folder / f"{output}.receipt.json").read_text()
        (winner,) = [number for number in wanted if wanted[number] == content(folder / output)]
        assert (verified.status == 0) == (f'"base{winner}.pt"' in receipt), verified.stdout
        assert verified.status == 0 or "have other values than" in verified.stdout
    record_property(counted("faults"), 15)


def content(path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes()} if path.is_file() else tree(path)


def test_a_folder_that_somebody_else_makes_meanwhile_is_not_replaced(folder: Path) -> None:
    """Neither without --overwrite, nor with it where it holds what is not ours."""
    words, theirs = [*REMAP[:-1], "out", "--to", "sharded"], {"notes.txt": b"theirs"}
    for more, said in (([], "exists"), (["--overwrite"], "did not write there")):
        before = tree(folder / "out") if more else {}

        def somebody(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
            (folder / "out").mkdir(exist_ok=True)
            (folder / "out" / "notes.txt").write_text("theirs")
            return call(*arguments)

        done = run_here(folder, [*words, *more], Layer(1, somebody, only=["fsync"]))
        refused(done.status, done.stderr, said)
        assert (tree(folder / "out"), debris(folder)) == (before | theirs, [])
        shutil.rmtree(folder / "out")
        assert run_here(folder, words).status == 0


def test_a_link_stays_and_what_it_leads_to_is_replaced(folder: Path) -> None:
    (folder.parent / "elsewhere").mkdir()
    before = with_older(folder)
    real = (folder / "out.pt").rename(folder.parent / "elsewhere" / "real.pt")
    (folder / "out.pt.receipt.json").rename(real.with_name("real.pt.receipt.json"))
    (folder / "out.pt").symlink_to("../elsewhere/real.pt")
    assert run_here(folder, [*REMAP, "--overwrite"]).status == 0
    assert (folder / "out.pt").is_symlink()
    assert real.read_bytes() != before["out.pt"]
    assert sorted(path.name for path in real.parent.iterdir()) == ["real.pt", "real.pt.receipt.json"]
    assert run_here(folder, ["verify", "out.pt"]).status == 0
    assert "out.pt.receipt.json" not in tree(folder)


@pytest.mark.parametrize("change", ["truncated", "longer", "touched", "another"])
def test_a_source_that_changes_while_it_is_read(folder: Path, change: str, record_property: Count) -> None:
    """At every call from the first that writes on, until its bytes are there."""
    before, source = with_older(folder), (folder / "base.pt").read_bytes()
    changes: dict[str, Callable[[], object]] = {
        "truncated": lambda: os.truncate(folder / "base.pt", 300),
        "longer": lambda: (folder / "base.pt").write_bytes(source + b"x"),
        "touched": lambda: os.utime(folder / "base.pt", ns=(5, 5)),
        "another": lambda: (folder / "base.pt").write_bytes(source[:-1] + b"x"),
    }

    def act(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        changes[change]()
        return call(*arguments)

    tried = 0
    for at in range(1, 40):
        (folder / "base.pt").write_bytes(source)
        os.utime(folder / "base.pt", ns=(7, 7))
        layer = Layer(at, act, only=["pwrite", "copy_file_range"])
        done = run_here(folder, [*REMAP, "--overwrite"], layer)
        if done.status == 0:  # the source was read to its end, and looked at once more
            break
        assert (done.status, done.stderr.count("error:"), "base.pt" in done.stderr) == (2, 1, True), done.stderr
        assert tree(folder) | {"base.pt": b""} == before | {"base.pt": b""}
        assert debris(folder) == []
        tried += 1
    assert tried > 5
    record_property(counted("faults"), tried)


# ---- what dead runs leave ------------------------------------------------------------------------------------------------


def dead(folder: Path) -> Path:
    """The hidden folder of a run that was killed."""

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    assert run_apart(folder, REMAP, Layer(2, kill, only=["fsync"])).status == -signal.SIGKILL
    (left,) = debris(folder)
    return folder / left


def test_the_next_run_removes_what_a_dead_one_left(folder: Path) -> None:
    left = dead(folder)
    assert sorted(path.name for path in left.iterdir()) == ["out.pt", "out.pt.receipt.json"]
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    assert run_here(folder, ["inspect", "base.pt", "--manifest", "m.json"]).status == 0
    assert debris(folder) == []


def test_what_is_not_surely_dead_and_ours_stays(folder: Path) -> None:
    left, host = dead(folder), os.uname().nodename.replace(".", "-")
    number = left.name.rsplit(".", 2)[1].split("-")[0]
    names = {
        "another host": left.name.replace(f".{host}.", f".{host}2."),
        "a living process": left.name.replace(f".{number}-", f".{os.getpid()}-"),
        "process 0": left.name.replace(f".{number}-", ".0-"),
        "no process at all": left.name.replace(f".{number}-", ".9999999999-"),
        "another ending": left.name + "x",
        "no random part": left.name.replace(".ckptdoctor-tmp", "z.ckptdoctor-tmp"),
    }
    for name in names.values():
        shutil.copytree(left, folder / name)
    (folder / f".file{left.name}").write_text("no folder")
    (folder.parent / "precious").mkdir(mode=0o700)
    (folder.parent / "precious" / "f").write_text("x")
    (folder / f".link{left.name}").symlink_to(folder.parent / "precious")
    (folder / f".open{left.name}").mkdir(mode=0o755)
    locked = folder / f".locked{left.name}"
    locked.mkdir(mode=0o700)
    descriptor = os.open(locked, os.O_RDONLY)
    system.flock(descriptor)
    kept = {*names.values(), *(f".{kind}{left.name}" for kind in ("file", "link", "open", "locked"))}
    assert run_here(folder, ["inspect", "base.pt", "--manifest", "m.json"]).status == 0
    assert set(debris(folder)) == kept, "and the one that is dead and ours has gone"
    os.close(descriptor)
    assert run_here(folder, ["inspect", "base.pt", "--manifest", "m.json"]).status == 0
    assert set(debris(folder)) == kept - {locked.name}
    assert (folder.parent / "precious" / "f").read_text() == "x"


def test_without_locks_nothing_is_removed(folder: Path) -> None:
    left = dead(folder)
    done = run_here(folder, ["inspect", "base.pt", "--manifest", "m.json"], Layer(lacking={"flock"}))
    assert (done.status, debris(folder)) == (0, [left.name])


def test_a_writer_at_work_is_let_be(folder: Path) -> None:
    """Its folder is locked: not even where its process could not be seen (in another container) would it be removed."""
    mark = folder / "mark"

    def wait(name: str, call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        mark.touch()
        while mark.exists():
            time.sleep(0.01)
        return call(*arguments)

    ended = start_apart(folder, REMAP, Layer(2, wait, only=["fsync"]))
    while not mark.exists():
        time.sleep(0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ckptdoctor.files.sweeping._alive", lambda number: False)
        assert run_here(folder, ["inspect", "base.pt", "--manifest", "m.json"]).status == 0
    assert len(debris(folder)) == 1
    mark.unlink()
    assert ended().status == 0
    assert debris(folder) == []


# ---- whose it is -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["out.pt", "out"])
def test_mode_and_owner_of_what_is_replaced_are_kept(folder: Path, output: str) -> None:
    words = [*REMAP[:-1], output, *(["--to", "sharded"] if output == "out" else [])]
    assert run_here(folder, words).status == 0
    paths = [folder / output, folder / f"{output}.receipt.json", *(folder / output).glob("*")]
    for path in paths:
        path.chmod(0o750 if path.is_dir() else 0o640)
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY - 1)
    before = {path: os.stat(path) for path in paths}  # noqa: PTH116
    assert run_here(folder, [*words, "--overwrite"]).status == 0
    for path, old in before.items():
        new = path.stat()
        assert (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid), path
        assert new.st_ino != old.st_ino, path


# ---- at any moment -------------------------------------------------------------------------------------------------------


def test_a_signal_that_was_ignored_from_the_start_stays_so(folder: Path) -> None:
    """As under nohup."""
    program = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ckptdoctor.files import system; whole = system.perform\n"
        "def perform(name, call, *arguments):\n"
        "    os.kill(os.getpid(), signal.SIGHUP)\n"
        "    return whole(name, call, *arguments)\n"
        "system.perform = perform\n"
        "from ckptdoctor.cli import main; main()"
    )
    assert subprocess.run([sys.executable, "-c", program, *REMAP, "-q"], cwd=folder, check=False).returncode == 0
    assert (folder / "out.pt").exists()


# ---- what is said, and in which order it is done -----------------------------------------------------------------------


@pytest.mark.parametrize(("output", "moves"), [("out.pt", ["rename"]), ("out", ["exchange"]), ("new.pt", ["link"])])
def test_everything_is_on_the_disk_before_a_name_changes_and_the_names_are_at_the_end(
    folder: Path, output: str, moves: list[str]
) -> None:
    words = ["remap", "base.pt", "-m", "map.yaml", "-o", output, *(["--to", "sharded"] if output == "out" else [])]
    if output != "new.pt":
        assert run_here(folder, words).status == 0
        words.append("--overwrite")
    layer = Order()
    assert run_here(folder, words, layer).status == 0
    changing = ("open", "fsync", "mkdir", "rename", "link", "exchange", "rmtree")
    done = [(name, path) for name, path in layer.done if name in changing]
    places = [number for number, (name, _) in enumerate(done) if name in ("rename", "link", "exchange")]
    assert [done[number] for number in places] == [(moves[0], output), ("rename", f"{output}.receipt.json")]
    assert places[1] == places[0] + 1
    synced = [path for name, path in done[: places[0]] if name == "fsync"]
    assert synced == [*(["model.safetensors"] if output == "out" else []), output, f"{output}.receipt.json"]
    assert done[places[1] + 1 :][:2] == [("open", "work"), ("fsync", "work")]


class Order(Layer):
    """Notes the calls, each with the name of the last file or folder that it is about."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[str, str]] = []

    def __call__(self, name: str, call: Callable[..., Any], *arguments: Any) -> Any:
        about = arguments[1] if name in ("rename", "link", "exchange") else arguments[0]
        path = os.readlink(f"/proc/self/fd/{about}") if isinstance(about, int) else about  # noqa: PTH115
        result = super().__call__(name, call, *arguments)
        self.done.append((name, Path(path).name))
        return result


def test_what_fails_once_the_output_is_in_place_says_so(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")
    before = tree(folder)
    done = run_here(folder, [*REMAP, "--report", "json=map.yaml"])
    refused(done.status, done.stderr, "out.pt is written and in place, but map.yaml exists, and is not an older file")
    assert tree(folder).items() > before.items()
    assert run_here(folder, ["verify", "out.pt"]).status == 0
    full = lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 1)  # noqa: E731
    with (folder / "err").open("w") as err:
        program = [sys.executable, "-m", "ckptdoctor", *REMAP, "--overwrite"]
        ended = subprocess.run(program, cwd=folder, preexec_fn=full, stderr=err, check=False)
    refused(
        ended.returncode, (folder / "err").read_text() + "hint:", "is written and in place, but cannot write to stdout"
    )


def test_a_signal_once_the_output_is_in_place_says_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptdoctor.cli.remap.publish", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    done = run_here(folder, REMAP)
    assert (done.status, done.stderr) == (143, f"terminated; {folder / 'out.pt'} is written and in place\n")
    monkeypatch.undo()
    assert run_here(folder, ["verify", "out.pt"]).status == 0


def test_a_disk_that_cannot_be_read_is_not_taken_for_the_output(folder: Path) -> None:
    """EIO of a copy in the kernel may be either side's; reading again tells."""
    broken = Layer(1, failing(errno.EIO), only=["copy_file_range", "preadv"], on=True)
    done = run_here(folder, [*REMAP, "--no-digests"], broken)
    refused(done.status, done.stderr, "cannot read base.pt: Input/output error", "another copy")
    done = run_here(folder, REMAP, Layer(1, failing(errno.EIO), only=["copy_file_range", "pwrite"], on=True))
    refused(done.status, done.stderr, "cannot write", "out.pt: Input/output error", "write elsewhere")
