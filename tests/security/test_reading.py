"""Reading runs nothing, believes nothing, and ends soon: what is given for a checkpoint is a checkpoint or a clear error."""

from __future__ import annotations

import builtins
import functools
import gzip
import importlib
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable
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
    CorruptCheckpoint,
    NoStateDict,
    UnknownFormat,
    UnsafeCheckpoint,
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
    manifest, _, globals_ = describe(path)
    assert list(manifest) == list(b.state_dict())
    assert ("trapped_module.Config", "unknown") in {(each.global_name, each.danger) for each in globals_}
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


# ---- lookalikes --------------------------------------------------------------------------------------------------------


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    return file.getvalue()


def scripted_module() -> bytes:
    torch = pytest.importorskip("torch")

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.w

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Tiny(), torch.ones(2)), file)
    return file.getvalue()


def whole_module() -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


class Runs:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("echo owned > owned",)


PADDED = b.pickled(b.call("os.system", b.text("true")), b"0", b.text("x" * 10_000))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
ROW = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def file_of(pairs: Any, storages: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    """A torch file around a dict of opcodes."""
    return b.torch_file(b.pickled(b.dict_(pairs)), storages, **others)


GOOD = file_of({"w": b.tensor()})
Content = bytes | Callable[[], bytes]

UNKNOWN: dict[str, tuple[Content, str, str]] = {
    "a web page": (b"<!DOCTYPE html><html><body>log in</body></html>", "web page", "login"),
    "a web page after line breaks": (b"\n\n  <html>\n", "web page", "login"),
    "an XML error": (b'<?xml version="1.0"?><Error>AccessDenied</Error>', "web page", "address"),
    "a Git LFS pointer": (LFS, "Git LFS", "git lfs pull"),
    "gzip": (gzip.compress(GOOD), "gzip", "unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z", "unpack"),
    "bzip2": (b"BZh9" + bytes(50), "bzip2", "unpack"),
    "xz": (b"\xfd7zXZ\0" + bytes(50), "xz", "unpack"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(50), "zstd", "unpack"),
    "tar": (tar_bytes, "tar archive", "torch"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5", "safetensors"),
    "GGUF": (b"GGUF\x03\0\0\0" + bytes(50), "GGUF", "llama.cpp"),
    "NumPy": (b"\x93NUMPY\x01\0" + bytes(50), "NumPy", "torch.save"),
    "TorchScript": (scripted_module, "TorchScript", "state_dict"),
    "a zip file of something else": (b.zip_bytes([b.Record("folder/readme.txt", b"hello")]), "data.pkl", "unpacked"),
    "an empty zip file": (b.zip_bytes([]), "known format", "torch.save"),
    "one byte": (b"\x80", "known format", "torch.save"),
    "text": (b"hello\n", "known format", "torch.save"),
    "zeros": (bytes(5000), "known format", "torch.save"),
    "JSON of something else": (b'{"hello": [1, 2]}', "known format", "manifests"),
}
UNSAFE: dict[str, tuple[Content, str, str]] = {
    "a bare pickle that runs a program": (lambda: pickle.dumps(Runs(), 2), "call (posix|nt).system", "torch.save"),
    "a bare pickle of protocol 0": (lambda: pickle.dumps(Runs(), 0), "call (posix|nt).system", "torch.save"),
    "a bare pickle of protocol 4": (lambda: pickle.dumps(Runs(), 4), "call (posix|nt).system", "torch.save"),
    "a bare pickle that is longer than what is looked at": (PADDED, "call os.system", "torch.save"),
    "a bare pickle of plain values": (pickle.dumps({"a": 1}, 2), "bare pickle, not a checkpoint$", "torch.save"),
    "a bare pickle cut": (b"\x80\x02cos\nsystem\n(X", "call os.system", "torch.save"),
}
CORRUPT: dict[str, tuple[Content, str, str]] = {
    "empty": (b"", "is empty", "download it again"),
    "half a torch file": (GOOD[: len(GOOD) // 2], "truncated", "truncated: copy or download it again"),
    "half a safetensors file": (b.safetensors_bytes(ROW, b"123"), "ends", "download it again"),
    "half a safetensors header": (b.safetensors_bytes(ROW)[:30], "ends", "download it again"),
}
WITHOUT_WEIGHTS: dict[str, tuple[Content, str, str]] = {
    "a module saved whole": (whole_module, "torch.nn.modules.linear.Linear", "inspect"),
    "a file without tensors": (file_of({"epoch": b"K\1"}, {}), "no state dict", "inspect"),
    "nothing but an optimizer": (file_of({"optimizer": b.dict_({"m": b.tensor()})}), "no state dict", "inspect"),
}
LOOKALIKES = {
    name: (kind, *row)
    for kind, table in [
        (UnknownFormat, UNKNOWN),
        (UnsafeCheckpoint, UNSAFE),
        (CorruptCheckpoint, CORRUPT),
        (NoStateDict, WITHOUT_WEIGHTS),
    ]
    for name, row in table.items()
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", LOOKALIKES)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, monkeypatch, name):
    kind, content, message, hint = LOOKALIKES[name]
    monkeypatch.chdir(tmp_path)
    path = b.written(tmp_path / "model.ckpt", content() if callable(content) else content)
    with pytest.raises(CkptDoctorError, match=message) as caught:
        read_manifest(path)
    assert type(caught.value) is kind
    assert str(path) in str(caught.value)
    assert caught.value.path == str(path)
    assert hint in (caught.value.hint or "")
    assert "\n" not in (caught.value.hint or "")
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.ckpt"]


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


# ---- torch files that lie ----------------------------------------------------------------------------------------------

UNTYPED = b.storage(kind="torch.storage.UntypedStorage", numel=16)
W = b.text("w") + b.tensor()


def torch_with(*tensors: bytes, storages: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    return file_of({f"t{number}": tensor for number, tensor in enumerate(tensors)}, storages, **others)


def records(pick: Callable[[b.Record], b.Record | None]) -> bytes:
    """The good file with other records; None leaves one out."""
    honest = b.torch_records(b.pickled(b.dict_({"w": b.tensor()})))
    return b.zip_bytes(record for record in map(pick, honest) if record is not None)


def without(name: str) -> bytes:
    return records(lambda record: None if record.name.endswith(name) else record)


PARAMETER = "torch._utils._rebuild_parameter"


def attributed(state: bytes) -> bytes:
    """A tensor that torch makes, and then sets attributes on."""
    made = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(4)), b.tuple_(b.number(1)), b"\x89", b"N")
    function = b.global_("torch._utils._rebuild_tensor_v2")
    return b.call("torch._tensor._rebuild_from_type_v2", function, b.global_("torch.Tensor"), made, state)


SET_AGAIN = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(2)), b.tuple_(b.number(1))) + b"b"
LYING = {
    "a storage larger than its record": torch_with(b.tensor(b.storage(numel=5), shape=(5,))),
    "a storage smaller than its record": torch_with(b.tensor(b.storage(numel=3), shape=(3,))),
    "a record one byte short": torch_with(b.tensor(), storages={"0": bytes(15)}),
    "a storage without a record": torch_with(b.tensor(b.storage("1"))),
    "a storage of 2^62 elements": torch_with(b.tensor(b.storage(numel=1 << 62))),
    "a storage of 2^70 elements": torch_with(b.tensor(b.storage(numel=1 << 70))),
    "a storage of two sizes": torch_with(b.tensor(), b.tensor(b.storage(numel=2), shape=(2,))),
    "a storage of two types of other sizes": torch_with(b.tensor(), b.tensor(b.storage(kind="torch.DoubleStorage"))),
    "a storage of two types of one size": torch_with(b.tensor(), b.tensor(b.storage(kind="torch.IntStorage"))),
    "a storage outside the folder": torch_with(b.tensor(b.storage("../../etc/passwd"))),
    "a storage that is metadata": torch_with(b.tensor(b.storage("../version"))),
    "a storage of an unknown type": torch_with(b.tensor(b.storage(kind="torch.SecretStorage"))),
    "a view one element too long": torch_with(b.tensor(shape=(5,))),
    "a view that begins too late": torch_with(b.tensor(offset=1)),
    "a view that begins at 2^62": torch_with(b.tensor(offset=1 << 62)),
    "a view with a stride too long": torch_with(b.tensor(shape=(2, 2), stride=(3, 1))),
    "a view with a huge stride": torch_with(b.tensor(shape=(2,), stride=(1 << 62,))),
    "a view with a negative stride": torch_with(b.tensor(shape=(2,), stride=(-1,), offset=3)),
    "a view with a negative size": torch_with(b.tensor(shape=(-4,))),
    "a view with too many dimensions": torch_with(b.tensor(shape=(1,) * 80, stride=(1,) * 80)),
    "a view of wider elements": torch_with(b.tensor(UNTYPED, dtype="torch.float64")),
    "a view of six-bit elements": torch_with(b.tensor(UNTYPED, shape=(999,), dtype="torch.float6_e2m3fn")),
    "a view of elements that torch does not have": torch_with(b.tensor(UNTYPED, dtype="torch.float5")),
    "a reference that is no storage": torch_with(b.text("module") + b"Q"),
    "a reference that is text": torch_with(b"Pstorage\n"),
    "a reference that holds itself": b.torch_file(b.pickled(b"]q\0(h\0h\0h\0h\0h\0tQa")),
    "a key twice": b.torch_file(b.pickled(b"}(", W, W, b"u")),
    "a key twice, once no tensor": b.torch_file(b.pickled(b"}(", W, b.text("w"), b"Nu")),
    "a key twice, in the envelope": file_of([(b.text("m"), b.dict_({"w": b.tensor()})), (b.text("m"), b"N")]),
    "a number twice": file_of([(b"K\1", b.dict_({"w": b.tensor()})), (b"\x88", b"N")]),
    "a number and a text that look alike": file_of([(key, b.dict_({"w": b.tensor()})) for key in (b"K\1", b.text("1"))]),
    "a tensor that is set to another": torch_with(b.tensor() + SET_AGAIN),
    "a tensor that is set to nothing": torch_with(b.tensor() + b"}b"),
    "a tensor with an element set": torch_with(b.tensor() + b"K\0G" + bytes(8) + b"s"),
    "a tensor made of too many arguments": torch_with(b.tensor(metadata=b.dict_({}) + b.dict_({"neg": b"\x88"}))),
    "a shape that is a list": torch_with(b.tensor(sizes=b.list_(b.number(4)) + b.tuple_(b.number(1)))),
    "a tensor with other values for an attribute": torch_with(attributed(b.dict_({"data": b.tensor(shape=(2,))}))),
    "a tensor with other values for a slot": torch_with(attributed(b.tuple_(b"N", b.dict_({"data": b.tensor(shape=(2,))})))),
    "a tensor with an imaginary attribute": torch_with(attributed(b.dict_({"imag": b.tensor()}))),
    "a tensor with attributes that something makes": torch_with(attributed(b.call("collections.Counter"))),
    "a parameter with other values for an attribute": torch_with(
        b.call(f"{PARAMETER}_with_state", b.tensor(), b"\x88", b"N", b.dict_({"data": b.tensor(shape=(2,))}))
    ),
    "a flag that is a number": torch_with(b.tensor(metadata=b.dict_({"neg": b"K\1"}))),
    "a flag that is False": torch_with(b.tensor(metadata=b.dict_({"neg": b"\x89"}))),
    "flags that are none": torch_with(b.tensor(metadata=b"K\0")),
    "no pickle": without("data.pkl"),
    "an empty pickle": b.torch_file(b""),
    "a pickle without an end": b.torch_file(b.pickled(b.dict_({"w": b.tensor()}))[:-1]),
    "a pickle of another protocol": b.torch_file(b.pickled(b.dict_({"w": b.tensor()}), protocol=9)),
    "no version": without("version"),
    "version 0": torch_with(b.tensor(), version=b"0\n"),
    "version 11": torch_with(b.tensor(), version=b"11\n"),
    "a version that is no number": torch_with(b.tensor(), version=b"3.1"),
    "a byte order between": torch_with(b.tensor(), byteorder=b"middle"),
    "an empty byte order": torch_with(b.tensor(), byteorder=b""),
    "no storage at all": torch_with(b.tensor(), storages={}),
    "a compressed storage": records(lambda record: replace(record, deflate=record.name.endswith("data/0"))),
    "a storage that is a folder": records(lambda r: replace(r, attributes=16 * r.name.endswith("data/0"))),
    "a storage with the name of a folder": torch_with(b.tensor(b.storage("0/")), storages={"0/": bytes(16)}),
    "a directory of nothing": GOOD[:300] + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, 0, 300, 0),
}  # fmt: skip


@pytest.mark.parametrize("name", LYING)
def test_a_torch_file_that_lies_is_refused(tmp_path, name):
    path = b.written(tmp_path / "f.pt", LYING[name])
    with pytest.raises(CheckpointError) as caught:
        read_manifest(path)
    assert type(caught.value) in (CorruptCheckpoint, UnknownFormat)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 5_000


DOUBLING = b"K\1\x85" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(200))
DEEP_PARAMETERS = b.global_(PARAMETER) * 20_000 + b.tensor() + b"\x85R" * 20_000
DEEP_DICTS = (b"}" + b.text("k")) * 20_000 + b.dict_({"w": b.tensor()}) + b"s" * 20_000


