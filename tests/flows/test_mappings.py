"""The maps of the example are applied, to real models at full size (as manifests) and to real tensors at small size."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import yaml

import ckptdoctor

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "topoflow"
MAPPINGS = ROOT / "mappings"
SMALL = yaml.safe_load((EXAMPLE / "configs" / "small.yaml").read_text())

JOBS = {
    "topoflow-to-sequential.yaml": ("Baseline", "TopoFlowSequential"),
    "topoflow-sequential.yaml": ("TopoFlowSequential", "TopoFlow"),
    "topoflow-first.yaml": ("TopoFlowFirst", "TopoFlow"),
    "topoflow-elevation.yaml": ("Baseline", "TopoFlow"),
}


@pytest.fixture(autouse=True)
def example_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLE)
    monkeypatch.syspath_prepend(EXAMPLE)


def build(name: str) -> torch.nn.Module:
    __import__("topoflow.model")
    model: torch.nn.Module = getattr(sys.modules["topoflow.model"], name)(**SMALL)
    return model


def test_every_map_of_the_example_has_a_job_here() -> None:
    assert sorted(JOBS) == sorted(path.name for path in MAPPINGS.glob("topoflow-*.yaml"))


@pytest.mark.parametrize("name", JOBS)
def test_a_map_leaves_nothing_undeclared_at_full_size(name: str) -> None:
    source, target = (ckptdoctor.resolve_target(f"topoflow.model:{model}") for model in JOBS[name])
    plan = ckptdoctor.make_plan(source, target, ckptdoctor.load_map(MAPPINGS / name))
    policy = ckptdoctor.make_policy(fail_on=["unexpected", "mismatched", "dtype"])
    assert ckptdoctor.evaluate(plan, policy).passed
    assert plan.random_parameters == plan.fresh_parameters


@pytest.mark.parametrize("name", JOBS)
def test_a_map_moves_the_values_where_they_belong(name: str, tmp_path: Path) -> None:
    source, target = (build(model) for model in JOBS[name])
    torch.save(source.state_dict(), tmp_path / "source.pt")
    plan = ckptdoctor.make_plan(
        ckptdoctor.read_manifest(tmp_path / "source.pt"),
        ckptdoctor.resolve_target(f"topoflow.model:{JOBS[name][1]}", arguments=SMALL),
        ckptdoctor.load_map(MAPPINGS / name),
    )
    ckptdoctor.execute(plan, tmp_path / "target.pt")
    written = torch.load(tmp_path / "target.pt", weights_only=True)
    missing, unexpected = target.load_state_dict(written, strict=False)
    assert not unexpected
    assert sorted(missing) == sorted(step.target.key for step in plan.steps if step.status == "fresh")
    in_memory = ckptdoctor.apply(plan, source.state_dict())
    assert in_memory.keys() == written.keys()
    assert all(torch.equal(written[key], in_memory[key]) for key in written)


def test_sequential_to_fixed_computes_the_same_function(tmp_path: Path) -> None:
    source, target = build("TopoFlowSequential").eval(), build("TopoFlow").eval()
    plan = ckptdoctor.make_plan(
        ckptdoctor.resolve_target("topoflow.model:TopoFlowSequential", arguments=SMALL),
        ckptdoctor.resolve_target("topoflow.model:TopoFlow", arguments=SMALL),
        ckptdoctor.load_map(MAPPINGS / "topoflow-sequential.yaml"),
    )
    target.load_state_dict(ckptdoctor.apply(plan, source.state_dict()))
    height, width = SMALL["img_size"]
    x, elevation = torch.randn(1, SMALL["in_variables"], height, width), 1000 * torch.rand(1, height, width)
    lead_time = torch.ones(1)
    with torch.no_grad():
        assert torch.equal(source(x, lead_time, elevation), target(x, lead_time, elevation))
