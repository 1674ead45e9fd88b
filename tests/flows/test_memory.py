"""A remap that computes holds one rule instance at a time, however large the file, and one that moves bytes next to nothing:
measured on sparse files of 4 and 20 GB.

The peak is the resident memory of the process that remaps, above that of one that does the same to a small file.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

MAP = """ckptdoctor: 1
rules:
  - {from: "b.{i}.{q,k,v}", to: "b.{i}.qkv", op: {concat: 0}}
  - {from: "b.{i}.up", to: "b.{i}.up", op: {permute: [1, 0]}}
drop:
  - {keys: "b.{8..31}.{name}", why: "zeros enough: the output is not sparse", optional: "the small one has one layer"}
"""
REMAP = """
import resource, sys
from ckptdoctor.cli import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, file=sys.stderr)
"""


def sparse_file(path: Path, layers: int, rows: int) -> int:
    """A safetensors file of zeros that takes no place on the disk: each layer has q, k, v and up, [rows, 1024] of float32."""
    header, end = {}, 0
    for layer in range(layers):
        for name in ("q", "k", "v", "up"):
            size = rows * 1024 * 4
            header[f"b.{layer}.{name}"] = {"dtype": "F32", "shape": [rows, 1024], "data_offsets": [end, end + size]}
            end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return end


def peak_of_remap(folder: Path, layers: int, rows: int, rules: str = MAP) -> tuple[int, int]:
    """Bytes of the source, and the peak memory of remapping it."""
    source, output = folder / f"{layers}.safetensors", folder / "out.safetensors"
    size = sparse_file(source, layers, rows)
    (folder / "map.yaml").write_text(rules)
    arguments = ["remap", str(source), "-m", str(folder / "map.yaml"), "-o", str(output), "-q", "--no-digests"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REMAP, *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    output.unlink()
    source.unlink()
    return size, int(done.stderr.split()[-1])


def test_one_rule_instance_at_a_time(tmp_path: Path) -> None:
    rows = 8192  # a tensor has 32 MiB, q, k and v together 96
    _, small = peak_of_remap(tmp_path, 1, 16)
    size, large = peak_of_remap(tmp_path, 32, rows)
    assert size == 4 << 30
    instance = 3 * rows * 1024 * 4
    assert large - small < 2.5 * instance  # what goes in, what comes out, and a chunk of each


RENAMES = """ckptdoctor: 1
rules:
  - {from: "b.{i}.{p}", to: "blocks.{i}.{p}"}
"""


def test_what_only_moves_takes_no_memory(tmp_path: Path) -> None:
    _, small = peak_of_remap(tmp_path, 1, 16, RENAMES)
    size, large = peak_of_remap(tmp_path, 160, 8192, RENAMES)
    assert size == 20 << 30
    assert large - small < 16 << 20
