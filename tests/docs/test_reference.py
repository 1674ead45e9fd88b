"""The reference of the map language is what the code says, and its examples do what it says they do."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ckptdoctor.execution import apply
from ckptdoctor.initialisers import INITIALISERS
from ckptdoctor.keymap import parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.ops import OPS
from ckptdoctor.patterns import Pattern, pair
from ckptdoctor.plan import check_alone, make_plan

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGE = (FOLDER / "map.md").read_text()
MAPS = [
    block for block in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE) if "ckptdoctor: 1" in block
]


def rows(after: str) -> list[list[list[str]]]:
    """The table that comes next after a line: for each row and cell what stands in backticks."""
    lines = PAGE.split(after)[1].split("\n\n")[0].strip().splitlines()[1:]
    return [[re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split(" | ")] for line in lines]


def test_the_page_is_what_the_script_makes() -> None:
    command = [sys.executable, str(FOLDER / "generate.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"run make docs:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", OPS)
def test_the_example_of_an_op_runs(name: str) -> None:
    """As it stands on the page: planned, and applied to tensors."""
    example = OPS[name].example
    section = PAGE.split(f"### `{name}`\n")[1]
    (rule,) = re.findall(r"\A.*?^```yaml\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    source, target = (
        Manifest(TensorSpec(key, shape, DTYPES["float32"], "parameter") for key, shape in shapes.items())
        for shapes in (example.before, example.after)
    )
    plan = make_plan(source, target, parse_map(f"ckptdoctor: 1\n{rule}"))
    assert {step.status for step in plan.steps} == {"computed"}
    assert plan.remainders == ()
    made = apply(plan, {key: torch.ones(shape) for key, shape in example.before.items()})
    assert {key: tuple(tensor.shape) for key, tensor in made.items()} == dict(example.after)


def test_every_op_and_initialiser_has_its_place() -> None:
    assert re.findall(r"^### `(\w+)`$", PAGE, re.MULTILINE) == list(OPS)
    assert [re.findall(r"\w+", row[0][0])[0] for row in rows("| init | gives | arguments |")] == list(INITIALISERS)


@pytest.mark.parametrize("text", MAPS, ids=range(len(MAPS)))
def test_a_map_on_the_page_is_well_formed(text: str) -> None:
    following = PAGE.split(text)[1]
    if not following.startswith("```\n\n```text"):  # what is wrong on purpose shows its errors
        check_alone(parse_map(text))


@pytest.mark.parametrize(("pattern", "names", "others"), rows("| pattern | names, for example | and not |"))
def test_a_pattern_names_what_is_said(pattern: list[str], names: list[str], others: list[str]) -> None:
    parsed = Pattern.parse(pattern[0])
    assert all(parsed.match(key) for key in names)
    assert not any(parsed.match(key) for key in others)


@pytest.mark.parametrize(("source", "target", "example"), rows("| from | to | so that |"))
def test_a_pair_of_patterns_does_what_is_said(source: list[str], target: list[str], example: list[str]) -> None:
    pairing = pair(Pattern.parse(source[0]), Pattern.parse(target[0]))
    match = pairing.source.match(example[0])
    assert match is not None
    assert pairing.fill(match) == example[1]


@pytest.mark.parametrize("link", re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE))
def test_links_lead_somewhere(link: str) -> None:
    path, _, anchor = link.partition("#")
    assert not path or (FOLDER / path).exists()
    headings = [
        re.sub(r"[^\w -]", "", line.strip("# ")).lower().replace(" ", "-")
        for line in re.findall(r"^#+ .*$", PAGE, re.MULTILINE)
    ]
    assert not anchor or anchor in headings
