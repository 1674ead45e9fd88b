"""Reading runs nothing, believes nothing, and ends soon: what is given for a checkpoint is a checkpoint or a clear error."""

from __future__ import annotations

import builtins
import functools
import importlib
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.errors import (
    CheckpointError,
    CheckpointNotFound,
    CkptDoctorError,
    UnknownFormat,
    UsageError,
)
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.source import describe
from tests import builders as b

# ---- nothing is run ----------------------------------------------------------------------------------------------------

CANARY = """
from pathlib import Path
{on_import}
class Config:
    def __init__(self): self.value = 1
    def __setstate__(self, state): Path({canary!r}).write_text("setstate")
class Called:
    def __reduce__(self): return make, (1,)
class Hashed(str):
    def __hash__(self): Path({canary!r}).write_text("hash"); return 1
def make(value): Path({canary!r}).write_text("call")
"""


def booby_trapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A Lightning-like checkpoint whose objects' module writes a canary when it is imported, called or hashed."""
    torch = pytest.importorskip("torch")
    canary = folder / "canary"
    module = folder / "trapped_module.py"
    module.write_text(CANARY.format(canary=str(canary), on_import=""))
    monkeypatch.syspath_prepend(folder)
    importlib.invalidate_caches()
    trapped = importlib.import_module("trapped_module")
    weights = {**b.state_dict(), "_extra_state": trapped.Config(), trapped.Hashed("key"): torch.ones(1)}
    extra = {
        "state_dict": weights,
        "hyper_parameters": trapped.Config(),
        "callbacks": {trapped.Config: [trapped.Called()]},
    }
    torch.save(b.lightning_like(b.state_dict(), **extra), folder / "f.ckpt")
    canary.unlink(missing_ok=True)
    del sys.modules["trapped_module"]
    module.write_text(CANARY.format(canary=str(canary), on_import=f"Path({str(canary)!r}).write_text('import')"))
    importlib.invalidate_caches()
    return folder / "f.ckpt", canary


def test_no_class_of_the_file_is_imported_called_or_hashed(tmp_path, monkeypatch):
    path, canary = booby_trapped(tmp_path, monkeypatch)
    manifest, facts = describe(path)
    assert list(manifest) == list(b.state_dict())
    assert any("trapped_module.Config" in fact for fact in facts)
    execute(make_plan(manifest), tmp_path / "out.ckpt")
    execute(make_plan(manifest), tmp_path / "out.safetensors")
    assert not canary.exists()
    assert "trapped_module" not in sys.modules
    assert (tmp_path / "out.ckpt").read_bytes() == path.read_bytes()


def test_the_trap_does_go_off_when_torch_loads_the_file(tmp_path, monkeypatch):
    import torch

    path, canary = booby_trapped(tmp_path, monkeypatch)
    torch.load(path, weights_only=False)
    assert canary.exists()
    del sys.modules["trapped_module"]


def test_no_import_no_open_for_writing_no_process_while_reading(tmp_path, monkeypatch):
    """Whatever the stream says, the interpreter is asked for nothing but reads of the file itself."""
    harm = b.call("os.system", b.text(f"touch {tmp_path}/canary"))
    imports = b.call("builtins.__import__", b.text("antigravity"))
    stream = b.pickled(b.dict_({"w": b.tensor(), "x": harm, "y": imports}), b"", harm, b"0")
    path = b.written(tmp_path / "f.pt", b.torch_file(stream))
    read_manifest(path)  # everything that the package itself needs is imported now
    events: list[str] = []
    watched = {
        "import",
        "exec",
        "compile",
        "os.system",
        "subprocess.Popen",
        "os.exec",
        "ctypes.dlopen",
        "socket.connect",
    }
    recording = [True]

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if recording[0] and event in watched:
            events.append(event)
        if recording[0] and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            events.append(f"open {arguments[0]}")

    sys.addaudithook(audit)
    try:
        manifest = read_manifest(path)
    finally:
        recording[0] = False
    assert events == []
    assert list(manifest) == ["w"]
    assert not (tmp_path / "canary").exists()


