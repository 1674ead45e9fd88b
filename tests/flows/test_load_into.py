"""`load_into` and `apply`: an old checkpoint into a live module, as a notebook or a training script does it."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.errors import (
    CheckpointError,
    KeyMapError,
    PlanError,
    PolicyNotMet,
    ShapeError,
    TargetError,
    UnusedRule,
    UsageError,
)
from ckptdoctor.integrations.modules import unwrapped
from ckptdoctor.keymap import KeyMap, parse_map
from tests import builders as b

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf")
RENAME = 'rules: [{from: "fc{n}.{p}", to: "layers.{n}.{p}"}]'


def key_map(rules: str = RENAME) -> KeyMap:
    return parse_map(f"ckptdoctor: 1\n{rules}\n")


class Old(nn.Module):
    """What was trained: two layers, batch norm, and a head that is tied to an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.fc0, self.fc1 = nn.Linear(4, 8), nn.Linear(8, 4)
        self.norm = nn.BatchNorm1d(8)
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


class New(nn.Module):
    """The same with its layers in a list, and something new if wanted."""

    def __init__(self, extra: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 4)])
        self.norm = nn.BatchNorm1d(8)
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight
        if extra:
            self.alpha = nn.Parameter(torch.full((2,), 7.0))


def renamed(key: str) -> str:
    return re.sub(r"^fc(\d)", r"layers.\1", key)


@pytest.fixture
def old() -> Old:
    torch.manual_seed(1)
    model = Old()
    model.norm.running_mean.uniform_()
    model.norm.num_batches_tracked.fill_(17)
    return model


@pytest.fixture
def path(old: Old, tmp_path: Path) -> Path:
    torch.save({"state_dict": old.state_dict(), "epoch": 3}, tmp_path / "old.ckpt")
    return tmp_path / "old.ckpt"


def equal(model: nn.Module, old: nn.Module) -> bool:
    new = model.state_dict()
    return all(torch.equal(new[renamed(key)], value) for key, value in old.state_dict().items())


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


