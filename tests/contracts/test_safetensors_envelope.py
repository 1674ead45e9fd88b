"""What becomes of the envelope when a torch file becomes a safetensors file: plain values into JSON, the rest named."""

from __future__ import annotations

import io
import json
import pathlib
import struct
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor.files import replacing
from ckptdoctor.formats import WRITERS, open_checkpoint
from ckptdoctor.formats.base import Envelope, Place, WriteOptions, Written
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.pickles import plain as module
from ckptdoctor.pickles.nodes import DictNode
from ckptdoctor.pickles.parse import parse
from ckptdoctor.pickles.plain import LeftOut, plain, summary
from ckptdoctor.strictjson import loads
from tests import builders as b


def saved(obj: Any, **how: Any) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(obj, file, **how)
    return file.getvalue()


def converted(folder: Path, raw: bytes, place: Place = ("state_dict",), **options: Any) -> Written:
    """What the writer of safetensors reports for a checkpoint whose weights stay as they are."""
    with (
        open_checkpoint(b.written(folder / "source", raw)) as source,
        replacing(folder / "out", overwrite=True) as output,
    ):
        tensors = [OutputTensor(key, tensor.spec, stored=tensor) for key, tensor in source.stored(place).items()]
        return WRITERS["safetensors"].write(output, tensors, Envelope(source, place), WriteOptions(**options))


def document(written: Written) -> Any:
    assert list(written.sidecars) == [".envelope.json"]
    text = written.sidecars[".envelope.json"]
    assert text.endswith("}\n")
    assert text.isascii()
    result = loads(text.encode(), max_nesting=200)
    assert list(result) == ["schema", "envelope", "left_out"]
    assert result["schema"] == "ckptdoctor/envelope/1"
    return result


def weights() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    return {"w": torch.ones(2), "v": torch.zeros(3)}


# ---- the file beside the output ------------------------------------------------------------------------------------------


def test_lightnings_plain_values_are_kept_and_the_rest_is_named(tmp_path):
    checkpoint = b.lightning_like(
        weights(), hyper_parameters={"lr": 1e-3, "out": pathlib.PurePosixPath("/x"), "s": (1, "a")}
    )
    written = converted(tmp_path, saved(checkpoint))
    result = document(written)
    assert result["envelope"] == {
        "epoch": 3,
        "global_step": 311,
        "pytorch-lightning_version": "2.6.6",
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"dirpath": "x"}},
        "optimizer_states": [{"param_groups": [{"lr": 1e-3, "betas": [0.9, 0.999], "params": [0, 1]}]}],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [1e-3]}],
        "hyper_parameters": {"lr": 1e-3, "s": [1, "a"]},
    }
    assert result["left_out"] == [
        "callbacks/ModelCheckpoint{'monitor': 'val'}/best_model_score: tensor",
        "optimizer_states/0/state/0/step: tensor",
        "optimizer_states/0/state/0/exp_avg: tensor",
        "optimizer_states/0/state/1/step: tensor",
        "optimizer_states/0/state/1/exp_avg: tensor",
        "hyper_parameters/out: object (pathlib.PurePosixPath)",
    ]
    assert written.notes == [
        "safetensors holds tensors only: 16 plain values went to OUT.envelope.json; left out: callbacks (1 tensor), "
        "optimizer_states (4 tensors), hyper_parameters (1 object)"
    ]


@pytest.mark.parametrize("legacy", [False, True])
def test_any_kind_of_torch_file_has_an_envelope(tmp_path, legacy):
    raw = saved({"state_dict": weights(), "epoch": 3}, _use_new_zipfile_serialization=not legacy)
    written = converted(tmp_path, raw)
    assert document(written)["envelope"] == {"epoch": 3}
    assert written.notes == ["safetensors holds tensors only: 1 plain value went to OUT.envelope.json"]


def test_a_state_dict_alone_has_none(tmp_path):
    written = converted(tmp_path, saved(OrderedDict(weights())), ())
    assert (written.sidecars, written.notes) == ({}, [])