def test_harm_that_is_popped_off_the_stack_is_named_too(tmp_path):
    harm = b.call("posix.system", b.text("true")) + b"0"
    stream = b.pickled(harm, b.dict_({"w": b.tensor()}))
    manifest = read_manifest(b.written(tmp_path / "f.pt", b.torch_file(stream)))
    assert list(manifest) == ["w"]
    (note,) = manifest.origin.notes
    assert "posix.system" in note
    assert "never does that" in note


HEAVY = ("torch", "numpy", "safetensors", "yaml", "pydantic", "typer", "rich", "lightning")

IN_A_PROCESS = """
import sys
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.source import read_manifest
manifest = read_manifest(sys.argv[1])
with open_checkpoint(sys.argv[1]) as checkpoint:
    place = tuple((manifest.origin.selected or "").split("/")) if manifest.origin.selected else ()
    size = sum(len(chunk) for tensor in checkpoint.stored(place).values() for chunk in checkpoint.values(tensor))
if len(sys.argv) > 2:
    from ckptdoctor.execution import execute
    from ckptdoctor.plan import make_plan
    execute(make_plan(manifest), sys.argv[2])
print(len(manifest), size, *[name for name in {heavy!r} if name in sys.modules])
"""


@pytest.mark.parametrize("name", ["f.ckpt", "f.safetensors"])
@pytest.mark.parametrize("also_write", [False, True])
def test_neither_torch_nor_numpy_is_imported(tmp_path, name, also_write):
    torch = pytest.importorskip("torch")
    state = dict(b.state_dict())
    if name == "f.ckpt":
        torch.save(b.lightning_like(state), tmp_path / name)
    else:
        pytest.importorskip("safetensors.torch").save_file({k: v.clone() for k, v in state.items()}, tmp_path / name)
    arguments = [tmp_path / name, *([tmp_path / f"out-{name}"] if also_write else [])]
    command = [sys.executable, "-c", IN_A_PROCESS.format(heavy=HEAVY[:2] if also_write else HEAVY), *arguments]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert printed == [str(len(state)), str(sum(value.nbytes for value in state.values()))]


# ---- what is no file ---------------------------------------------------------------------------------------------------

GOOD = b.torch_file(b.pickled(b.dict_({"w": b.tensor()})))


def not_files(folder: Path) -> dict[str, tuple[Path, type[CheckpointError], str, str]]:
    (folder / "folder").mkdir()
    os.mkfifo(folder / "fifo")
    (folder / "model.ckpt").write_bytes(GOOD)
    (folder / "dangling").symlink_to(folder / "gone")
    (folder / "loop").symlink_to(folder / "loop")
    return {
        "missing, with a near name": (folder / "modle.ckpt", CheckpointNotFound, "there is no file", "model.ckpt"),
        "missing, nothing like it": (folder / "x", CheckpointNotFound, "there is no file", "nothing in"),
        "missing with its folder": (folder / "no" / "x", CheckpointNotFound, "there is no file", "no folder"),
        "a dangling link": (folder / "dangling", CheckpointNotFound, "there is no file", ""),
        "a loop of links": (folder / "loop", CheckpointNotFound, "cannot read", "path"),
        "below a file": (folder / "model.ckpt" / "x", CheckpointNotFound, "cannot read", "path"),
        "a name too long": (folder / ("n" * 300), CheckpointNotFound, "cannot read", "path"),
        "a folder": (folder / "folder", UnknownFormat, "a folder", "another folder"),
        "a FIFO": (folder / "fifo", CheckpointNotFound, "not a regular file", "copy it"),
        "a device": (Path("/dev/zero"), CheckpointNotFound, "not a regular file", "copy it"),
    }


