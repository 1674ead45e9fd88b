"""The README is true: its diff is what the tool prints, its map and its configuration load, its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckptdoctor.cli.app import COMMANDS, MAP_COMMANDS
from ckptdoctor.config import find_config
from ckptdoctor.keymap import parse_map

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
EXAMPLE = ROOT / "examples" / "topoflow"


def block(language: str, containing: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found


def tool(*arguments: object, cwd: Path = EXAMPLE) -> str:
    command = [sys.executable, "-m", "ckptdoctor", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=True).stdout


def test_the_diff_is_what_the_tool_prints(tmp_path: Path) -> None:
    shown = block("text", "TopoFlowFirst").splitlines()
    tool("inspect", "topoflow.model:Baseline", "--manifest", tmp_path / "base.json")
    printed = tool("diff", tmp_path / "base.json", "topoflow.model:TopoFlowFirst").splitlines()
    table = shown[
        shown.index("") :
    ]  # above it stand the file's name and where its weights lie, which a manifest has not
    assert table == printed[printed.index("") :]


def test_the_map_is_well_formed() -> None:
    key_map = parse_map(block("yaml", "ckptdoctor: 1"))
    assert (len(key_map.rules), len(key_map.fresh), len(key_map.drop)) == (1, 1, 1)


def test_the_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "ckptdoctor.yaml").write_text(block("yaml", "policy:"))
    config = find_config(tmp_path)
    assert (config.target, config.max_random) == ("topoflow.model:TopoFlow", "0.1%")


def test_every_command_is_in_the_table() -> None:
    named = set(re.findall(r"\| `ckptdoctor (map \w+|\w+)", README))
    assert named == {*COMMANDS, *(f"map {name}" for name in MAP_COMMANDS)}


def test_the_python_runs(tmp_path: Path, small_checkpoint: Path) -> None:
    code = block("python", "import ckptdoctor").replace('"base.ckpt"', repr(str(small_checkpoint)))
    code = code.replace('"topoflow.model:TopoFlowSequential"', f'"topoflow.model:TopoFlowSequential", config="{SMALL}"')
    maps = ROOT / "mappings" / "topoflow-to-sequential.yaml"
    code = code.replace('"topoflow-to-sequential.yaml"', repr(str(maps))).replace(
        '"start.ckpt"', repr(str(tmp_path / "start.pt"))
    )
    subprocess.run([sys.executable, "-c", code], cwd=EXAMPLE, check=True)
    assert (tmp_path / "start.pt").exists()


SMALL = EXAMPLE / "configs" / "small.yaml"


@pytest.fixture
def small_checkpoint(tmp_path: Path) -> Path:
    make = (
        "import sys, torch, yaml; from topoflow.model import Baseline; "
        f"torch.save(Baseline(**yaml.safe_load(open('{SMALL}'))).state_dict(), sys.argv[1])"
    )
    path = tmp_path / "base.ckpt"
    subprocess.run([sys.executable, "-c", make, str(path)], cwd=EXAMPLE, check=True)
    return path


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(link: str) -> None:
    assert (ROOT / link).exists()
