"""What the training job does when it starts: build TopoFlow, load the baseline's checkpoint, say what did not fit.

    python start_job.py base.ckpt --variant sequential --config configs/full.yaml

`strict=False` is what most jobs do here, and it only ever complains of shapes: whatever is missing stays as the
constructor made it, and the job trains on. Exit status 1: more keys are missing than --max-missing allows.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml
from topoflow.lightning_module import AirQuality
from topoflow.model import VARIANTS


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_options(arguments)
    job = AirQuality(options.variant, yaml.safe_load(options.config.read_text()))
    checkpoint = torch.load(options.checkpoint, map_location="cpu", weights_only=True, mmap=True)
    missing, unexpected = job.load_state_dict(checkpoint["state_dict"], strict=False)
    report(job, missing, unexpected)
    return int(options.max_missing is not None and len(missing) > options.max_missing)


def report(job: AirQuality, missing: list[str], unexpected: list[str]) -> None:
    """Print all keys that did not fit, and how many parameters are therefore random."""
    sizes = {key: parameter.numel() for key, parameter in job.named_parameters()}
    for label, keys in (("missing", missing), ("unexpected", unexpected)):
        print(f"{label}: {len(keys)} keys", *keys, sep="\n  ")
    random, total = sum(sizes[key] for key in missing), sum(sizes.values())
    print(f"random: {random:,} of {total:,} parameters ({random / total:.2%})")


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Load a checkpoint into TopoFlow as the training job does.")
    parser.add_argument("checkpoint", type=Path, help="a Lightning checkpoint")
    parser.add_argument("--variant", choices=VARIANTS, default="fixed", help="which network (default: fixed)")
    parser.add_argument("--config", type=Path, required=True, help="arguments of the network (configs/*.yaml)")
    parser.add_argument(
        "--max-missing", type=int, metavar="N", help="exit 1 if more keys are missing (default: no limit)"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