def test_nor_has_a_safetensors_file(tmp_path):
    raw = b.safetensors_bytes({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, bytes(8))
    written = converted(tmp_path, raw, ())
    assert (written.sidecars, written.notes) == ({}, [])


def test_weights_at_the_root_leave_what_stands_beside_them(tmp_path):
    torch = pytest.importorskip("torch")
    root = {**weights(), "epoch": 3, 5: torch.ones(1), "sparse": torch.eye(2).to_sparse(), "ema": weights()}
    result = document(converted(tmp_path, saved(root), ()))
    assert result["envelope"] == {"epoch": 3}
    assert result["left_out"] == ["5: tensor", "sparse: tensor", "ema/w: tensor", "ema/v: tensor"]


def test_what_is_no_dense_tensor_among_the_weights_is_named(tmp_path):
    torch = pytest.importorskip("torch")
    state = {**weights(), "norm._extra_state": io.BytesIO(b"x"), "sparse": torch.eye(2).to_sparse(), "version": 2}
    result = document(converted(tmp_path, saved({"state_dict": state})))
    assert result["envelope"] == {"state_dict": {"version": 2}}
    assert result["left_out"] == [
        "state_dict/norm._extra_state: object (_io.BytesIO)",
        "state_dict/sparse: tensor",
    ]


def test_a_second_place_of_the_same_tensors_is_named(tmp_path):
    shared = weights()
    result = document(converted(tmp_path, saved({"state_dict": shared, "ema": dict(shared)})))
    assert result["left_out"] == ["ema/w: tensor", "ema/v: tensor"]
    assert result["envelope"] is None


def test_optimizer_states_that_were_to_be_dropped_are_not_spoken_of(tmp_path):
    written = converted(tmp_path, saved(b.lightning_like(weights())), drop_optimizer=True)
    result = document(written)
    assert not {"optimizer_states", "lr_schedulers"} & set(result["envelope"])
    assert "optimizer" not in written.notes[0]
    assert not [place for place in result["left_out"] if place.startswith("optimizer")]


def test_the_same_file_gives_the_same_text(tmp_path):
    raw = saved(b.lightning_like(weights()))
    assert converted(tmp_path, raw) == converted(tmp_path, raw)


def test_nothing_in_the_envelope_is_called(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = b.dict_({"state_dict": b.dict_({"w": b.tensor()}), "x": b.call("os.system", b.text("touch owned"))})
    result = document(converted(tmp_path, b.torch_file(b.pickled(root))))
    assert result["left_out"] == ["x: object (os.system)"]
    assert not (tmp_path / "owned").exists()


# ---- plain values of any graph --------------------------------------------------------------------------------------------


def read(*opcodes: bytes) -> Any:
    return parse(b.pickled(*opcodes)).root


def left(opcodes: bytes) -> tuple[Any, list[str]]:
    found = plain(read(opcodes))
    json.dumps(found.data, allow_nan=False)
    return found.data, [str(item) for item in found.left_out]


def real(value: float) -> bytes:
    return b"G" + struct.pack(">d", value)


def test_every_plain_value():
    items = [
        b"N",
        b"\x88",
        b"\x89",
        b.number(0),
        b.number(-(1 << 63)),
        b.number((1 << 64) - 1),
        real(0.1),
        b.text("é\n"),
    ]
    assert left(b.list_(*items)) == ([None, True, False, 0, -(1 << 63), (1 << 64) - 1, 0.1, "é\n"], [])
    assert left(b.tuple_(b.list_(), b")", b.dict_({"a": b"}"}))) == ([[], [], {"a": {}}], [])
    assert left(b.call("collections.OrderedDict") + b"(" + b.text("a") + b"K\1u") == ({"a": 1}, [])
    assert left(b"N") == (None, [])


NOT_PLAIN = {
    "not a number": (real(float("nan")), "number (not finite)"),
    "infinity": (real(float("-inf")), "number (not finite)"),
    "2^64": (b.number(1 << 64), "number (more than 64 bits)"),
    "a number of 5,000 digits": (b.number(10**5000), "number (more than 64 bits)"),
    "bytes": (b"C\3abc", "byte string"),
    "a bytearray": (b"\x96\1\0\0\0\0\0\0\0x", "byte string"),
    "bytes of Python 2": (b"U\1\xff", "byte string"),
    "a set": (b"\x8f(K\1\x90", "set"),
    "a frozen set": (b"(K\1\x91", "set"),
    "a class": (b.global_("torch.float32"), "object (torch.float32)"),
    "a call": (b.call("pathlib.PosixPath", b.text("x")), "object (pathlib.PosixPath)"),
    "a call of what a call made": (b.call("functools.partial") + b")R", "object"),
    "an extension": (b"\x82\x07", "object"),
    "a tensor": (b.tensor(), "tensor"),
    "a parameter": (b.call("torch._utils._rebuild_parameter", b.tensor(), b"\x88", b.dict_({})), "tensor"),
    "a sparse tensor": (b.call("torch._utils._rebuild_sparse_tensor", b"K\0", b")"), "tensor"),
    "a storage": (b.storage(), "storage"),
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_is_not_plain_is_named(name):
    opcodes, what = NOT_PLAIN[name]
    assert left(opcodes) == (None, [f".: {what}"])
    assert left(b.dict_({"a": b.dict_({"x": opcodes, "y": b"K\1"})})) == ({"a": {"y": 1}}, [f"a/x: {what}"])
    assert left(b.list_(b"K\1", opcodes, b"K\3")) == ([1, None, 3], [f"1: {what}"])


def test_what_was_emptied_goes_and_what_was_empty_stays():
    tensor = b.tensor()
    opcodes = b.dict_({"a": b.dict_({"b": b.list_(tensor, b.dict_({"c": tensor}))}), "empty": b"}", "none": b"N"})
    assert left(opcodes) == ({"empty": {}, "none": None}, ["a/b/0: tensor", "a/b/1/c: tensor"])


def test_keys_that_are_no_texts():
    keys = {"5": b"K\5", "True": b"\x88", "a tuple": b.tuple_(b"K\1"), "a NoneType": b"N", "a float": real(0.5)}
    for name, key in keys.items():
        assert left(b.dict_([(key, b"K\1")])) == (None, [f"{name}: value (its key is no text)"])
        tensors = b.dict_([(key, b.dict_({"t": b.tensor(), "n": b"K\1"}))])
        assert left(tensors) == (None, [f"{name}/t: tensor", f"{name}: value (its key is no text)"])
    assert plain(read(b.dict_([(b"K\5", b.list_(b"K\1", b"K\2"))]))).values == 0
    assert left(b.dict_([(b.number(10**5000), b"N")]))[1] == ["a int: value (its key is no text)"]
    assert left(b.dict_([(b"U\1a", b"U\1b"), (b"U\1\xff", b"N")])) == (
        {"a": "b"},
        ["a ByteString: value (its key is no text)"],
    )


def test_a_key_that_stands_twice_has_its_last_value():
    assert left(b.dict_([(b.text("a"), b"K\1"), (b.text("a"), b"K\2")])) == ({"a": 2}, [])


def test_values_are_counted():
    opcodes = b.dict_({"a": b"K\1", "b": b.list_(b"N", b"N", b.tensor()), "c": b"}", "d": b"]"})
    assert plain(read(opcodes)).values == 5


def test_what_holds_itself_is_named():
    assert left(b"]q\0K\1ah\0a") == ([1, None], ["1: value (it holds itself)"])
    assert left(b"}q\0X\1\0\0\0ah\0s") == (None, ["a: value (it holds itself)"])
    ordered = b.call("collections.OrderedDict") + b"q\0X\1\0\0\0ah\0sX\1\0\0\0bK\1s"
    assert left(ordered) == ({"b": 1}, ["a: value (it holds itself)"])


def test_what_is_shared_stands_wherever_it_stood():
    assert left(b"](]q\0K\1ah\0h\0e") == ([[1], [1], [1]], [])


def test_depth_is_bounded():
    assert left(b"]" * 100 + b"a" * 99)[1] == []
    data, named = left(b"]" * 100_000 + b"a" * 99_999)
    assert data is None
    assert named == ["/".join("0" * 100) + ": value (nested deeper than 100 levels)"]


def test_a_graph_that_would_be_endless_is_cut(monkeypatch):
    monkeypatch.setattr(module, "MAX_VALUES", 1000)
    stack = parse(b"\x80\2" + b"".join(
        (b"]q\0K\1a0", *(b"](h%ch%ceq%c0" % (level, level, level + 1) for level in range(60)), b"h%c." % 60)
    ))  # fmt: skip
    found = plain(stack.root)
    assert found.values <= 1000
    assert [str(item).partition(": ")[2] for item in found.left_out] == [
        "value (this and all that follows: more than 1,000 values)"
    ]


def test_long_texts_count_for_more(monkeypatch):
    monkeypatch.setattr(module, "MAX_VALUES", 1000)
    long = b.text("x" * 10_000) + b"q\0"
    found = plain(read(b"](", long, b"h\0" * 500, b"e"))
    assert 5 < len(found.data) < 15
    assert len(found.left_out) == 1
    keyed = plain(read(b.dict_([(b.text("k" * 10_000 + str(i)), b.tensor()) for i in range(500)])))
    assert len(keyed.left_out) < 15


def test_weights_that_stand_in_many_places_do_not_take_forever(monkeypatch):
    monkeypatch.setattr(module, "MAX_VALUES", 10_000)
    state = DictNode([(f"w{i}", read(b.tensor())) for i in range(100)])
    found = plain([state] * 100_000, state)
    assert found.data is None
    assert len(found.left_out) == 1


def test_the_summary_goes_by_the_first_name():
    items = [
        LeftOut(("optimizer_states", "0", "state", str(i), name), "tensor") for i in range(600) for name in ("a", "b")
    ]
    items += [LeftOut(("callbacks",), "object", "x.Y"), LeftOut(("callbacks", "z"), "byte string")]
    items += [LeftOut((), "set"), LeftOut(("\x1b[2J",), "set")]
    assert summary(items) == (
        "optimizer_states (1,200 tensors), callbacks (1 object, 1 byte string), the root (1 set), \\x1b[2J (1 set)"
    )
    many: Mapping[str, int] = {f"n{i}": i for i in range(9)}
    assert summary([LeftOut((name,), "set") for name in many]).endswith("n4 (1 set) and 4 more")
