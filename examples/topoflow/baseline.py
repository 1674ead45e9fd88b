"""Make the checkpoint that all begins with: have Lightning train the baseline for a few steps and save it.

    python baseline.py --config configs/full.yaml --out base.ckpt

The data are random, everything else is real: loops, callback states, AdamW's moments, hyper-parameters. The weights and
optimizer states depend on the config, the steps and the seed alone (on one machine); an existing file is replaced.
"""

import argparse
import logging
import warnings
from pathlib import Path

import yaml
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from topoflow.data import RandomDays
from topoflow.lightning_module import AirQuality
from torch.utils.data import DataLoader


def main() -> None:
    options = parse_options()
    silence_lightning()
    seed_everything(options.seed)
    module = AirQuality("baseline", yaml.safe_load(options.config.read_text()))
    trainer = make_trainer(options.out, options.steps, options.precision)
    trainer.fit(module, DataLoader(RandomDays(module.net, options.steps, options.seed), batch_size=1))
    parameters = sum(p.numel() for p in module.parameters())
    print(
        f"{options.out}: {len(module.state_dict())} tensors, {parameters:,} parameters, AdamW states, "
        f"step {trainer.global_step}, train_loss {trainer.callback_metrics['train_loss']:.4f}, "
        f"{options.out.stat().st_size:,} bytes"
    )


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the baseline on random data and write a Lightning checkpoint.")
    parser.add_argument("--config", type=Path, required=True, help="arguments of the network (configs/*.yaml)")
    parser.add_argument("--out", type=checkpoint_path, required=True, help="the file to write, *.ckpt")
    parser.add_argument("--steps", type=int, default=1, help="optimizer steps, one sample each (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, data and stochastic depth (default: 0)")
    parser.add_argument("--precision", default="32-true", help="Lightning's; bf16-mixed is faster on some CPUs")
    return parser.parse_args()


def checkpoint_path(text: str) -> Path:
    if not text.endswith(".ckpt"):  # Lightning appends it to any other name
        raise argparse.ArgumentTypeError(f"{text!r} does not end in .ckpt")
    return Path(text)


def silence_lightning() -> None:
    """One line of ours is all the output; what Lightning advises (more workers, a GPU, a logger) is not for a demo."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def make_trainer(out: Path, steps: int, precision: str) -> Trainer:
    """A trainer that takes `steps` steps on the CPU and writes `out`, and no other file."""
    checkpoint = ModelCheckpoint(
        out.parent, out.stem, monitor="train_loss", every_n_train_steps=steps, enable_version_counter=False
    )
    return Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=steps,
        precision=precision,
        callbacks=[checkpoint],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


if __name__ == "__main__":
    main()
