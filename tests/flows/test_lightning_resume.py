"""Real Trainer runs: a checkpoint is remapped, and the renamed module resumes where the old one stopped, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ckptdoctor.errors import PlanError, PolicyNotMet, UnusedRule, UsageError
from ckptdoctor.integrations.lightning import remap_checkpoint
from ckptdoctor.keymap import KeyMap, parse_map

RULES = """ckptdoctor: 1
rules:
  - {from: "encoder.{*p}", to: "backbone.{*p}"}
  - {from: "head.{p}", to: "decoder.{p}"}
"""
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
STEPS = 6  # of 4 in an epoch: the checkpoint is from the middle of one

NETS = '''
"""The code of the training job: nothing of it can be imported where the remapping runs."""
from pathlib import Path

import torch
from lightning import LightningModule
from torch import nn


class Spec:
    """A hyper-parameter that leaves a trace whenever it is unpickled."""

    def __init__(self, canary, sizes):
        self.canary, self.sizes = canary, sizes

    def __reduce__(self):
        return unpickled, (self.canary, self.sizes)

    def __eq__(self, other):
        return type(other) is Spec and (self.canary, self.sizes) == (other.canary, other.sizes)

    __hash__ = None


def unpickled(canary, sizes):
    Path(canary).touch()
    return Spec(canary, sizes)


class Base(LightningModule):
    NAMES = ("encoder", "head")

    def __init__(self, width=6, spec=None):
        super().__init__()
        self.save_hyperparameters()
        encoder = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.2))
        setattr(self, self.NAMES[0], encoder)
        setattr(self, self.NAMES[1], nn.Linear(width, 1))
        self.losses = []

    def loss(self, batch):
        first, second = (getattr(self, name) for name in self.NAMES)
        return nn.functional.mse_loss(second(first(batch[0])), batch[1])

    def training_step(self, batch, _):
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch, _):
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.5)
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


class Before(Base):
    pass


class After(Base):
    NAMES = ("backbone", "decoder")


class Turned(After):
    """The decoder comes first among the children."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._modules["backbone"] = self._modules.pop("backbone")
