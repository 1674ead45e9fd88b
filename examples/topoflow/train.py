"""Train the baseline, or fine-tune TopoFlow from its checkpoint, on the simulated region.

    python train.py --config configs/small.yaml --out runs/baseline --cache runs/data
    python train.py --config configs/small.yaml --out runs/tuned --cache runs/data --variant sequential \\
        --init-from runs/baseline/best-*.ckpt --map ../../mappings/topoflow-to-sequential.yaml --max-random 2

Validates before the first step; then it prints a line `val_loss=0.3557 step=0` a validation. Runs as it is, under torchrun
and under SLURM's srun. Exit status 1: ckptdoctor would not load the checkpoint; 2: it could not read it, or wrong usage.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from lightning import seed_everything
from lightning.pytorch.utilities import rank_zero_only
from topoflow.data import TerrainData, TooFewDaysError
from topoflow.lightning_module import AirQuality
from topoflow.model import VARIANTS
from topoflow.simulation import Settings
from topoflow.training import make_trainer, silence_lightning

import ckptdoctor
from ckptdoctor.errors import CkptDoctorError, PolicyNotMet


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    silence_lightning()
    seed_everything(options.seed)
    module = AirQuality(options.variant, yaml.safe_load(options.config.read_text()), options.learning_rate)
    last = options.out / "last.ckpt"
    resumed = last if options.resume and last.exists() else None
    try:
        data = terrain(module, options)
        if options.init_from and not resumed:
            initialise(module, options)
    except (CkptDoctorError, TooFewDaysError) as error:
        return complain(error)
    if options.no_elevation:
        freeze_scalars(module)
    train(module, data, options, resumed)
    return 0


def terrain(module: AirQuality, options: argparse.Namespace) -> TerrainData:
    """The data, at the size of the network. Raises TooFewDaysError; nothing is simulated yet."""
    settings = Settings(*module.net.img_size, options.days, options.data_seed)
    return TerrainData(settings, options.cache, options.steps, options.batch, options.val_samples, options.seed)


def initialise(module: AirQuality, options: argparse.Namespace) -> None:
    """Weights from a checkpoint: judged by ckptdoctor, or as careless jobs do it, where whatever is missing stays random."""
    if options.strict_false:
        checkpoint = torch.load(options.init_from, map_location="cpu", weights_only=True, mmap=True)
        module.load_state_dict(checkpoint["state_dict"], strict=False)
        say(f"loaded {options.init_from} with strict=False, and did not look at what that returned")
        return
    verdict = ckptdoctor.load_into(module.net, options.init_from, map=options.map, max_random=options.max_random)
    random = sum(finding.found for finding in verdict.findings if finding.id == "max-random")
    say(f"loaded {options.init_from}: judged by ckptdoctor, {random} random parameters")


def train(module: AirQuality, data: TerrainData, options: argparse.Namespace, resumed: Path | None) -> None:
    """Validate, train, and say what became of the elevation's scalars."""
    trainer = make_trainer(options.out, options.steps, options.val_every, options.precision)
    say_scalars("before", module)
    if not resumed:
        trainer.validate(module, data, verbose=False)
    trainer.fit(module, data, ckpt_path=resumed)
    say_scalars("after", module)


def freeze_scalars(module: AirQuality) -> None:
    """TopoFlow as the baseline: with elevation_alpha at 0 for good, elevation is not used."""
    for parameter in module.parameters():
        parameter.requires_grad_(parameter.ndim > 0)


@rank_zero_only
def say(text: str) -> None:
    print(text, flush=True)


def say_scalars(when: str, module: AirQuality) -> None:
    scalars = {name.rpartition(".")[2]: p.item() for name, p in module.named_parameters() if p.ndim == 0}
    if scalars:
        say(f"{when}: " + " ".join(f"{name}={value:.6g}" for name, value in scalars.items()))


def complain(error: CkptDoctorError | TooFewDaysError) -> int:
    hint = getattr(error, "hint", None)

    @rank_zero_only
    def show() -> None:
        print(f"error: {error}", *([f"hint: {hint}"] if hint else []), sep="\n", file=sys.stderr)

    show()
    return 1 if isinstance(error, PolicyNotMet) else 2


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the baseline, or fine-tune TopoFlow from a checkpoint.")
    add = parser.add_argument
    add("--config", type=Path, required=True, help="arguments of the network (configs/*.yaml)")
    add("--variant", choices=VARIANTS, default="baseline", help="which network (default: baseline)")
    add("--out", type=Path, required=True, help="folder for checkpoints and logs")
    add("--cache", type=Path, required=True, help="folder for simulations, which several runs may share")
    start = parser.add_argument_group("start")
    start.add_argument("--init-from", type=Path, metavar="CKPT", help="weights to start from, loaded by ckptdoctor")
    start.add_argument("--map", action="append", metavar="YAML", help="ckptdoctor's map for them (repeatable)")
    start.add_argument("--max-random", metavar="N|P%%", help="how many parameters may stay random")
    start.add_argument("--strict-false", action="store_true", help="load with strict=False instead, and hope")
    start.add_argument("--resume", action="store_true", help="go on from OUT/last.ckpt if it is there")
    start.add_argument("--no-elevation", action="store_true", help="keep elevation_alpha and H_scale as they are")
    size = parser.add_argument_group("size")
    size.add_argument("--steps", type=int, default=1000, help="optimizer steps (default: 1000)")
    size.add_argument("--batch", type=int, default=32, help="samples a step, over all processes (default: 32)")
    size.add_argument("--learning-rate", type=float, default=5e-4, help="AdamW's (default: 5e-4)")
    size.add_argument("--val-every", type=int, default=100, metavar="STEPS", help="(default: 100)")
    size.add_argument("--val-samples", type=int, default=256, help="(default: 256)")
    size.add_argument("--days", type=int, default=300, help="of the simulation (default: 300)")
    size.add_argument("--data-seed", type=int, default=3, help="of region and weather (default: 3)")
    size.add_argument("--seed", type=int, default=0, help="of weights and samples (default: 0)")
    size.add_argument("--precision", default="32-true", help="Lightning's; bf16-mixed on GPUs that have it")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
