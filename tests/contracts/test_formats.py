"""What every format keeps: the listing is the file's own, tensor by tensor and byte by byte, and what is written is read back.

torch and safetensors themselves are the judges. A new reader or writer is covered by the tests over the tables.
"""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import hashlib
import json
import pathlib
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptdoctor import execute, load_map, make_plan, read_manifest
from ckptdoctor.errors import CheckpointError, CkptDoctorError, CorruptCheckpoint
from ckptdoctor.formats import READERS, WRITERS, open_checkpoint, writer_for
from ckptdoctor.formats.base import Checkpoint, Envelope, Place, Probe, WriteOptions
from ckptdoctor.formats.manifest import manifest_json
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.keymap import KeyMap
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.source import describe
from ckptdoctor.strided import swapped
from ckptdoctor.wrappers import align
from tests import builders as b

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf", "ignore:TypedStorage")


class Color(enum.Enum):
    RED = 1


class Hyper(dict):
    """A class that only this module has."""


# ---- what torch itself says ------------------------------------------------------------------------------------------


def mappings(obj: Any, place: Place = (), seen: set[int] | None = None) -> Iterator[tuple[Place, Any]]:
    """Every dict of a loaded file, with the way to it; dicts that stand in two places count at the first."""
    seen = set() if seen is None else seen
    if type(obj) not in (dict, collections.OrderedDict, list, tuple) or id(obj) in seen:
        return
    seen.add(id(obj))
    pairs = list(obj.items() if isinstance(obj, dict) else enumerate(obj))
    if isinstance(obj, dict):
        yield place, obj
    for key, value in pairs:
        if isinstance(key, str | int):
            yield from mappings(value, (*place, str(key)), seen)


def tensors_in(mapping: Mapping[Any, Any]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}


def specs_of(tensors: Mapping[str, Any]) -> list[TensorSpec]:
    """The manifest that these tensors should have."""
    first: dict[Any, str] = {}
    specs = []
    for key, value in tensors.items():
        memory = (value.untyped_storage().data_ptr(), value.storage_offset(), value.stride(), value.shape, value.dtype)
        lead = first.setdefault((*memory, value.is_conj(), value.is_neg()), key) if value.numel() else key
        kind = "parameter" if isinstance(value, torch.nn.Parameter) else "unknown"
        dtype = DTYPES[str(value.dtype).removeprefix("torch.")]
        specs.append(TensorSpec(key, tuple(value.shape), dtype, kind, None if lead == key else lead))
    return specs


def values(checkpoint: Checkpoint, place: Place = ()) -> dict[str, bytes]:
    return {key: b"".join(checkpoint.values(tensor)) for key, tensor in checkpoint.stored(place).items()}


def assert_as_torch_loads_it(path: Path) -> None:
    expected = {place: tensors_in(mapping) for place, mapping in mappings(torch.load(path, weights_only=False))}
    expected = {place: tensors for place, tensors in expected.items() if tensors}
    with open_checkpoint(path) as checkpoint:
        assert list(checkpoint.places) == list(expected)
        for place, tensors in expected.items():
            assert checkpoint.places[place] == len(tensors)
            assert list(checkpoint.manifest(place).values()) == specs_of(tensors)
            assert values(checkpoint, place) == {key: b.values_of(value) for key, value in tensors.items()}


def tied_file() -> dict[str, Any]:
    weight = torch.arange(12.0).reshape(3, 4)
    sliced = {"whole": weight, "first": weight[:1], "second": weight[1:2], "first again": weight[:1]}
    return {"a": weight, "b": weight, "c": weight.view(3, 4), "flat": weight.view(12), "t": weight.T, **sliced}


def shared_strings() -> dict[Any, Any]:
    name = "".join(["wei", "ght"])
    return {name: torch.ones(2), "names": [name, name], "inner": {name: torch.zeros(1), "name": name}}


def deep() -> dict[Any, Any]:
    inner = {"w": torch.ones(2), 0: torch.ones(3), (1, 2): torch.ones(4), "again": {"w": torch.zeros(1)}}
    return {
        "models": [{"g": inner}, {"d": {"w": torch.ones(5)}}],
        7: {"w": torch.ones(6)},
        "t": (inner, {"x": torch.ones(1)}),
    }


OBJECTS = {
    "plain": lambda: dict(b.state_dict()),
    "an OrderedDict with _metadata": b.state_dict,
    "Lightning": lambda: b.lightning_like(b.state_dict()),
    "ties and views": tied_file,
    "awkward": b.awkward_tensors,
    "parameters": b.awkward_parameters,
    "nested, with lists, tuples and integer keys": deep,
    "shared strings": shared_strings,
    "nothing": dict,
    "a tensor alone": lambda: torch.ones(2),
    "a list of tensors": lambda: [torch.ones(2)],
    "unusual keys": lambda: {key: torch.ones(2) for key in ("", "a/b", "\n", "é\ud800", ".", " ", "\0", "a" * 1000)},
}  # fmt: skip


ALONE = ("a tensor alone", "a list of tensors")


@pytest.mark.parametrize("name", OBJECTS)
def test_the_listing_is_what_torch_loads(tmp_path, name):
    torch.save(OBJECTS[name](), tmp_path / "f.pt")
    assert_as_torch_loads_it(tmp_path / "f.pt")


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("name", ["Lightning", "parameters", "ties and views", "awkward"])
def test_the_listing_at_every_protocol(tmp_path, name, protocol):
    torch.save(OBJECTS[name](), tmp_path / "f.pt", pickle_protocol=protocol)
    assert_as_torch_loads_it(tmp_path / "f.pt")


