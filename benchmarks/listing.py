"""What a diff of many tensors costs: `ckptdoctor diff` beside a bare Python that parses both headers, process against process.

    python benchmarks/listing.py [--tensors 50000] [--runs 5]

Makes safetensors files like those of a mixture of experts in a temporary folder; their data are holes, so that they take no
disk. Prints medians of the ratios of interleaved runs, the same for a file of four times as many tensors, how the cost of a
tensor grows with that, and the most memory that each took.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

PARSE = """
import json, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")))
"""
EXPERTS = 64
CASES = {
    "identical": ("old", "same"),
    "a third renamed": ("old", "renamed"),
    "identical, --all": ("old", "same", "--all"),
    "a third renamed, --all": ("old", "renamed", "--all"),
}


class Run(NamedTuple):
    """One process: seconds on the clock, and the most memory it had, in MB."""

    seconds: float
    memory: float


def tensors(gate: str) -> Iterator[tuple[str, list[int]]]:
    """Keys and shapes, layer by layer; `gate` is what the gates of the experts are called."""
    for layer in count():
        stem = f"model.layers.{layer}"
        for expert in range(EXPERTS):
            for name in (gate, "up_proj", "down_proj"):
                yield f"{stem}.mlp.experts.{expert}.{name}.weight", [64, 32]
        yield from ((f"{stem}.self_attn.{name}_proj.weight", [32, 32]) for name in "qkvo")
        yield f"{stem}.input_layernorm.weight", [32]


def write(path: Path, number: int, gate: str) -> None:
    """A safetensors file whose header is all that is written."""
    header, end = {}, 0
    for key, shape in islice(tensors(gate), number):
        begin, end = end, end + 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def run(command: Sequence[str], folder: Path) -> Run:
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return Run(time.perf_counter() - start, usage.ru_maxrss / 1024)


def measure(case: str, folders: Sequence[Path], runs: int) -> list[tuple[Run, ...]]:
    """Interleaved runs of a case: the bare parse of few tensors, the diff of few, the diff of many."""
    few, many = folders
    words = [word if word.startswith("--") else f"{word}.safetensors" for word in CASES[case]]
    tool = [sys.executable, "-m", "ckptdoctor", "diff", *words]
    bare = [sys.executable, "-S", "-c", PARSE, *words[:2]]
    return [(run(bare, few), run(tool, few), run(tool, many)) for _ in range(runs + 1)][
        1:
    ]  # the first fills the caches


def ratios(number: int = 50_000, runs: int = 5) -> dict[str, float]:
    """Medians by name: each case beside the bare parse, and what a tensor costs among four times as many."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name) / size for size in ("few", "many")]
        for folder, tensors in zip(folders, (number, 4 * number), strict=True):
            folder.mkdir()
            for file, gate in (("old", "gate_proj"), ("same", "gate_proj"), ("renamed", "w1")):
                write(folder / f"{file}.safetensors", tensors, gate)
        for case in CASES:
            rounds = measure(case, folders, runs)
            beside = [few.seconds / bare.seconds for bare, few, _ in rounds]
            growth = [many.seconds / few.seconds / 4 for _, few, many in rounds]
            found[f"{case}: diff of {number:,} tensors / json.loads of both headers"] = statistics.median(beside)
            found[f"{case}: a tensor of {4 * number:,} / a tensor of {number:,}"] = statistics.median(growth)
            found[f"{case}: MB of memory for {4 * number:,}"] = max(many.memory for _, _, many in rounds)
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tensors", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps({"runs": options.runs, "median of ratios": ratios(options.tensors, options.runs)}, indent=2))


if __name__ == "__main__":
    main()
