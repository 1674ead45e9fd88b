"""What unpickling a file would call is listed with its place, judged by a gate, and not carried into an output."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests import builders as b
from tests.cli.helpers import run

HARM = b.call("os.system", b.text("touch canary"))
CONFIG = b.call("mypackage.Config", b.number(3))
WEIGHTS = {"w": b.tensor(), "bias": b.tensor()}


def file_with(path: Path, *before: bytes, **more: bytes) -> Path:
    """A torch file with weights at state_dict, these opcodes before it all and these entries beside the weights."""
    stream = b.pickled(*before, b.dict_({"epoch": b"K\1", "state_dict": b.dict_(WEIGHTS)} | more))
    return b.written(path, b.torch_file(stream))


STATED = CONFIG + b.dict_({"inner": b.list_(b"N", HARM)}) + b"b"
CASES = {
    "a call": ({"hook": HARM}, (), "os.system", ["hook"]),
    "a call in lists and dicts": ({"a": b.dict_({"b": b.list_(b"N", HARM)})}, (), "os.system", ["a/b/1"]),
    "a call in the state of an object": ({"hyper": STATED}, (), "os.system", ["hyper/inner/1"]),
    "a call as an argument": ({"hyper": b.call("mypackage.Config", HARM)}, (), "os.system", ["hyper"]),
    "a call as a key": ({"a": b.dict_([(HARM, b"N")])}, (), "os.system", ["a"]),
    "a global that is not called": ({"a": b.global_("builtins.eval")}, (), "builtins.eval", ["a"]),
    "an old call": ({"a": b"(" + b.text("true") + b"ios\nsystem\n"}, (), "os.system", ["a"]),
    "an object of a call": ({"a": b"(" + b.global_("os.system") + b.text("true") + b"o"}, (), "os.system", ["a"]),
    "a new object": ({"a": b.global_("subprocess.Popen") + b.tuple_(b.text("true")) + b"\x81"}, (), "subprocess.Popen", ["a"]),
    "what a call returns, called": (
        {"a": b.call("mypackage.get", b.text("x")) + b.tuple_() + b"R"}, (), "the result of mypackage.get", ["a"],
    ),
    "what getattr fetches, called": (
        {"a": b.call("builtins.getattr", b.global_("mypackage.Config"), b.text("__subclasses__")) + b.tuple_() + b"R"}, (),
        "mypackage.Config.__subclasses__", ["a"],
    ),
    "an attribute of an object, by an odd name": (
        {"a": b.call("__builtin__.getattr", CONFIG, b.text("__globals__"))}, (), "an object.its.__globals__", ["a"],
    ),
    "a function that imports by name": (
        {"a": b.call("torch._utils._import_dotted_name", b.text("os.system"))}, (), "torch._utils._import_dotted_name", ["a"],
    ),
    "a function of torch that calls what it is given": (
        {"a": b.call("torch._tensor._rebuild_from_type_v2", CONFIG, b.global_("torch.Tensor"), b.tuple_(), b"}")}, (),
        "what torch._tensor._rebuild_from_type_v2 is given", ["a"],
    ),
    "a function of torch that calls what is named": (
        {"a": b.call("torch._tensor._rebuild_from_type_v2", b.global_("linecache.getline"), b.global_("torch.Tensor"),
                     b.tuple_(), b"}")}, (), "linecache.getline", ["a"],
    ),
    "a function over a tree": (
        {"a": b.call("torch.utils._pytree.tree_map", b.global_("mypackage.run"), b.list_())}, (),
        "torch.utils._pytree.tree_map", ["a"],
    ),
    "an extension": ({"a": b"\x82\7" + b.tuple_() + b"R"}, (), "copyreg.extension 7", ["a"]),
    "thrown away": ({}, (HARM, b"0"), "os.system", ["thrown away (byte 2 of the pickle)"]),
    "inert, called and thrown away": (
        {}, (b.call("builtins.set"), b"0"), "builtins.set", ["thrown away (byte 2 of the pickle)"],
    ),
    "thrown away down to a mark": ({}, (b"(", HARM, b"1"), "os.system", ["thrown away (byte 3 of the pickle)"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_dangerous_global_is_listed_with_its_place(tmp_path: Path, name: str) -> None:
    more, before, wanted, places = CASES[name]
    file_with(tmp_path / "f.pt", *before, **more)
    done = run("inspect", "f.pt", "-f", "json", cwd=tmp_path)
    assert done.status == 0
    listed = {row["global"]: row for row in json.loads(done.stdout)["globals"]}
    assert listed[wanted]["class"] == "dangerous"
    assert listed[wanted]["places"] == places
    assert wanted in done.stderr
    assert "never does that" in done.stderr
    assert run("gate", "f.pt", "f.pt", "-q", cwd=tmp_path).status == 0
    gate = run("gate", "f.pt", "f.pt", "--fail-on", "unsafe", cwd=tmp_path)
    assert gate.status == 1
    assert "failed (unsafe: " in gate.stdout
    assert run("gate", "f.pt", "--fail-on", "unsafe", "-q", cwd=tmp_path).status == 1
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", CASES)
def test_a_dangerous_global_does_not_reach_an_output(tmp_path: Path, name: str) -> None:
    more, before, wanted, _ = CASES[name]
    file_with(tmp_path / "f.pt", *before, **more)
    (tmp_path / "map.yaml").write_text('ckptdoctor: 1\nrules: [{from: "w", to: "weight"}]\n')
    for words in ([], ["-m", "map.yaml"], ["-m", "map.yaml", "--optimizer", "drop"], ["--dry-run"]):
        done = run("remap", "f.pt", *words, "-o", "out.pt", cwd=tmp_path)
        assert done.status == 2
        assert done.stderr.startswith("error: f.pt would call ")
        assert wanted in done.stderr
        assert "--weights-only" in done.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == ["f.pt", "map.yaml"]
    for out in ("out.pt", "out.safetensors"):
        assert run("remap", "f.pt", "-m", "map.yaml", "--weights-only", "-o", out, cwd=tmp_path).status == 0
        assert "dangerous" not in run("inspect", out, cwd=tmp_path).stdout
        assert run("verify", out, cwd=tmp_path).status == 0
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    assert list(loaded) == ["epoch", "state_dict"]
    assert {key: value.tolist() for key, value in loaded["state_dict"].items()} == {
        "weight": [1.0, 2.0, 3.0, 4.0],
        "bias": [1.0, 2.0, 3.0, 4.0],
    }
    assert not (tmp_path / "canary").exists()


def test_a_map_may_drop_it(tmp_path: Path) -> None:
    file_with(tmp_path / "f.pt", hook=HARM, hyper=CONFIG)
    (tmp_path / "map.yaml").write_text("ckptdoctor: 1\nrules: []\nenvelope: {drop: [hook]}\n")
    assert run("remap", "f.pt", "-m", "map.yaml", "-o", "out.pt", cwd=tmp_path).status == 0
    listed = json.loads(run("inspect", "out.pt", "-f", "json", cwd=tmp_path).stdout)["globals"]
    assert {row["global"]: row["class"] for row in listed if row["class"] != "inert"} == {"mypackage.Config": "unknown"}
    (tmp_path / "other.yaml").write_text("ckptdoctor: 1\nrules: []\nenvelope: {drop: [hyper]}\n")
    done = run("remap", "f.pt", "-m", "other.yaml", "-o", "other.pt", cwd=tmp_path)
    assert done.status == 2
    assert "would call os.system" in done.stderr
    assert not (tmp_path / "other.pt").exists()


def test_classes_of_a_user_come_along(tmp_path: Path) -> None:
    path = file_with(tmp_path / "f.pt", hyper=CONFIG, again=b.list_(CONFIG))
    table = run("inspect", "f.pt", cwd=tmp_path)
    assert "unknown    mypackage.Config" in table.stdout.replace("unknown  ", "unknown    ")
    assert "hyper, again/0" in table.stdout
    assert table.stderr == ""
    assert run("gate", "f.pt", "f.pt", "--fail-on", "unsafe", cwd=tmp_path).status == 0
    assert run("remap", "f.pt", "-o", "out.pt", cwd=tmp_path).status == 0
    assert b"mypackage" in (tmp_path / "out.pt").read_bytes()
    assert b"mypackage" in path.read_bytes()


def test_weights_alone_leave_everything_else_out(tmp_path: Path) -> None:
    torch.save(b.lightning_like(b.state_dict()), tmp_path / "f.ckpt")
    done = run("remap", "f.ckpt", "--weights-only", "-o", "out.ckpt", cwd=tmp_path)
    assert done.status == 0
    assert "what stands around the weights was left out, but for plain numbers and texts" in done.stderr
    whole, alone = (torch.load(tmp_path / name, weights_only=True) for name in ("f.ckpt", "out.ckpt"))
    assert list(alone) == ["epoch", "global_step", "pytorch-lightning_version", "state_dict"]
    assert list(alone["state_dict"]) == list(whole["state_dict"])
    assert all(torch.equal(alone["state_dict"][key], value) for key, value in whole["state_dict"].items())
    assert alone["state_dict"]["head.weight"].data_ptr() == alone["state_dict"]["0.weight"].data_ptr()
    (tmp_path / "map.yaml").write_text("ckptdoctor: 1\nrules: []\nenvelope: {drop: [epoch]}\n")
    done = run("remap", "f.ckpt", "-m", "map.yaml", "--weights-only", "-o", "two.ckpt", cwd=tmp_path)
    assert done.status == 2
    assert "which --weights-only leaves out" in done.stderr
    done = run("remap", "f.ckpt", "--weights-only", "--optimizer", "follow", "-o", "two.ckpt", cwd=tmp_path)
    assert done.status == 2


def test_weights_alone_of_a_big_endian_file(tmp_path: Path) -> None:
    swapped = b"".join(b.torch_records(b"")[1].data[at : at + 4][::-1] for at in range(0, 16, 4))
    stream = b.pickled(HARM, b"0", b.dict_({"w": b.tensor()}))
    b.written(tmp_path / "f.pt", b.torch_file(stream, {"0": swapped}, byteorder=b"big"))
    assert run("remap", "f.pt", "--weights-only", "-o", "out.pt", cwd=tmp_path).status == 0
    assert torch.load(tmp_path / "out.pt")["w"].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_manifest_cannot_say_what_would_run(tmp_path: Path) -> None:
    file_with(tmp_path / "f.pt", hook=HARM)
    assert run("inspect", "f.pt", "--manifest", "m.json", cwd=tmp_path).status == 0
    done = run("gate", "m.json", "m.json", "--fail-on", "unsafe", cwd=tmp_path)
    assert done.status == 2
    assert "give the checkpoint itself" in done.stderr


def test_a_recursive_object_is_not_thrown_away(tmp_path: Path) -> None:
    """What pickle pops and fetches from the memo again (tuples that hold themselves) is still in the object."""
    loop: list[object] = []
    holder = (loop, {"a": torch.device("cpu")})
    loop.append(holder)
    torch.save({"state_dict": {"w": torch.ones(2)}, "loop": holder}, tmp_path / "f.pt")
    done = run("inspect", "f.pt", "-f", "json", cwd=tmp_path)
    assert {row["class"] for row in json.loads(done.stdout)["globals"]} == {"inert"}