@pytest.mark.parametrize(
    "name",
    [
        *("missing, with a near name", "missing, nothing like it", "missing with its folder", "a dangling link"),
        *("a loop of links", "below a file", "a name too long", "a folder", "a FIFO", "a device"),
    ],
)
def test_what_is_no_file_is_said(tmp_path, name):
    path, kind, message, hint = not_files(tmp_path)[name]
    with pytest.raises(CkptDoctorError, match=message) as caught:
        read_manifest(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    assert caught.value.hint
    assert hint in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_said(tmp_path):
    path = b.written(tmp_path / "f", GOOD)
    path.chmod(0)
    with pytest.raises(CheckpointNotFound, match="Permission denied"):
        read_manifest(path)


# ---- bytes changed, invented --------------------------------------------------------------------------------------------


def read_all(path: Path) -> str:
    """Listing and values: they are read, or refused by an error of ours."""
    try:
        with open_checkpoint(path) as checkpoint:
            for place in checkpoint.places:
                checkpoint.others(place)
                for tensor in checkpoint.stored(place).values():
                    for _ in checkpoint.values(tensor):
                        pass
    except CheckpointError:
        return "refused"
    return "read"


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def small_files() -> dict[str, bytes]:
    view = b.tensor(shape=(2, 2), stride=(1, 2), metadata=b.dict_({"neg": b"\x88"}))
    weights = b.dict_({"w": b.tensor(), "t": view, "p": b.call("torch._utils._rebuild_parameter", b.tensor())})
    return {
        "torch": b.torch_file(b.pickled(b.dict_({"state_dict": weights, "hyper": b.call("argparse.Namespace")}))),
        "torch without checksums": b.zip_bytes(
            [replace(r, crc=0, local_crc=0) for r in b.torch_records(b.pickled(b.dict_({"w": view})))]
        ),
        "safetensors": b.safetensors_bytes({"__metadata__": {"format": "pt", "v": "w"}, "w": ROW}, bytes(8)),
        "manifest": b'{"schema": "ckptdoctor/manifest/1", "tensors": [{"key": "w", "shape": [2], "dtype": "float32", '
        b'"kind": "buffer", "tied_to": null}]}',
    }


@pytest.mark.parametrize("name", ["torch", "torch without checksums", "safetensors", "manifest"])
def test_every_changed_byte_is_read_or_refused(tmp_path, name):
    data = small_files()[name]
    path = tmp_path / "f"
    outcomes = []
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
        outcomes.append(read_all(b.written(path, changed)))
    assert set(outcomes) <= {"read", "refused"}
    assert outcomes.count("refused") > len(data) // 3


BEGINNINGS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"{", b"\x08\0\0\0\0\0\0\0{", b"(", GOOD[:100], GOOD[:-22]]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=80))
@example(b"\x80", b"")
@example(b"PK\x05\x06", bytes(18))
def test_any_bytes_are_refused(tmp_path, beginning, rest):
    assert read_all(b.written(tmp_path / "f", beginning + rest)) == "refused"


# ---- the source stays as it is -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["itself", "a link", "a hard link", "another spelling"])
def test_the_source_is_never_written_to(tmp_path, way):
    path = b.written(tmp_path / "f.pt", GOOD)
    (tmp_path / "link.pt").symlink_to(path)
    os.link(path, tmp_path / "hard.pt")
    (tmp_path / "d").mkdir()
    outs = {"itself": path, "a link": tmp_path / "link.pt", "a hard link": tmp_path / "hard.pt"}
    out = outs.get(way, tmp_path / "d" / ".." / "f.pt")
    before = path.stat()
    with pytest.raises(UsageError, match="source itself"):
        execute(make_plan(read_manifest(path)), out, overwrite=True)
    after = path.stat()
    assert (after.st_mtime_ns, after.st_ino, path.read_bytes()) == (before.st_mtime_ns, before.st_ino, GOOD)


def test_reading_opens_the_source_for_reading_only(tmp_path, monkeypatch):
    path = b.written(tmp_path / "f.pt", GOOD)
    flags: list[int] = []
    whole_open, whole_io = os.open, builtins.open

    def watched(target: Any, flag: int, *rest: Any, **more: Any) -> int:
        flags.append(flag & os.O_ACCMODE)
        return whole_open(target, flag, *rest, **more)

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(builtins, "open", functools.partial(whole_io))
    assert read_all(path) == "read"
    assert flags
    assert set(flags) == {os.O_RDONLY}
