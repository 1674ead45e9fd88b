"""`--optimizer follow`: a training goes on after a remap as if the model had always had its new names, bit for bit."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.errors import CheckpointError, UsageError
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.keymap import parse_map
from ckptdoctor.ops import Op, OutSpec
from ckptdoctor.plan import Apply, Take
from ckptdoctor.receipt import Receipt, read_receipt
from tests.cli.helpers import run

FOLLOW = WriteOptions(follow_optimizer=True)
MAP = """ckptdoctor: 1
rules:
  - {from: "encoder.{p}", to: "body.first.{p}"}
  - {from: "norm.{p}", to: "scale.{p}"}
  - {from: "head.{p}", to: "top.{p}"}
"""
Make = Callable[[nn.Module], torch.optim.Optimizer]


class Old(nn.Module):
    """Batch norm's buffers, a tied weight, a scalar, a parameter that never gets a gradient."""

    names: ClassVar = {"encoder": "encoder", "norm": "norm", "head": "head"}
    order = ("encoder", "norm", "head")

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        parts = {"encoder": nn.Linear(4, 6), "norm": nn.BatchNorm1d(6), "head": nn.Linear(6, 4)}
        parts["encoder"].unused = nn.Parameter(torch.ones(3))  # type: ignore[assignment]
        parts["head"].gain = nn.Parameter(torch.tensor(1.5))  # type: ignore[assignment]
        for part in self.order:
            *holders, name = self.names[part].split(".")
            module: nn.Module = self
            for holder in holders:
                module.add_module(holder, nn.Module())
                module = module.get_submodule(holder)
            module.add_module(name, parts[part])

    def part(self, name: str) -> Any:
        return self.get_submodule(self.names[name])

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        head = self.part("head")
        result: torch.Tensor = head(torch.relu(self.part("norm")(self.part("encoder")(inputs)))) * head.gain
        return result


class New(Old):
    names: ClassVar = {"encoder": "body.first", "norm": "scale", "head": "top"}
    order = ("head", "norm", "encoder")


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, steps: Iterable[int]) -> list[float]:
    made = []
    for step in steps:
        inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - inputs.flip(1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.append(loss.item())
    return made


def saved(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **more: Any) -> Path:
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3} | more, path)
    return path


def manifest_of(model: nn.Module) -> ckptdoctor.Manifest:
    kinds = dict.fromkeys(model.state_dict(), "buffer") | dict.fromkeys(dict(model.named_parameters()), "parameter")
    specs = []
    for key, value in model.state_dict().items():
        dtype = ckptdoctor.model.DTYPES[str(value.dtype).removeprefix("torch.")]
        specs.append(ckptdoctor.TensorSpec(key, tuple(value.shape), dtype, kinds[key]))  # type: ignore[arg-type]
    return ckptdoctor.Manifest(specs)


def remapped(path: Path, target: nn.Module | None, rules: str = MAP, options: WriteOptions = FOLLOW) -> Receipt:
    aligned = ckptdoctor.align(ckptdoctor.read_manifest(path), None if target is None else manifest_of(target))
    plan = ckptdoctor.make_plan(aligned.source, aligned.target, [parse_map(rules)])
    return ckptdoctor.execute(plan, path.with_name("new.ckpt"), options=options)


def new_file(path: Path) -> Any:
    return torch.load(path.with_name("new.ckpt"), weights_only=True)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.03, amsgrad=True)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    every = list(model.parameters())
    groups = [
        {"params": [each for each in every if each.ndim > 1], "weight_decay": 0.1},
        {"params": [each for each in every if each.ndim <= 1], "weight_decay": 0.0, "lr": 0.02},
    ]
    return torch.optim.AdamW(groups, lr=0.01)


def named(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.named_parameters(), lr=0.03)


