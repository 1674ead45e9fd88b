"""Which states of optimizers are seen in a file, and when they may stay as they are: only while they fit the parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.errors import CheckpointError
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.keymap import parse_map
from ckptdoctor.model import Manifest
from ckptdoctor.targets.building.contents import manifest_of_module

KEEP, FOLLOW, DROP = WriteOptions(), WriteOptions(follow_optimizer=True), WriteOptions(drop_optimizer=True)
TURNED = 'rules: [{from: "{a,b}.weight", to: "{b,a}.weight"}]'
PLACES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "optim": lambda state: {"optim": state},
    "opt": lambda state: {"opt": state},
    "optimizer_state": lambda state: {"optimizer_state": state},
    "optim_state_dict": lambda state: {"optim_state_dict": state},
    "optimizer_G": lambda state: {"optimizer_G": state},
    "trainer/optimizer": lambda state: {"trainer": {"optimizer": state, "epoch": 3}},
    "optims/1": lambda state: {"optims": [None, state]},
    "optimizer": lambda state: {"optimizer": state},
}


class Model(nn.Module):
    def __init__(self, tied: bool = False, turned: bool = False) -> None:
        super().__init__()
        torch.manual_seed(3)
        for name in "ba" if turned else "ab":
            self.add_module(name, nn.Linear(4, 4, bias=False))
        if tied:
            self.b.weight = self.a.weight

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.b(self.a(inputs))
        return result


def trained(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return optimizer.state_dict()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def remapped(contents: Any, target: Manifest | None, rules: str = "", options: WriteOptions = KEEP) -> Any:
    torch.save(contents, "old.ckpt")
    maps = [parse_map(f"ckptdoctor: 1\n{rules}\n")] if rules else []
    plan = ckptdoctor.make_plan(ckptdoctor.read_manifest("old.ckpt"), target, maps)
    ckptdoctor.execute(plan, "new.ckpt", options=options)
    return torch.load("new.ckpt", weights_only=True)


def at(contents: Any, place: str) -> Any:
    for name in place.split("/"):
        contents = contents[int(name) if name.isdecimal() else name]
    return contents


@pytest.mark.parametrize("place", PLACES)
class TestWhereverTheyLie:
    """Each parameter of the target is made of the other: states by number belong elsewhere then."""

    def contents(self, place: str) -> dict[str, Any]:
        model = Model()
        state = trained(model)
        return {"model": model.state_dict(), **PLACES[place](state)}

    def test_they_are_not_kept_when_they_no_longer_fit(self, place: str) -> None:
        with pytest.raises(CheckpointError, match=rf"optimizer states \({place}\)") as error:
            remapped(self.contents(place), manifest_of_module(Model()), TURNED)
        assert "--optimizer follow" in str(error.value.hint)
        assert not Path("new.ckpt").exists()

    def test_they_stay_as_they_are_while_they_fit(self, place: str) -> None:
        old = self.contents(place)
        new = remapped(old, None, 'rules: [{from: "{m}.weight", to: "body.{m}.weight"}]')
        assert torch.equal(at(new, place)["state"][1]["exp_avg"], at(old, place)["state"][1]["exp_avg"])

    def test_they_follow(self, place: str) -> None:
        old = self.contents(place)
        new = at(remapped(old, manifest_of_module(Model()), TURNED, FOLLOW), place)
        for number in (0, 1):
            assert torch.equal(new["state"][number]["exp_avg"], at(old, place)["state"][1 - number]["exp_avg"])

    def test_they_are_dropped(self, place: str) -> None:
        new = remapped(self.contents(place), manifest_of_module(Model()), TURNED, DROP)
        assert ("optimizer" not in new) if place == "optimizer" else at(new, place) == {}
        assert at(new, "trainer/epoch") == 3 if "trainer" in new else True


@pytest.mark.parametrize(
    "value", [None, {}, [], "adam", {"name": "adam", "lr": 0.1}, {"state": {}, "param_groups": []}]
)
def test_what_holds_no_states_may_be_kept(value: Any) -> None:
    contents = {"state_dict": Model().state_dict(), "optimizer": value}
    new = remapped(contents, manifest_of_module(Model()), TURNED)
    assert new["optimizer"] == value
    Path("new.ckpt").unlink()
    assert remapped(contents, manifest_of_module(Model()), TURNED, FOLLOW)["optimizer"] == value


class TestTies:
    """The number of parameters changes where ties come or go."""

    @pytest.mark.parametrize("tied", [True, False])
    def test_states_are_not_kept_when_ties_change(self, tied: bool) -> None:
        model = Model(tied)
        state = trained(model)
        contents = {"model": model.state_dict(), "optimizer": state}
        with pytest.raises(CheckpointError, match="ties"):
            remapped(contents, manifest_of_module(Model(not tied)))

    def test_states_are_kept_with_the_ties(self) -> None:
        model = Model(tied=True)
        contents = {"model": model.state_dict(), "optimizer": trained(model)}
        for target, rules in (
            (manifest_of_module(model), ""),
            (None, 'rules: [{from: "{m}.weight", to: "x.{m}.weight"}]'),
            (manifest_of_module(model), "drop: [{keys: b.weight, why: tied}]"),
        ):
            assert list(remapped(contents, target, rules)["optimizer"]["state"]) == [0]
            Path("new.ckpt").unlink()

    def test_a_tied_parameter_that_an_op_changes_has_one_state(self) -> None:
        model = Model(tied=True)
        contents = {"model": model.state_dict(), "optimizer": trained(model)}
        turned = 'rules: [{from: "{m}.weight", to: "{m}.w", op: {transpose: [0, 1]}}]'
        new = remapped(contents, None, turned, FOLLOW)
        assert new["model"]["a.w"].data_ptr() == new["model"]["b.w"].data_ptr()
        assert new["optimizer"]["param_groups"][0]["params"] == [0]
        assert torch.equal(new["optimizer"]["state"][0]["exp_avg"], contents["optimizer"]["state"][0]["exp_avg"].T)


@pytest.mark.parametrize("options", [KEEP, FOLLOW])
def test_without_a_target_nobody_knows_the_order_of_parameters_that_change_places(options: WriteOptions) -> None:
    model = Model()
    contents = {"model": model.state_dict(), "optimizer": trained(model)}
    with pytest.raises(CheckpointError, match=r"reorders|change places"):
        remapped(contents, None, TURNED, options)
    shifted = 'rules: [{from: "{a,b}.weight", to: "{b,c}.weight"}]'
    assert list(remapped(contents, None, shifted, options)["optimizer"]["state"]) == [0, 1]


class TestScaledMoments:
    """What is multiplied in a narrow type may leave its range: then the parameter starts anew, and it is said."""

    def follow(self, factor: float, dtype: torch.dtype) -> tuple[dict[int, Any], tuple[str, ...]]:
        model = Model()
        state = trained(model)
        for each in state["state"].values():
            each["exp_avg"], each["exp_avg_sq"] = (
                torch.full((4, 4), 0.5, dtype=dtype),
                torch.full((4, 4), 0.25, dtype=dtype),
            )
        torch.save({"model": model.state_dict(), "optimizer": state}, "old.ckpt")
        rules = f"rules: [{{from: b.weight, to: c.weight, op: [{{transpose: [0, 1]}}, {{scale: {factor:f}}}]}}]"
        plan = ckptdoctor.make_plan(ckptdoctor.read_manifest("old.ckpt"), None, [parse_map(f"ckptdoctor: 1\n{rules}")])
        notes = ckptdoctor.execute(plan, "new.ckpt", options=FOLLOW).notes
        return torch.load("new.ckpt")["optimizer"]["state"], notes

    @pytest.mark.parametrize(
        ("factor", "why"),
        [(30000.0, "exp_avg_sq would become 0 in float16"), (0.00001, "would be too large for float16")],
    )
    def test_it_is_reset(self, factor: float, why: str) -> None:
        state, notes = self.follow(factor, torch.float16)
        assert list(state) == [0]
        assert "1 reset" in notes[0]
        assert any(why in note and note.startswith("optimizer: c.weight starts anew") for note in notes)

    @pytest.mark.parametrize(
        ("factor", "dtype"), [(2.0, torch.float16), (30000.0, torch.float32), (1e-5, torch.bfloat16)]
    )
    def test_it_follows_where_there_is_room(self, factor: float, dtype: torch.dtype) -> None:
        state, _ = self.follow(factor, dtype)
        assert float(state[1]["exp_avg_sq"][0, 0]) == pytest.approx(0.25 / factor**2, rel=0.01)


@pytest.mark.parametrize(
    ("rules", "said"), [(TURNED, True), ('rules: [{from: "{m}.weight", to: "x.{m}.weight"}]', False)]
)
def test_an_average_that_is_a_list_is_left_and_said(rules: str, said: bool) -> None:
    weights = Model().state_dict()
    contents = {"model": weights, "ema": {"shadow_params": [each.clone() for each in weights.values()], "decay": 0.9}}
    target = manifest_of_module(Model()) if said else None
    torch.save(contents, "old.ckpt")
    plan = ckptdoctor.make_plan(ckptdoctor.read_manifest("old.ckpt"), target, [parse_map(f"ckptdoctor: 1\n{rules}")])
    notes = ckptdoctor.execute(plan, "new.ckpt").notes
    assert any(note.startswith("ema/shadow_params was left as it is") for note in notes) is said


@pytest.mark.parametrize("op", ["", ", op: {transpose: [0, 1]}", ", op: {reshape: [16]}", ", op: {cast: float64}"])
def test_copies_start_anew_whatever_op_makes_them(op: str) -> None:
    model = Model()
    contents = {"model": model.state_dict(), "optimizer": trained(model)}
    rules = f"rules: [{{from: a.weight, to: c.weight{op}}}, {{from: a.weight, to: d.weight}}]"
    new = remapped(contents, None, rules, FOLLOW)
    assert list(new["model"]) == ["c.weight", "d.weight", "b.weight"]
    assert list(new["optimizer"]["state"]) == [2]
