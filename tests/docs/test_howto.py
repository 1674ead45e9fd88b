"""The how-to pages are true: their blocks run, in order, in an empty folder, and print what the pages say they print."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor.keymap import parse_map
from ckptdoctor.plan import check_alone

PAGES = sorted((Path(__file__).parents[2] / "docs" / "howto").glob("*.md"))
BLOCK = re.compile(r"^```(bash|python|text|yaml)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(blocks: list[tuple[str, str]]) -> None:
    """Run the blocks one after the other: Python's share their names, and a text block is part of what was printed
    before, YAML is a map or a part of one that is right by itself."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for language, code in blocks:
        if language == "text":
            assert code.strip() in printed, f"this was printed:\n{printed}\nand this expected:\n{code}"
        elif language == "bash":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True)
            assert done.returncode == 0, f"{code}\n{done.stdout}{done.stderr}"
            printed = done.stdout
        elif language == "yaml":
            check_alone(parse_map(code if code.startswith("ckptdoctor:") else f"ckptdoctor: 1\n{code}"))
        else:
            with redirect_stdout(io.StringIO()) as stdout:
                exec(compile(code, "<page>", "exec"), names)
            printed = stdout.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    blocks = BLOCK.findall(page.read_text())
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("COLUMNS", None)
    command = [sys.executable, __file__]
    done = subprocess.run(
        command, input=json.dumps(blocks), cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_is_short_and_its_blocks_are_known(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) < 90
    assert len(BLOCK.findall(text)) == len(re.findall(r"^```\w+$", text, re.MULTILINE))
    assert all(len(line) <= 128 for line in text.splitlines() if not line.startswith("100.00%"))


def test_there_are_pages() -> None:
    named = {"depth", "lightning", "notebooks", "position", "proof", "pytorch", "qkv", "rename"}
    named |= {"trainer", "variables"}
    assert named <= {page.stem for page in PAGES}


if __name__ == "__main__":
    sys.path[0] = str(Path.cwd())
    run(json.load(sys.stdin))