def beside_w(*opcodes: bytes) -> bytes:
    """These keys and values beside a tensor, in a state dict that is not the root."""
    return file_of({"state_dict": b"}(" + b"".join(opcodes) + W + b"u"})


ODD = {
    "a byte order that is not said": (without("byteorder"), ["w"]),
    "version 10": (torch_with(b.tensor(), version=b"10"), ["t0"]),
    "a record a few bytes longer": (torch_with(b.tensor(), storages={"0": bytes(19)}), ["t0"]),
    "a storage that nobody names": (torch_with(b.tensor(), storages={"0": bytes(16), "9": bytes(7)}), ["t0"]),
    "a storage of 5,000 digits": (
        torch_with(b.tensor(b.storage("9" * 5000)), storages={"9" * 5000: bytes(16)}),
        ["t0"],
    ),
    "a parameter of a parameter": (torch_with(b.tensor(), b.call(PARAMETER, b.call(PARAMETER, b.tensor()))), ["t0"]),
    "weights under True": (file_of([(b"\x88", b.dict_({"w": b.tensor()}))]), ["w"]),
    "an OrderedDict of a dict": (
        b.torch_file(b.pickled(b.call("collections.OrderedDict", b.dict_({"w": b.tensor()})))),
        ["w"],
    ),
    "keys that no dict could hold": (beside_w(b"]N", b"}]", b"K\1}", b")N"), ["w"]),
    "a key of 5,000 digits": (beside_w(b.number(10**5000) + b.dict_({"x": b.tensor()})), ["w"]),
    "keys that double without end": (beside_w(DOUBLING + b"]"), ["w"]),
    "values that double without end": (beside_w(b.text("x") + DOUBLING), ["w"]),
    "a key of very deep tuples": (beside_w(b")" + b"\x85" * 20_000 + b"N"), ["w"]),
    "a value of very deep tuples": (beside_w(b.text("x") + b")" + b"\x85" * 20_000), ["w"]),
    "mappings within mappings": (file_of({"w": b.tensor(), "deep": DEEP_DICTS}), ["w"]),
    "lists within lists": (file_of({"w": b.tensor(), "deep": b"]" * 20_000 + b"a" * 19_999}), ["w"]),
    "a mapping that holds itself": (b.torch_file(b.pickled(b"}q\0(", b.text("me") + b"h\0" + W, b"u")), ["w"]),
    "parameters of parameters": (file_of({"w": b.tensor(), "p": DEEP_PARAMETERS}), ["w"]),
}


