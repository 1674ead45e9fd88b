"""Which outputs share memory: what the target or the map ties, what was tied in the source; never two copies of one tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ckptdoctor
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.targets.building.contents import manifest_of_module
from tests.cli.helpers import run

TWICE = "rules: [{from: w, to: x}, {from: w, to: y}]"
GROWN = 'rules: [{from: "{i:int}.{p}", to: "{j:int}.{p}", where: {i: "0 * j"}}]'


def key_map(text: str) -> KeyMap:
    return parse_map(f"ckptdoctor: 1\n{text}\n")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def written(weights: dict[str, torch.Tensor], target: Manifest | None, text: str, name: str) -> dict[str, torch.Tensor]:
    """What is written for these weights; verified, and compared with what `apply` makes in memory."""
    torch.save(weights, "old.pt")
    plan = ckptdoctor.make_plan(ckptdoctor.read_manifest("old.pt"), target, key_map(text))
    ckptdoctor.execute(plan, name, overwrite=True)
    assert ckptdoctor.verify(name).passed
    made: dict[str, torch.Tensor] = load_file(name) if name.endswith(".safetensors") else torch.load(name)
    in_memory = ckptdoctor.apply(plan, weights)
    if not name.endswith(".safetensors"):
        assert list(in_memory) == list(made)
        assert groups(in_memory) == groups(made)
    assert all(torch.equal(made[key], in_memory[key]) for key in made)
    return made


def groups(tensors: dict[str, torch.Tensor]) -> set[tuple[str, ...]]:
    """The keys of each memory."""
    found: dict[int, list[str]] = {}
    for key, tensor in tensors.items():
        found.setdefault(tensor.data_ptr(), []).append(key)
    return {tuple(keys) for keys in found.values()}


@pytest.mark.parametrize("name", ["new.pt", "new.safetensors"])
class TestCopies:
    @pytest.mark.parametrize("op", ["", ", op: {reshape: [4]}", ", op: {pad: {dim: 0, to: 4, fill: 0}}"])
    def test_two_uses_of_one_tensor_are_two_tensors(self, name: str, op: str) -> None:
        rules = f"rules: [{{from: w, to: x}}, {{from: w, to: y{op}}}]"
        made = written({"w": torch.randn(4)}, None, rules, name)
        assert groups(made) == {("x",), ("y",)}

    def test_depth_grows_with_tensors_of_their_own(self, name: str) -> None:
        old, new = nn.Sequential(nn.Linear(3, 3)), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        made = written(dict(old.state_dict()), manifest_of_module(new), GROWN, name)
        assert len(made) == len(groups(made)) == 4

    def test_what_the_target_does_not_tie_is_written_twice(self, name: str) -> None:
        shared = torch.randn(3)
        target = Manifest(TensorSpec(key, (3,), DTYPES["float32"]) for key in "ab")
        made = written({"a": shared, "b": shared}, target, "", name)
        assert groups(made) == {("a",), ("b",)}


class TestTied:
    def test_what_was_tied_stays_so_without_a_target(self) -> None:
        shared = torch.randn(4)
        both = 'rules: [{from: "{a,b}", to: "{x,y}"}]'
        assert groups(written({"a": shared, "b": shared}, None, both, "new.pt")) == {("x", "y")}
        turned = 'rules: [{from: "{a,b}", to: "{x,y}", op: {reshape: [2, 2]}}]'
        assert groups(written({"a": shared, "b": shared}, None, turned, "new.pt")) == {("x", "y")}

    def test_a_third_copy_is_a_tensor_of_its_own(self) -> None:
        shared = torch.randn(4)
        rules = "rules: [{from: a, to: x}, {from: a, to: y}, {from: b, to: z}]"
        assert groups(written({"a": shared, "b": shared}, None, rules, "new.pt")) == {("x", "z"), ("y",)}

    def test_the_target_ties_two_uses_of_one_tensor(self) -> None:
        model = nn.ModuleDict({"x": nn.Linear(2, 2, bias=False), "y": nn.Linear(2, 2, bias=False)})
        model["y"].weight = model["x"].weight
        rules = "rules: [{from: w, to: x.weight}, {from: w, to: y.weight}]"
        made = written({"w": torch.randn(2, 2)}, manifest_of_module(model), rules, "new.pt")
        assert groups(made) == {("x.weight", "y.weight")}

    def test_views_of_one_storage_still_share_it(self) -> None:
        whole = torch.randn(6)
        made = written({"a": whole[:4], "b": whole[2:]}, None, 'rules: [{from: "{a,b}", to: "{x,y}"}]', "new.pt")
        assert made["x"].untyped_storage().data_ptr() == made["y"].untyped_storage().data_ptr()

    def test_copies_of_the_weights_go_the_same_way(self) -> None:
        weights: dict[str, Any] = {"w": torch.randn(4)}
        torch.save({"model": weights, "ema": {"w": torch.randn(4)}}, "old.pt")
        assert run("remap", "old.pt", "-m", _map(TWICE), "-o", "new.pt", cwd=Path.cwd()).status == 0
        made = torch.load("new.pt")
        assert groups(made["model"] | {f"ema.{key}": value for key, value in made["ema"].items()}) == {
            (key,) for key in ("x", "y", "ema.x", "ema.y")
        }


class TestInMemory:
    def test_pieces_that_do_not_overlap_are_no_copies(self) -> None:
        weights = {"w": torch.randn(4, 2)}
        made = ckptdoctor.apply(_plan(weights, 'rules: [{from: w, to: "{x,y}", op: {split: {parts: 2}}}]'), weights)
        assert made["x"].data_ptr() == weights["w"].data_ptr()
        assert made["y"].data_ptr() == weights["w"][2:].data_ptr()

    def test_what_is_renamed_keeps_the_tensor_and_what_is_made_of_it_gets_a_copy(self) -> None:
        weights = {"w": torch.randn(4)}
        made = ckptdoctor.apply(
            _plan(weights, "rules: [{from: w, to: a, op: {reshape: [2, 2]}}, {from: w, to: b}]"), weights
        )
        assert made["b"] is weights["w"]
        made["a"].zero_()
        assert weights["w"].all()


def _plan(weights: dict[str, torch.Tensor], text: str) -> ckptdoctor.Plan:
    torch.save(weights, "old.pt")
    return ckptdoctor.make_plan(ckptdoctor.read_manifest("old.pt"), None, key_map(text))


def _map(text: str) -> Path:
    path = Path("map.yaml")
    path.write_text(f"ckptdoctor: 1\n{text}\n")
    return path
