"""Many tensors: diff of 50,000 in two safetensors files, of four times as many in 1,000 shards; 14,400 in a torch zip.

    python -m benchmarks.scale [--tensors 50000] [--rounds 5]

The first two are whole processes, beside a bare Python that parses the headers with json. The last is `read_manifest` beside
`torch.load(mmap=True, weights_only=True)`, both in one process, so that no import is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import data
from benchmarks.harness import Options, alone, compare
from benchmarks.measure import Process
from benchmarks.results import Bar, Finding, Work

SHARDS = 1_000
MORE = 4
TORCH_TENSORS = 14_400
JSON = "json of both headers"
IDENTICAL, RENAMED = "diff, identical", "diff, a third renamed"
FOLDERS = f"diff of folders of {SHARDS:,} shards"


PARSE = """
import json, sys
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")))
"""


def measure(options: Options, folder: Path) -> Iterator[Work]:
    yield headers_and_shards(options, folder)
    yield torch_zip(options)  # last: it imports torch


def headers_and_shards(options: Options, folder: Path) -> Work:
    number = options.tensors
    files = {"old": 0, "same": 0, "renamed": 1}
    with ExitStack() as stack:
        old, same, renamed = (
            stack.enter_context(data.made(folder / f"{name}.safetensors", "many_tensors", number, how))
            for name, how in files.items()
        )
        one, two = (
            stack.enter_context(data.made(folder / name, "many_shards", MORE * number, SHARDS))
            for name in ("one", "two")
        )
        return compare_diffs(options, old, same, renamed, one, two)


def compare_diffs(options: Options, old: Path, same: Path, renamed: Path, one: Path, two: Path) -> Work:
    diff = [sys.executable, "-m", "ckptdoctor", "diff"]
    processes = [
        Process(JSON, [sys.executable, "-S", "-c", PARSE, old, same]),
        Process(IDENTICAL, [*diff, old, same]),
        Process(RENAMED, [*diff, old, renamed]),
        Process(FOLDERS, [*diff, one, two]),
    ]
    bars = [
        Bar(3, JSON, of=IDENTICAL, what=f"{IDENTICAL} / {JSON}"),
        Bar(3, JSON, of=RENAMED, what=f"{RENAMED} / {JSON}"),
        Bar(1.3, IDENTICAL, of=FOLDERS, factor=1 / MORE, what="a tensor of the folders / one of the files"),
    ]
    title = f"diff of {options.tensors:,} tensors in a file, and of {MORE * options.tensors:,} in {SHARDS:,} shards"
    return compare(title, processes, bars, options, baseline=JSON)


def torch_zip(options: Options) -> Work:
    from benchmarks import reading

    ratios = reading.measure(min(TORCH_TENSORS, options.tensors), options.rounds)
    findings = [
        Finding(f"torch.load(mmap) / reading, {name}", ratio, 1.5, at_least=True) for name, ratio in ratios.items()
    ]
    return Work(f"{TORCH_TENSORS:,} tensors, torch zip", findings=findings)


if __name__ == "__main__":
    alone(measure, __doc__)