def test_three_thousand_tensors_with_their_optimizer(tmp_path):
    weights = {f"blocks.{i // 10}.layer{i % 10}.weight": torch.full((2,), float(i)) for i in range(3000)}
    torch.save(b.lightning_like(weights), tmp_path / "f.ckpt")
    assert_as_torch_loads_it(tmp_path / "f.ckpt")


@pytest.mark.parametrize("setting", [{"save.compute_crc32": False}, {"save.storage_alignment": 4096}])
def test_the_listing_under_other_settings_of_torch(tmp_path, setting):
    from torch.utils.serialization import config

    with config.patch(setting):
        torch.save(b.awkward_tensors(), tmp_path / "f.pt")
    assert_as_torch_loads_it(tmp_path / "f.pt")


def test_a_file_of_a_big_endian_machine(tmp_path):
    names = [name for name in b.DTYPE_NAMES if "uint" not in name and "float8" not in name and "float4" not in name]
    tensors = {name: b.patterned(name, 3, 4).T for name in names if name != "complex32"}  # torch does not swap that one
    tensors |= {"conj": torch.complex(torch.ones(3), torch.arange(3.0)).conj(), "plain": torch.arange(5.0)}
    torch.save(tensors, tmp_path / "little.pt")
    with zipfile.ZipFile(tmp_path / "little.pt") as archive:
        pickle = archive.read("little/data.pkl")
        raw = {str(i): archive.read(f"little/data/{i}") for i in range(len(tensors))}
    widths = [t.element_size() // (2 if t.is_complex() else 1) for t in tensors.values()]
    big = {key: swapped(data, width) for (key, data), width in zip(raw.items(), widths, strict=True)}
    assert big != raw
    b.written(tmp_path / "big.pt", b.torch_file(pickle, big, byteorder=b"big"))
    assert_as_torch_loads_it(tmp_path / "big.pt")
    assert read_values(tmp_path / "big.pt") == read_values(tmp_path / "little.pt")

    execute(make_plan(read_manifest(tmp_path / "big.pt")), tmp_path / "again.pt")
    assert_as_torch_loads_it(tmp_path / "again.pt")
    assert read_values(tmp_path / "again.pt") == read_values(tmp_path / "little.pt")


def read_values(path: Path, selected: Place = ()) -> dict[str, bytes]:
    with open_checkpoint(path) as checkpoint:
        return values(checkpoint, selected)


views = st.lists(st.sampled_from(["slice", "turn", "expand", "step", "parameter", "select"]), max_size=4)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(views, st.integers(0, 3)), min_size=1, max_size=6), st.sampled_from([2, 4]))
def test_any_views_of_a_few_storages(tmp_path, recipes, protocol):
    bases = [torch.arange(24.0).reshape(2, 3, 4), torch.arange(6).reshape(2, 3), torch.ones(1), torch.zeros(0, 2)]
    tensors = {}
    for number, (steps, base) in enumerate(recipes):
        view = bases[base]
        for step in steps:
            if view.dim() == 0:
                break
            view = {
                "slice": lambda t: t[1:],
                "turn": lambda t: t.transpose(0, -1),
                "expand": lambda t: t.unsqueeze(1).expand(t.shape[0], 3, *t.shape[1:]),
                "step": lambda t: t[..., ::2],
                "select": lambda t: t[0] if t.shape[0] else t,
                "parameter": lambda t: torch.nn.Parameter(t, requires_grad=False),
            }[step](view)
        tensors[f"t{number}"] = view
    torch.save(tensors, tmp_path / "f.pt", pickle_protocol=protocol)
    assert_as_torch_loads_it(tmp_path / "f.pt")


def hyper_parameters() -> Any:
    import numpy

    return argparse.Namespace(
        lr=1e-3,
        path=pathlib.PurePosixPath("/data/x"),
        color=Color.RED,
        activation=functools.partial(torch.nn.functional.gelu, approximate="tanh"),
        scalar=numpy.float64(0.5),
        array=numpy.arange(3),
        own=Hyper(a=Hyper(b=1)),
        counter=collections.Counter("aab"),
        default=collections.defaultdict(list, a=[1]),
        dtype=torch.bfloat16,
        device=torch.device("cpu"),
        size=torch.Size([1, 2]),
        sets={1, 2},
    )


def test_objects_of_other_classes_are_kept_and_named(tmp_path):
    checkpoint = b.lightning_like(b.state_dict(), hyper_parameters=hyper_parameters(), hparams_name="kwargs")
    torch.save(checkpoint, tmp_path / "f.ckpt")
    assert_as_torch_loads_it(tmp_path / "f.ckpt")
    manifest, _, globals_ = describe(tmp_path / "f.ckpt")
    assert list(manifest) == list(b.state_dict())
    assert manifest.origin.selected == "state_dict"
    assert (f"{__name__}.Color", "unknown") in {(each.global_name, each.danger) for each in globals_}


def test_sparse_and_quantized_tensors_are_said_to_be_kept(tmp_path):
    sparse = torch.eye(3).to_sparse()
    weights = {"w": torch.ones(2), "sparse": sparse, "extra": torch.nn.Module(), "number": 3, 5: torch.ones(1)}
    torch.save({"state_dict": weights}, tmp_path / "f.pt")
    manifest = read_manifest(tmp_path / "f.pt")
    assert list(manifest) == ["w"]
    assert [note.split()[0] for note in manifest.origin.notes] == ["sparse", "extra", "number", "5"]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:torch.ao")
