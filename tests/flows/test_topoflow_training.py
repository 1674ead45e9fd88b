"""The physics and the data of the worked example, and what `train.py` makes of a whole and of a careless start."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "topoflow"
MAPPINGS = ROOT / "mappings"
ROWS, COLUMNS, SPACING = 6, 9, 1e5
TINY = ("--days", "40", "--val-samples", "8", "--batch", "4")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
TO_SEQUENTIAL = ("--variant", "sequential", "--map", MAPPINGS / "topoflow-to-sequential.yaml")
TO_FIXED = ("--variant", "fixed", "--map", MAPPINGS / "topoflow-elevation.yaml")


@pytest.fixture(scope="module")
def topoflow() -> Iterator[SimpleNamespace]:
    names = ("transport", "simulation", "data", "variables")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLE)
        yield SimpleNamespace(**{name: importlib.import_module(f"topoflow.{name}") for name in names})


@pytest.fixture
def transport(topoflow: SimpleNamespace) -> ModuleType:
    module: ModuleType = topoflow.transport
    return module


def weather(transport: ModuleType, random: np.random.Generator, passage: Any) -> Any:
    """Rates in any wind: it may blow out of a cell everywhere, or into it."""
    u, v = 20.0 * random.standard_normal((2, ROWS, COLUMNS))
    return transport.exchange_rates(u, v, SPACING, random.uniform(0, 1e5), passage)


@pytest.mark.parametrize("share", [0.3, 1.0])
def test_transport_loses_nothing_and_takes_from_none_what_it_has_not(transport: ModuleType, share: float) -> None:
    random = np.random.default_rng(0)
    passage = transport.passages(random.uniform(0, 4000, (ROWS, COLUMNS)), 500.0)
    content = random.uniform(0, 100, (2, ROWS, COLUMNS))
    content[1] = 0.0
    content[1, 2, 3] = 1e6  # all in one cell
    before = content.sum(axis=(-2, -1))
    for _ in range(500):
        rates = weather(transport, random, passage)
        content = transport.advance(content, rates, share * transport.longest_step(rates))
        assert content.min() >= 0.0
    np.testing.assert_allclose(content.sum(axis=(-2, -1)), before, rtol=1e-12)
    assert content[1].max() < 1e6  # and it has moved


def test_a_step_beyond_the_limit_is_refused(transport: ModuleType) -> None:
    random = np.random.default_rng(0)
    rates = weather(transport, random, np.ones((4, ROWS, COLUMNS)))
    content, limit = random.uniform(0, 100, (ROWS, COLUMNS)), transport.longest_step(rates)
    transport.advance(content, rates, limit)
    with pytest.raises(transport.UnstableStepError, match=r"is unstable.*at most"):
        transport.advance(content, rates, np.nextafter(limit, np.inf))


def test_the_limit_is_the_usual_one_and_calm_air_has_none(transport: ModuleType) -> None:
    even, no_barriers = np.ones((ROWS, COLUMNS)), np.ones((4, ROWS, COLUMNS))
    rates = transport.exchange_rates(7.0 * even, -3.0 * even, SPACING, 2e4, no_barriers)
    assert transport.longest_step(rates) == pytest.approx(1 / (7 / SPACING + 3 / SPACING + 4 * 2e4 / SPACING**2))
    calm = transport.exchange_rates(0 * even, 0 * even, SPACING, 0.0, no_barriers)
    assert transport.longest_step(calm) == np.inf
    assert np.array_equal(transport.advance(even, calm, 1e9), even)


def test_nothing_goes_through_the_walls_and_what_goes_out_in_the_east_comes_in_in_the_west(
    transport: ModuleType,
) -> None:
    wind, content = np.full((ROWS, COLUMNS), 5.0), np.zeros((ROWS, COLUMNS))
    content[-1, -1] = 1.0
    rates = transport.exchange_rates(wind, wind, SPACING, 1e4, np.ones((4, ROWS, COLUMNS)))
    after = transport.advance(content, rates, transport.longest_step(rates))
    assert not after[0].any()
    assert after[-1, 0] > after[-1, -2] > 0


def test_a_slope_holds_back_what_goes_up(transport: ModuleType) -> None:
    passage = transport.passages(np.array([[0.0, 1000.0, 1000.0, 0.0]]), 500.0)
    rising = np.exp(-2.0)
    assert passage.tolist() == [[[rising, 1, 1, 1]], [[1, 1, 1, rising]], [[1, 1, 1, 1]], [[1, 1, 1, 1]]]


def test_less_arrives_behind_a_ridge_the_higher_it_is(transport: ModuleType) -> None:
    behind = [carried_over(transport, height) for height in (0.0, 500.0, 1500.0, 4000.0)]
    assert behind == sorted(behind, reverse=True)
    assert behind[-1] < 0.1 * behind[0]


def carried_over(transport: ModuleType, height: float) -> float:
    """How much of 1 a west wind brings behind a ridge, in so few steps that none comes round from the other side."""
    ground, content, wind = np.zeros((3, 1, 24))
    ground[:, 10:12], content[:, 6], wind[:] = height, 1.0, 10.0
    rates = transport.exchange_rates(wind, 0 * wind, SPACING, 0.0, transport.passages(ground, 500.0))
    for _ in range(16):
        content = transport.advance(content, rates, 0.8 * SPACING / 10.0)
    assert content.sum() == pytest.approx(1.0, rel=1e-12)
    return float(content[:, 12:].sum())


def short(topoflow: SimpleNamespace, **others: Any) -> Any:
    return topoflow.simulation.Settings(**{"rows": 8, "columns": 16, "days": 12, "spin_up_days": 4, **others})


def test_the_same_settings_are_the_same_fields(topoflow: SimpleNamespace) -> None:
    frames, region = topoflow.simulation.simulate(short(topoflow))
    again, _ = topoflow.simulation.simulate(short(topoflow))
    other, elsewhere = topoflow.simulation.simulate(short(topoflow, seed=4))
    assert np.array_equal(frames, again)
    assert not np.allclose(region.elevation, elsewhere.elevation)
    assert all(not np.allclose(frames[:, name], other[:, name]) for name in topoflow.variables.TARGETS)


def test_without_sources_every_pollutant_stays_what_it_is(topoflow: SimpleNamespace) -> None:
    frames, _ = topoflow.simulation.simulate(short(topoflow, sources=False))
    sums = frames[:, list(topoflow.variables.TARGETS)].sum(axis=(-2, -1), dtype=np.float64)
    np.testing.assert_allclose(sums, np.broadcast_to(sums[0], sums.shape), rtol=1e-6)  # frames are float32


def test_fields_of_15_variables_standardised_over_the_training_days(topoflow: SimpleNamespace, tmp_path: Path) -> None:
    data = topoflow.data.simulated(short(topoflow), tmp_path)
    assert data.frames.shape == (12 * 4, len(topoflow.variables.VARIABLES), 8, 16) == (48, 15, 8, 16)
    assert np.isfinite(data.frames).all()
    days = topoflow.data.TerrainDays(data, 0, data.training_frames)
    fields = torch.stack([days.standardised(moment) for moment in range(data.training_frames)]).double()
    mean, deviation = fields.mean((0, 2, 3)), fields.std((0, 2, 3))
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-3)
    torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-3)


def test_a_sample_is_a_moment_and_what_came_of_it(topoflow: SimpleNamespace, tmp_path: Path) -> None:
    days = topoflow.data.TerrainDays(topoflow.data.simulated(short(topoflow), tmp_path), 0, 38)
    fields, lead_time, elevation, outcome = days[len(days) - 1]  # the longest lead, from the last moment it fits
    assert lead_time == 2.0
    assert torch.equal(fields, days.standardised(29))
    assert torch.equal(outcome, days.standardised(37))
    assert elevation.shape == (8, 16)


def test_a_simulation_is_made_once(topoflow: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    simulate, made = topoflow.data.simulate, []
    monkeypatch.setattr(topoflow.data, "simulate", lambda settings: made.append(settings) or simulate(settings))
    first, second = (topoflow.data.simulated(short(topoflow), tmp_path) for _ in range(2))
    assert made == [short(topoflow)]
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))
    topoflow.data.simulated(short(topoflow, days=11), tmp_path)
    assert len(made) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".npz", ".npz"]


def test_so_few_days_that_nothing_is_left_are_refused(topoflow: SimpleNamespace, tmp_path: Path) -> None:
    def data(days: int) -> Any:
        return topoflow.data.TerrainData(short(topoflow, days=days), tmp_path, 1, 1, 1, 0)

    data(11)
    for days, said in {10: "72 samples for training and 0", 2: "0 samples for training and 0", 0: "0 samples"}.items():
        with pytest.raises(ValueError, match=f"^{days} days make {said}.*: at least 11 days are needed$"):
            data(days)
    assert not list(tmp_path.iterdir())  # nothing was simulated


@pytest.mark.parametrize("days", [10, 11, 30])
def test_the_samples_are_counted_right(topoflow: SimpleNamespace, tmp_path: Path, days: int) -> None:
    data = topoflow.data.simulated(short(topoflow, days=days, spin_up_days=0), tmp_path)
    parts = ((0, data.training_frames), (data.training_frames, len(data.frames)))
    assert topoflow.data.samples(days) == tuple(len(topoflow.data.TerrainDays(data, *part)) for part in parts)


class Run(NamedTuple):
    """What a training wrote: its folder, the lines on its console, and val_loss by step as the CSV file has it."""

    out: Path
    console: list[str]
    losses: dict[int, float]

    @property
    def best(self) -> Path:
        (path,) = self.out.glob("best-*.ckpt")
        return path


def start(out: Path, cache: Path, *arguments: object, python: tuple[str, ...] = ()) -> Any:
    words = ["train.py", "--config", "configs/small.yaml", "--out", out, "--cache", cache, *TINY, *arguments]
    command = [sys.executable, *python, *map(str, words)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, cwd=EXAMPLE, env=environment, capture_output=True, text=True)


def train(out: Path, cache: Path, *arguments: object, python: tuple[str, ...] = ()) -> Run:
    done = start(out, cache, *arguments, python=python)
    assert done.returncode == 0, done.stdout + done.stderr
    with (out / "logs" / "version_0" / "metrics.csv").open() as file:
        losses = {int(row["step"]): float(row["val_loss"]) for row in csv.DictReader(file) if row["val_loss"]}
    return Run(out, done.stdout.splitlines(), losses)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def baseline(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("training") / "baseline"
    return train(out, cache, "--steps", 40, "--val-every", 20, "--learning-rate", "5e-3")


@pytest.fixture(scope="module")
def tuned(cache: Path, baseline: Run) -> Run:
    start_from = ("--init-from", baseline.best, *TO_SEQUENTIAL, "--max-random", 2)
    return train(baseline.out.with_name("tuned"), cache, *start_from, "--steps", 2, "--val-every", 2)


def test_a_baseline_learns_and_leaves_what_a_job_leaves(baseline: Run) -> None:
    assert sorted(baseline.losses) == [0, 20, 40]
    best = min(baseline.losses.values())
    assert best == baseline.losses[40] < 0.9 * baseline.losses[0]
    assert {path.name for path in baseline.out.iterdir()} == {
        f"best-val_loss={best:.4f}-step=40.ckpt",
        "last.ckpt",
        "logs",
    }
    assert baseline.console == [f"val_loss={loss:.4f} step={step}" for step, loss in baseline.losses.items()]


def test_a_careless_start_is_worse_than_the_baseline_was(baseline: Run, cache: Path, tmp_path: Path) -> None:
    careless = ("--variant", "sequential", "--init-from", baseline.best, "--strict-false")
    run = train(tmp_path, cache, *careless, "--steps", 1, "--val-every", 1)
    assert run.losses[0] > 1.01 * baseline.losses[40]


def test_a_remapped_start_is_the_baseline_again(baseline: Run, tuned: Run) -> None:
    assert tuned.losses[0] == pytest.approx(baseline.losses[40], rel=1e-4)
    assert tuned.console[0] == f"loaded {baseline.best}: judged by ckptdoctor, 2 random parameters"
    assert tuned.console[1] == "before: elevation_alpha=0 H_scale=1000"


def test_fixed_starts_as_the_baseline_too(baseline: Run, cache: Path, tmp_path: Path) -> None:
    start_from = ("--init-from", baseline.best, *TO_FIXED, "--max-random", 2)
    run = train(tmp_path, cache, *start_from, "--steps", 1, "--val-every", 1)
    assert run.losses[0] == pytest.approx(baseline.losses[40], rel=1e-4)


def test_nothing_is_trained_where_the_policy_is_not_met(baseline: Run, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = start(out, cache, "--init-from", baseline.best, *TO_SEQUENTIAL, "--max-random", 0)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "max-random      2        0  parameters  FAILED" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


def test_two_processes_see_what_one_sees(baseline: Run, tuned: Run, cache: Path, tmp_path: Path) -> None:
    start_from = ("--init-from", baseline.best, *TO_SEQUENTIAL, "--max-random", 2)
    two = train(tmp_path, cache, *start_from, "--steps", 2, "--val-every", 2, python=TORCHRUN)
    assert two.losses[0] == pytest.approx(tuned.losses[0], rel=1e-5)
    assert sorted(two.losses) == [0, 2]
    assert sum(line.startswith("val_loss=") for line in two.console) == 2  # from one of them


def test_too_few_days_are_an_error_and_no_traceback(tmp_path: Path) -> None:
    done = start(tmp_path / "out", tmp_path / "data", "--days", 10)
    said = "error: 10 days make 72 samples for training and 0 for validation: at least 11 days are needed\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", said)
    assert not list(tmp_path.iterdir())
