"""What planning costs: 20 rules over 50,000 keys, beside reading the two manifests they are planned on, as ratios.

    python -m benchmarks.planning [--tensors 50000] [--rounds 5]

Two safetensors files of tiny tensors. What is found is the median ratio of plan to read over interleaved rounds in one process,
and the peak memory of planning for all keys over that for half of them (it is linear if that is 2).
"""

from __future__ import annotations

import json
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import ckptdoctor
from benchmarks.harness import Options, alone
from benchmarks.results import Finding, Work
from ckptdoctor.keymap import KeyMap, parse_map

RENAMES = 17
PARTS = ("w", "b", "q", "k", "v")


def write(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of uint8 tensors."""
    header, end = {}, 0
    for key, shape in shapes.items():
        size = shape[0] * shape[1]
        header[key] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(end))


def sides(keys: int) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Layers of 20 modules: 17 that are renamed, one whose parts are fused, and two that stay as they are."""
    layers = keys // (RENAMES + 2 + 3)
    old: dict[str, tuple[int, ...]] = {}
    new: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        for number in range(RENAMES):
            old[f"model.layers.{layer}.old{number}.weight"] = new[f"model.blocks.{layer}.new{number}.weight"] = (2, 2)
        for part in PARTS[2:]:
            old[f"model.layers.{layer}.attn.{part}.weight"] = (2, 2)
        new[f"model.blocks.{layer}.attn.qkv.weight"] = (6, 2)
        for part in PARTS[:2]:
            old[f"model.layers.{layer}.same.{part}"] = new[f"model.blocks.{layer}.same.{part}"] = (1, 2)
    return old, new


def rules() -> KeyMap:
    """Twenty of them."""
    lines = [
        f'{{from: "model.layers.{{i}}.old{n}.{{p}}", to: "model.blocks.{{i}}.new{n}.{{p}}"}}' for n in range(RENAMES)
    ]
    lines.append('{from: "model.layers.{i}.attn.{q,k,v}.{p}", to: "model.blocks.{i}.attn.qkv.{p}", op: {concat: 0}}')
    lines += [f'{{from: "model.layers.{{i}}.same.{p}", to: "model.blocks.{{i}}.same.{p}"}}' for p in PARTS[:2]]
    return parse_map("ckptdoctor: 1\nrules:\n" + "".join(f"  - {line}\n" for line in lines))


def peak(folder: Path, keys: int, key_map: KeyMap) -> float:
    """MB at the most while a plan is made, beside its two manifests."""
    for name, shapes in zip(("old", "new"), sides(keys), strict=True):
        write(folder / f"{name}.safetensors", shapes)
    source, target = (ckptdoctor.read_manifest(folder / f"{name}.safetensors") for name in ("old", "new"))
    tracemalloc.start()
    plan = ckptdoctor.make_plan(source, target, key_map)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.counts["missing"] == 0
    return most / 1e6


def measure(options: Options, folder: Path) -> Iterator[Work]:
    key_map = rules()
    half, whole = (peak(folder, keys, key_map) for keys in (options.tensors // 2, options.tensors))
    paths = [folder / "old.safetensors", folder / "new.safetensors"]
    source, target = map(ckptdoctor.read_manifest, paths)
    ratios = [
        seconds(lambda: ckptdoctor.make_plan(source, target, key_map))
        / seconds(lambda: [ckptdoctor.read_manifest(path) for path in paths])
        for _ in range(options.rounds)
    ]
    findings = [
        Finding("planning / reading the two manifests", statistics.median(ratios)),
        Finding("peak memory of planning, all keys / half of them", whole / half),
    ]
    yield Work(f"planning, {len(key_map.rules)} rules, {options.tensors:,} tensors", findings=findings)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    alone(measure, __doc__)
