"""Lightning, set up for a batch job: checkpoints, plain lines on the console, a CSV file, one process or many."""

import logging
import os
import sys
import warnings
from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment


def silence_lightning() -> None:
    """What a script prints is its own; what Lightning advises (more workers, a GPU, a logger) is not for a job's log."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def make_trainer(out: Path, steps: int, val_every: int, precision: str) -> Trainer:
    """A trainer of `steps` steps that validates every `val_every` and writes to `out`.

    It writes best-val_loss=X-step=N.ckpt, last.ckpt (as of the last validation) and logs/version_I/metrics.csv.
    """
    on_slurm = SLURMEnvironment.detect()
    devices, nodes = processes(on_slurm)
    best = ModelCheckpoint(
        out,
        "best-val_loss={val_loss:.4f}-step={step}",
        monitor="val_loss",
        auto_insert_metric_name=False,
        enable_version_counter=False,
        save_last=True,
    )
    return Trainer(
        accelerator="auto",
        devices=devices,
        num_nodes=nodes,
        strategy="ddp" if devices * nodes > 1 else "auto",
        plugins=[SLURMEnvironment(auto_requeue=False)] if on_slurm else [],  # submit.sh does that
        precision=precision,
        max_steps=steps,
        val_check_interval=val_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        gradient_clip_val=1.0,
        log_every_n_steps=min(50, val_every),
        use_distributed_sampler=False,  # it would repeat validation samples; topoflow.data divides them itself
        callbacks=[best, PlainLines()],
        logger=CSVLogger(out, "logs"),
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
    )


def processes(on_slurm: bool) -> tuple[int, int]:
    """Processes on each node and nodes, as SLURM or torchrun started them."""
    if on_slurm:
        return int(os.environ.get("SLURM_NTASKS_PER_NODE", "1")), int(os.environ["SLURM_NNODES"])
    world, local = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return local, world // local


class PlainLines(Callback):
    """`val_loss=0.3557 step=0`, a line a validation: what people grep for, and `ckptdoctor triage` reads."""

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero:
            print(f"val_loss={trainer.callback_metrics['val_loss']:.4f} step={trainer.global_step}", flush=True)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.is_global_zero and trainer.global_step:
            print(f"resumed at step {trainer.global_step}", flush=True)