'''


class Job(NamedTuple):
    """What a training job has left: its checkpoint, its code, its folders."""

    nets: Any
    checkpoint: Path
    spec: Any
    canary: Path
    manifest: Path
    map: Path


def data() -> dict[str, DataLoader[Any]]:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(16, 3, generator=generator)
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=4)
    return {"train_dataloaders": loader, "val_dataloaders": loader}


def trainer(folder: Path, *callbacks: Any, max_epochs: int = 4) -> Trainer:
    best = ModelCheckpoint(folder, monitor="val_loss", save_top_k=2, save_last=True)
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=max_epochs,
        callbacks=[best, *callbacks],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def resumed(module: LightningModule, checkpoint: Path, folder: Path) -> Trainer:
    seed_everything(11, verbose=False)
    run = trainer(folder)
    run.fit(module, **data(), ckpt_path=checkpoint, weights_only=False)
    return run


def tool(*arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "ckptdoctor", *map(str, arguments)]
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Job]:
    folder = tmp_path_factory.mktemp("job")
    code = folder / "code"
    code.mkdir()
    (code / "nets_of_the_job.py").write_text(NETS)
    (folder / "rename.yaml").write_text(RULES)
    sys.path.insert(0, str(code))
    nets = import_module("nets_of_the_job")
    tool("inspect", "nets_of_the_job.py:After", "--manifest", folder / "after.json", cwd=code)
    spec = nets.Spec(str(folder / "canary"), [1, 2, 3])
    seed_everything(3, verbose=False)
    every = ModelCheckpoint(folder, "old", every_n_train_steps=STEPS, enable_version_counter=False)
    trainer(folder / "run", every, max_epochs=2).fit(nets.Before(6, spec), **data())
    yield Job(nets, folder / "old.ckpt", spec, folder / "canary", folder / "after.json", folder / "rename.yaml")
    sys.path.remove(str(code))
    del sys.modules["nets_of_the_job"]


def remapped(job: Job, folder: Path, *options: str) -> Path:
    """What `ckptdoctor remap` writes in a folder without any code, with a manifest as the target."""
    empty = folder / "empty"
    empty.mkdir()
    job.canary.unlink(missing_ok=True)
    out = folder / "new.ckpt"
    tool("remap", job.checkpoint, job.manifest, "-m", job.map, "-o", out, *options, cwd=empty)
    assert not job.canary.exists(), "an object was unpickled"
    assert not list(empty.iterdir())
    return out


@pytest.fixture
def new(job: Job, tmp_path: Path) -> Path:
    return remapped(job, tmp_path)


def same(left: Any, right: Any) -> bool:
    """Equality, of tensors bit for bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return bool(left == right)


class TestAFileRemappedWhereNothingCanBeImported:
    def test_everything_but_the_keys_is_equal(self, job: Job, new: Path) -> None:
        before = torch.load(job.checkpoint, weights_only=False)
        assert job.canary.exists(), "the canary sings when it is unpickled"
        after = torch.load(new, weights_only=False)
        assert after["hyper_parameters"] == {"width": 6, "spec": job.spec}
        weights = after.pop("state_dict")
        moved = {"encoder": "backbone", "head": "decoder"}
        for key, value in before.pop("state_dict").items():
            first, _, rest = key.partition(".")
            assert torch.equal(weights.pop(f"{moved[first]}.{rest}"), value)
        assert not weights
        assert same(after, before)
        assert before["optimizer_states"][0]["state"]
        assert before["lr_schedulers"]
        assert before["callbacks"]

    def test_load_from_checkpoint_takes_it(self, job: Job, new: Path) -> None:
        module = job.nets.After.load_from_checkpoint(new, weights_only=False)
        old = job.nets.Before.load_from_checkpoint(job.checkpoint, weights_only=False)
        assert module.hparams == {"width": 6, "spec": job.spec}
        assert same(list(module.state_dict().values()), list(old.state_dict().values()))

    def test_the_renamed_module_resumes_bit_for_bit(self, job: Job, new: Path, tmp_path: Path) -> None:
        old_module, module = job.nets.Before(), job.nets.After()
        old_run = resumed(old_module, job.checkpoint, tmp_path / "runs")
        kept = best(old_run)
        for file in (tmp_path / "runs").iterdir():
            file.unlink()
        run = resumed(module, new, tmp_path / "runs")
        assert len(module.losses) == 4 * 4 - STEPS
        assert module.losses == old_module.losses
        assert same(list(module.state_dict().values()), list(old_module.state_dict().values()))
        assert same(run.optimizers[0].state_dict(), old_run.optimizers[0].state_dict())
        assert same(
            run.lr_scheduler_configs[0].scheduler.state_dict(), old_run.lr_scheduler_configs[0].scheduler.state_dict()
        )
        assert (run.global_step, run.current_epoch) == (old_run.global_step, old_run.current_epoch) == (16, 4)
        assert same(run.fit_loop.state_dict(), old_run.fit_loop.state_dict())
        assert same(best(run), kept)

    def test_a_reordered_module_resumes_as_if_it_had_always_been_so(self, job: Job, tmp_path: Path) -> None:
        """Renamed and in another order: the optimizer states have to follow."""
        seed_everything(3, verbose=False)
        every = ModelCheckpoint(tmp_path, "old", every_n_train_steps=STEPS, enable_version_counter=False)
        trainer(tmp_path / "a", every, max_epochs=2).fit(job.nets.Before(), **data())
        seed_everything(3, verbose=False)
        always = ModelCheckpoint(tmp_path, "always", every_n_train_steps=STEPS, enable_version_counter=False)
        trainer(tmp_path / "b", always, max_epochs=2).fit(job.nets.Turned(), **data())
        tool(
            "inspect",
            "nets_of_the_job.py:Turned",
            "--manifest",
            tmp_path / "turned.json",
            cwd=Path(job.nets.__file__).parent,
        )
        files = [tmp_path / "turned.json", "-m", job.map, "-o", tmp_path / "new.ckpt"]
        tool("remap", tmp_path / "old.ckpt", *files, cwd=tmp_path, status=2)
        tool("remap", tmp_path / "old.ckpt", *files, "--optimizer", "follow", cwd=tmp_path)
        first, second = job.nets.Turned(), job.nets.Turned()
        old_run = resumed(first, tmp_path / "always.ckpt", tmp_path / "runs")
        run = resumed(second, tmp_path / "new.ckpt", tmp_path / "runs2")
        assert len(second.losses) == 4 * 4 - STEPS
        assert second.losses == first.losses
        assert same(second.state_dict(), first.state_dict())
        assert same(run.optimizers[0].state_dict(), old_run.optimizers[0].state_dict())

    def test_counters_and_the_best_checkpoint_survive(self, job: Job, new: Path, tmp_path: Path) -> None:
        saved = torch.load(job.checkpoint, weights_only=False)
        (state,) = (state for state in saved["callbacks"].values() if state["monitor"] == "val_loss")
        seen: dict[str, Any] = {}

        class Watching(job.nets.After):  # type: ignore[misc, name-defined]
            def on_train_start(self) -> None:
                callback = self.trainer.checkpoint_callback
                seen["best"] = (callback.best_model_path, callback.best_model_score, dict(callback.best_k_models))
                seen["at"] = (self.trainer.global_step, self.trainer.current_epoch)
                seen["loops"] = self.trainer.fit_loop.epoch_loop.batch_progress.state_dict()

        seed_everything(11, verbose=False)
        trainer(job.checkpoint.parent / "run").fit(Watching(), **data(), ckpt_path=new, weights_only=False)
        assert state["best_model_path"].endswith(".ckpt")
        assert same(seen["best"], (state["best_model_path"], state["best_model_score"], state["best_k_models"]))
        assert seen["at"] == (saved["global_step"], saved["epoch"]) == (STEPS, 1)
        assert seen["loops"]["total"] == saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]

    def test_without_optimizer_states_it_starts_with_a_fresh_optimizer(self, job: Job, tmp_path: Path) -> None:
        new = remapped(job, tmp_path, "--optimizer", "drop")
        saved = torch.load(new, weights_only=False)
        assert (saved["optimizer_states"], saved["lr_schedulers"]) == ([], [])
        module = job.nets.After.load_from_checkpoint(new, weights_only=False)
        weights = torch.load(job.checkpoint, weights_only=False)["state_dict"]
        assert same(list(module.state_dict().values()), list(weights.values()))
        again = job.nets.After()
        run = resumed(again, new, tmp_path / "runs")
        assert len(again.losses) == 4 * 4 - STEPS
        assert (run.global_step, run.current_epoch) == (16, 4)
        states = run.optimizers[0].state_dict()["state"]
        assert {int(state["step"]) for state in states.values()} == {4 * 4 - STEPS}
        without = {key: value for key, value in saved.items() if key != "lr_schedulers"}
        torch.save(without, tmp_path / "without.ckpt")
        with pytest.raises(KeyError, match="contains only the model"):  # why the lists are emptied and not taken out
            resumed(job.nets.After(), tmp_path / "without.ckpt", tmp_path / "runs")


def best(run: Trainer) -> dict[str, Any]:
    return run.checkpoint_callback.state_dict()


def hooked(job: Job, **arguments: Any) -> type[LightningModule]:
    """The renamed module with the hook in it."""

    class Hooked(job.nets.After):  # type: ignore[misc, name-defined]
        def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
            self.verdict = remap_checkpoint(checkpoint, self, job.map, **arguments)

    return Hooked


class TestTheHook:
    def test_an_old_checkpoint_resumes_bit_for_bit(self, job: Job, tmp_path: Path) -> None:
        old_module, module = job.nets.Before(), hooked(job)()
        resumed(old_module, job.checkpoint, tmp_path / "old")
        run = resumed(module, job.checkpoint, tmp_path / "new")
        assert module.losses == old_module.losses
        assert module.verdict.plan.counts["renamed"] == 9
        run.save_checkpoint(tmp_path / "own.ckpt")
        again = hooked(job)()
        seed_everything(11, verbose=False)
        longer = trainer(tmp_path / "longer", max_epochs=5)
        longer.fit(again, **data(), ckpt_path=tmp_path / "own.ckpt", weights_only=False)
        assert again.verdict.plan.counts == {"loaded": 9}, "its own checkpoints are left as they are"
        assert len(again.losses) == 4

    def test_load_from_checkpoint(self, job: Job) -> None:
        module = hooked(job).load_from_checkpoint(job.checkpoint, weights_only=False)
        old = torch.load(job.checkpoint, weights_only=False)["state_dict"]
        assert same(list(module.state_dict().values()), list(old.values()))
        assert module.hparams["spec"] == job.spec

    def test_a_new_parameter_keeps_its_value_and_needs_a_fresh_optimizer(self, job: Job, tmp_path: Path) -> None:
        class Wider(job.nets.After):  # type: ignore[misc, name-defined]
            optimizer = "keep"

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                self.alpha = nn.Parameter(torch.tensor(7.0))

            def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
                fresh = key_map('fresh: [{keys: alpha, why: "new"}]')
                remap_checkpoint(checkpoint, self, [job.map, fresh], optimizer=self.optimizer)
                self.seen = checkpoint["state_dict"]["alpha"].item()

        with pytest.raises(PlanError, match="belong to its parameters in their order") as error:
            Wider.load_from_checkpoint(job.checkpoint, weights_only=False)
        assert error.value.hint == 'start with a fresh optimizer: optimizer="drop"'
        Wider.optimizer = "drop"
        module = Wider.load_from_checkpoint(job.checkpoint, weights_only=False)
        assert module.alpha.item() == module.seen == 7
        run = resumed(Wider(), job.checkpoint, tmp_path / "run")
        assert run.global_step == 16

    def test_what_fails_leaves_the_checkpoint_as_it_was(self, job: Job) -> None:
        checkpoint = torch.load(job.checkpoint, weights_only=False)
        weights, other = checkpoint["state_dict"], job.nets.After(width=7)
        with pytest.raises(PolicyNotMet, match="the checkpoint does not fill After as the policy asks"):
            remap_checkpoint(checkpoint, other, key_map(""), "100%")
        with pytest.raises(UnusedRule):
            remap_checkpoint(checkpoint, job.nets.After(), key_map('rules: [{from: "no", to: "decoder.bias"}]'))
        with pytest.raises(PlanError, match="edits what stands around"):
            remap_checkpoint(checkpoint, job.nets.After(), key_map("envelope: {set: {epoch: 1}}"))
        with pytest.raises(UsageError, match="choose from keep, drop"):
            remap_checkpoint(checkpoint, job.nets.After(), job.map, optimizer="none")
        with pytest.raises(UsageError, match="no mapping at"):
            remap_checkpoint({}, job.nets.After(), job.map)
        assert checkpoint["state_dict"] is weights

    def test_tensors_are_not_copied_and_metadata_follows(self, job: Job) -> None:
        checkpoint = torch.load(job.checkpoint, weights_only=False)
        before = checkpoint["state_dict"]
        remap_checkpoint(checkpoint, job.nets.After(), job.map)
        after = checkpoint["state_dict"]
        assert [id(value) for value in after.values()] == [id(value) for value in before.values()]
        assert after._metadata == job.nets.After().state_dict()._metadata

    def test_a_map_for_a_part_of_the_module(self, job: Job) -> None:
        class Outer(LightningModule):
            def __init__(self, wrap: Any = lambda net: net) -> None:
                super().__init__()
                self.net = wrap(job.nets.After())
                self.net_scale = nn.BatchNorm1d(2)

        old = torch.load(job.checkpoint, weights_only=False)["state_dict"]
        for wrap in (lambda net: net, torch.compile):
            outer = Outer(wrap)
            checkpoint = {"state_dict": Holder(job.nets.Before(), outer.net_scale).state_dict()}
            checkpoint["state_dict"].update({f"net.{key}": value for key, value in old.items()})
            remap_checkpoint(checkpoint, outer.net, job.map, prefix="net.")
            outer.load_state_dict(checkpoint["state_dict"])
            assert same(list(outer.net.state_dict().values()), list(old.values()))
            if wrap is not torch.compile:
                assert dict(checkpoint["state_dict"]._metadata) == dict(outer.state_dict()._metadata)
        with pytest.raises(UsageError, match=r"no key of the checkpoint begins with 'nets\."):
            remap_checkpoint(checkpoint, outer.net, job.map, prefix="nets.")

    def test_a_swap_that_cannot_be_told_from_its_own_result(self) -> None:
        module = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
        checkpoint = {"state_dict": module.state_dict()}
        swap = key_map('rules: [{from: "{a,b}.{p}", to: "{b,a}.{p}"}]')
        with pytest.raises(PlanError, match="was it remapped already"):
            remap_checkpoint(checkpoint, module, swap)


class Holder(nn.Module):
    """The old network where the new one stands, beside something else."""

    def __init__(self, net: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.net, self.net_scale = net, scale


def key_map(rules: str) -> KeyMap:
    return parse_map(f"ckptdoctor: 1\n{rules}\n")
