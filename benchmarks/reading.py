"""What reading costs: torch files of 14,400 tensors, beside torch.load(mmap=True, weights_only=True) of the same, as ratios.

    python benchmarks/reading.py [--tensors 14400] [--runs 9]

Makes its own files in a temporary folder: a plain state dict, and one of a third as many weights with the states that AdamW
keeps of them. Both readers run in turn in one process, in which torch and ckptdoctor are imported and have read each file
once; so no import is counted on either side, and the file is in the page cache.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import ckptdoctor


def plain(tensors: int) -> dict[str, torch.Tensor]:
    """A state dict of small tensors, twelve to a layer."""
    return {f"model.layers.{i // 12}.mixer.{i % 12}.weight": torch.zeros(2, 2) for i in range(tensors)}


def with_optimizer(tensors: int) -> dict[str, object]:
    """A checkpoint with weights and AdamW's three tensors for each."""
    weights = plain(tensors // 3)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(value) for value in weights.values()])
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {"state_dict": weights, "optimizer_states": [optimizer.state_dict()], "epoch": 1}


FILES: dict[str, Callable[[int], object]] = {"state dict": plain, "state dict and AdamW": with_optimizer}


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def speed_up(path: Path, runs: int) -> float:
    """How many times as fast as torch a manifest is read: the median over pairs of runs, after one that is not counted."""
    ours = partial(ckptdoctor.read_manifest, path)
    theirs = partial(torch.load, path, mmap=True, weights_only=True)
    ours(), theirs()
    return statistics.median(seconds(theirs) / seconds(ours) for _ in range(runs))


def measure(tensors: int = 14_400, runs: int = 9) -> dict[str, float]:
    """For each file, torch.load's time over read_manifest's."""
    ratios = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, content in FILES.items():
            path = Path(folder, "base.ckpt")
            torch.save(content(tensors), path)
            ratios[name] = speed_up(path, runs)
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=14_400)
    parser.add_argument("--runs", type=int, default=9)
    options = parser.parse_args()
    ratios = {name: round(ratio, 2) for name, ratio in measure(options.tensors, options.runs).items()}
    print(
        json.dumps({"tensors": options.tensors, "runs": options.runs, "torch.load / read_manifest": ratios}, indent=2)
    )


if __name__ == "__main__":
    main()