@pytest.mark.parametrize("name", ODD)
def test_a_torch_file_that_is_odd_is_read_and_written_again(tmp_path, name):
    content, keys = ODD[name]
    path = b.written(tmp_path / "f.pt", content)
    started = time.perf_counter()
    manifest = read_manifest(path)
    assert list(manifest) == keys
    describe(path)
    try:
        execute(make_plan(manifest), tmp_path / "out.pt")
    except CkptDoctorError:
        assert not (tmp_path / "out.pt").exists()
    else:
        assert list(read_manifest(tmp_path / "out.pt")) == keys
    assert time.perf_counter() - started < 10


def test_a_view_of_a_terabyte_on_sixteen_bytes_is_listed_and_not_read(tmp_path):
    path = b.written(tmp_path / "f.pt", torch_with(b.tensor(shape=(1 << 38,), stride=(0,))))
    manifest = read_manifest(path)
    assert manifest["t0"].nbytes == 1 << 40
    with pytest.raises(CorruptCheckpoint, match="1,099,511,627,776 bytes on a storage of 16"):
        execute(make_plan(manifest), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    "change", [{"local_name": "archive/data/1"}, {"local_size": 7}, {"local_crc": 7}], ids=["name", "size", "checksum"]
)
def test_a_local_header_that_lies_is_found_when_the_values_are_read(tmp_path, change):
    records = b.torch_records(b.pickled(b.dict_({"w": b.tensor()})))
    lying = [replace(record, **change) if record.name.endswith("data/0") else record for record in records]
    path = b.written(tmp_path / "f.pt", b.zip_bytes(lying))
    manifest = read_manifest(path)
    with open_checkpoint(path) as checkpoint, pytest.raises(CorruptCheckpoint, match="disagrees"):
        list(checkpoint.values(checkpoint.stored(())["w"]))
    for out in ("out.pt", "out.safetensors"):
        with pytest.raises(CorruptCheckpoint, match="disagrees"):
            execute(make_plan(manifest), tmp_path / out)
        assert not (tmp_path / out).exists()


