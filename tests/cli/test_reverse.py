"""The way back on the command line: `remap --reverse` on files of both formats, and `map invert`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor.keymap import load_map
from tests.cli.helpers import Done, manifest_file, run, safetensors_file, torch_checkpoint

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

OLD = {"a.q": (4, 2), "a.k": (2, 2), "x": (2, 3), "same": (3,), "gone": (1,)}
MAP = """\
ckptdoctor: 1
rules:
  - {from: "a.{q,k}", to: "b.qk", op: {concat: {dim: 0}}}
  - {from: x, to: y, op: {transpose: [0, 1]}}
fresh:
  - {keys: new, why: "added there", init: zeros}
drop:
  - {keys: gone, why: "a counter"}
"""
LOSSY = MAP.replace("{transpose: [0, 1]}", "[{transpose: [0, 1]}, {scale: 0.3}]")
Cli = Callable[..., Done]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An old checkpoint in both formats, its manifest, the target's, and a map."""
    torch_checkpoint(tmp_path / "old.ckpt", OLD)
    safetensors_file(tmp_path / "old.safetensors", OLD)
    manifest_file(tmp_path / "old.json", OLD)
    manifest_file(tmp_path / "new.json", {"b.qk": (6, 2), "y": (3, 2), "same": (3,), "new": (2,)})
    (tmp_path / "map.yaml").write_text(MAP)
    (tmp_path / "lossy.yaml").write_text(LOSSY)
    return tmp_path


@pytest.fixture
def cli(project: Path) -> Cli:
    def call(line: str, **options: Any) -> Done:
        return run(*line.split(), cwd=project, **options)

    return call