def fsdp_like(model: nn.Module, state: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The state dict of an optimizer keyed by names, as FSDP's `full_optim_state_dict` and DCP's have it."""
    names = [f"{prefix}{name}" for name, _ in model.named_parameters()]
    return {
        "state": {names[number]: value for number, value in state["state"].items()},
        "param_groups": [
            group | {"params": [names[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


@pytest.mark.parametrize("make", [adam, adamw, sgd, named])
def test_training_goes_on_bit_for_bit(make: Make, tmp_path: Path) -> None:
    old, always = Old(), New()
    optimizer, always_optimizer = make(old), make(always)
    before = losses(old, optimizer, range(5))
    assert losses(always, always_optimizer, range(5)) == before
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    receipt = remapped(path, New())

    resumed = New()
    resumed_optimizer = make(resumed)
    loaded = new_file(path)
    resumed.load_state_dict(loaded["model"])
    resumed_optimizer.load_state_dict(loaded["optimizer"])
    assert losses(resumed, resumed_optimizer, range(5, 12)) == losses(always, always_optimizer, range(5, 12))
    assert_equal(resumed_optimizer.state_dict(), always_optimizer.state_dict())
    assert loaded["epoch"] == 3
    assert "7 parameters followed" in receipt.notes[0]
    assert "1 parameter starts without state" in receipt.notes[0]  # the one without a gradient


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right)
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for ours, theirs in zip(left, right, strict=True):
            assert_equal(ours, theirs)
    else:
        assert left == right


def test_moments_that_are_only_renamed_keep_their_storages(tmp_path: Path) -> None:
    old = Old()
    optimizer = adam(old)
    losses(old, optimizer, range(2))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    remapped(path, New())
    assert storages(path) == storages(path.with_name("new.ckpt"))


def storages(path: Path) -> dict[str, int]:
    import zipfile

    with zipfile.ZipFile(path) as file:
        return {info.filename.split("/", 1)[1]: info.CRC for info in file.infolist() if "/data/" in info.filename}


class Conv1D(nn.Module):
    """A linear layer as GPT-2 has it: its weight is the transposed one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, inputs * outputs).reshape(inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weight + self.bias


TURN = """ckptdoctor: 1
rules:
  - {from: "0.weight", to: "0.weight", op: {transpose: [0, 1]}}
"""


def test_a_transposed_weight_takes_its_moments_along(tmp_path: Path) -> None:
    old = nn.Sequential(Conv1D(4, 6), nn.Tanh(), nn.Linear(6, 4))
    new = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 4))
    optimizer = adam(old)
    losses(old, optimizer, range(4))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    remapped(path, new, TURN)
    states = new_file(path)["optimizer"]["state"]
    for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
        assert torch.equal(states[0][name], optimizer.state_dict()["state"][0][name].T)
    assert states[0]["step"] == 4
    new.load_state_dict(new_file(path)["model"])
    new_optimizer = adam(new)
    new_optimizer.load_state_dict(new_file(path)["optimizer"])
    expected = losses(old, optimizer, range(4, 9))
    assert losses(new, new_optimizer, range(4, 9)) == pytest.approx(expected, rel=1e-5)
    ckptdoctor.verify(path.with_name("new.ckpt"))


def test_keeping_the_states_of_a_transposed_weight_is_refused(tmp_path: Path) -> None:
    old = nn.Sequential(Conv1D(4, 4))
    optimizer = adam(old)
    losses(old, optimizer, range(2))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    with pytest.raises(CheckpointError, match="changes parameters") as error:
        remapped(path, nn.Sequential(nn.Linear(4, 4)), TURN, WriteOptions())
    assert error.value.hint == "take them along: --optimizer follow, or leave them out: --optimizer drop"


