"""`LoadedWeights` in real Trainers: it fails before the first step where it should, and lets a resumed run be."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import nn
from torch.utils.data import DataLoader

from ckptdoctor.errors import CheckpointNotFound, MissingDependency, WeightsNotLoaded
from ckptdoctor.integrations import callback
from ckptdoctor.integrations.callback import LoadedWeights
from ckptdoctor.receipt import receipt_path
from tests.flows.test_assert_loaded import remap

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
RENAME = 'ckptdoctor: 1\nrules: [{from: "encoder.{p}", to: "net.{p}"}]\n'


class Base(LightningModule):
    NAME = "net"

    def __init__(self) -> None:
        super().__init__()
        setattr(self, self.NAME, nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)))
        self.steps: list[str] = []

    def loss(self, batch: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = getattr(self, self.NAME)(batch).square().mean()
        return value

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        self.steps.append("train")
        return self.loss(batch)

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        self.steps.append("validate")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Old(Base):
    NAME = "encoder"


class Net(Base):
    """The renamed module; if wanted with the weights of a file, which its constructor loads."""

    def __init__(self, start: Path | None = None) -> None:
        super().__init__()
        if start is not None:
            self.load_state_dict(torch.load(start, weights_only=False)["state_dict"])


def reset(module: Base) -> None:
    nn.init.normal_(getattr(module, module.NAME)[2].weight)


class ResetByConfigure(Net):
    def configure_model(self) -> None:
        reset(self)


class ResetBySetup(Net):
    def setup(self, stage: str) -> None:
        reset(self)


class ResetByFitStart(Net):
    def on_fit_start(self) -> None:
        reset(self)


class LoadsOther(Net):
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["net.2.weight"] = torch.rand(1, 4)


class Late(SingleDeviceStrategy):
    """As FSDP and ModelParallel: weights come after `on_fit_start`."""

    restore_checkpoint_after_setup = True


def data() -> dict[str, Any]:
    loader = DataLoader(torch.rand(8, 4), batch_size=4)
    return {"train_dataloaders": loader, "val_dataloaders": loader}


def trainer(folder: Path, *callbacks: Any, max_epochs: int = 3, **more: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(default_root_dir=folder, max_epochs=max_epochs, callbacks=[*callbacks], **(quiet | more))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What remap makes of a checkpoint that a Trainer has written after two steps."""
    folder = tmp_path_factory.mktemp("start")
    run = trainer(folder, max_epochs=1, enable_checkpointing=False)
    run.fit(Old(), **data())
    run.save_checkpoint(folder / "old.ckpt")
    (folder / "map.yaml").write_text(RENAME.replace("{p}", "{*p}"))
    torch.save(Net().state_dict(), folder / "target.pt")
    return remap(folder / "old.ckpt", str(folder / "target.pt"), folder / "start.ckpt", "-m", str(folder / "map.yaml"))


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the callback says; Lightning's logger does not hand its lines on."""
    log = logging.getLogger("lightning.pytorch.ckptdoctor")
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(f"{record.levelname} {record.getMessage()}")  # type: ignore[method-assign]
    log.addHandler(handler)
    return found


class TestPasses:
    @pytest.mark.parametrize("sanity", [0, 1])
    def test_a_fit_from_the_checkpoint(self, start: Path, tmp_path: Path, lines: list[str], sanity: int) -> None:
        run = trainer(tmp_path, LoadedWeights(start), num_sanity_val_steps=sanity)
        run.fit(Net(), **data(), ckpt_path=str(start))
        assert run.global_step == 6
        assert lines == [f"INFO 9 tensors in the model as written to {start}"]

    def test_weights_that_the_constructor_has_loaded(self, start: Path, tmp_path: Path, lines: list[str]) -> None:
        run = trainer(tmp_path, LoadedWeights(receipt_path(start)))
        run.fit(Net(start), **data())
        assert run.global_step == 6
        assert len(lines) == 1

    def test_a_strategy_that_restores_late(self, start: Path, tmp_path: Path, lines: list[str]) -> None:
        run = trainer(tmp_path, LoadedWeights(start), strategy=Late(torch.device("cpu")), accelerator="auto")
        run.fit(Net(), **data(), ckpt_path=str(start))
        assert run.global_step == 6
        assert lines[0].startswith("INFO 9 tensors")

    def test_a_part_of_the_module_and_what_is_allowed(self, start: Path, tmp_path: Path, lines: list[str]) -> None:
        class Outer(Base):
            NAME = "student"

            def __init__(self) -> None:
                super().__init__()
                self.teacher, self.student[2].new = nn.Linear(2, 2), nn.Parameter(torch.ones(1))
                state = torch.load(start, weights_only=False)["state_dict"]
                self.student.load_state_dict(
                    {key.removeprefix("net."): value for key, value in state.items()}, strict=False
                )

            def loss(self, batch: torch.Tensor) -> torch.Tensor:
                return super().loss(batch) + self.teacher.weight.sum() + self.student[2].new.sum()

        trainer(tmp_path, LoadedWeights(start, prefix="student.", allow_random="2.new")).fit(Outer(), **data())
        assert lines == [f"INFO 9 tensors in the model as written to {start}; not from there: 2.new"]