@pytest.mark.parametrize("dtype", ["qint8", "quint8", "qint32", "quint4x2"])
def test_a_quantized_tensor_beside_the_weights_does_no_harm(tmp_path, dtype):
    if dtype == "quint4x2":
        scales, zeros = torch.ones(3), torch.zeros(3)
        quantized = torch.quantize_per_channel(torch.ones(3, 5), scales, zeros, 0, torch.quint4x2)
    else:
        quantized = torch.quantize_per_tensor(torch.arange(5.0), 0.1, 0, getattr(torch, dtype))
    torch.save({"state_dict": {"w": torch.ones(2), "q": quantized}}, tmp_path / "f.pt")
    manifest = read_manifest(tmp_path / "f.pt")
    assert list(manifest) == ["w"]
    assert "q is no dense tensor" in manifest.origin.notes[0]
    execute(make_plan(manifest), tmp_path / "out.pt")
    assert (tmp_path / "out.pt").read_bytes()[:2] == b"PK"
    back = torch.load(tmp_path / "out.pt", weights_only=False)["state_dict"]
    assert torch.equal(back["q"].int_repr(), quantized.int_repr())


# ---- written again -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in OBJECTS if name not in ("nothing", *ALONE)])
def test_an_identity_plan_writes_the_same_bytes(tmp_path, name):
    torch.save(OBJECTS[name](), tmp_path / "model.ckpt")
    out = tmp_path / "out" / "model.ckpt"
    out.parent.mkdir()
    with open_checkpoint(tmp_path / "model.ckpt") as checkpoint:
        places = ["/".join(place) for place in checkpoint.places]
    selected = None if len(places) == 1 or "state_dict" in places else places[0] or "."
    execute(make_plan(read_manifest(tmp_path / "model.ckpt", selected=selected)), out)
    assert out.read_bytes() == (tmp_path / "model.ckpt").read_bytes()


def test_tensors_under_keys_that_are_no_text_come_along(tmp_path):
    weights = {"w": torch.ones(2), 5: torch.arange(3.0), (1, 2): torch.arange(4.0)}
    torch.save({"state_dict": weights, 7: torch.ones(1)}, tmp_path / "f.pt")
    manifest = read_manifest(tmp_path / "f.pt")
    assert [note.split(" is no")[0] for note in manifest.origin.notes] == ["5", "an entry under a tuple"]
    renamed = Manifest([manifest["w"]._replace(key="v")])
    key_map = write_map(tmp_path, "- {from: w, to: v}")
    execute(make_plan(manifest, renamed, key_map), tmp_path / "out.pt")
    back = torch.load(tmp_path / "out.pt", weights_only=False)
    assert list(back["state_dict"]) == ["v", 5, (1, 2)]
    assert torch.equal(back["state_dict"][5], weights[5])
    assert torch.equal(back[7], torch.ones(1))


def write_map(folder: Path, *rules: str) -> KeyMap:
    path = folder / "map.yaml"
    path.write_text("ckptdoctor: 1\nrules:\n" + "".join(f"  {rule}\n" for rule in rules))
    return load_map(path)


def test_the_envelope_comes_along(tmp_path):
    checkpoint = b.lightning_like(b.state_dict(), hyper_parameters=hyper_parameters())
    torch.save(checkpoint, tmp_path / "f.ckpt", pickle_protocol=4)
    execute(make_plan(read_manifest(tmp_path / "f.ckpt")), tmp_path / "out.ckpt")
    before, after = (torch.load(tmp_path / name, weights_only=False) for name in ("f.ckpt", "out.ckpt"))
    assert list(after) == list(before)
    assert after["state_dict"]._metadata == before["state_dict"]._metadata
    ours, theirs = vars(after["hyper_parameters"]), vars(before["hyper_parameters"])
    assert {key: repr(value) for key, value in ours.items()} == {key: repr(value) for key, value in theirs.items()}
    assert repr(after["optimizer_states"]) == repr(before["optimizer_states"])
    assert_as_torch_loads_it(tmp_path / "out.ckpt")


# ---- the contract over the tables --------------------------------------------------------------------------------------


def outputs(checkpoint: Checkpoint, place: Place) -> list[OutputTensor]:
    """Every tensor of a place as it is; ties as ties; the last untied one as if it had been computed."""
    stored = checkpoint.stored(place)
    tensors = [
        OutputTensor(key, tensor.spec, tied_to=tensor.spec.tied_to)
        if tensor.spec.tied_to
        else OutputTensor(key, tensor.spec, stored=tensor)
        for key, tensor in stored.items()
    ]
    computed = b"".join(checkpoint.values(stored["computed"]))
    return [OutputTensor(t.key, t.spec, compute=lambda _: [computed]) if t.key == "computed" else t for t in tensors]


def source_tensors() -> dict[str, Any]:
    """What both formats hold: every dtype but those of torch alone, ties, nothing, scalars, something large."""
    names = [name for name in b.DTYPE_NAMES if name not in ("complex128", "complex32")]
    tensors = {f"dtype.{name}": b.patterned(name, 2, 4) for name in names}
    weight = torch.arange(6.0).reshape(2, 3)
    tensors |= {"weight": weight, "tied": weight, "tied again": weight, "scalar": torch.tensor(2.5)}
    tensors |= {"empty": torch.zeros(0), "empty too": torch.zeros(2, 0, 3, dtype=torch.int8), "é": torch.ones(1)}
    return tensors | {"large": torch.arange((1 << 20) + 3).to(torch.uint8), "computed": torch.arange(9.0)}