@dataclass(frozen=True, slots=True)
class Halve(Op):
    """One tensor in two, as `split` will do it."""

    name: ClassVar[str] = "halve"
    fan_out: ClassVar[bool] = True
    moves: ClassVar[bool] = True

    def out_specs(self, inputs: tuple[ckptdoctor.TensorSpec, ...]) -> tuple[OutSpec, ...]:
        return (((inputs[0].shape[0] // 2, *inputs[0].shape[1:]), inputs[0].dtype),) * 2

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return tuple(inputs[0].chunk(2))

    def inverse(self, inputs: tuple[ckptdoctor.TensorSpec, ...]) -> Op | str:
        return "a test"


def test_a_state_for_two_parameters_is_two_states(tmp_path: Path) -> None:
    """torch steps the tensors of a state in place: two parameters must not share one."""
    old = nn.Linear(4, 4, bias=False)
    new = nn.ModuleList([nn.Linear(4, 2, bias=False), nn.Linear(4, 2, bias=False)])
    new.forward = lambda inputs: torch.cat([each(inputs) for each in new], 1)  # type: ignore[method-assign]
    optimizer, new_optimizer = adam(old), adam(new)
    losses(old, optimizer, range(3))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    source, target = ckptdoctor.read_manifest(path), manifest_of(new)
    steps = [
        ckptdoctor.Step(each, "computed", Apply(Halve(), (Take("weight"),), number), each)
        for number, each in enumerate(target.values())
    ]
    plan = ckptdoctor.Plan(source, target, (), tuple(steps), (), has_target=True)
    receipt = ckptdoctor.execute(plan, path.with_name("new.ckpt"), options=FOLLOW)
    assert receipt.notes[0].startswith("optimizer: 6 moments of 2 parameters followed")
    new.load_state_dict(new_file(path)["model"])
    states = new_file(path)["optimizer"]["state"]
    assert states[0]["step"].data_ptr() != states[1]["step"].data_ptr()
    new_optimizer.load_state_dict(new_file(path)["optimizer"])
    assert losses(new, new_optimizer, range(3, 9)) == pytest.approx(losses(old, optimizer, range(3, 9)), rel=1e-5)
    assert [state["step"] for state in new_optimizer.state_dict()["state"].values()] == [9, 9]
    assert torch.allclose(torch.cat([each.weight for each in new]), old.weight, rtol=1e-5)


class Wider(New):
    """The new model with a new matrix and a new vector in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.get_submodule("scale").add_module("extra", nn.Linear(6, 6))


FRESH = MAP + 'fresh: [{keys: "scale.extra.{p}", why: "new"}]\n'


@pytest.mark.parametrize("make", [adam, adamw])
def test_new_parameters_start_without_state(make: Make, tmp_path: Path) -> None:
    old, new = Old(), Wider()
    optimizer = make(old)
    losses(old, optimizer, range(3))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    receipt = remapped(path, new, FRESH)
    loaded = new_file(path)["optimizer"]
    new_optimizer = make(new)
    new_optimizer.load_state_dict(loaded)
    new.load_state_dict(new_file(path)["model"], strict=False)
    numbers = [each for group in loaded["param_groups"] for each in group["params"]]
    assert numbers == list(range(10))
    parameters = [each for group in new_optimizer.param_groups for each in group["params"]]
    without = [name for name, each in new.named_parameters() if not new_optimizer.state[each]]
    assert without == ["scale.extra.weight", "scale.extra.bias", "body.first.unused"]
    assert len(parameters) == 10
    assert len(losses(new, new_optimizer, range(3))) == 3
    assert "optimizer: new in it are scale.extra.weight, scale.extra.bias" in receipt.notes


def test_a_new_parameter_that_fits_no_group_is_an_error(tmp_path: Path) -> None:
    old = Old()
    head, rest = list(old.head.parameters()), [*old.encoder.parameters(), *old.norm.parameters()]
    optimizer = torch.optim.Adam([{"params": rest}, {"params": head, "lr": 1.0}])
    losses(old, optimizer, range(2))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    with pytest.raises(CheckpointError, match="nothing says to which of 2 parameter groups it belongs"):
        remapped(path, Wider(), FRESH)
    assert not path.with_name("new.ckpt").exists()
    remapped(path, New(), MAP)
    groups = new_file(path)["optimizer"]["param_groups"]
    assert [len(group["params"]) for group in groups] == [5, 3]
    assert groups[1]["lr"] == 1.0


def test_by_name(tmp_path: Path) -> None:
    old, always = Old(), New()
    optimizer, always_optimizer = adam(old), adam(always)
    losses(old, optimizer, range(4))
    losses(always, always_optimizer, range(4))
    for prefix in ("", "module.", "_fsdp_wrapped_module."):
        folder = tmp_path / (prefix or "plain")
        folder.mkdir()
        path = folder / "old.ckpt"
        torch.save(
            {"state_dict": old.state_dict(), "optimizer_states": [fsdp_like(old, optimizer.state_dict(), prefix)]}, path
        )
        remapped(path, New())
        made = new_file(path)["optimizer_states"][0]
        assert_equal(made, fsdp_like(always, always_optimizer.state_dict(), prefix))
        path.with_name("new.ckpt").unlink()
        with pytest.raises(CheckpointError, match="holds optimizer states"):  # in order, and under the old names
            remapped(path, None, MAP, WriteOptions())


def test_names_in_the_groups(tmp_path: Path) -> None:
    old = Old()
    optimizer = named(old)
    losses(old, optimizer, range(2))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    remapped(path, New())
    (group,) = new_file(path)["optimizer"]["param_groups"]
    assert group["param_names"] == [name for name, _ in New().named_parameters()]


def test_two_optimizers_in_a_list(tmp_path: Path) -> None:
    old, always = Old(), New()
    path = tmp_path / "old.ckpt"

    def make(model: Old) -> list[torch.optim.Optimizer]:
        return [sgd(model.part("head")), adam(nn.ModuleList([model.part(name) for name in ("encoder", "norm")]))]

    optimizers, always_optimizers = make(old), make(always)
    always_optimizers[1] = adam(nn.ModuleList([always.part("norm"), always.part("encoder")]))
    for step in range(3):
        for model, pair in ((old, optimizers), (always, always_optimizers)):
            for each in pair:
                losses(model, each, [step])
    states = [each.state_dict() for each in optimizers]
    torch.save({"state_dict": old.state_dict(), "optimizer_states": states}, path)
    remapped(path, New())
    assert_equal(new_file(path)["optimizer_states"], [each.state_dict() for each in always_optimizers])


class TestWhatCannotFollow:
    @pytest.fixture
    def old(self) -> Old:
        return Old()

    def refused(self, tmp_path: Path, old: nn.Module, state: Any, message: str) -> CheckpointError:
        path = tmp_path / "old.ckpt"
        torch.save({"model": old.state_dict(), "optimizer": state}, path)
        with pytest.raises(CheckpointError, match=message) as error:
            remapped(path, New())
        assert [file.name for file in tmp_path.iterdir()] == ["old.ckpt"]
        return error.value

    def state(self, old: nn.Module, make: Make = adam) -> dict[str, Any]:
        optimizer = make(old)
        losses(old, optimizer, range(2))
        return copy.deepcopy(optimizer.state_dict())

    def test_moments_of_another_shape(self, old: Old, tmp_path: Path) -> None:
        state = self.state(old)
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"):
            state["state"][0][name] = torch.zeros(9)
        error = self.refused(tmp_path, old, state, "moments fit no parameter order")
        assert "group 0, parameter 0 has moments of 9" in str(error)
        assert "(encoder.weight) is 6x4" in str(error)

    def test_factored_states(self, old: Old, tmp_path: Path) -> None:
        state = self.state(old, lambda model: torch.optim.Adafactor(model.parameters()))
        self.refused(tmp_path, old, state, r"row_var \(.*factored states cannot follow")

    def test_lists_in_a_state(self, old: Old, tmp_path: Path) -> None:
        state = self.state(old)
        state["state"][1]["old_dirs"] = [torch.ones(2)]
        self.refused(tmp_path, old, state, "old_dirs is neither a tensor nor a number")

    def test_two_groups_that_share_a_parameter(self, old: Old, tmp_path: Path) -> None:
        state = self.state(old)
        state["param_groups"].append(state["param_groups"][0] | {"params": [2]})
        self.refused(tmp_path, old, state, "two groups share the parameter 2")

    def test_two_optimizers_that_share_parameters(self, old: Old, tmp_path: Path) -> None:
        state = self.state(old)
        self.refused(tmp_path, old, [state, copy.deepcopy(state)], "does a parameter stand in two optimizers")

    def test_two_optimizers_that_share_a_name(self, old: Old, tmp_path: Path) -> None:
        state = fsdp_like(old, self.state(old))
        self.refused(tmp_path, old, [state, copy.deepcopy(state)], "share the weight encoder.weight")

    def test_names_that_no_weight_has(self, old: Old, tmp_path: Path) -> None:
        state = fsdp_like(old, self.state(old))
        names = state["param_groups"][0]["params"]
        names[names.index("encoder.unused")] = "encoder.unuser"
        self.refused(tmp_path, old, state, "names parameters that the weights do not have: encoder.unuser")

    def test_what_is_no_state_dict(self, old: Old, tmp_path: Path) -> None:
        self.refused(tmp_path, old, torch.ones(3), "optimizer is no state dict of an optimizer")

    def test_a_format_without_a_place_for_them(self, old: Old, tmp_path: Path) -> None:
        path = tmp_path / "old.ckpt"
        torch.save({"model": old.state_dict(), "optimizer": self.state(old)}, path)
        plan = ckptdoctor.make_plan(ckptdoctor.read_manifest(path), manifest_of(New()), [parse_map(MAP)])
        with pytest.raises(UsageError, match="safetensors has no place for optimizer states"):
            ckptdoctor.execute(plan, tmp_path / "new.safetensors", options=FOLLOW)
        assert [file.name for file in tmp_path.iterdir()] == ["old.ckpt"]


def test_entries_that_nobody_knows_follow_a_rename_and_no_other_op(tmp_path: Path) -> None:
    def make(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adamax(model.parameters())  # exp_inf is the largest gradient, not an average

    old, always = Old(), New()
    optimizer, always_optimizer = make(old), make(always)
    losses(old, optimizer, range(3))
    losses(always, always_optimizer, range(3))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    remapped(path, New())
    assert_equal(new_file(path)["optimizer"], always_optimizer.state_dict())


def test_from_a_file_of_before_torch_1_6(tmp_path: Path) -> None:
    old, always = Old(), New()
    optimizer, always_optimizer = adam(old), adam(always)
    losses(old, optimizer, range(3))
    losses(always, always_optimizer, range(3))
    path = tmp_path / "old.ckpt"
    contents = {"model": old.state_dict(), "optimizer": optimizer.state_dict(), "ema": old.state_dict()}
    torch.save(contents, path, _use_new_zipfile_serialization=False)
    receipt = remapped(path, New())
    assert_equal(new_file(path)["optimizer"], always_optimizer.state_dict())
    assert receipt.notes[-1] == "ema went the same way as the weights (11 tensors)"


def test_an_envelope_that_is_edited_too(tmp_path: Path) -> None:
    old = Old()
    optimizer = adam(old)
    losses(old, optimizer, range(2))
    path = saved(tmp_path / "old.ckpt", old, optimizer)
    rules = MAP + "envelope: {set: {optimizer/param_groups/0/lr: 0.5, epoch: 0}}"
    remapped(path, New(), rules)
    assert new_file(path)["epoch"] == 0
    assert new_file(path)["optimizer"]["param_groups"][0]["lr"] == 0.5
    assert new_file(path)["optimizer"]["state"][0]["exp_avg"].shape == (4, 6)


def test_no_states_are_said_to_be_none(tmp_path: Path) -> None:
    path = tmp_path / "old.ckpt"
    torch.save({"model": Old().state_dict(), "optimizer_states": []}, path)
    assert remapped(path, New()).notes == ("optimizer: the source has no states that could follow",)


class TestCopies:
    """EMA copies go through the same plan, whatever becomes of the optimizer."""

    def average(self, old: nn.Module, prefix: str = "", scale: float = 0.5) -> dict[str, torch.Tensor]:
        return {f"{prefix}{key}": (value * scale).to(value.dtype) for key, value in old.state_dict().items()}

    @pytest.mark.parametrize(
        ("name", "prefix"),
        [("state_dict_ema", ""), ("ema", "module."), ("ema_state_dict", "_orig_mod."), ("model_ema", "")],
    )
    def test_they_get_the_new_names(self, name: str, prefix: str, tmp_path: Path) -> None:
        old = Old()
        path = tmp_path / "old.ckpt"
        torch.save({"state_dict": old.state_dict(), name: self.average(old, prefix)}, path)
        receipt = remapped(path, New(), MAP, WriteOptions())
        renamed = {**{f"encoder.{p}": f"body.first.{p}" for p in ("weight", "bias", "unused")}}
        made = new_file(path)[name]
        assert set(made) == {f"{prefix}{key}" for key in New().state_dict()}
        for key, new in renamed.items():
            assert torch.equal(made[f"{prefix}{new}"], old.state_dict()[key] * 0.5)
        assert receipt.notes == (f"{name} went the same way as the weights (11 tensors)",)

    def test_a_nested_one_beside_its_counters_and_an_averaged_model(self, tmp_path: Path) -> None:
        old = Old()
        swa = torch.optim.swa_utils.AveragedModel(old)
        path = tmp_path / "old.ckpt"
        ema = {"state_dict": self.average(old), "decay": torch.tensor(0.99)}
        torch.save({"state_dict": old.state_dict(), "ema": ema, "swa_model": swa.state_dict()}, path)
        receipt = remapped(path, New(), MAP, WriteOptions())
        New().load_state_dict(new_file(path)["ema"]["state_dict"])
        torch.optim.swa_utils.AveragedModel(New()).load_state_dict(new_file(path)["swa_model"])
        assert new_file(path)["ema"]["decay"] == torch.tensor(0.99)
        assert len(receipt.notes) == 2
        assert all("went the same way" in note for note in receipt.notes)

    def test_their_own_values_go_through_the_ops(self, tmp_path: Path) -> None:
        old = nn.Sequential(Conv1D(4, 6))
        path = tmp_path / "old.ckpt"
        average = {key: value.double() * 3 for key, value in old.state_dict().items()}
        torch.save({"state_dict": old.state_dict(), "ema": average}, path)
        receipt = remapped(path, nn.Sequential(nn.Linear(4, 6)), TURN, WriteOptions())
        assert torch.equal(new_file(path)["ema"]["0.weight"], average["0.weight"].T)
        assert torch.equal(new_file(path)["state_dict"]["0.weight"], old.state_dict()["0.weight"].T)
        assert receipt.notes == ("ema went the same way as the weights (2 tensors)",)
        assert read_receipt(path.with_name("new.ckpt")) == receipt
        assert ckptdoctor.verify(path.with_name("new.ckpt")).passed

    def test_what_does_not_fit_is_left_and_said(self, tmp_path: Path) -> None:
        old = Old()
        path = tmp_path / "old.ckpt"
        wrong = self.average(old) | {"encoder.weight": torch.ones(2)}
        torch.save({"state_dict": old.state_dict(), "ema": wrong, "ema_other": {"x": torch.ones(1)}}, path)
        receipt = remapped(path, New(), MAP, WriteOptions())
        assert_equal(dict(new_file(path)["ema"]), wrong)
        assert receipt.notes == (
            "ema was left as it is: its encoder.weight has another shape than the weight",
            "ema_other was left as it is: its keys are not those of the weights",
        )

    def test_without_a_change_the_file_is_the_same_byte_for_byte(self, tmp_path: Path) -> None:
        old = Old()
        path = tmp_path / "old.ckpt"
        torch.save({"state_dict": old.state_dict(), "ema": self.average(old)}, path)
        receipt = remapped(path, None, "ckptdoctor: 1\nrules: []\n", FOLLOW)
        assert path.read_bytes() == path.with_name("new.ckpt").read_bytes()
        assert receipt.notes == ("optimizer: the source has no states that could follow",)


NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, order):
        super().__init__()
        for name in order:
            self.add_module(name, nn.Linear(3, 3))
        self.register_buffer("scale", torch.ones(3, 3))

class Old(Net):
    def __init__(self):
        super().__init__("ab")

class New(Net):
    def __init__(self):
        super().__init__(["y", "x"])
"""


class TestTheCommand:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A buffer that could be a parameter by its shape, and is unknown to the map without a target."""
        (tmp_path / "nets.py").write_text(NETS)
        (tmp_path / "map.yaml").write_text(
            'ckptdoctor: 1\nrules: [{from: "{a,b}.{p}", to: "{x,y}.{p}"}]\ndrop: [{keys: scale, why: gone, optional: "-"}]\n'
        )
        model = nn.Module()
        model.scale = nn.Buffer(torch.ones(3, 3))
        model.a, model.b = nn.Linear(3, 3), nn.Linear(3, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        (model.a(torch.ones(1, 3)).sum() + model.b(torch.arange(3.0)).sum()).backward()
        optimizer.step()
        saved(tmp_path / "old.ckpt", model, optimizer)
        return tmp_path

    def test_a_source_model_says_what_is_a_buffer(self, folder: Path) -> None:
        options = ["remap", "old.ckpt", "-m", "map.yaml", "-o", "new.ckpt", "--optimizer", "follow"]
        refused = run(*options, cwd=folder)
        assert refused.status == 2
        assert "several parameter orders fit the moments" in refused.stderr
        assert "--source-model pkg.mod:Name" in refused.stderr
        assert not (folder / "new.ckpt").exists()
        done = run(*options, "--source-model", "nets.py:Old", cwd=folder)
        assert done.status == 0, done.stderr
        assert "4 moments of 4 parameters followed" in done.stderr
        old, new = (torch.load(folder / name, weights_only=True)["optimizer"] for name in ("old.ckpt", "new.ckpt"))
        assert_equal(old, new)

    def test_a_wrong_source_model(self, folder: Path) -> None:
        options = ["remap", "old.ckpt", "-m", "map.yaml", "-o", "new.ckpt", "--optimizer", "follow"]
        refused = run(*options, "--source-model", "nets.py:New", cwd=folder)
        assert refused.status == 2
        assert "the source model has parameters that the checkpoint has not: y.weight" in refused.stderr

    def test_wrong_moments_write_nothing(self, folder: Path) -> None:
        loaded = torch.load(folder / "old.ckpt", weights_only=True)
        loaded["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(7)
        torch.save(loaded, folder / "bad.ckpt")
        options = ["bad.ckpt", "-m", "map.yaml", "-o", "new.ckpt", "--optimizer", "follow", "-f", "json"]
        refused = run("remap", *options, cwd=folder)
        assert refused.status == 2
        assert "moments fit no parameter order" in json.loads(refused.stderr)["error"]["message"]
        assert not list(folder.glob("new*"))

    @pytest.mark.parametrize("options", [["--optimizer", "fellow"], ["--source-model", "nets.py:Old"]])
    def test_usage(self, folder: Path, options: list[str]) -> None:
        assert run("remap", "old.ckpt", "-m", "map.yaml", "-o", "new.ckpt", *options, cwd=folder).status == 2