def test_a_small_record_that_does_not_match_its_checksum_is_found_when_it_is_copied(tmp_path):
    records = b.torch_records(b.pickled(b.dict_({"w": b.tensor()})), **{".data/serialization_id": b"0" * 40})
    lying = [replace(record, crc=1, local_crc=1) if "serialization" in record.name else record for record in records]
    path = b.written(tmp_path / "f.pt", b.zip_bytes(lying))
    with pytest.raises(CorruptCheckpoint, match="checksum"):
        execute(make_plan(read_manifest(path)), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_names_from_the_file_cannot_move_the_cursor(tmp_path):
    weights = b.dict_({"w": b.tensor(), "evil\x1b[2J\nkey": b"N"})
    stream = b.pickled(
        b.text("os") + b.text("\x1b[31msystem") + b"\x93", b"0", b.dict_({"state_dict": weights}), protocol=4
    )
    manifest = read_manifest(b.written(tmp_path / "f.pt", b.torch_file(stream)))
    assert len(manifest.origin.notes) == 2
    assert all(note.isprintable() for note in manifest.origin.notes)


# ---- bytes changed, cut, invented --------------------------------------------------------------------------------------


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


def small_files() -> dict[str, bytes]:
    view = b.tensor(shape=(2, 2), stride=(1, 2), metadata=b.dict_({"neg": b"\x88"}))
    weights = b.dict_({"w": b.tensor(), "t": view, "p": b.call(PARAMETER, b.tensor())})
    return {
        "torch": b.torch_file(b.pickled(b.dict_({"state_dict": weights, "hyper": b.call("argparse.Namespace")}))),
        "torch without checksums": b.zip_bytes(
            [replace(r, crc=0, local_crc=0) for r in b.torch_records(b.pickled(b.dict_({"w": view})))]
        ),
        "safetensors": b.safetensors_bytes({"__metadata__": {"format": "pt", "v": "w"}} | ROW, bytes(8)),
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


@pytest.mark.parametrize("name", ["torch", "safetensors", "manifest"])
def test_every_cut_is_refused(tmp_path, name):
    data = small_files()[name]
    for end in range(0, len(data), 2):
        assert read_all(b.written(tmp_path / "f", data[:end])) == "refused"


BEGINNINGS = [b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"{", b"\x08\0\0\0\0\0\0\0{", b"(", GOOD[:100], GOOD[:-22]]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(BEGINNINGS), st.binary(max_size=80))
@example(b"\x80", b"")
@example(b"PK\x05\x06", bytes(18))
def test_any_bytes_are_refused(tmp_path, beginning, rest):
    assert read_all(b.written(tmp_path / "f", beginning + rest)) == "refused"


# ---- time and memory ---------------------------------------------------------------------------------------------------

EXPENSIVE = {
    "a memo index of 2^31": b.torch_file(b.pickled(b"Nr\xff\xff\xff\x7f")),
    "a text of 4 GiB": b.torch_file(b.pickled(b"X\xff\xff\xff\xff")),
    "bytes of 2^62": b.torch_file(b.pickled(b"\x8e" + struct.pack("<Q", 1 << 62), protocol=4)),
    "a shape of a billion dimensions": torch_with(b.tensor(shape=(1,) * 20_000, stride=(1,) * 20_000)),
    "a safetensors header of 99 MB": b.safetensors_bytes({}, length=99_000_000),
    "very many brackets": b.safetensors_bytes("{" + "[" * 200_000),
    "a pickle that unpacks to 200 MB": b.zip_bytes([b.Record("a/data.pkl", bytes(50_000_000), deflate=True, size=1 << 20)]),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPENSIVE)
def test_what_costs_little_to_send_costs_little_to_refuse(tmp_path, name):
    path = b.written(tmp_path / "f", EXPENSIVE[name])
    started = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(CheckpointError):
        read_manifest(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
    assert time.perf_counter() - started < 5


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