def write_source(name: str, folder: Path) -> tuple[Path, Place]:
    if name == "safetensors":
        tensors = source_tensors()
        ties = dict.fromkeys(("tied", "tied again"), "weight")
        for key in ties:
            del tensors[key]
        safetensors.save_file(tensors, folder / "source.safetensors", metadata={"format": "pt", "note": "x", **ties})
        return folder / "source.safetensors", ()
    if name.startswith("sharded"):
        return write_shards(name, folder / f"source.{name}"), ()
    checkpoint = b.lightning_like(source_tensors())
    torch.save(checkpoint, folder / "source.ckpt", _use_new_zipfile_serialization=name != "torch-legacy")
    return folder / "source.ckpt", ("state_dict",)


def write_shards(name: str, folder: Path) -> Path:
    """Two shards with their index; what is tied lies in the first."""
    folder.mkdir()
    tensors, ties = source_tensors(), dict.fromkeys(("tied", "tied again"), "weight")
    first = {key: tensors.pop(key) for key in [*list(tensors)[:20], "weight", *ties] if key in tensors}
    stem, suffix = ("model", ".safetensors") if name == "sharded" else ("pytorch_model", ".bin")
    weight_map = {}
    for number, part in enumerate((first, tensors), 1):
        path = folder / f"{stem}-{number:05d}-of-00002{suffix}"
        if name == "sharded":
            part = {key: tensor for key, tensor in part.items() if key not in ties}
            safetensors.save_file(part, path, metadata={"format": "pt", **(ties if number == 1 else {})})
        else:
            torch.save(part, path)
        weight_map |= dict.fromkeys(part, path.name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


SOURCES = [name for name in READERS if name != "manifest"]


def without_order(manifest: Manifest) -> set[TensorSpec]:
    return set(manifest.values())


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_writer_writes_its_reader_reads(tmp_path, writer, source):
    path, place = write_source(source, tmp_path)
    out = tmp_path / "out"
    with open_checkpoint(path) as checkpoint, WRITERS[writer].opened(out, out) as file:
        wanted, bytes_wanted = checkpoint.manifest(place), values(checkpoint, place)
        tensors = outputs(checkpoint, place)
        written = WRITERS[writer].write(file, tensors, Envelope(checkpoint, place), WriteOptions())
    digests = {key: hashlib.sha256(data).hexdigest() for key, data in bytes_wanted.items()}
    assert written.digests.items() <= digests.items()
    assert written.digests.keys() >= {tensor.key for tensor in tensors if tensor.tied_to is None}
    with READERS[writer].open(out) as back:
        there = place if place in back.places else ()
        assert values(back, there) == bytes_wanted
        assert without_order(back.manifest(there)) == without_order(wanted)


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("writer", WRITERS)
def test_every_byte_is_shown_and_digests_can_be_left_out(tmp_path, writer, source):
    path, place = write_source(source, tmp_path)
    shown = []
    options = WriteOptions(digests=False, progress=shown.append)
    opened = WRITERS[writer].opened
    with open_checkpoint(path) as checkpoint, opened(tmp_path / "plain", tmp_path / "plain") as file:
        tensors = outputs(checkpoint, place)
        written = WRITERS[writer].write(file, tensors, Envelope(checkpoint, place), options)
        size = sum(tensor.spec.nbytes for tensor in tensors if tensor.tied_to is None)
    assert written.digests == {}
    assert sum(shown) >= size
    with open_checkpoint(path) as checkpoint, opened(tmp_path / "digested", tmp_path / "digested") as file:
        WRITERS[writer].write(file, outputs(checkpoint, place), Envelope(checkpoint, place), WriteOptions())
    with READERS[writer].open(tmp_path / "plain") as plain, READERS[writer].open(tmp_path / "digested") as digested:
        there = place if place in plain.places else ()
        assert values(plain, there) == values(digested, there)


def test_exactly_one_reader_takes_each_file(tmp_path):
    for source in SOURCES:
        path, _ = write_source(source, tmp_path)
        probe = Probe(path, True, 0, b"")
        if path.is_file():
            with path.open("rb") as file:
                probe = Probe(path, False, path.stat().st_size, file.read(4096))
        refusals = {name: reader.refusal(probe) for name, reader in READERS.items()}
        assert [name for name, refusal in refusals.items() if refusal is None] == [source]
        assert all(refusal != "" for refusal in refusals.values())


def test_tables_name_their_formats_and_share_no_suffix():
    assert all(table[name].name == name for table in (READERS, WRITERS) for name in table)
    assert set(WRITERS) <= set(READERS)
    suffixes = [suffix for writer in WRITERS.values() for suffix in writer.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in suffixes)


def test_the_writer_is_chosen_by_the_name_then_by_the_source():
    assert writer_for("x.safetensors", "torch").name == "safetensors"
    assert writer_for("x.SAFETENSORS", "torch").name == "safetensors"
    assert writer_for("x.ckpt", "safetensors").name == "torch"
    assert writer_for("x", "safetensors").name == "safetensors"
    assert writer_for("x.v2", "torch").name == "torch"
    assert writer_for("x", "manifest").name == "torch"
    assert writer_for("x", "sharded").name == "sharded"
    assert writer_for("x.pt", "sharded").name == "torch"
    assert writer_for("x.pt", "torch", to="sharded").name == "sharded"


@pytest.mark.parametrize("name", SOURCES)
def test_no_descriptor_stays_open(tmp_path, name):
    import os

    path, _ = write_source(name, tmp_path)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    read_manifest(path)
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
    if path.is_dir():
        next(path.glob("*-00002-*")).write_bytes(b"damaged")
        with pytest.raises(CheckpointError):
            read_manifest(path)
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208
        return
    data = path.read_bytes()
    damaged = [data[: len(data) // 2], data[:100] + b"\xff" + data[101:], data + b"x", data[:9]]
    for number, content in enumerate(damaged):
        with pytest.raises(CheckpointError):
            read_manifest(b.written(tmp_path / f"bad{number}", content))
    assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


# ---- through execute, from format to format ----------------------------------------------------------------------------


def test_torch_to_safetensors_is_what_the_library_reads(tmp_path):
    path, _ = write_source("torch", tmp_path)
    receipt = execute(make_plan(read_manifest(path)), tmp_path / "out.safetensors")
    loaded, expected = safetensors.load_file(tmp_path / "out.safetensors"), source_tensors()
    assert set(loaded) == set(expected) - {"tied", "tied again"}
    for key, tensor in loaded.items():
        assert (tensor.dtype, tensor.shape) == (expected[key].dtype, expected[key].shape)
        assert b.values_of(tensor) == b.values_of(expected[key])
    assert any("left out" in note for note in receipt.notes)
    with open_checkpoint(path) as before, open_checkpoint(tmp_path / "out.safetensors") as after:
        assert without_order(after.manifest(())) == without_order(before.manifest(("state_dict",)))
        assert values(after) == values(before, ("state_dict",))


def test_safetensors_to_torch_and_back(tmp_path):
    path, _ = write_source("safetensors", tmp_path)
    execute(make_plan(read_manifest(path)), tmp_path / "out.pt")
    assert_as_torch_loads_it(tmp_path / "out.pt")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert type(loaded) is collections.OrderedDict
    assert loaded["tied"].data_ptr() == loaded["weight"].data_ptr()
    execute(make_plan(read_manifest(tmp_path / "out.pt")), tmp_path / "back.safetensors")
    assert read_values(tmp_path / "back.safetensors") == read_values(path)
    assert without_order(read_manifest(tmp_path / "back.safetensors")) == without_order(read_manifest(path))


def test_safetensors_again_keeps_its_metadata(tmp_path):
    path, _ = write_source("safetensors", tmp_path)
    execute(make_plan(read_manifest(path)), tmp_path / "again.safetensors")
    with open_checkpoint(tmp_path / "again.safetensors") as again, open_checkpoint(path) as first:
        assert dict(again.metadata) == dict(first.metadata)


def test_awkward_views_become_what_they_look_like(tmp_path):
    fits = {key: view for key, view in b.awkward_views().items() if view.dtype != torch.complex128}
    torch.save(fits, tmp_path / "f.pt")
    execute(make_plan(read_manifest(tmp_path / "f.pt")), tmp_path / "f.safetensors")
    loaded = safetensors.load_file(tmp_path / "f.safetensors")
    assert set(fits) - set(loaded) == {"tied"}
    assert {key: b.values_of(view) for key, view in loaded.items()} == {key: b.values_of(fits[key]) for key in loaded}


class Tied(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3)
        self.b.weight = self.a.weight


def test_ties_written_to_safetensors_are_read_by_load_model(tmp_path):
    model, other = Tied(), Tied()
    torch.save(model.state_dict(), tmp_path / "m.pt")
    execute(make_plan(read_manifest(tmp_path / "m.pt")), tmp_path / "m.safetensors")
    assert safetensors.load_model(other, tmp_path / "m.safetensors") == (set(), [])
    assert all(torch.equal(model.state_dict()[key], value) for key, value in other.state_dict().items())


def test_ties_that_save_model_wrote_are_read(tmp_path):
    safetensors.save_model(Tied(), str(tmp_path / "m.safetensors"))
    manifest = read_manifest(tmp_path / "m.safetensors")
    assert set(manifest) == set(Tied().state_dict())
    assert {spec.tied_to for spec in manifest.values()} == {None, "a.weight"}


@pytest.mark.parametrize("dtype", ["complex128", "complex32"])
def test_a_dtype_that_safetensors_lacks_is_an_error_and_leaves_nothing(tmp_path, dtype):
    torch.save({"w": torch.ones(2), "z": b.patterned(dtype, 2)}, tmp_path / "f.pt")
    with pytest.raises(CkptDoctorError, match=f"(?s)z.*{dtype}") as caught:
        execute(make_plan(read_manifest(tmp_path / "f.pt")), tmp_path / "f.safetensors")
    assert caught.value.hint
    assert not (tmp_path / "f.safetensors").exists()


@pytest.mark.parametrize("key", ["__metadata__", "half \ud800"])
def test_a_key_that_safetensors_cannot_hold_is_an_error(tmp_path, key):
    torch.save({key: torch.ones(2), "w": torch.ones(1)}, tmp_path / "f.pt")
    with pytest.raises(CkptDoctorError):
        execute(make_plan(read_manifest(tmp_path / "f.pt")), tmp_path / "f.safetensors")
    assert not (tmp_path / "f.safetensors").exists()


def damaged_storage(path: Path) -> Path:
    """The same file with one byte of its largest storage changed."""
    with open_checkpoint(path) as checkpoint:
        stored = checkpoint.stored(("state_dict",))["large"]
        at = stored.start() + 1000
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    return b.written(path.with_name("damaged.ckpt"), bytes(data))


def test_bytes_that_do_not_match_their_checksum_are_not_copied(tmp_path):
    path = damaged_storage(write_source("torch", tmp_path)[0])
    with pytest.raises(CorruptCheckpoint, match="checksum") as caught:
        execute(make_plan(read_manifest(path)), tmp_path / "out.ckpt")
    assert caught.value.path == str(path)
    assert not (tmp_path / "out.ckpt").exists()


def test_bytes_that_do_not_match_their_checksum_are_not_converted(tmp_path):
    path = damaged_storage(write_source("torch", tmp_path)[0])
    with pytest.raises(CorruptCheckpoint, match="checksum"):
        execute(make_plan(read_manifest(path)), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_without_digests_checksums_are_carried_over(tmp_path):
    path = damaged_storage(write_source("torch", tmp_path)[0])
    execute(make_plan(read_manifest(path)), tmp_path / "out.ckpt", options=WriteOptions(digests=False))
    with zipfile.ZipFile(tmp_path / "out.ckpt") as archive:
        assert "/data/" in (archive.testzip() or "")


def test_a_source_that_changes_while_it_is_copied_is_noticed(tmp_path):
    path, _ = write_source("torch", tmp_path)
    plan = make_plan(read_manifest(path))

    def meddle(_: int) -> None:
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\0")

    with pytest.raises(CorruptCheckpoint, match="changed"):
        execute(plan, tmp_path / "out.ckpt", options=WriteOptions(progress=meddle))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source.ckpt"]


# ---- safetensors -------------------------------------------------------------------------------------------------------


def test_safetensors_reads_what_the_library_reads(tmp_path):
    tensors = source_tensors()
    del tensors["tied"], tensors["tied again"]
    safetensors.save_file(tensors, tmp_path / "f.safetensors")
    with open_checkpoint(tmp_path / "f.safetensors") as checkpoint:
        assert {key: (spec.shape, spec.dtype.name) for key, spec in checkpoint.manifest(()).items()} == {
            key: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for key, t in tensors.items()
        }
        assert values(checkpoint) == {key: b.values_of(tensor) for key, tensor in tensors.items()}


def test_data_in_safetensors_is_aligned_to_its_dtype(tmp_path):
    path, _ = write_source("torch", tmp_path)
    execute(make_plan(read_manifest(path)), tmp_path / "out.safetensors")
    with open_checkpoint(tmp_path / "out.safetensors") as checkpoint:
        for tensor in checkpoint.stored(()).values():
            assert tensor.start() % tensor.spec.dtype.itemsize == 0


ROW = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def header(**changes: Any) -> bytes:
    return b.safetensors_bytes({"w": ROW | changes}, bytes(8))


HOSTILE_SAFETENSORS = {
    "a header longer than the file": b.safetensors_bytes({"w": ROW}, bytes(8), length=10_000),
    "a header of 2^63": b.safetensors_bytes({"w": ROW}, bytes(8), length=1 << 63),
    "a header of 100 MB and a byte": b.safetensors_bytes({"w": ROW}, bytes(8), length=100_000_001),
    "a header cut": b.safetensors_bytes({"w": ROW}, bytes(8), length=20),
    "a space before": b.safetensors_bytes(" " + json.dumps({"w": ROW}), bytes(8)),
    "a list": b.safetensors_bytes([ROW], bytes(8)),
    "nine levels": b.safetensors_bytes('{"w":' * 9 + "1" + "}" * 9),
    "a million levels": b.safetensors_bytes('{"a":' * 1_000_000),
    "not UTF-8": b.safetensors_bytes(json.dumps({"w": ROW}).encode().replace(b"w", b"\xff"), bytes(8)),
    "a key twice": b.safetensors_bytes(f'{{"w": {json.dumps(ROW)}, "w": {json.dumps(ROW)}}}', bytes(8)),
    "a field twice": b.safetensors_bytes('{"w": {"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}', bytes(8)),
    "__metadata__ twice": b.safetensors_bytes('{"__metadata__":{},"__metadata__":{}}'),
    "metadata of numbers": b.safetensors_bytes({"__metadata__": {"a": 1}}),
    "metadata that is a list": b.safetensors_bytes({"__metadata__": []}),
    "NaN": b.safetensors_bytes('{"w": {"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)),
    "1e400": b.safetensors_bytes('{"w": {"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}', bytes(8)),
    "a float where a count belongs": header(shape=[2.0]),
    "an offset that is a float": header(data_offsets=[0, 8.0]),
    "True where a count belongs": header(shape=[2, True]),
    "a negative size": header(shape=[-2]),
    "a negative offset": header(data_offsets=[-8, 0]),
    "a size of 2^63": header(shape=[1 << 63]),
    "more elements than 2^63": header(shape=[1 << 40, 1 << 40]),
    "elements that overflow to the right number": header(shape=[1 << 32, 1 << 32, 2]),
    "a size of thousands of digits": b.safetensors_bytes(json.dumps({"w": ROW}).replace("2]", "9" * 5000 + "]")),
    "a missing field": b.safetensors_bytes({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)),
    "a field too many": header(extra=1),
    "an entry that is no object": b.safetensors_bytes({"w": 1}),
    "an unknown dtype": header(dtype="F31"),
    "a dtype in lower case": header(dtype="f32"),
    "a dtype that is a list": header(dtype=["F32"]),
    "a dtype that is an object": header(dtype={"F32": 1}),
    "a dtype that is null": header(dtype=None),
    "a shape that is a number": header(shape=2),
    "a shape that is text": header(shape="2"),
    "three offsets": header(data_offsets=[0, 8, 8]),
    "offsets the wrong way round": header(data_offsets=[8, 0]),
    "a span too short": header(data_offsets=[0, 4]),
    "a span too long": b.safetensors_bytes({"w": ROW | {"data_offsets": [0, 12]}}, bytes(12)),
    "a gap at the beginning": b.safetensors_bytes({"w": ROW | {"data_offsets": [4, 12]}}, bytes(12)),
    "a gap between": b.safetensors_bytes({"w": ROW, "v": ROW | {"data_offsets": [12, 20]}}, bytes(20)),
    "an overlap": b.safetensors_bytes({"w": ROW, "v": ROW | {"data_offsets": [4, 12]}}, bytes(12)),
    "one span for two": b.safetensors_bytes({"w": ROW, "v": ROW}, bytes(8)),
    "bytes after the data": b.safetensors_bytes({"w": ROW}, bytes(9)),
    "data cut": b.safetensors_bytes({"w": ROW}, bytes(7)),
    "no data": b.safetensors_bytes({"w": ROW}),
    "half a byte": b.safetensors_bytes({"w": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, bytes(1)),
    "six bits": b.safetensors_bytes({"w": {"dtype": "F6_E2M3", "shape": [3], "data_offsets": [0, 2]}}, bytes(2)),
    "too many dimensions": header(shape=[1] * 80 + [2]),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_SAFETENSORS)
def test_a_safetensors_file_that_breaks_a_rule_is_refused(tmp_path, name):
    path = b.written(tmp_path / "f.safetensors", HOSTILE_SAFETENSORS[name])
    with pytest.raises(CheckpointError) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 10_000


def test_safetensors_that_are_unusual_and_right_are_read(tmp_path):
    rows = {
        "b": {"dtype": "I64", "shape": [], "data_offsets": [4, 12]},
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [4, 4]},
        "pairs": {"dtype": "F4", "shape": [2, 2], "data_offsets": [12, 14]},
        "six": {"dtype": "F6_E2M3", "shape": [4], "data_offsets": [14, 17]},
    }
    data = struct.pack("<fq", 1.5, -2) + b"\x12\x34" + b"abc"
    raw = json.dumps(rows).encode() + b"   \n"
    with open_checkpoint(b.written(tmp_path / "f", b.safetensors_bytes(raw, data))) as checkpoint:
        assert list(checkpoint.manifest(())) == list(rows)
        assert values(checkpoint) == {
            "b": struct.pack("<q", -2),
            "a": struct.pack("<f", 1.5),
            "none": b"",
            "pairs": b"\x12\x34",
            "six": b"abc",
        }
        assert checkpoint.manifest(())["pairs"].shape == (2, 1)
    with open_checkpoint(b.written(tmp_path / "empty", b.safetensors_bytes({}))) as checkpoint:
        assert len(checkpoint.manifest(())) == 0


def test_metadata_is_a_tie_only_if_it_names_a_tensor_that_is_there(tmp_path):
    metadata = {"format": "pt", "tied": "w", "lost": "nowhere", "w": "w", "author": "me"}
    rows = {"__metadata__": metadata, "w": ROW, "pt": ROW | {"data_offsets": [8, 16]}}
    manifest = read_manifest(b.written(tmp_path / "f", b.safetensors_bytes(rows, bytes(16))))
    assert {key: spec.tied_to for key, spec in manifest.items()} == {"w": None, "pt": None, "tied": "w"}


# ---- manifests ---------------------------------------------------------------------------------------------------------

keys = st.text(min_size=1, max_size=8)
specs = st.builds(
    TensorSpec,
    keys,
    st.lists(st.integers(0, 1 << 40), max_size=4).map(tuple),
    st.sampled_from(list(DTYPES.values())),
    st.sampled_from(["parameter", "buffer", "unknown"]),
    tied_to=st.none(),
    raw_key=st.none(),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(specs, max_size=6, unique_by=lambda spec: spec.key), st.booleans())
def test_a_manifest_comes_back_as_it_went(tmp_path, tensors, tie):
    if tie and tensors:
        tensors.append(tensors[0]._replace(key=tensors[0].key + "'s twin", tied_to=tensors[0].key))
    manifest = Manifest({spec.key: spec for spec in tensors}.values())
    path = tmp_path / "m.json"
    path.write_text(manifest_json(manifest), encoding="utf-8")
    back = read_manifest(path)
    assert list(back.values()) == list(manifest.values())
    assert back.fingerprint == manifest.fingerprint
    assert (back.parameters, back.origin.kind) == (manifest.parameters, "manifest")


def test_a_manifest_of_any_file_stands_in_for_it(tmp_path):
    torch.save(b.awkward_tensors(), tmp_path / "f.pt")
    manifest = read_manifest(tmp_path / "f.pt")
    (tmp_path / "m.json").write_text(manifest_json(manifest))
    assert list(read_manifest(tmp_path / "m.json").values()) == list(manifest.values())
    document = json.loads((tmp_path / "m.json").read_text())
    assert document["schema"] == "ckptdoctor/manifest/1"
    assert set(document["tensors"][0]) == {"key", "shape", "dtype", "kind", "tied_to"}


def test_a_manifest_has_the_keys_of_the_file_also_when_wrappers_were_taken_out(tmp_path):
    tensors = {"_orig_mod.a": torch.ones(2)}
    tensors["_orig_mod.b"] = tensors["_orig_mod.a"]
    torch.save(tensors, tmp_path / "f.pt")
    plain = read_manifest(tmp_path / "f.pt")
    (tmp_path / "m.json").write_text(manifest_json(align(plain, None).source))
    assert list(read_manifest(tmp_path / "m.json").values()) == list(plain.values())


def test_a_manifest_holds_no_data(tmp_path):
    path = b.written(tmp_path / "m.json", manifest_json(Manifest([TensorSpec("w", (2,), DTYPES["float32"])])).encode())
    with open_checkpoint(path) as checkpoint, pytest.raises(CheckpointError, match="none of their data") as caught:
        checkpoint.stored(())
    assert caught.value.hint == "give the checkpoint itself"
    with pytest.raises(CheckpointError, match="none of their data"):
        execute(make_plan(read_manifest(path)), tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


GOOD_ROW = {"key": "w", "shape": [2], "dtype": "float32", "kind": "parameter", "tied_to": None}
TWIN = GOOD_ROW | {"key": "b", "tied_to": "w"}


def manifest_bytes(*rows: Any, schema: Any = "ckptdoctor/manifest/1", **more: Any) -> bytes:
    return json.dumps({"schema": schema, "tensors": list(rows), **more}).encode()


HOSTILE_MANIFESTS = {
    "another version": manifest_bytes(GOOD_ROW, schema="ckptdoctor/manifest/2"),
    "a schema that is a list": manifest_bytes(GOOD_ROW, schema=["ckptdoctor/manifest/1"]),
    "no tensors": b'{"schema": "ckptdoctor/manifest/1"}',
    "tensors that are an object": b'{"schema": "ckptdoctor/manifest/1", "tensors": {}}',
    "a key twice": manifest_bytes(GOOD_ROW, GOOD_ROW),
    "a name twice": manifest_bytes(GOOD_ROW).replace(b'"shape": [2]', b'"shape": [2], "shape": [3]'),
    "a row that is a list": manifest_bytes(["w"]),
    "a key that is a number": manifest_bytes(GOOD_ROW | {"key": 1}),
    "no key": manifest_bytes({"shape": [2], "dtype": "float32"}),
    "a shape of floats": manifest_bytes(GOOD_ROW | {"shape": [2.0]}),
    "a shape of booleans": manifest_bytes(GOOD_ROW | {"shape": [True]}),
    "a negative size": manifest_bytes(GOOD_ROW | {"shape": [-1]}),
    "a size of 2^63": manifest_bytes(GOOD_ROW | {"shape": [1 << 63]}),
    "a shape that is text": manifest_bytes(GOOD_ROW | {"shape": "22"}),
    "too many dimensions": manifest_bytes(GOOD_ROW | {"shape": [1] * 65}),
    "an unknown dtype": manifest_bytes(GOOD_ROW | {"dtype": "float31"}),
    "a dtype with its module": manifest_bytes(GOOD_ROW | {"dtype": "torch.float32"}),
    "a dtype that is a list": manifest_bytes(GOOD_ROW | {"dtype": ["float32"]}),
    "an unknown kind": manifest_bytes(GOOD_ROW | {"kind": "weight"}),
    "a kind that is a list": manifest_bytes(GOOD_ROW | {"kind": ["parameter"]}),
    "a kind that is false": manifest_bytes(GOOD_ROW | {"kind": False}),
    "a tie to nothing": manifest_bytes(GOOD_ROW | {"tied_to": "x"}),
    "a tie to itself": manifest_bytes(GOOD_ROW | {"tied_to": "w"}),
    "a tie that is a number": manifest_bytes(GOOD_ROW | {"tied_to": 1}),
    "a tie to a tied one": manifest_bytes(GOOD_ROW, TWIN, TWIN | {"key": "c", "tied_to": "b"}),
    "two that are tied to each other": manifest_bytes(GOOD_ROW | {"tied_to": "b"}, TWIN),
    "a tie of another dtype": manifest_bytes(GOOD_ROW, TWIN | {"dtype": "int8"}),
    "a tie of another size": manifest_bytes(GOOD_ROW, TWIN | {"shape": [7]}),
    "NaN": manifest_bytes(GOOD_ROW).replace(b"[2]", b"[NaN]"),
    "cut": manifest_bytes(GOOD_ROW)[:-5],
    "deep": manifest_bytes(GOOD_ROW, extra=[[[[[[[[[1]]]]]]]]]),
    "not UTF-8": manifest_bytes(GOOD_ROW).replace(b'"w"', b'"\xff"'),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_MANIFESTS)
def test_a_manifest_that_breaks_a_rule_is_refused(tmp_path, name):
    path = b.written(tmp_path / "m.json", HOSTILE_MANIFESTS[name])
    with pytest.raises(CorruptCheckpoint) as caught:
        read_manifest(path)
    assert str(path) in str(caught.value)
    assert "inspect --manifest" in (caught.value.hint or "")


def test_fields_that_may_be_added_later_do_no_harm(tmp_path):
    path = b.written(tmp_path / "m.json", manifest_bytes(GOOD_ROW | {"note": "x"}, made_by={"tool": "1"}))
    assert list(read_manifest(path)) == ["w"]
    bare = b.written(tmp_path / "n.json", manifest_bytes({"key": "w", "shape": [], "dtype": "bool"}))
    assert read_manifest(bare)["w"] == TensorSpec("w", (), DTYPES["bool"])