class TestWhatIsLoaded:
    def test_parameters_and_buffers_land_in_the_models_own_tensors(self, old: Old, path: Path) -> None:
        model = New()
        places = {name: value.data_ptr() for name, value in model.state_dict().items()}
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        verdict = ckptdoctor.load_into(model, path, key_map())
        assert verdict.passed
        assert verdict.plan.counts == {"renamed": 4, "loaded": 7}
        assert equal(model, old)
        assert {name: value.data_ptr() for name, value in model.state_dict().items()} == places
        assert model.norm.num_batches_tracked.item() == 17
        assert model.head.weight is model.embedding.weight
        assert [id(p) for p in optimizer.param_groups[0]["params"]] == [id(p) for p in model.parameters()]
        assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())

    def test_torch_load_is_never_called_and_nothing_in_the_file_is_run(
        self, old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        canary = tmp_path / "canary"
        torch.save({"state_dict": old.state_dict(), "object": Canary(canary)}, tmp_path / "old.ckpt")
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
        monkeypatch.setattr(pickle, "load", lambda *_, **__: pytest.fail("pickle.load was called"))
        model = New()
        ckptdoctor.load_into(model, tmp_path / "old.ckpt", key_map())
        assert equal(model, old)
        assert not canary.exists()

    def test_several_maps_by_path_and_as_they_are(self, old: Old, path: Path, tmp_path: Path) -> None:
        (tmp_path / "first.yaml").write_text('ckptdoctor: 1\nrules: [{from: "fc{n}.{p}", to: "stage.{n}.{p}"}]\n')
        second = key_map('rules: [{from: "stage.{n}.{p}", to: "layers.{n}.{p}"}]')
        model = New()
        ckptdoctor.load_into(model, path, [tmp_path / "first.yaml", second])
        assert equal(model, old)
        (tmp_path / "both.yaml").write_text(f"ckptdoctor: 1\n{RENAME}\n")
        again = New()
        ckptdoctor.load_into(again, str(path), str(tmp_path / "both.yaml"))
        assert equal(again, old)

    def test_safetensors_and_a_plain_load_without_a_map(self, old: Old, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file(
            {key: value for key, value in old.state_dict().items() if key != "head.weight"}, tmp_path / "w.safetensors"
        )
        model = Old()
        verdict = ckptdoctor.load_into(model, tmp_path / "w.safetensors")
        assert verdict.plan.counts["tied"] == 1
        assert all(torch.equal(value, old.state_dict()[key]) for key, value in model.state_dict().items())

    def test_the_dtype_of_the_model_stays(self, old: Old, tmp_path: Path) -> None:
        torch.save(old.double().state_dict(), tmp_path / "old.pt")
        model = New().bfloat16()
        verdict = ckptdoctor.load_into(model, tmp_path / "old.pt", key_map())
        assert {value.dtype for value in model.parameters()} == {torch.bfloat16}
        assert torch.equal(model.layers[0].weight, old.fc0.weight.bfloat16())
        assert any(step.other_dtype for step in verdict.plan.steps)
        with pytest.raises(PolicyNotMet) as error:
            ckptdoctor.load_into(New().bfloat16(), tmp_path / "old.pt", key_map(), fail_on="dtype,tied")
        assert [f.id for f in error.value.verdict.findings if not f.passed] == ["dtype"]

    def test_views_of_every_sort_and_every_dtype(self, tmp_path: Path) -> None:
        tensors = b.awkward_tensors()
        torch.save(tensors, tmp_path / "awkward.pt")
        holder = nn.Module()
        names = {key: f"{number}x" for number, key in enumerate(tensors)}
        for key, value in tensors.items():
            holder.register_buffer(names[key], torch.empty(value.shape, dtype=value.dtype))
        rules = ",".join(f'{{from: "{key}", to: "{name}"}}' for key, name in names.items())
        ckptdoctor.load_into(holder, tmp_path / "awkward.pt", key_map(f"rules: [{rules}]"))
        for key, value in tensors.items():
            assert b.values_of(getattr(holder, names[key])) == b.values_of(value), key

    def test_an_op_computes_on_the_way(self, old: Old, path: Path) -> None:
        model = nn.Module()
        model.turned = nn.Parameter(torch.zeros(4, 8))
        rules = 'rules: [{from: "fc0.weight", to: "turned", op: {transpose: {dims: [0, 1]}}}]'
        ckptdoctor.load_into(model, path, key_map(rules), allow_unexpected="{*any}")
        assert torch.equal(model.turned, old.fc0.weight.T)

    def test_where_the_weights_lie_may_be_said(self, old: Old, tmp_path: Path) -> None:
        other = {key: torch.zeros_like(value) for key, value in old.state_dict().items()}
        weights = {f"wrapper.{key}": value for key, value in old.state_dict().items()}
        torch.save({"student": other, "teacher": {"weights": weights}}, tmp_path / "two.pt")
        model = New()
        with pytest.raises(CheckpointError, match="several places"):
            ckptdoctor.load_into(model, tmp_path / "two.pt", key_map())
        ckptdoctor.load_into(model, tmp_path / "two.pt", key_map(), select="teacher/weights", strip="wrapper")
        assert equal(model, old)
        again = New()
        said = "source: {select: teacher/weights, strip: [wrapper]}\n" + RENAME
        ckptdoctor.load_into(again, tmp_path / "two.pt", key_map(said))
        assert equal(again, old)


class Canary:
    """An object that betrays itself when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


class TestWhatFails:
    def refused(self, model: nn.Module, path: Path, *args: Any, **kwargs: Any) -> PolicyNotMet:
        before = snapshot(model)
        with pytest.raises(PolicyNotMet) as error:
            ckptdoctor.load_into(model, path, *args, **kwargs)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        return error.value

    def test_nothing_changes_and_the_table_says_why(self, path: Path) -> None:
        error = self.refused(New(), path)
        assert not error.verdict.passed
        assert error.table in str(error)
        assert "does not fill New as the policy asks; nothing was loaded" in str(error)
        assert "missing     layers.0.weight" in error.table
        assert "FAILED" in error.table
        assert error.table.endswith("would not be used\n")
        assert error.code == "policy-not-met"
        assert "allow_random" in error.hint

    def test_new_parameters_have_to_be_declared_or_allowed(self, old: Old, path: Path) -> None:
        self.refused(New(extra=True), path, key_map())
        self.refused(New(extra=True), path, key_map(), 1)
        fresh = key_map(RENAME + '\nfresh: [{keys: alpha, why: "new"}]')
        for arguments in ({"map": fresh}, {"max_random": 2}, {"max_random": "2.5%"}, {"allow_random": ["alpha"]}):
            model = New(extra=True)
            verdict = ckptdoctor.load_into(model, path, **({"map": key_map()} | arguments))
            assert verdict.plan.random_parameters == 2
            assert model.alpha.tolist() == [7.0, 7.0]
            assert equal(model, old)

    def test_unexpected_and_mismatched_fail_even_with_a_limit(self, path: Path) -> None:
        model = New()
        del model.norm
        assert "unexpected" in self.refused(model, path, key_map(), "100%").table
        ckptdoctor.load_into(model, path, key_map(), allow_unexpected=["norm.{p}"])
        ckptdoctor.load_into(model, path, key_map(), max_unexpected=100)
        wider = New()
        wider.norm = nn.BatchNorm1d(9)
        assert "mismatched" in self.refused(wider, path, key_map(), "100%").table

    def test_wrong_maps_limits_and_files(self, path: Path, tmp_path: Path) -> None:
        model = New()
        before = snapshot(model)
        for error, arguments in (
            (UnusedRule, (path, key_map('rules: [{from: "nothing", to: "layers.0.bias"}]'))),
            (KeyMapError, (path, tmp_path / "none.yaml")),
            (UsageError, (path, key_map(), "a few")),
            (UsageError, (path, key_map(), 0.001)),
            (CheckpointError, (tmp_path / "none.ckpt", key_map())),
        ):
            with pytest.raises(error):
                ckptdoctor.load_into(model, *arguments)
        with pytest.raises(UsageError, match="no check 'dtypes'"):
            ckptdoctor.load_into(model, path, key_map(), fail_on=["dtypes"])
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_a_manifest_has_nothing_to_load(self, path: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "ckptdoctor", "inspect", path, "--manifest", tmp_path / "old.json"]
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(CheckpointError, match="is a manifest"):
            ckptdoctor.load_into(New(), tmp_path / "old.json", key_map())

    def test_an_op_that_refuses_values_does_so_before_anything_is_copied(self, old: Old, tmp_path: Path) -> None:
        with torch.no_grad():
            old.fc1.weight[0, 0] = 1e30
        torch.save(old.state_dict(), tmp_path / "old.pt")
        rules = 'rules: [{from: "fc{n}.{p}", to: "layers.{n}.{p}", op: {cast: {to: float16}}}]'
        model = New()
        before = snapshot(model)
        with pytest.raises(ShapeError, match="too large"):
            ckptdoctor.load_into(model, tmp_path / "old.pt", key_map(rules))
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_tensors_that_cannot_be_copied_into(self, tmp_path: Path) -> None:
        torch.save({"a": torch.ones(2, 3), "b": torch.ones(2)}, tmp_path / "w.pt")
        broadcast = nn.Module()
        broadcast.register_buffer("b", torch.zeros(2))
        broadcast.register_buffer("a", torch.zeros(3).expand(2, 3))
        copies = Copies()
        for model in (broadcast, copies):
            with pytest.raises(TargetError, match="cannot be copied into a"):
                ckptdoctor.load_into(model, tmp_path / "w.pt")
        assert broadcast.b.tolist() == [0, 0]


class Copies(nn.Module):
    """A module whose state dict does not hold its own tensors, as those of sharded modules do not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2, 3)), nn.Parameter(torch.zeros(2))

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return {key: value.detach().clone() for key, value in super().state_dict(*args, **kwargs).items()}


