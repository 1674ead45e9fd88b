"""The page on safety says what the tests try, and SECURITY.md what the limits are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ckptdoctor.limits import Limits
from tests.cli.helpers import run
from tests.security.corpus import CORPUS
from tests.summary import AT_LEAST

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "explanation" / "safety.md").read_text()
SECURITY = (ROOT / "SECURITY.md").read_text()


@pytest.mark.parametrize("kind", AT_LEAST)
def test_the_counts_are_those_that_a_run_is_held_to(kind: str) -> None:
    assert f"at least {AT_LEAST[kind]:,} {kind}" in PAGE


def test_there_are_so_many_hostile_files() -> None:
    assert len(CORPUS) >= AT_LEAST["hostile files"]


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r"`((?:tests|ckptdoctor)/[\w/.]+)`", PAGE)
    assert len(named) > 5
    assert [name for name in named if not (ROOT / name).exists()] == []
    tests = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert tests
    assert tests <= {path.name for path in (ROOT / "tests" / "security").glob("test_*.py")}


def test_the_limits_are_the_defaults_and_flags_of_the_commands_that_read(tmp_path: Path) -> None:
    rows = dict(re.findall(r"\| `--max-(\w+)` \| ([\d,]+(?: [GM]iB)?) \|", SECURITY))
    units = {"MiB": 1 << 20, "GiB": 1 << 30}
    said = {
        name: int(number.replace(",", "")) * units.get(unit, 1)
        for name, (number, _, unit) in ((name, text.partition(" ")) for name, text in rows.items())
    }
    assert said == Limits()._asdict()
    for command in ("inspect", "diff", "gate", "remap", "verify"):
        text = run(command, "--help", cwd=tmp_path).stdout
        assert all(f"--max-{name}" in text for name in said), command
