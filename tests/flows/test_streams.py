"""Ops that only put bytes in another row need neither torch nor memory; what others need is known beforehand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import builders as b
from tests.cli.helpers import run

QKV = """
ckptdoctor: 1
rules:
  - {from: "{i}.{q,k,v}", to: "{i}.qkv", op: {concat: 0}}
  - {from: fused, to: "{a,b}", op: {split: {dim: 0, sizes: [3, 5]}}}
  - {from: table, to: table, op: [{slice: {dim: 0, start: 1}}, {reshape: [2, 2, 3]}]}
"""
TURN = 'ckptdoctor: 1\nrules:\n  - {from: "{i}.q", to: "{i}.q", op: {transpose: [0, 1]}}\n'
WITHOUT_TORCH = "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'safetensors'))); "
MAIN = "from ckptdoctor.cli import main; main()"


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    parts = {f"{i}.{name}": torch.randn(4, 6, generator=generator) for i in range(3) for name in "qkv"}
    return parts | {"fused": torch.randn(8, 5, generator=generator), "table": torch.arange(15.0).reshape(5, 3)}


def expected() -> dict[str, torch.Tensor]:
    old = state()
    new = {f"{i}.qkv": torch.cat([old[f"{i}.{name}"] for name in "qkv"]) for i in range(3)}
    return new | {"a": old["fused"][:3], "b": old["fused"][3:], "table": old["table"][1:].reshape(2, 2, 3)}


@pytest.fixture(params=["source.pt", "source.safetensors"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    (tmp_path / "qkv.yaml").write_text(QKV)
    (tmp_path / "turn.yaml").write_text(TURN)
    path = tmp_path / request.param
    save_file(state(), path) if path.suffix == ".safetensors" else torch.save(state(), path)
    return request.param


@pytest.mark.parametrize("out", ["out.pt", "out.safetensors"])
@pytest.mark.parametrize("digests", [[], ["--no-digests"]])
def test_joining_and_parting_without_torch(tmp_path: Path, source: str, out: str, digests: list[str]) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH + MAIN]
    done = run("remap", source, "-m", "qkv.yaml", "-o", out, *digests, cwd=tmp_path, command=command)
    assert done.status == 0, done.stderr
    found = load_file(tmp_path / out) if out.endswith("s") else torch.load(tmp_path / out, weights_only=True)
    assert {key: b.values_of(tensor) for key, tensor in found.items()} == {
        key: b.values_of(tensor) for key, tensor in expected().items()
    }
    assert {key: tensor.shape for key, tensor in found.items()} == {k: t.shape for k, t in expected().items()}
    assert run("verify", out, cwd=tmp_path).status == 0


def test_a_damaged_storage_is_noticed_when_a_part_of_it_is_taken(tmp_path: Path) -> None:
    (tmp_path / "qkv.yaml").write_text(QKV)
    torch.save(state(), tmp_path / "source.pt")
    raw = bytearray((tmp_path / "source.pt").read_bytes())
    at = raw.find(b.values_of(state()["fused"]))
    raw[at + 1] ^= 1
    (tmp_path / "source.pt").write_bytes(raw)
    done = run("remap", "source.pt", "-m", "qkv.yaml", "-o", "out.pt", cwd=tmp_path)
    assert (done.status, "do not match their checksum" in done.stderr) == (2, True)
    assert not (tmp_path / "out.pt").exists()


def test_what_is_needed_is_said_before_anything_runs_and_may_be_refused(tmp_path: Path, source: str) -> None:
    shown = run("remap", source, "-m", "qkv.yaml", "--dry-run", cwd=tmp_path)
    assert "nothing is computed" in shown.stdout
    shown = run("remap", source, "-m", "turn.yaml", "--dry-run", cwd=tmp_path)
    assert re.search(r"needs \d+\.\d MB of memory at most; 0\.q \(turn\.yaml:3:5\)", shown.stdout), shown.stdout
    refused = run("remap", source, "-m", "turn.yaml", "-o", "o.pt", "--memory-limit", "50MB", cwd=tmp_path)
    assert (refused.status, "over --memory-limit 50.0 MB" in refused.stderr) == (2, True)
    assert not (tmp_path / "o.pt").exists()
    assert run("remap", source, "-m", "turn.yaml", "-o", "o.pt", "--memory-limit", "1GB", cwd=tmp_path).status == 0
    wrong = run("remap", source, "-m", "turn.yaml", "-o", "p.pt", "--memory-limit", "much", cwd=tmp_path)
    assert (wrong.status, "no number of bytes" in wrong.stderr) == (2, True)


MEASURE = """
import re, sys
from ckptdoctor.cli import main
try:
    main()
finally:
    print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def test_what_is_said_is_enough(tmp_path: Path) -> None:
    """The peak that is said, against that of the process: an upper bound, and no wild one."""
    (tmp_path / "turn.yaml").write_text(TURN)
    save_file({f"{i}.q": torch.zeros(5000, 5000) for i in range(2)}, tmp_path / "source.safetensors")
    words = ["remap", "source.safetensors", "-m", "turn.yaml"]
    said = run(*words, "--dry-run", cwd=tmp_path).stdout
    number = re.search(r"needs ([\d.]+) MB", said)
    assert number is not None, said
    command = [sys.executable, "-c", MEASURE, *words, "-o", "out.safetensors"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    peak = int(done.stderr.split()[-1]) / 1000
    assert float(number[1]) / 2 < peak < float(number[1])
