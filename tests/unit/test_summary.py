"""The counts at the end of a run are those of the tests that passed, wherever they ran."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.helpers import environment

TESTS = """
import pytest
from tests.summary import counted

@pytest.mark.parametrize("count", [2, 1500])
def test_counts(record_property, count):
    record_property(counted("mutants"), count)
    record_property("something else", 7)

def test_fails(record_property):
    record_property(counted("mutants"), 10_000)
    assert False
"""


def test_what_passed_is_counted_and_what_failed_is_not(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text("from tests.summary import pytest_terminal_summary\n")
    words = ["-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    env = environment(PYTHONPATH=str(Path(__file__).parents[2]))
    done = subprocess.run([sys.executable, *map(str, words)], cwd=tmp_path, capture_output=True, text=True, env=env)
    assert "safety: tried 0 hostile files, 1,502 mutants, 0 faults, 0 kills; 1 tests failed" in done.stdout