class TestRaises:
    @pytest.mark.parametrize("make", [ResetByConfigure, ResetBySetup, ResetByFitStart])
    @pytest.mark.parametrize("sanity", [0, 1])
    def test_what_is_reset_after_the_constructor_has_loaded(
        self, start: Path, tmp_path: Path, make: type[Net], sanity: int
    ) -> None:
        module = make(start)
        with pytest.raises(WeightsNotLoaded) as error:
            trainer(tmp_path, LoadedWeights(start), num_sanity_val_steps=sanity).fit(module, **data())
        assert [problem.key for problem in error.value.problems] == ["net.2.weight"]
        assert module.steps == [], "before the sanity check and the first step"

    @pytest.mark.parametrize("late", [False, True])
    def test_what_a_hook_changes_while_it_is_loaded(self, start: Path, tmp_path: Path, late: bool) -> None:
        more = {"strategy": Late(torch.device("cpu")), "accelerator": "auto"} if late else {}
        module = LoadsOther()
        with pytest.raises(WeightsNotLoaded) as error:
            trainer(tmp_path, LoadedWeights(start), **more).fit(module, **data(), ckpt_path=str(start))
        assert [problem.key for problem in error.value.problems] == ["net.2.weight"]
        assert module.steps == []

    def test_nothing_loaded(self, start: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsNotLoaded, match="none of the 9 tensors has the values"):
            trainer(tmp_path, LoadedWeights(start)).fit(Net(), **data())

    def test_a_copy_of_the_file_counts_as_the_file(self, start: Path, tmp_path: Path) -> None:
        copy = tmp_path / "scratch" / "start.ckpt"
        copy.parent.mkdir()
        shutil.copy(start, copy)
        with pytest.raises(WeightsNotLoaded):
            trainer(tmp_path, LoadedWeights(start)).fit(LoadsOther(), **data(), ckpt_path=str(copy))

    def test_a_receipt_that_is_not_there_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointNotFound):
            LoadedWeights(tmp_path / "start.ckpt")


class TestLetsBe:
    def test_a_run_that_goes_on_from_a_later_checkpoint(self, start: Path, tmp_path: Path, lines: list[str]) -> None:
        """A job that was requeued: the same script, and its own last.ckpt."""
        for epochs in (2, 3):
            last = ModelCheckpoint(tmp_path, save_last=True)
            ckpt_path = "last" if (tmp_path / "last.ckpt").exists() else str(start)
            run = trainer(tmp_path, last, LoadedWeights(start), max_epochs=epochs)
            run.fit(Net(), **data(), ckpt_path=ckpt_path)
        assert run.global_step == 6
        assert [line.split()[0] for line in lines] == ["INFO", "WARNING"]
        said = f"not looked whether {start} is loaded: the run goes on from {tmp_path / 'last.ckpt'}"
        assert lines[1] == f"WARNING {said}"

    def test_a_second_fit_of_one_trainer(self, start: Path, tmp_path: Path, lines: list[str]) -> None:
        run, module = trainer(tmp_path, LoadedWeights(start), max_epochs=1), Net(start)
        run.fit(module, **data())
        run.fit_loop.max_epochs = 2
        run.fit(module, **data())
        assert run.global_step == 4
        assert lines[1] == f"WARNING not looked whether {start} is loaded: this trainer has made 2 steps"

    def test_validation_alone(self, start: Path, tmp_path: Path, lines: list[str]) -> None:
        trainer(tmp_path, LoadedWeights(start)).validate(Net(), data()["val_dataloaders"], verbose=False)
        assert lines == []


class TestTheImport:
    def test_the_other_name_of_lightning(self, start: Path, tmp_path: Path) -> None:
        """A process that uses `pytorch_lightning` does not get `lightning` as well."""
        code = (
            "import sys, torch, pytorch_lightning as pl\n"
            "from ckptdoctor.integrations.callback import LoadedWeights\n"
            "assert issubclass(LoadedWeights, pl.Callback) and 'lightning.pytorch' not in sys.modules\n"
            "class Net(pl.LightningModule):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1))\n"
            "    def training_step(self, batch, _): return self.net(batch).mean()\n"
            "    def configure_optimizers(self): return torch.optim.SGD(self.parameters(), lr=0.1)\n"
            "run = pl.Trainer(max_epochs=2, accelerator='cpu', logger=False, enable_checkpointing=False,\n"
            "    enable_progress_bar=False, callbacks=[LoadedWeights(sys.argv[1])])\n"
            "data = torch.utils.data.DataLoader(torch.rand(8, 4), batch_size=4)\n"
            "run.fit(Net(), data, ckpt_path=sys.argv[1], weights_only=False)\n"
        )
        command = [sys.executable, "-c", code, str(start)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert f"9 tensors in the model as written to {start}" in done.stderr

    def test_without_lightning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(callback, "find_spec", lambda _: None)
        with pytest.raises(MissingDependency, match="needs Lightning"):
            callback._home()

    def test_nothing_else_imports_lightning(self) -> None:
        code = (
            "import sys, ckptdoctor, ckptdoctor.integrations.lightning; ckptdoctor.assert_loaded\n"
            "assert not [name for name in sys.modules if name.startswith(('lightning', 'pytorch_lightning'))]\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
