"""The tutorial is true: its blocks run, in order, in examples/topoflow/, and print what it says they print."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text()
BLOCK = re.compile(r"^```(bash|text)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_tutorial_runs(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "RUNS": str(tmp_path)}
    environment.pop("COLUMNS", None)
    environment["SMALL"] = "--days 40 --val-samples 32 --batch 8"  # each block is a shell of its own
    assert f'export SMALL="{environment["SMALL"]}"' in TUTORIAL
    printed = ""
    for language, code in BLOCK.findall(TUTORIAL):
        if language == "text":
            for line in code.strip().splitlines():
                assert re.sub(r" +", " ", line) in re.sub(r" +", " ", printed), printed
            continue
        command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            command, cwd=ROOT / "examples" / "topoflow", env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
        printed = done.stdout


def test_every_block_is_of_a_known_kind() -> None:
    assert len(BLOCK.findall(TUTORIAL)) == len(re.findall(r"^```\w+$", TUTORIAL, re.MULTILINE))
