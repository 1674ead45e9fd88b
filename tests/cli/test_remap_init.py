"""`remap` of maps that initialise and tie, from the command line to what torch and safetensors read; and `--again`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Done, manifest_file, map_file, run, safetensors_file, torch_checkpoint

torch = pytest.importorskip("torch")
st = pytest.importorskip("safetensors.torch")

SOURCE = {"embed.weight": (5, 4), "block.weight": (4, 4)}
TARGET = {**SOURCE, "head.weight": (5, 4), "gate": (4, 4), "scale": (2,), "noise": (3, 3), "copy.weight": (4, 4)}
MAP = """\
ckptdoctor: 1
fresh:
  - {keys: gate, why: new, init: identity}
  - {keys: scale, why: new, init: {constant: 0.5}}
  - {keys: noise, why: new, init: {normal: {std: 0.02, seed: 1}}}
  - {keys: "copy.{p}", why: new, init: {copy: "block.{p}"}}
tie:
  - {keys: [embed.weight, head.weight], why: shared}
"""
MODEL = """\
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Linear(4, 4, bias=False)
        self.new = nn.Parameter(torch.randn(3))
        self.other = nn.Parameter(torch.randn(3))
"""
WITH_MODEL = "ckptdoctor: 1\nfresh: [{keys: new, why: new, init: model}, {keys: other, why: new}]\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    torch_checkpoint(tmp_path / "source.ckpt", SOURCE)
    safetensors_file(tmp_path / "source.safetensors", SOURCE)
    manifest_file(tmp_path / "target.json", TARGET)
    (tmp_path / "map.yaml").write_text(MAP)
    (tmp_path / "net.py").write_text(MODEL)
    (tmp_path / "model.yaml").write_text(WITH_MODEL)
    torch_checkpoint(tmp_path / "block.ckpt", {"block.weight": (4, 4)})
    return tmp_path


@pytest.fixture
def cli(project: Path) -> Callable[..., Done]:
    def call(line: str, **options: Any) -> Done:
        return run(*line.split(), cwd=project, **options)

    return call


Cli = Callable[..., Done]


def weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return st.load_file(path)
    return torch.load(path, weights_only=True)["state_dict"]


def rows(path: Path) -> dict[str, dict[str, Any]]:
    receipt = json.loads(path.with_name(path.name + ".receipt.json").read_text())
    return {row["target"]: row for row in receipt["tensors"]}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_what_is_initialised_and_tied_is_written_and_verified(cli: Cli, project: Path, suffix: str) -> None:
    done = cli(f"remap source.{suffix} target.json -m map.yaml -o out.{suffix}")
    assert done.status == 0, done.stderr
    assert done.stdout.rstrip().endswith("wrote 7 tensors (2 loaded, 1 tied, 4 fresh)")
    out = project / f"out.{suffix}"
    made, receipt = weights(out), rows(out)
    assert torch.equal(made["gate"], torch.eye(4))
    assert made["scale"].tolist() == [0.5, 0.5]
    assert torch.equal(made["copy.weight"], made["block.weight"])
    assert 0 < float(made["noise"].abs().max()) < 0.2
    assert {key: (row["status"], row["ops"], row["sources"]) for key, row in receipt.items() if row["ops"]} == {
        "gate": ("fresh", ["init(identity)"], []),
        "scale": ("fresh", ["init(constant(0.5))"], []),
        "noise": ("fresh", ["init(normal(std=0.02, seed=1))"], []),
        "copy.weight": ("fresh", ["init(copy(block.{p}))"], ["block.weight"]),
    }
    assert (receipt["head.weight"]["status"], receipt["head.weight"]["tied_to"]) == ("tied", "embed.weight")
    if suffix == "ckpt":
        assert made["head.weight"].data_ptr() == made["embed.weight"].data_ptr()
        assert made["copy.weight"].data_ptr() != made["block.weight"].data_ptr()
    else:
        assert "head.weight" not in made, "safetensors names it in its metadata"
    for arguments in ("", f" --against source.{suffix}"):
        proof = cli(f"verify out.{suffix} target.json{arguments}")
        assert proof.status == 0, proof.stdout
        assert "4 computed again from it" in proof.stdout


def test_the_figures_still_call_it_fresh(cli: Cli) -> None:
    data = json.loads(cli("remap source.ckpt target.json -m map.yaml --dry-run -f json").stdout)
    assert (data["summary"]["fresh"], data["summary"]["parameters_fresh"]) == (4, 16 + 2 + 9 + 16)
    assert data["summary"]["parameters_random"] == data["summary"]["parameters_fresh"]
    assert cli("gate source.ckpt target.json -m map.yaml --max-random 42").status == 1


def test_a_tampered_value_is_found_without_its_digest(cli: Cli, project: Path) -> None:
    assert cli("remap source.safetensors target.json -m map.yaml -o out.safetensors --no-digests").status == 0
    out = project / "out.safetensors"
    data = bytearray(out.read_bytes())
    data[-1] ^= 1
    out.write_bytes(data)
    done = cli("verify out.safetensors")
    assert (done.status, "has other values than" in done.stdout) == (1, True)


def test_two_runs_write_the_same_bytes(cli: Cli, project: Path) -> None:
    for name in ("one", "two"):
        assert cli(f"remap source.safetensors target.json -m map.yaml -o {name}.safetensors").status == 0
    assert (project / "one.safetensors").read_bytes() == (project / "two.safetensors").read_bytes()


class TestTheConstructorsValues:
    def test_are_those_of_the_seed_for_these_keys_alone(self, cli: Cli, project: Path) -> None:
        done = cli("remap block.ckpt net.py:Net -m model.yaml -o out.ckpt --seed 7")
        assert done.status == 0, done.stderr
        torch.manual_seed(7)
        torch.nn.Linear(4, 4, bias=False)
        made, receipt = weights(project / "out.ckpt"), rows(project / "out.ckpt")
        assert torch.equal(made["new"], torch.randn(3))
        assert (receipt["new"]["status"], receipt["new"]["ops"]) == ("fresh", ["init(model, seed=7)"])
        assert "other" not in made
        proof = cli("verify out.ckpt net.py:Net")
        assert (proof.status, "1 filled by init(model, seed=7) by digest only" in proof.stdout) == (0, True)

    def test_beside_those_that_fill_all_gaps(self, cli: Cli, project: Path) -> None:
        done = cli("remap block.ckpt net.py:Net -m model.yaml -o out.ckpt --fill init")
        assert done.status == 0, done.stderr
        receipt = rows(project / "out.ckpt")
        assert (receipt["new"]["status"], receipt["new"]["ops"]) == ("fresh", ["init(model, seed=0)"])
        assert (receipt["other"]["status"], receipt["other"]["ops"]) == ("filled", ["init(seed=0)"])

    def test_need_a_model(self, cli: Cli, project: Path) -> None:
        manifest_file(project / "net.json", {"block.weight": (4, 4), "new": (3,), "other": (3,)})
        assert cli("gate block.ckpt net.json -m model.yaml").status == 0
        done = cli("remap block.ckpt net.json -m model.yaml -o out.ckpt")
        assert done.status == 2
        assert "model.yaml:2:9: new is to have its constructor's values, and there are none" in done.stderr
        assert "name a model as target" in done.stderr
        assert not (project / "out.ckpt").exists()


class TestAgain:
    def test_a_map_on_what_it_made_is_refused(self, cli: Cli, project: Path) -> None:
        map_file(project / "swap.yaml", ("embed.weight", "block.weight"), ("block.weight", "embed.weight"))
        assert cli("remap source.ckpt -m swap.yaml -o out.ckpt").status == 0
        done = cli("remap out.ckpt -m swap.yaml -o twice.ckpt")
        assert (done.status, (project / "twice.ckpt").exists()) == (2, False)
        assert done.stderr.startswith("error: out.ckpt is what swap.yaml made of source.ckpt already\nhint: ")
        assert "--again" in done.stderr
        assert cli("remap out.ckpt -m swap.yaml -o twice.ckpt --again").status == 0
        assert list(weights(project / "twice.ckpt")) == list(weights(project / "source.ckpt"))

    def test_that_is_said_instead_of_what_the_map_does_not_find(self, cli: Cli, project: Path) -> None:
        map_file(project / "rename.yaml", ("embed.{p}", "tokens.{p}"))
        assert cli("remap source.ckpt -m rename.yaml -o out.ckpt").status == 0
        assert "made of source.ckpt already" in cli("remap out.ckpt -m rename.yaml --dry-run").stderr
        assert "names no key" in cli("remap out.ckpt -m rename.yaml --dry-run --again").stderr
        assert "names no key" in cli("diff out.ckpt -m rename.yaml").stderr

    def test_another_map_another_file_and_a_broken_receipt(self, cli: Cli, project: Path) -> None:
        map_file(project / "swap.yaml", ("embed.weight", "block.weight"), ("block.weight", "embed.weight"))
        (project / "other.yaml").write_text((project / "swap.yaml").read_text() + "# another\n")
        assert cli("remap source.ckpt -m swap.yaml -o out.ckpt").status == 0
        assert cli("remap out.ckpt -m other.yaml -o 1.ckpt").status == 0
        assert cli("remap out.ckpt -o 2.ckpt").status == 0, "without a map there is none that comes twice"
        torch.save(torch.load(project / "out.ckpt", weights_only=True) | {"more": 1}, project / "out.ckpt")
        assert cli("remap out.ckpt -m swap.yaml -o 3.ckpt").status == 0
        (project / "source.ckpt.receipt.json").write_text("{")
        assert cli("remap source.ckpt -m swap.yaml -o 4.ckpt").status == 0

    def test_in_the_library(self, cli: Cli, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from ckptdoctor import execute, load_map, make_plan, read_manifest
        from ckptdoctor.errors import UsageError

        monkeypatch.chdir(project)
        map_file(project / "swap.yaml", ("embed.weight", "block.weight"), ("block.weight", "embed.weight"))
        swap = load_map("swap.yaml")
        execute(make_plan(read_manifest("source.ckpt"), None, swap), "out.ckpt")
        plan = make_plan(read_manifest("out.ckpt"), None, swap)
        with pytest.raises(UsageError, match="already"):
            execute(plan, "twice.ckpt")
        execute(plan, "twice.ckpt", again=True)