@pytest.fixture
def process_group() -> Iterator[None]:
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ddp": nn.parallel.DistributedDataParallel,
    "data parallel": nn.DataParallel,
    "compile": torch.compile,
    "compile in ddp": lambda model: nn.parallel.DistributedDataParallel(torch.compile(model)),
    "ddp in compile": lambda model: torch.compile(nn.parallel.DistributedDataParallel(model)),
}


class TestWrappedModels:
    @pytest.mark.usefixtures("process_group")
    def test_sharded_models_are_refused_before_anything_is_changed(self, old: Old, path: Path) -> None:
        from torch.distributed.fsdp import fully_shard

        model = Old()
        fully_shard(model.fc1, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
        before = model.fc0.weight.clone()
        with pytest.raises(TargetError, match=r"into fc1\.weight, fc1\.bias: sharded"):
            ckptdoctor.load_into(model, path)
        assert torch.equal(model.fc0.weight, before)

    @pytest.mark.usefixtures("process_group")
    @pytest.mark.parametrize("wrap", WRAPPERS)
    @pytest.mark.parametrize("file_prefix", ["", "module.", "module._orig_mod.", "net."])
    def test_the_map_speaks_of_what_is_inside(self, old: Old, tmp_path: Path, wrap: str, file_prefix: str) -> None:
        weights = {file_prefix + key: value for key, value in old.state_dict().items()}
        torch.save({"state_dict": weights}, tmp_path / "old.ckpt")
        model = New()
        wrapped = WRAPPERS[wrap](model)
        assert unwrapped(wrapped) is model
        ckptdoctor.load_into(wrapped, tmp_path / "old.ckpt", key_map())
        assert equal(model, old)

    def test_a_map_that_renames_every_key_of_a_wrapped_model(self, tmp_path: Path) -> None:
        torch.save({"a.weight": torch.ones(2, 2), "a.bias": torch.ones(2)}, tmp_path / "old.pt")
        model = nn.DataParallel(nn.Sequential(nn.Linear(2, 2)))
        ckptdoctor.load_into(model, tmp_path / "old.pt", key_map('rules: [{from: "a.{p}", to: "0.{p}"}]'))
        assert model.module[0].weight.sum().item() == 4

    def test_a_compiled_part_inside(self, old: Old, path: Path) -> None:
        model = New()
        inner = model.layers[0]
        model.layers[0] = torch.compile(inner)
        assert "layers.0._orig_mod.weight" in model.state_dict()
        ckptdoctor.load_into(model, path, key_map())
        assert torch.equal(inner.weight, old.fc0.weight)

    def test_checkpoint_and_model_wrapped_alike_by_their_own_code(self, old: Old, tmp_path: Path) -> None:
        torch.save({f"backbone.{key}": value for key, value in old.state_dict().items()}, tmp_path / "old.pt")
        outer = nn.Module()
        outer.backbone = New()
        rules = 'rules: [{from: "backbone.fc{n}.{p}", to: "backbone.layers.{n}.{p}"}]'
        ckptdoctor.load_into(outer, tmp_path / "old.pt", key_map(rules))
        assert equal(outer.backbone, old)


class TestTheMetaDevice:
    def test_tensors_get_memory_and_ties_stay(self, old: Old, path: Path) -> None:
        with torch.device("meta"):
            model = New()
        ckptdoctor.load_into(model, path, key_map())
        assert equal(model, old)
        assert model.head.weight is model.embedding.weight
        assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.is_leaf for p in model.parameters())
        assert [name for name, _ in model.named_buffers()] == [name for name, _ in old.named_buffers()]
        model.layers[0](torch.ones(1, 4)).sum().backward()

    def test_the_models_dtype_and_frozen_parameters_stay(self, old: Old, path: Path) -> None:
        with torch.device("meta"):
            model = New().bfloat16()
        model.layers.requires_grad_(False)
        ckptdoctor.load_into(model, path, key_map())
        assert model.layers[0].weight.dtype == torch.bfloat16
        assert [p.requires_grad for p in model.layers.parameters()] == [False] * 4

    def test_a_tie_of_two_objects_over_one_memory(self, tmp_path: Path) -> None:
        def make() -> nn.Module:
            module = nn.Module()
            module.a = nn.Parameter(torch.zeros(3))
            module.b = nn.Parameter(module.a.detach())
            return module

        for keys in (["a", "b"], ["a"], ["b"]):
            torch.save({key: torch.ones(3) for key in keys}, tmp_path / "w.pt")
            with torch.device("meta"):
                model = make()
            ckptdoctor.load_into(model, tmp_path / "w.pt")
            assert model.a.tolist() == model.b.tolist() == [1, 1, 1], keys
            assert model.a.data_ptr() == model.b.data_ptr()

    def test_modules_that_keep_their_own_list_of_weights(self, tmp_path: Path) -> None:
        trained = nn.LSTM(3, 2)
        torch.save(trained.state_dict(), tmp_path / "lstm.pt")
        with torch.device("meta"):
            model = nn.LSTM(3, 2)
        ckptdoctor.load_into(model, tmp_path / "lstm.pt")
        inputs = torch.ones(4, 1, 3)
        assert torch.equal(model(inputs)[0], trained(inputs)[0])

    def test_what_stays_random_stays_there(self, path: Path) -> None:
        with torch.device("meta"):
            model = New(extra=True)
        ckptdoctor.load_into(model, path, key_map(), allow_random="alpha")
        assert [name for name, p in model.named_parameters() if p.is_meta] == ["alpha"]