def loaded(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(safetensors.load_file(path))
    return dict(torch.load(path)["state_dict"])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class TestRemap:
    @pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
    def test_there_and_back(self, cli: Cli, project: Path, suffix: str) -> None:
        there = cli(f"remap old.{suffix} new.json -m map.yaml -o new.{suffix}")
        assert there.status == 0, there.stderr
        done = cli(f"remap new.{suffix} old.json -m map.yaml --reverse -o back.{suffix}")
        assert done.status == 0, done.stderr
        before = loaded(project / f"old.{suffix}")
        del before["gone"]
        assert same(loaded(project / f"back.{suffix}"), before)
        receipt = json.loads((project / f"back.{suffix}.receipt.json").read_text())
        assert receipt["reverse"] is True
        assert "--reverse" in receipt["command"]
        assert receipt["random"] == ["gone"]
        verified = cli(f"verify back.{suffix} -f json")
        checks = {check["id"]: check for check in json.loads(verified.stdout)["checks"]}
        assert verified.status == 0
        assert "3 computed again from it" in str(checks["source"])

    def test_a_changed_value_is_found(self, cli: Cli, project: Path) -> None:
        cli("remap old.ckpt new.json -m map.yaml -o new.safetensors")
        cli("remap new.safetensors old.json -m map.yaml --reverse -o back.safetensors --no-digests")
        weights = loaded(project / "back.safetensors")
        weights["a.k"][0, 0] += 1
        safetensors.save_file(weights, project / "back.safetensors")
        receipt = json.loads((project / "back.safetensors.receipt.json").read_text())
        receipt["output"]["bytes"] = (project / "back.safetensors").stat().st_size
        (project / "back.safetensors.receipt.json").write_text(json.dumps(receipt))
        done = cli("verify back.safetensors")
        assert done.status == 1
        assert "split" in done.stdout

    def test_a_dry_run_shows_it(self, cli: Cli, project: Path) -> None:
        cli("remap old.ckpt new.json -m map.yaml -o new.ckpt")
        done = cli("remap new.ckpt old.json -m map.yaml --reverse --dry-run")
        assert (done.status, (project / "back.ckpt").exists()) == (0, False)
        assert "map: map.yaml, the way back" in done.stdout
        assert "dropped on the way there: a counter" in done.stdout
        report = json.loads(cli("remap new.ckpt old.json -m map.yaml --reverse --dry-run -f json").stdout)
        assert (report["reverse"], report["summary"]["computed"], report["summary"]["fresh"]) == (True, 3, 1)

    def test_the_wrappers_come_back_too(self, cli: Cli, project: Path) -> None:
        wrapped = {f"module._orig_mod.{key}": shape for key, shape in OLD.items()}
        torch_checkpoint(project / "wrapped.ckpt", wrapped)
        assert cli("remap wrapped.ckpt new.json -m map.yaml -o new.ckpt").status == 0
        assert "module._orig_mod.b.qk" in loaded(project / "new.ckpt")
        assert cli("remap new.ckpt old.json -m map.yaml --reverse -o back.ckpt").status == 0
        before = loaded(project / "wrapped.ckpt")
        del before["module._orig_mod.gone"]
        assert same(loaded(project / "back.ckpt"), before)

    @pytest.mark.parametrize("old", ["old.json", "wrapped.json"])
    def test_what_the_map_strips_and_selects(self, cli: Cli, project: Path, old: str) -> None:
        (project / "map.yaml").write_text(MAP + "source: {select: state_dict, strip: [odd]}\n")
        wrapped = {f"odd.{key}": shape for key, shape in OLD.items()}
        torch_checkpoint(project / "wrapped.ckpt", wrapped)
        manifest_file(project / "wrapped.json", wrapped)
        for suffix in ("ckpt", "safetensors"):
            assert cli(f"remap wrapped.ckpt new.json -m map.yaml -o new.{suffix}").status == 0
            done = cli(f"remap new.{suffix} {old} -m map.yaml --reverse -o back.{suffix}")
            assert done.status == 0, done.stderr
            assert loaded(project / f"back.{suffix}").keys() == wrapped.keys() - {"odd.gone"}

    def test_what_cannot_be_undone_is_refused_with_its_rule(self, cli: Cli, project: Path) -> None:
        assert cli("remap old.ckpt new.json -m lossy.yaml -o new.ckpt").status == 0
        for more in ("-o back.ckpt", "--dry-run"):
            done = cli(f"remap new.ckpt old.json -m lossy.yaml --reverse {more}")
            assert done.status == 2
            assert "lossy.yaml:4:5: scale cannot be undone" in done.stderr
            assert "x would not come back" in done.stderr
        assert not (project / "back.ckpt").exists()

    def test_it_needs_the_old_model(self, cli: Cli, project: Path) -> None:
        (project / "ckptdoctor.yaml").write_text("target: new.json\n")
        done = cli("remap old.ckpt -m map.yaml --reverse -o back.ckpt")
        assert done.status == 2
        assert "--reverse needs TARGET" in done.stderr

    def test_neither_way_is_gone_twice(self, cli: Cli) -> None:
        cli("remap old.ckpt new.json -m map.yaml -o new.ckpt")
        cli("remap new.ckpt old.json -m map.yaml --reverse -o back.ckpt")
        twice = cli("remap back.ckpt old.json -m map.yaml --reverse -o twice.ckpt")
        assert twice.status == 2
        assert "back.ckpt is what the reverse of map.yaml made of new.ckpt already" in twice.stderr
        assert cli("remap new.ckpt new.json -m map.yaml -o twice.ckpt").status == 2
        there = cli("remap back.ckpt new.json -m map.yaml --allow-unexpected gone --dry-run")
        assert "drop names no key" in there.stderr, "back.ckpt is no output of the map; it only lacks what was dropped"

    def test_undeclared_losses_are_judged_as_ever(self, cli: Cli, project: Path) -> None:
        (project / "map.yaml").write_text(MAP.partition("drop:")[0])
        assert cli("remap old.ckpt new.json -m map.yaml -o new.ckpt --allow-unexpected gone").status == 0
        assert cli("remap new.ckpt old.json -m map.yaml --reverse -o back.ckpt").status == 1
        assert cli("remap new.ckpt old.json -m map.yaml --reverse -o back.ckpt --allow-random gone").status == 0
        assert cli("verify back.ckpt").status == 0


class TestMapInvert:
    def test_the_map_that_is_written_goes_back(self, cli: Cli, project: Path) -> None:
        done = cli("map invert old.ckpt new.json -m map.yaml -o back.yaml")
        assert done.status == 1
        assert "bijective on 4 of 5 tensors; 1 tensor dropped on the way there" in done.stdout
        assert "next: ckptdoctor map check back.yaml new.json old.ckpt" in done.stderr
        assert cli("map check back.yaml new.json old.ckpt").status == 0
        cli("remap old.ckpt new.json -m map.yaml -o new.ckpt")
        assert cli("remap new.ckpt old.json -m back.yaml -o back.ckpt").status == 0
        before = loaded(project / "old.ckpt")
        del before["gone"]
        assert same(loaded(project / "back.ckpt"), before)
        key_map = load_map(project / "back.yaml")
        assert key_map.description == "the inverse of map.yaml"
        assert f"# The inverse of map.yaml (sha256 {load_map(project / 'map.yaml').sha256})" in text(project)

    def test_all_of_it(self, cli: Cli, project: Path) -> None:
        (project / "map.yaml").write_text(MAP.partition("drop:")[0])
        manifest_file(project / "old.json", {key: shape for key, shape in OLD.items() if key != "gone"})
        done = cli("map invert old.json new.json -m map.yaml -o back.yaml")
        assert (done.status, done.stdout.splitlines()[-1]) == (0, "bijective on 4 of 4 tensors")

    def test_what_is_not_invertible(self, cli: Cli) -> None:
        done = cli("map invert old.ckpt new.json -m lossy.yaml -o back.yaml")
        assert done.status == 1
        assert done.stdout.endswith("dropped on the way there; not invertible: lossy.yaml:4 (scale)\n")
        assert "scale(0.3) is not exact for every number" in done.stdout

    def test_json(self, cli: Cli, project: Path) -> None:
        done = cli("map invert old.ckpt new.json -m lossy.yaml -f json")
        data = json.loads(done.stdout)
        assert done.status == 1
        assert (data["schema"], data["bijective"], data["total"], data["output"]) == (
            "ckptdoctor/map-invert/1",
            3,
            5,
            None,
        )
        (row,) = data["not_invertible"]
        assert (row["where"], row["op"], row["keys"]) == ({"file": "lossy.yaml", "line": 4}, "scale", ["x"])
        cli("map invert old.ckpt new.json -m lossy.yaml -o back.yaml")
        assert text(project) == data["text"]

    def test_an_existing_map_is_left_alone(self, cli: Cli, project: Path) -> None:
        for out in ("back.yaml", "map.yaml"):
            (project / "back.yaml").write_text("mine")
            before = (project / out).read_text()
            done = cli(f"map invert old.ckpt new.json -m map.yaml -o {out}")
            assert (done.status, (project / out).read_text()) == (2, before)
        assert cli("map invert old.ckpt new.json -m map.yaml -o back.yaml --overwrite").status == 1
        assert load_map(project / "back.yaml").rules

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("old.ckpt new.json -m map.yaml", "needs --output"),
            ("old.ckpt new.json -o back.yaml", "needs a map"),
            ("old.ckpt new.json -m map.yaml -m lossy.yaml -o back.yaml", "takes one map, not 2"),
            ("old.ckpt -m map.yaml -o back.yaml", "there is no target"),
            ("old.ckpt new.json -m map.yaml -o none/back.yaml", "there is no folder"),
        ],
    )
    def test_usage(self, cli: Cli, line: str, said: str) -> None:
        done = cli(f"map invert {line}")
        assert (done.status, done.stdout) == (2, "")
        assert said in done.stderr


def text(project: Path) -> str:
    return (project / "back.yaml").read_text()
