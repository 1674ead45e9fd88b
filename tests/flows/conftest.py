"""The worked example, small: a baseline checkpoint that a real Lightning trainer has written, made once a session."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "topoflow"
SMALL = EXAMPLE / "configs" / "small.yaml"


@pytest.fixture(scope="session")
def small_baseline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("baseline") / "base.ckpt"
    command = [sys.executable, "baseline.py", "--config", str(SMALL), "--out", str(out)]
    subprocess.run(command, cwd=EXAMPLE, check=True, capture_output=True)
    return out
