"""The main job, as a user runs it: a Lightning checkpoint, TopoFlow's targets, diff, gate, map, remap, start."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "topoflow"
SMALL = ["--target-config", "configs/small.yaml"]
TO_SEQUENTIAL = str(ROOT / "mappings" / "topoflow-to-sequential.yaml")


def tool(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ckptdoctor", *map(str, arguments)]
    result = subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True)
    assert result.returncode == status, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def baseline_manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("full") / "baseline.json"
    tool("inspect", "topoflow.model:Baseline", "--manifest", path)
    return path


@pytest.mark.parametrize(
    ("target", "tensors", "random", "total", "unexpected"),
    [
        ("topoflow.model:TopoFlowFirst", 117, 4_768_574, 51_300_158, 10),
        ("topoflow.model:TopoFlowSequential", 121, 4_722_434, 52_481_342, 4),
        ("topoflow.model:TopoFlow", 121, 2, 52_481_342, 0),
    ],
)
def test_the_figures_of_the_record_at_full_size(
    baseline_manifest: Path, target: str, tensors: int, random: int, total: int, unexpected: int
) -> None:
    report = json.loads(tool("diff", baseline_manifest, target, "-f", "json").stdout)
    assert (report["source"]["tensors"], report["source"]["parameters"]) == (119, 52_481_340)
    assert report["target"]["tensors"] == tensors
    assert report["summary"]["parameters_random"] == random
    assert report["summary"]["parameters_total"] == total
    assert report["summary"]["unexpected"] == unexpected
    assert report["summary"]["random_share"] == random / total


def test_from_a_lightning_checkpoint_to_a_job_that_starts_from_it(small_baseline: Path, tmp_path: Path) -> None:
    target = ["topoflow.model:TopoFlowSequential", *SMALL]
    failed = tool("gate", small_baseline, *target, "--max-random", "0.1%", status=1)
    assert "failed:" in failed.stdout
    out = tmp_path / "start.ckpt"
    refused = tool("remap", small_baseline, *target, "-m", TO_SEQUENTIAL, "-o", out, status=2)
    assert "--optimizer drop" in refused.stderr
    assert not list(tmp_path.iterdir())
    tool("remap", small_baseline, *target, "-m", TO_SEQUENTIAL, "-o", out, "--optimizer", "drop")
    tool("gate", out, *target, "--max-random", "2")
    start = [sys.executable, "start_job.py", str(out), "--variant", "sequential", "--config", "configs/small.yaml"]
    job = subprocess.run(start, cwd=EXAMPLE, capture_output=True, text=True, check=True)
    assert "missing: 2 keys" in job.stdout
    assert "unexpected: 0 keys" in job.stdout


def test_the_output_holds_the_same_bytes_under_the_new_names(small_baseline: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.ckpt"
    target = ["topoflow.model:TopoFlowSequential", *SMALL]
    tool("remap", small_baseline, *target, "-m", TO_SEQUENTIAL, "-o", out, "--optimizer", "drop")
    old = torch.load(small_baseline, weights_only=True)
    new = torch.load(out, weights_only=True)
    renamed = {"fc1": "0", "fc2": "2"}
    for key, tensor in old["state_dict"].items():
        parts = key.split(".")
        if key.startswith("net.blocks.0.mlp."):
            parts[4] = renamed[parts[4]]
        assert torch.equal(new["state_dict"][".".join(parts)], tensor)
    assert len(new["state_dict"]) == len(old["state_dict"])
    assert new["hyper_parameters"] == old["hyper_parameters"]
    assert new["global_step"] == old["global_step"]
    assert new["optimizer_states"] == []


def test_a_head_that_only_fits_in_shape_is_warned_of(baseline_manifest: Path, tmp_path: Path) -> None:
    careless = tmp_path / "careless.yaml"
    careless.write_text(
        "ckptdoctor: 1\n"
        "rules:\n"
        '  - {from: "head.4.{p}", to: "head.{p}"}\n'
        '  - {from: "blocks.0.mlp.{fc1,fc2}.{p}", to: "blocks.0.mlp.{0,2}.{p}"}\n'
    )
    result = tool("diff", baseline_manifest, "topoflow.model:TopoFlowFirst", "-m", careless)
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert warnings == [
        "warning: head.4 -> head fits in shape, but head.0 and head.2 of the checkpoint would stay unused "
        "(1,181,184 parameters): the model computes another function"
    ]


def test_a_project_default_makes_diff_a_whole_command(small_baseline: Path, tmp_path: Path) -> None:
    (tmp_path / "ckptdoctor.yaml").write_text(
        f"target: {EXAMPLE}/topoflow/model.py:TopoFlow\ntarget-config: small.yaml\n"
    )
    (tmp_path / "small.yaml").write_text((EXAMPLE / "configs" / "small.yaml").read_text())
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    command = [sys.executable, "-m", "ckptdoctor", "diff", str(small_baseline)]
    result = subprocess.run(command, cwd=inner, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "2 of 40,862 parameters" in result.stdout


MEASURE = r"""
import re, sys
from ckptdoctor.cli import main
sys.argv = ["ckptdoctor", *sys.argv[1:]]
try:
    main()
finally:
    peak = int(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]) // 1024
    print(peak, "torch" in sys.modules, "numpy" in sys.modules, file=sys.stderr)
"""


def test_renaming_a_630_mb_lightning_checkpoint_needs_little_memory_and_no_torch(tmp_path: Path) -> None:
    shapes = {"blocks.0.mlp.fc1.weight": (3072, 768), **{f"rest.{i}.weight": (2048, 2048) for i in range(12)}}
    weights = {key: torch.zeros(shape) for key, shape in shapes.items()}
    moments = {i: {"exp_avg": torch.zeros(s), "exp_avg_sq": torch.zeros(s)} for i, s in enumerate(shapes.values())}
    optimizer = {"state": moments, "param_groups": [{"params": list(moments)}]}
    torch.save({"state_dict": weights, "optimizer_states": [optimizer], "epoch": 0}, tmp_path / "base.ckpt")
    assert (tmp_path / "base.ckpt").stat().st_size > 600_000_000
    (tmp_path / "map.yaml").write_text(
        'ckptdoctor: 1\nrules: [{from: "blocks.0.mlp.{fc1,fc2}.{p}", to: "blocks.0.mlp.{0,2}.{p}"}]\n'
    )
    words = ["remap", "base.ckpt", "-m", "map.yaml", "-o", "new.ckpt"]
    result = subprocess.run([sys.executable, "-c", MEASURE, *words], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    peak, torch_seen, numpy_seen = result.stderr.splitlines()[-1].split()
    assert int(peak) < 150
    assert (torch_seen, numpy_seen) == ("False", "False")
    new = torch.load(tmp_path / "new.ckpt", mmap=True, weights_only=True)
    assert next(iter(new["state_dict"])) == "blocks.0.mlp.0.weight"
    assert new["optimizer_states"][0]["param_groups"] == optimizer["param_groups"]
