"""The worked example's batch script, run as SLURM runs it; `srun` and `scontrol` are stand-ins that note calls."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "topoflow"
SUBMIT = EXAMPLE / "submit.sh"
TARGET_CONFIG = ("--target-config", "configs/small.yaml")
BASELINE = "best-val_loss=0.3557-step=311.ckpt"
RECORD = '(IFS="|"; echo "$*") >> "$CALLS/${0##*/}"\n'
SRUN = RECORD + 'printf "0: val_loss=%s step=0\\n" "$VAL_LOSS"; exit "$SRUN_STATUS"\n'
SRUN_AT_THE_END_OF_ITS_TIME = RECORD + 'echo $$ > "$CALLS/pid"; kill -USR1 "$PPID"; exec sleep 60\n'
SCONTROL = RECORD + 'kill "$(cat "$CALLS/pid")"; exit "$SCONTROL_STATUS"\n'  # SLURM ends the steps of what it requeues

Submit = Callable[..., subprocess.CompletedProcess[str]]


def remap(source: Path, target: str, mapping: str, out: Path) -> Path:
    model, the_map = f"topoflow.model:{target}", ROOT / "mappings" / mapping
    words = ["remap", source, model, *TARGET_CONFIG, "-m", the_map, "-o", out, "--optimizer", "drop"]
    command = [sys.executable, "-m", "ckptdoctor", *words]
    subprocess.run(command, cwd=EXAMPLE, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def start(small_baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    shutil.copy(small_baseline, folder / BASELINE)
    return remap(folder / BASELINE, "TopoFlow", "topoflow-elevation.yaml", folder / "start.ckpt")


@pytest.fixture(scope="module")
def sequential(small_baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an early TopoFlow leaves: block 0's MLP is named otherwise than in the one that is trained now."""
    out = tmp_path_factory.mktemp("early") / "sequential.ckpt"
    return remap(small_baseline, "TopoFlowSequential", "topoflow-to-sequential.yaml", out)


def stand_in(path: Path, body: str) -> None:
    path.write_text("#!/usr/bin/env bash\n" + body)
    path.chmod(0o755)


@pytest.fixture
def submit(tmp_path: Path) -> Submit:
    """Run a copy of the script, as sbatch does: SLURM_SUBMIT_DIR alone says where the example is."""
    stands = tmp_path / "bin"
    stands.mkdir()
    stand_in(stands / "srun", SRUN)
    stand_in(stands / "scontrol", SCONTROL)
    script = shutil.copy(SUBMIT, tmp_path / "slurm_script")
    known = {"PATH": os.pathsep.join([str(stands), str(Path(sys.executable).parent), os.environ["PATH"]])}
    known |= {"SLURM_SUBMIT_DIR": str(EXAMPLE), "SLURM_JOB_ID": "77", "CALLS": str(tmp_path)}
    known |= {"CONFIG": "configs/small.yaml", "RUNS": str(tmp_path / "runs")}
    known |= {"VAL_LOSS": "0.3601", "SRUN_STATUS": "0", "SCONTROL_STATUS": "0"}
    ours = {name: value for name, value in os.environ.items() if name not in ("BATCH", "CACHE")} | known

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(script), *map(str, arguments)]
        return subprocess.run(command, cwd=tmp_path, env=ours | more, capture_output=True, text=True)

    return run


def calls(tmp_path: Path, name: str) -> list[list[str]]:
    written = tmp_path / name
    return [line.split("|") for line in written.read_text().splitlines()] if written.exists() else []


def test_bash_understands_it() -> None:
    subprocess.run(["bash", "-n", SUBMIT], check=True)


def test_every_process_gets_samples() -> None:
    text = SUBMIT.read_text()
    nodes, each, batch = (
        int(re.findall(pattern, text)[0])
        for pattern in (r"--nodes=(\d+)", r"--ntasks-per-node=(\d+)", r"\$\{BATCH:-(\d+)\}")
    )
    assert batch % (nodes * each) == 0  # train.py's --batch is that of all processes together


def test_a_job_whose_start_is_whole(start: Path, submit: Submit, tmp_path: Path) -> None:
    done = submit(start, start.with_name(BASELINE))
    assert done.returncode == 0, done.stdout + done.stderr
    runs = tmp_path / "runs"
    (call,) = calls(tmp_path, "srun")
    assert call == [
        *("--label", "python", "train.py", "--config", "configs/small.yaml", "--variant", "fixed"),
        *("--out", str(runs), "--cache", str(runs / "data"), "--init-from", str(start), "--max-random", "2"),
        *("--resume", "--batch", "256", "--precision", "bf16-mixed"),
    ]
    assert "passed: 0.00% of the target (2 of 40,862 parameters)" in done.stdout
    assert "loaded: the first val_loss (0.3601, line 1) is 1.01 times the expectation" in done.stdout
    assert [path.name for path in runs.iterdir()] == ["job-77.log"]
    assert not calls(tmp_path, "scontrol")


def test_the_exit_status_is_that_of_the_training(start: Path, submit: Submit) -> None:
    done = submit(start, start.with_name(BASELINE), SRUN_STATUS="9", VAL_LOSS="2.5")
    assert done.returncode == 9
    assert "another architecture: the first val_loss (2.5, line 1)" in done.stdout


def test_a_job_that_was_queued_again_is_judged_by_its_first_start(start: Path, submit: Submit, tmp_path: Path) -> None:
    baseline = start.with_name(BASELINE)
    submit(start, baseline)
    done = submit(start, baseline, VAL_LOSS="0.1111")
    assert done.returncode == 0
    assert "loaded: the first val_loss (0.3601, line 1)" in done.stdout
    assert len((tmp_path / "runs" / "job-77.log").read_text().splitlines()) == 2


def test_the_start_may_be_its_own_baseline(start: Path, submit: Submit) -> None:
    done = submit(start.with_name(BASELINE))  # for this target it has all names right
    assert done.returncode == 0
    assert f"fromthenameof{BASELINE}" in "".join(done.stdout.split())  # lines are folded


def test_nothing_starts_where_the_gate_fails(sequential: Path, submit: Submit, tmp_path: Path) -> None:
    done = submit(sequential)
    assert done.returncode == 1
    assert "failed: 20.44% of the target (8,354 of 40,862 parameters)" in done.stdout
    assert not calls(tmp_path, "srun")


def test_nothing_starts_where_the_gate_cannot_tell(submit: Submit, tmp_path: Path) -> None:
    done = submit(tmp_path / "nowhere.ckpt")
    assert done.returncode == 2
    assert "error:" in done.stderr
    assert not calls(tmp_path, "srun")


def test_nothing_starts_from_nothing(submit: Submit, tmp_path: Path) -> None:
    done = submit()
    assert done.returncode != 0
    assert "usage: sbatch submit.sh START.ckpt" in done.stderr
    assert not calls(tmp_path, "srun")


@pytest.mark.parametrize("status", [0, 1])
def test_shortly_before_its_end_it_asks_to_be_queued_again(
    start: Path, submit: Submit, tmp_path: Path, status: int
) -> None:
    stand_in(tmp_path / "bin" / "srun", SRUN_AT_THE_END_OF_ITS_TIME)
    done = submit(start, SCONTROL_STATUS=str(status))
    assert calls(tmp_path, "scontrol") == [["requeue", "77"]]
    assert len(calls(tmp_path, "srun")) == 1
    assert "asking to be queued again" in done.stdout
    assert done.returncode == status  # refused: the job has not ended well
