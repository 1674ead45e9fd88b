"""Ops on half of the bytes of a safetensors file: q, k and v joined, two matrices of a layer transposed; beside cp and torch.

python -m benchmarks.computing [--size 1GB] [--rounds 5]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks import data, rivals
from benchmarks.harness import Options, alone, out_folder, remap, rewrite
from benchmarks.measure import MB
from benchmarks.results import Bar, Work


def measure(options: Options, folder: Path) -> Iterator[Work]:
    largest = 2 * 4 * data.width(options.size) ** 2 / MB  # what the largest instance of a rule makes: one up_proj
    bars = [Bar(2.0, "cp"), Bar(3 * largest + 250)]
    with data.made(folder / "model.safetensors", "safetensors_file", options.size) as source:
        out = out_folder(source) / source.name
        processes = [remap(source, rivals.COMPUTE, out), rivals.copy(source, out), rivals.compute(source, out)]
        yield rewrite("concat and transpose, half of the bytes", source, processes, bars, options)


if __name__ == "__main__":
    alone(measure, __doc__)
