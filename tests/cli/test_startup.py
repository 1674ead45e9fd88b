"""What a start costs: nobody waits for torch to see a help page, or to compare two lists of names."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.cli.helpers import Done, manifest_file, map_file, run, safetensors_file, torch_checkpoint

HEAVY = {"torch", "numpy", "safetensors", "lightning"}
LIBRARIES = {"rich", "yaml", "pydantic"}
SHAPES = {"a.w": (2, 3), "a.b": (3,), "c": ()}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    torch_checkpoint(tmp_path / "source.ckpt", SHAPES)
    safetensors_file(tmp_path / "source.safetensors", SHAPES)
    manifest_file(tmp_path / "same.json", SHAPES)
    manifest_file(tmp_path / "target.json", {"b.w": (2, 3), "b.b": (3,), "c": ()})
    map_file(tmp_path / "map.yaml", ("a.{p}", "b.{p}"))
    return tmp_path


def imported(project: Path, *args: str, module: str = "ckptdoctor") -> tuple[Done, set[str]]:
    """How a run ended, and the top-level names of all that it imported, by Python's own account."""
    done = run(*args, cwd=project, command=[sys.executable, "-X", "importtime", "-m", module])
    names = set(re.findall(r"^import time: .*\| +([A-Za-z]\w*)", done.stderr, re.MULTILINE))
    assert "ckptdoctor" in names, "the account is empty"
    return done, names


@pytest.mark.parametrize("source", ["source.ckpt", "source.safetensors", "same.json"])
@pytest.mark.parametrize(
    "args",
    [
        "inspect {}",
        "diff {} same.json",
        "diff {} source.ckpt -f markdown",
        "gate {} same.json -f json",
        "diff {} target.json -m map.yaml",
        "map check map.yaml {} target.json",
        "map invert {} target.json -m map.yaml -f json",
        "remap target.json {} -m map.yaml --reverse --dry-run",
    ],
)
def test_what_runs_no_code_of_the_user_imports_neither_torch_nor_numpy(project: Path, source: str, args: str) -> None:
    done, names = imported(project, *args.format(source).split())
    assert (done.status, names & HEAVY) == (0, set())
    assert done.stdout


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@pytest.mark.parametrize("out", ["new.ckpt", "new.safetensors"])
def test_nor_does_a_remap_that_only_renames(project: Path, suffix: str, out: str) -> None:
    done, names = imported(project, "remap", f"source.{suffix}", "target.json", "-m", "map.yaml", "-o", out)
    assert (done.status, names & HEAVY) == (0, set())
    assert (project / out).stat().st_size > 0


@pytest.mark.parametrize(
    "args", ["--help", "--version", "diff --help", "remap --help", "map check --help", "map invert --help"]
)
def test_help_imports_next_to_nothing(project: Path, args: str) -> None:
    done, names = imported(project, *args.split())
    assert (done.status, names & (HEAVY | LIBRARIES)) == (0, set())


@pytest.mark.parametrize(
    ("args", "library"),
    [
        ("diff source.ckpt same.json -f json", "rich"),
        ("diff source.ckpt same.json", "yaml"),
        ("map check map.yaml -f json", "rich"),
        ("diff source.ckpt target.json -m map.yaml", "pydantic"),
    ],
)
def test_libraries_only_where_they_are_needed(project: Path, args: str, library: str) -> None:
    done, names = imported(project, *args.split())
    assert (done.status, library in names) == (0, False)


@pytest.mark.parametrize("module", ["ckptdoctor", "ckptdoctor.cli.app", "ckptdoctor.targets", "ckptdoctor.formats"])
def test_importing_is_cheap(project: Path, module: str) -> None:
    program = f"import {module}, sys; print(*sorted({HEAVY | LIBRARIES!r} & set(sys.modules)))"
    done = run(cwd=project, command=[sys.executable, "-c", program])
    assert done == Done(0, "\n", "")