MEASURE = """
import re, sys, torch, ckptdoctor
from torch import nn
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) // 1024
with torch.device("meta"):
    model = nn.Sequential(*(nn.Linear(2048, 2048, bias=False) for _ in range(12)))
import ckptdoctor.execution.memory, ckptdoctor.integrations.filling, ckptdoctor.keymap
torch.empty(1).copy_(torch.ones(1))
before = peak()
ckptdoctor.load_into(model, sys.argv[1], ckptdoctor.load_map(sys.argv[2]))
print(peak() - before)
"""


def test_memory_holds_the_model_and_one_tensor(tmp_path: Path) -> None:
    weights = {f"w{number}.weight": torch.zeros(2048, 2048) for number in range(12)}
    torch.save(weights, tmp_path / "w.pt")
    (tmp_path / "map.yaml").write_text('ckptdoctor: 1\nrules: [{from: "w{n}.weight", to: "{n}.weight"}]\n')
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "w.pt"), str(tmp_path / "map.yaml")]
    used = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 12 * 16 <= used < 12 * 16 + 4 * 16, f"{used} MB for 12 tensors of 16 MB"


class TestApply:
    def plan(self, source: dict[str, Any], target: nn.Module, rules: str, tmp_path: Path) -> ckptdoctor.Plan:
        torch.save(source, tmp_path / "source.pt")
        from ckptdoctor.targets.building.contents import manifest_of_module

        aligned = ckptdoctor.align(ckptdoctor.read_manifest(tmp_path / "source.pt"), manifest_of_module(target))
        return ckptdoctor.make_plan(aligned.source, aligned.target, key_map(rules))

    def test_what_is_renamed_is_not_copied_and_ties_stay(self, old: Old, tmp_path: Path) -> None:
        weights = old.state_dict()
        result = ckptdoctor.apply(self.plan(weights, New(), RENAME, tmp_path), weights)
        assert list(result) == list(New().state_dict())
        assert all(result[renamed(key)] is value for key, value in weights.items())
        assert result["head.weight"].data_ptr() == result["embedding.weight"].data_ptr()
        New().load_state_dict(result)

    def test_a_conjugated_view_is_not_tied_to_what_it_views(self, tmp_path: Path) -> None:
        values = torch.rand(3, dtype=torch.complex64)
        weights = {"a": values, "b": values.conj(), "c": torch._neg_view(values)}
        target = nn.Module()
        for key, value in weights.items():
            target.register_buffer(key, value)
        plan = self.plan(weights, target, "rules: []", tmp_path)
        assert [step.target.tied_to for step in plan.steps] == [None] * 3
        ckptdoctor.load_into(target, tmp_path / "source.pt")
        assert all(torch.equal(made, weights[key]) for key, made in ckptdoctor.apply(plan, weights).items())

    def test_metadata_follows_so_that_a_strict_load_knows_the_versions(self, old: Old, tmp_path: Path) -> None:
        weights = old.state_dict()
        result = ckptdoctor.apply(self.plan(weights, New(), RENAME, tmp_path), weights)
        assert result._metadata == weights._metadata.__class__(
            (renamed(key), value) for key, value in weights._metadata.items()
        )
        plain = ckptdoctor.apply(self.plan(dict(weights), New(), RENAME, tmp_path), dict(weights))
        assert not hasattr(plain, "_metadata")

    def test_a_key_that_the_target_ties_is_there(self, old: Old, tmp_path: Path) -> None:
        weights = {key: value for key, value in old.state_dict().items() if key != "embedding.weight"}
        result = ckptdoctor.apply(self.plan(weights, New(), RENAME, tmp_path), weights)
        assert result["embedding.weight"] is result["head.weight"]
        New().load_state_dict(result)

    def test_what_is_computed_of_tied_tensors_stays_tied(self, old: Old, tmp_path: Path) -> None:
        weights = old.state_dict()
        cast = (
            '{from: "{m}.weight", to: "{m}.weight", except: ["fc{n}.weight", "norm.weight"], op: {cast: {to: float64}}}'
        )
        rules = RENAME.replace("]", f", {cast}]")
        result = ckptdoctor.apply(self.plan(weights, New(), rules, tmp_path), weights)
        assert result["head.weight"] is result["embedding.weight"]
        assert result["head.weight"].dtype == torch.float64

    def test_entries_that_are_no_tensors_go_with_their_modules(self, tmp_path: Path) -> None:
        weights = {"fc0.weight": torch.ones(8, 4), "fc0._extra_state": {"scale": 2}, "note": "kept"}
        target = nn.Module()
        target.layers = nn.ModuleList([nn.Linear(4, 8, bias=False)])
        result = ckptdoctor.apply(self.plan(weights, target, RENAME, tmp_path), weights)
        assert result == {
            "layers.0.weight": weights["fc0.weight"],
            "layers.0._extra_state": {"scale": 2},
            "note": "kept",
        }

    def test_the_targets_own_wrappers_where_they_are_wanted(self, old: Old, tmp_path: Path) -> None:
        weights = {f"module.{key}": value for key, value in old.state_dict().items()}
        wrapped = torch.compile(New())
        plan = self.plan(weights, wrapped, RENAME, tmp_path)
        assert "layers.0.weight" in ckptdoctor.apply(plan, weights)
        assert "layers.0.weight" in ckptdoctor.apply(plan, old.state_dict())
        wrapped.load_state_dict(ckptdoctor.apply(plan, weights, wrapped=True))

    def test_another_state_dict_than_the_plan_was_made_for(self, old: Old, tmp_path: Path) -> None:
        weights = old.state_dict()
        plan = self.plan(weights, New(), RENAME, tmp_path)
        for change, message in (
            ({"fc0.bias": torch.zeros(8).half()}, "another dtype"),
            ({"fc0.bias": torch.zeros(9)}, "another shape"),
        ):
            with pytest.raises(PlanError, match=message):
                ckptdoctor.apply(plan, weights | change)
        with pytest.raises(PlanError, match=r"has no fc0\.bias"):
            ckptdoctor.apply(plan, {key: value for key, value in weights.items() if key != "fc0.bias"})
