"""The counts at the end of a run are those of the tests that passed, wherever they ran."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.cli.helpers import environment
from tests.summary import AT_LEAST

HOOKS = "from tests.summary import pytest_sessionfinish, pytest_terminal_summary\n"
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


def run(folder: Path, tests: str, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(tests)
    (folder / "conftest.py").write_text(HOOKS)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = .\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    env = environment(PYTHONPATH=str(Path(__file__).parents[2]))
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)


def test_what_passed_is_counted_and_what_failed_is_not(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS, "-n", "2")
    assert "safety: tried 0 hostile files, 1,502 mutants, 0 faults, 0 kills; 1 tests failed" in done.stdout


def test_a_whole_run_that_tries_too_little_fails(tmp_path: Path) -> None:
    least = "".join(f"    record_property(counted({kind!r}), {number})\n" for kind, number in AT_LEAST.items())
    enough = f"from tests.summary import counted\n\ndef test_it(record_property):\n{least}"
    assert run(tmp_path, enough).returncode == 0
    too_few = enough.replace(str(AT_LEAST["kills"]), str(AT_LEAST["kills"] - 1))
    done = run(tmp_path, too_few)
    assert done.returncode == 1
    assert f"safety: too few kills: {AT_LEAST['kills'] - 1:,} of at least {AT_LEAST['kills']:,}" in done.stdout
    assert run(tmp_path, too_few, "-n", "1").returncode == 1
    assert run(tmp_path, too_few, "test_it.py").returncode == 0, "a part of the suite tries a part"
