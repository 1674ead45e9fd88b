"""From a torch zip to safetensors, and back, with a rename on the way, beside cp and torch.

python -m benchmarks.converting [--size 1GB] [--rounds 5]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import data, rivals
from benchmarks.harness import Options, alone, out_folder, remap, rewrite
from benchmarks.results import Bar, Work

BARS = [Bar(1.20, "cp")]


def measure(options: Options, folder: Path) -> Iterator[Work]:
    with data.made(folder / "model.pt", "torch_file", options.size) as source:
        yield convert("torch zip to safetensors", source, "model.safetensors", rivals.to_safetensors, options)
    with data.made(folder / "model.safetensors", "safetensors_file", options.size) as source:
        yield convert("safetensors to torch zip", source, "model.ckpt", rivals.to_torch, options)


def convert(title: str, source: Path, name: str, rival: rivals.Rival, options: Options) -> Work:
    out = out_folder(source) / name
    processes = [remap(source, rivals.RENAME, out), rivals.copy(source, out), rival(source, out)]
    return rewrite(title, source, processes, BARS, options)


if __name__ == "__main__":
    alone(measure, __doc__)
