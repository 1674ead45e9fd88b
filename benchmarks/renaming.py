"""Rename-only remaps beside cp and what else would do it: safetensors, in one file and in shards; torch zip; Lightning.

python -m benchmarks.renaming [--size 1GB] [--rounds 5]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import data, rivals
from benchmarks.harness import DIGESTS, Options, alone, out_folder, remap, rewrite
from benchmarks.measure import Process
from benchmarks.results import Bar, Work

SHARDS = 8
LIGHTNING = 630_000_000
TORCH_BARS = [Bar(1.10, "cp"), Bar(80), Bar(8, "torch.load + torch.save", at_least=True)]


def measure(options: Options, folder: Path) -> Iterator[Work]:
    with data.made(folder / "model.safetensors", "safetensors_file", options.size) as source:
        yield one_file(source, options)
    with data.made(folder / "model", "safetensors_folder", options.size, SHARDS) as source:
        yield shards(source, options)
    with data.made(folder / "model.pt", "torch_file", options.size) as source:
        yield torch_zip("rename, torch zip", source, options, rivals.torch_load_mmap)
    with data.made(folder / "base.ckpt", "lightning_file", min(options.size, LIGHTNING)) as source:
        yield torch_zip("rename, Lightning with optimizer", source, options)


def one_file(source: Path, options: Options) -> Work:
    out = out_folder(source) / source.name
    processes = [*ours(source, out), rivals.copy(source, out), rivals.load_file(source, out)]
    bars = [Bar(1.10, "cp"), Bar(60), Bar(1.30, "cp", of=DIGESTS)]
    return rewrite("rename, safetensors", source, processes, bars, options)


def shards(source: Path, options: Options) -> Work:
    out = out_folder(source) / source.name
    largest = max(file.stat().st_size for file in source.iterdir())
    processes = [
        *ours(source, out),
        rivals.copy(source, out),
        rivals.safe_open(source, out),
        rivals.transformers(source, out, largest),
        rivals.mergekit(source, out, largest, options.mergekit),
    ]
    bars = [Bar(0.85, "cp -r"), Bar(1.30, "cp -r", of=DIGESTS)]
    return rewrite(f"rename, safetensors, {SHARDS} shards", source, processes, bars, options, baseline="cp -r")


def torch_zip(title: str, source: Path, options: Options, *others: rivals.Rival) -> Work:
    out = out_folder(source) / source.name
    makers = (rivals.copy, rivals.torch_load, *others)
    processes = [*ours(source, out), *(make(source, out) for make in makers)]
    return rewrite(title, source, processes, TORCH_BARS, options)


def ours(source: Path, out: Path) -> list[Process]:
    return [remap(source, rivals.RENAME, out, digests=digests) for digests in (False, True)]


if __name__ == "__main__":
    alone(measure, __doc__)
