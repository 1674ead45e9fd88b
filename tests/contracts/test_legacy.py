"""Torch files from before 1.6: torch.load is the judge of what they hold; what breaks a rule is refused, and nothing is run."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.errors import CkptDoctorError, CorruptCheckpoint, NoStateDict, UnsafeCheckpoint
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import Checkpoint, Place
from ckptdoctor.formats.legacy import row
from ckptdoctor.formats.legacy.reader import LegacyCheckpoint
from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.parse import parse
from ckptdoctor.pickles.tensors import storage_of
from tests import builders as b

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:TypedStorage", "ignore:Couldn't retrieve source")


def saved(obj: Any, protocol: int = 2) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(obj, file, _use_new_zipfile_serialization=False, pickle_protocol=protocol)
    return file.getvalue()


def loaded(path: Path) -> Any:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=False)


def values(checkpoint: Checkpoint, place: Place = ()) -> dict[str, bytes]:
    return {key: b"".join(checkpoint.values(tensor)) for key, tensor in checkpoint.stored(place).items()}


# ---- what torch itself says ------------------------------------------------------------------------------------------


def mappings(obj: Any, place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The tensors of every dict of a loaded object that directly holds some, with the way to it."""
    import torch

    if isinstance(obj, dict):
        tensors = {key: value for key, value in obj.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
        if tensors:
            yield place, tensors
    pairs = obj.items() if isinstance(obj, dict) else enumerate(obj) if isinstance(obj, list | tuple) else ()
    for key, value in pairs:
        yield from mappings(value, (*place, str(key)))


def assert_as_torch_loads_it(path: Path) -> None:
    expected = dict(mappings(loaded(path)))
    with open_checkpoint(path) as checkpoint:
        assert checkpoint.format == "torch-legacy"
        assert checkpoint.places == {place: len(tensors) for place, tensors in expected.items()}
        for place, tensors in expected.items():
            manifest = checkpoint.manifest(place)
            assert list(manifest) == list(tensors)
            assert [spec.shape for spec in manifest.values()] == [tuple(value.shape) for value in tensors.values()]
            assert [f"torch.{spec.dtype}" for spec in manifest.values()] == [str(v.dtype) for v in tensors.values()]
            assert [spec.kind for spec in manifest.values()] == [
                "parameter" if type(value).__name__ == "Parameter" else "unknown" for value in tensors.values()
            ]
            assert values(checkpoint, place) == {key: b.values_of(value) for key, value in tensors.items()}
            for spec in manifest.values():
                if spec.tied_to is not None:
                    ours, first = tensors[spec.key], tensors[spec.tied_to]
                    assert ours.data_ptr() == first.data_ptr()


def readable_tensors() -> dict[str, Any]:
    """All but the dtypes that torch writes in this way and cannot read."""
    unread = ("complex32", "uint64", "uint32", "uint16", "float8", "float4")
    shared = ("imaginary", "neg", "neg_turned")  # memory of one file may not be seen as two dtypes
    tensors = b.awkward_tensors()
    return {k: v for k, v in tensors.items() if k not in shared and not k.removeprefix("dtype.").startswith(unread)}


def tied() -> dict[str, Any]:
    import torch

    weight = torch.arange(12.0).reshape(3, 4)
    return {"a": weight, "b": weight, "flat": weight.view(12), "t": weight.T, "first": weight[:1], "again": weight[:1]}


def nested() -> dict[Any, Any]:
    import torch

    inner = {"w": torch.ones(2), "deeper": [{"w": torch.arange(3)}, ({"x": torch.zeros(2, 2)},)]}
    return {"models": [OrderedDict(inner)], 7: {"w": torch.ones(6)}, "empty": torch.zeros(0), "epoch": 3}


OBJECTS: dict[str, Callable[[], Any]] = {
    "plain": lambda: dict(b.state_dict()),
    "an OrderedDict with _metadata": b.state_dict,
    "Lightning, with its optimizer": lambda: b.lightning_like(b.state_dict()),
    "ties": tied,
    "awkward": readable_tensors,
    "parameters": b.awkward_parameters,
    "nested": nested,
    "nothing": dict,
    "a tensor alone": lambda: b.patterned("float32", 2),
}


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", OBJECTS)
def test_the_listing_is_what_torch_loads(tmp_path, name, protocol):
    pytest.importorskip("torch")
    assert_as_torch_loads_it(b.written(tmp_path / "f.pth", saved(OBJECTS[name](), protocol)))


@pytest.mark.parametrize("dtype", ["complex32", "uint64", "uint32", "uint16", "float8_e4m3fn", "float8_e5m2"])
def test_dtypes_that_torch_writes_and_cannot_read_back(tmp_path, dtype):
    pytest.importorskip("torch")
    tensors = {"w": b.patterned(dtype, 3, 4), "t": b.patterned(dtype, 3, 4).T, "f": b.patterned("float32", 2)}
    path = b.written(tmp_path / "f.pth", saved(tensors))
    with pytest.raises(AttributeError, match="dtype"):
        loaded(path)
    with open_checkpoint(path) as checkpoint:
        assert values(checkpoint) == {key: b.values_of(value) for key, value in tensors.items()}


def test_optimizer_and_other_entries_are_seen(tmp_path):
    torch = pytest.importorskip("torch")
    weights = {"w": torch.ones(2), "sparse": torch.eye(2).to_sparse(), "n": 3}
    with open_checkpoint(b.written(tmp_path / "f.pth", saved(b.lightning_like({"w": torch.ones(2)})))) as checkpoint:
        assert checkpoint.has_optimizer(("state_dict",))
        assert checkpoint.has_envelope
    with open_checkpoint(b.written(tmp_path / "g.pth", saved({"state_dict": weights}))) as checkpoint:
        assert not checkpoint.has_optimizer(("state_dict",))
        assert checkpoint.others(("state_dict",)) == ["sparse", "n"]


# ---- files of other times and machines, opcode by opcode -----------------------------------------------------------------

FOUR = struct.pack("<4f", 1, 2, 3, 4)
MACHINE = b.dict_(
    {"protocol_version": b.number(1001), "little_endian": b"\x88", "type_sizes": b.dict_({"int": b.number(4)})}
)
BIG = b.dict_({"protocol_version": b.number(1001), "little_endian": b"\x89"})


def storage(key: str = "0", kind: str = "torch.FloatStorage", numel: int = 4, part: bytes = b"N") -> bytes:
    return b.tuple_(b.text("storage"), b.global_(kind), b.text(key), b.text("cpu"), b.number(numel), part) + b"Q"


def part(offset: int, size: int, key: str = "77") -> bytes:
    return b.tuple_(b.text(key), b.number(offset), b.number(size))


def tensor(stored: bytes = b"", **how: Any) -> bytes:
    return b.tensor(stored or storage(), **how)


def legacy(
    obj: bytes,
    storages: Mapping[str, bytes] | None = None,
    *,
    magic: bytes = b.number(row.MAGIC),
    version: bytes = b.number(1001),
    machine: bytes = MACHINE,
    keys: Sequence[str] | None = None,
    order: str = "<",
    width: int = 4,
) -> bytes:
    """A whole file; storage 0 holds four floats unless told otherwise."""
    storages = {"0": FOUR} if storages is None else storages
    listed = b.list_(*map(b.text, storages if keys is None else keys))
    pickles = b"".join(b.pickled(part) for part in (magic, version, machine, obj, listed))
    return pickles + b"".join(struct.pack(f"{order}Q", len(data) // width) + data for data in storages.values())


def test_a_file_made_by_hand_is_as_torch_reads_it(tmp_path):
    pytest.importorskip("torch")
    assert_as_torch_loads_it(b.written(tmp_path / "f", legacy(b.dict_({"w": tensor()}))))


def test_texts_of_python_2(tmp_path):
    pytest.importorskip("torch")

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    pid = (
        b.tuple_(text(b"storage"), b.global_("torch.FloatStorage"), text(b"0"), text(b"cpu"), b.number(4), b"N") + b"Q"
    )
    pairs = [(text("é".encode()), tensor(pid)), (b"T\1\0\0\0b", tensor(pid)), (b"S'c'\n", tensor(pid))]
    raw = legacy(b.dict_([(text(b"state_dict"), b.dict_(pairs))]))
    assert_as_torch_loads_it(b.written(tmp_path / "f", raw.replace(b.text("0") + b"e.", text(b"0") + b"e.")))
    assert list(read_manifest(tmp_path / "f")) == ["é", "b", "c"]


def test_bytes_of_python_2_that_are_no_text_do_no_harm(tmp_path):
    path = b.written(tmp_path / "f", legacy(b.dict_([(b.text("w"), tensor()), (b.text("raw"), b"U\2\xff\xfe")])))
    assert list(read_manifest(path)) == ["w"]


def test_parts_of_storages(tmp_path):
    pytest.importorskip("torch")
    middle = storage(part=part(1, 2))
    whole = storage(part=part(0, 4, "78"))
    tensors = {
        "middle": tensor(middle, shape=(2,)),
        "last": tensor(middle, offset=1, shape=(1,)),
        "whole": tensor(whole, shape=(2, 2), stride=(1, 2)),
        "all": tensor(),
    }
    path = b.written(tmp_path / "f", legacy(b.dict_(tensors)))
    assert_as_torch_loads_it(path)
    with open_checkpoint(path) as checkpoint:
        assert isinstance(checkpoint, LegacyCheckpoint)
        again = parse(emit(checkpoint.pickle.root))
        assert [node.pid[2:] for node in again.persistent] == [("0", "cpu", 4)] * 4


def test_a_big_endian_machine_wrote_the_same_bytes(tmp_path):
    """torch has always written the values little-endian, whatever the flag says; the counts it has not."""
    pytest.importorskip("torch")
    path = b.written(tmp_path / "f", legacy(b.dict_({"w": tensor()}), machine=BIG))
    assert_as_torch_loads_it(path)
    old = b.written(tmp_path / "old", legacy(b.dict_({"w": tensor()}), machine=BIG, order=">"))
    with open_checkpoint(old) as checkpoint:
        assert values(checkpoint) == {"w": FOUR}
    lying = b.written(tmp_path / "lying", legacy(b.dict_({"w": tensor()}), order=">"))
    with pytest.raises(CorruptCheckpoint, match="another size"):
        read_manifest(lying)


def test_classes_of_modules_lose_their_source(tmp_path):
    torch = pytest.importorskip("torch")
    path = b.written(tmp_path / "f", saved({"model": torch.nn.Linear(2, 2), "state_dict": {"w": torch.ones(2)}}))
    with open_checkpoint(path) as checkpoint:
        assert isinstance(checkpoint, LegacyCheckpoint)
        assert "torch.nn.modules.linear.Linear" in [
            name.path for pickle in checkpoint.pickles for name in pickle.globals
        ]
        raw = emit(checkpoint.pickle.root)
        assert b"def forward" not in raw
        assert all(storage_of(node) and len(node.pid) == 5 for node in parse(raw).persistent)
    assert list(read_manifest(path)) == ["w"]


def test_a_module_saved_whole_has_no_weights_to_be_found(tmp_path):
    torch = pytest.importorskip("torch")
    with pytest.raises(NoStateDict, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_manifest(b.written(tmp_path / "f", saved(torch.nn.Linear(2, 2))))


# ---- written as what torch writes today ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "Lightning, with its optimizer", "ties", "awkward", "parameters"])
def test_a_remap_writes_a_zip_file(tmp_path, name):
    pytest.importorskip("torch")
    path = b.written(tmp_path / "old.pth", saved(OBJECTS[name]()))
    receipt = execute(make_plan(read_manifest(path)), tmp_path / "new.pth")
    before, after = read_manifest(path), read_manifest(tmp_path / "new.pth")
    assert (before.origin.kind, after.origin.kind, receipt.output["format"]) == ("torch-legacy", "torch", "torch")
    assert set(after) == set(before)
    place = tuple((before.origin.selected or "").split("/")) if before.origin.selected else ()
    there = tuple((after.origin.selected or "").split("/")) if after.origin.selected else ()
    with open_checkpoint(path) as old, open_checkpoint(tmp_path / "new.pth") as new:
        assert values(new, there) == values(old, place)
    loaded(tmp_path / "new.pth")


@pytest.mark.parametrize("protocol", [1, 2, 4])
def test_everything_around_the_weights_comes_along(tmp_path, protocol):
    torch = pytest.importorskip("torch")
    checkpoint = b.lightning_like(b.state_dict(), model=torch.nn.Linear(2, 2))
    path = b.written(tmp_path / "old.ckpt", saved(checkpoint, protocol))
    execute(make_plan(read_manifest(path)), tmp_path / "new.ckpt")
    before, after = loaded(path), loaded(tmp_path / "new.ckpt")
    assert list(after) == list(before)
    assert repr(after) == repr(before)
    assert after["state_dict"]._metadata == before["state_dict"]._metadata
    assert after["state_dict"]["head.weight"].data_ptr() == after["state_dict"]["0.weight"].data_ptr()


# ---- what breaks a rule ------------------------------------------------------------------------------------------------

W = b.dict_({"w": tensor()})
LONGS = b.dict_({"w": tensor(), "v": tensor(storage(kind="torch.IntStorage"))})
HOSTILE = {
    "another version": (legacy(W, version=b.number(1002)), "protocol version is not 1001"),
    "a version that is True": (legacy(W, version=b"\x88"), "protocol version"),
    "no facts about the machine": (legacy(W, machine=b"N"), "byte order"),
    "a byte order that is text": (legacy(W, machine=b.dict_({"little_endian": b.text("yes")})), "byte order"),
    "a key twice in the list": (legacy(W, {"0": FOUR, "00": FOUR}, keys=["0", "0"]), "different keys"),
    "a list that is a text": (legacy(W).replace(b"](" + b.text("0") + b"e", b.text("0")), "list of"),
    "a storage that is not listed": (legacy(W, {}), "is not the list"),
    "a listed storage that is not used": (legacy(W, {"0": FOUR, "1": FOUR}), "is not the list"),
    "a count that is another": (legacy(W, width=2), "another size"),
    "a storage too long": (legacy(W, {"0": FOUR + FOUR}), "another size"),
    "a storage too short": (legacy(W, {"0": FOUR[:8]}), "ends early"),
    "bytes behind": (legacy(W) + b"x", "1 bytes follow"),
    "two files in one": (legacy(W) * 2, "bytes follow"),
    "a size of 2^62": (legacy(b.dict_({"w": tensor(storage(numel=1 << 62), shape=(1,))})), "ends early"),
    "a size of 2^64": (legacy(b.dict_({"w": tensor(storage(numel=1 << 64))})), "no count"),
    "a negative size": (legacy(b.dict_({"w": tensor(storage(numel=-4))})), "no count"),
    "two sizes": (legacy(b.dict_({"w": tensor(), "v": tensor(storage(numel=3), shape=(3,))})), "two sizes"),
    "two types": (legacy(LONGS), "two types"),
    "a key that is no number": (legacy(b.dict_({"w": tensor(storage("../x"))}), {"../x": FOUR}), "no number"),
    "a reference of five parts": (legacy(b.dict_({"w": b.tensor()})), "no storage"),
    "a reference that is a text": (legacy(b.dict_({"w": tensor(), "x": b"P0\n"})), "no storage"),
    "a reference of another kind": (
        legacy(b.dict_({"w": b.tuple_(b.text("tensor"), *[b"N"] * 5) + b"Q"})),
        "no storage",
    ),
    "a tensor beyond its storage": (legacy(b.dict_({"w": tensor(shape=(5,))})), "beyond its storage"),
    "an offset beyond the storage": (legacy(b.dict_({"w": tensor(offset=1)})), "beyond its storage"),
    "a part beyond the storage": (
        legacy(b.dict_({"w": tensor(storage(part=part(3, 2)), shape=(1,))})),
        "beyond its part",
    ),
    "a part before the storage": (
        legacy(b.dict_({"w": tensor(storage(part=part(-1, 2)), shape=(1,))})),
        "beyond its part",
    ),
    "a part of a negative size": (
        legacy(b.dict_({"w": tensor(storage(part=part(3, -1)), shape=(0,))})),
        "beyond its part",
    ),
    "a tensor beyond its part": (
        legacy(b.dict_({"w": tensor(storage(part=part(0, 2)), shape=(3,))})),
        "beyond its part",
    ),
    "a part of two numbers": (
        legacy(b.dict_({"w": tensor(storage(part=b.tuple_(b"N", b"N")))})),
        "key, offset and size",
    ),
    "a part that is no tensor's": (legacy(b.dict_({"w": tensor(), "x": storage(part=part(0, 2))})), "no tensor"),
    "a part given to another call": (
        legacy(b.dict_({"w": b.call("os.system", storage(part=part(0, 2)))})),
        "without a tensor",
    ),
    "a key twice": (legacy(b.dict_([(b.text("w"), tensor())] * 2)), "stands twice"),
    "a frame too long": (legacy(b"\x95" + b"\xff" * 7 + b"\x7f"), "frame"),
    "an unknown opcode": (legacy(b"\xff"), "opcode"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_breaks_a_rule_is_refused(tmp_path, name):
    raw, message = HOSTILE[name]
    path = b.written(tmp_path / "f", raw)
    with pytest.raises(CorruptCheckpoint, match=message) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert ("truncated" in (caught.value.hint or "")) == ("ends early" in message)


def check_all(path: Path) -> None:
    with open_checkpoint(path) as checkpoint:
        for place in checkpoint.places:
            values(checkpoint, place)


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    pytest.importorskip("torch")
    whole = saved(b.lightning_like(b.state_dict()))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for size in range(0, len(whole), 7):
        path = b.written(tmp_path / "f", whole[:size])
        with pytest.raises(CkptDoctorError):
            check_all(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


def test_any_byte_may_be_wrong(tmp_path):
    """Each byte in turn becomes another: the file is refused, or read as what it now says."""
    raw = legacy(b.dict_({"w": tensor(), "part": tensor(storage(part=part(1, 2)), shape=(2,))}))
    for at in range(len(raw)):
        for change in (0x01, 0x80, 0xFF):
            path = b.written(tmp_path / "f", raw[:at] + bytes([raw[at] ^ change]) + raw[at + 1 :])
            with suppress(CkptDoctorError):
                check_all(path)


CALL = b.call("os.system", b.text("touch owned"))


@pytest.mark.parametrize("where", ["obj", "magic", "version", "machine"])
def test_a_call_is_named_and_never_made(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    honest = {"obj": W, "magic": b.number(row.MAGIC), "version": b.number(1001), "machine": MACHINE}
    path = b.written(tmp_path / "f", legacy(**(honest | {where: CALL + b"0" + honest[where]})))
    with open_checkpoint(path) as checkpoint:
        assert "os.system" in [name.path for pickle in checkpoint.pickles for name in pickle.globals]
    assert any("os.system" in note for note in read_manifest(path).origin.notes)
    if where == "obj":
        with pytest.raises(UnsafeCheckpoint, match=r"would call os\.system"):
            execute(make_plan(read_manifest(path)), tmp_path / "out.pt")
        assert not (tmp_path / "out.pt").exists()
    else:  # the pickles around the object's have no place in a file of today
        execute(make_plan(read_manifest(path)), tmp_path / "out.pt")
        assert read_manifest(tmp_path / "out.pt").origin.dangerous == ()
    assert not (tmp_path / "owned").exists()


def test_a_bare_pickle_is_none(tmp_path):
    path = b.written(tmp_path / "f", b.pickled(b.call("os.system", b.text("touch owned"))))
    with pytest.raises(UnsafeCheckpoint, match=r"call os\.system") as caught:
        read_manifest(path)
    assert "1.6" not in str(caught.value) + (caught.value.hint or "")


# ---- how much is read ----------------------------------------------------------------------------------------------------


def test_pickles_that_are_longer_than_what_is_read_first(tmp_path, monkeypatch):
    raw = legacy(b.dict_({"w": tensor(), "note": b.text("x" * 3000)}), {"0": FOUR})
    path = b.written(tmp_path / "f", raw)
    for windows in [(16, 1 << 20), (len(raw) - 30, 1 << 20), (16, 200, 400, 1 << 20), (len(raw), 1 << 20)]:
        monkeypatch.setattr(row, "_WINDOWS", windows)
        check_all(path)


def test_what_is_malformed_is_not_read_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(row, "_WINDOWS", (1 << 10, 1 << 12, 1 << 20))
    path = b.written(tmp_path / "f", legacy(b"\xff") + bytes(1 << 14))
    reads = []
    honest = row.SourceFile.read
    monkeypatch.setattr(row.SourceFile, "read", lambda self, at, size: reads.append(size) or honest(self, at, size))
    with pytest.raises(CorruptCheckpoint):
        read_manifest(path)
    assert reads == [1 << 10, 1 << 12]


def test_values_are_not_read_to_list_them(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    path = b.written(tmp_path / "f", saved({f"w{i}": b.patterned("float32", 1 << 19) for i in range(4)}))
    reads = []
    honest = row.SourceFile.read
    monkeypatch.setattr(row.SourceFile, "read", lambda self, at, size: reads.append(size) or honest(self, at, size))
    assert len(read_manifest(path)) == 4
    assert reads == [1 << 20, 8, 8, 8, 8]
