"""`ckptdoctor triage` as its users run it: what it prints where, how it ends, and how it waits."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Done, run, start, torch_checkpoint

BAR = "\rEpoch {}: 100%|██████████| 4/4 [00:00<00:00, 147.76it/s, v_num=0, train_loss=0.334, val_loss={}]"
NCCL = "[rank3]: torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1970, unhandled system error\n"
HEAVY = {"torch", "numpy", "safetensors", "lightning"}


@pytest.fixture
def job(tmp_path: Path) -> Path:
    (tmp_path / "good.log").write_text(f"starting{BAR.format(0, '0.361')}{BAR.format(1, '0.342')}\n")
    (tmp_path / "bad.log").write_text(f"starting{BAR.format(0, '0.479')}\n{NCCL}")
    (tmp_path / "crash.log").write_text(f"starting\n{NCCL}")
    (tmp_path / "empty.log").touch()
    torch_checkpoint(tmp_path / "best-val_loss=0.3557-step=311.ckpt", {"a": (2, 3)})
    return tmp_path


BASELINE = ("--baseline", "best-val_loss=0.3557-step=311.ckpt")


def refused(done: Done, *said: str) -> None:
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for each in said:
        assert each in done.stderr


def test_the_screen(job: Path) -> None:
    done = run("triage", "good.log", *BASELINE, cwd=job)
    assert done.status == 0
    bar = BAR.format(0, "0.361").strip()
    assert done.stdout.split("\n") == [
        "good.log: val_loss against 0.3557 (from the name of best-val_loss=0.3557-step=311.ckpt)",
        "",
        "FOUND                LINE  VALUE  RATIO  TEXT",
        f"first validation        1  0.361   1.01  {bar}",
        f"best of 1 later one     1  0.342   0.96  {bar.replace('Epoch 0', 'Epoch 1').replace('0.361', '0.342')}",
        "",
        "loaded: the first val_loss (0.361, line 1) is 1.01 times the expectation, and up to 1.12 is loaded",
        "",
    ]
    assert done.stderr == "next: nothing to mend: let the job run\n"


def test_a_problem_is_a_finding(job: Path) -> None:
    done = run("triage", "bad.log", *BASELINE, cwd=job)
    assert done.status == 1
    assert "failure: NCCL" in done.stdout
    assert done.stdout.rstrip().split("\n")[-1] == (
        "loading problem: the first val_loss (0.479, line 1) is 1.35 times the expectation, above 1.12; "
        "later the job failed (NCCL, line 2), which says nothing of the checkpoint"
    )
    assert done.stderr == (
        "next: run ckptdoctor diff best-val_loss=0.3557-step=311.ckpt TARGET: "
        "it lists what stays random and what is left unused\n"
    )


def test_a_crash_says_nothing(job: Path) -> None:
    done = run("triage", "crash.log", cwd=job)
    assert done.status == 2
    assert "infrastructure: NCCL on line 2, before any val_loss, which says nothing of the checkpoint" in done.stdout


def test_verbose_says_where_the_cases_end(job: Path) -> None:
    done = run("triage", "good.log", "--expect", "0.3557", "-v", "--flat", "2.5%", cwd=job)
    assert done.stderr.startswith(
        "loaded: up to 1.12 times the expectation; another architecture: above 5.6 times; "
        "flat: no improvement of 2.5% over 5 validations or more\n"
    )


def test_json(job: Path) -> None:
    done = run("triage", "bad.log", "--expect", "0.3557", "-f", "json", cwd=job)
    report: dict[str, Any] = json.loads(done.stdout)
    assert (done.status, done.stderr) == (1, "")
    assert (report["schema"], report["case"], report["exit_status"]) == ("ckptdoctor/triage/1", "loading problem", 1)
    assert (report["first"]["value"], report["first"]["line"], report["failure"]["line"]) == (0.479, 1, 2)
    assert report["thresholds"] == {"loaded_up_to": 1.12, "other_above": 5.6, "flat": 0.01, "patience": 5}
    assert report["expectation"] == {"value": 0.3557, "source": "as given", "baseline": None}


def test_quiet_is_one_sentence(job: Path) -> None:
    done = run("triage", "bad.log", "--expect", "0.3557", "-q", cwd=job)
    assert done.stdout.count("\n") == 1
    assert (done.stdout.split(":")[0], done.stderr) == ("loading problem", "")


def test_reports_to_files(job: Path) -> None:
    run("triage", "good.log", "--expect", "0.36", "--report", "json=t.json", "--report", "markdown=t.md", cwd=job)
    assert json.loads((job / "t.json").read_text())["case"] == "loaded"
    assert (job / "t.md").read_text().startswith("### good.log: val\\_loss against 0.36")


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ("--expect 0.3557 --loaded-up-to 1.35", 0),
        ("--expect 0.3557 --other-above 1.3", 1),
        ("--expect 0.479 --patience 1 --flat 0.5%", 0),
        ("--expect 0.334 --metric train_loss", 0),
    ],
)
def test_options(job: Path, options: str, status: int) -> None:
    assert run("triage", "bad.log", *options.split(), cwd=job).status == status


def test_flat(job: Path) -> None:
    (job / "flat.log").write_text("".join(f"epoch {epoch} val_loss=0.36{epoch}\n" for epoch in range(4)))
    done = run("triage", "flat.log", "--expect", "0.36", "--patience", "3", "--flat", "0.02", cwd=job)
    assert done.status == 1
    assert "flat: " in done.stdout
    assert "none of 3 later validations is better by 2%: the new parameters do not learn" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("no.log --expect 1", "there is no log no.log"),
        ("empty.log --expect 1", "no val_loss in empty.log"),
        ("good.log", "no expectation of val_loss is known"),
        ("good.log --expect 0", "make no sense"),
        ("good.log --expect nan", "make no sense"),
        ("good.log --expect 1 --baseline x.ckpt", "contradict"),
        ("good.log --baseline x.ckpt", "there is no file x.ckpt"),
        ("good.log --expect 1 --flat 100%", "--flat 100%"),
        ("good.log --expect 1 --flat few", "--flat few"),
        ("good.log --expect 1 --patience 0", "patience"),
        ("good.log --expect 1 --loaded-up-to 9", "second ratio"),
        ("good.log --expect 1 --timeout 3", "--timeout goes with --follow"),
        ("good.log --expect 1 --follow --timeout -3", "--timeout goes with --follow"),
        ("good.log --expect 1 -f xml", "no report of the kind 'xml'"),
        ("good.log --expect 1 --metric val/loss", "no val/loss in good.log"),
        (". --expect 1", "no metrics.csv in ."),
    ],
)
def test_what_cannot_be_done_is_said(job: Path, args: str, said: str) -> None:
    refused(run("triage", *args.split(), cwd=job), said)


def test_usage_errors_of_the_parser_are_two(job: Path) -> None:
    assert run("triage", cwd=job).status == 2
    assert run("triage", "good.log", "--expect", "abc", cwd=job).status == 2


def test_errors_as_json(job: Path) -> None:
    done = run("triage", "empty.log", "--expect", "1", "-f", "json", cwd=job)
    error = json.loads(done.stderr)["error"]
    assert (done.status, error["code"], error["path"]) == (2, "log-error", "empty.log")


@pytest.mark.parametrize("args", [("--help",), ("good.log", "--expect", "0.36"), ("good.log", *BASELINE, "-f", "json")])
def test_a_start_is_cheap(job: Path, args: tuple[str, ...]) -> None:
    done = run("triage", *args, cwd=job, command=[sys.executable, "-X", "importtime", "-m", "ckptdoctor"])
    names = set(re.findall(r"^import time: .*\| +([A-Za-z]\w*)", done.stderr, re.MULTILINE))
    assert done.status == 0
    assert "ckptdoctor" in names
    assert not names & {*HEAVY, "pydantic", "yaml", *(() if args[0] == "good.log" and "-f" not in args else ("rich",))}


class TestFollow:
    def test_a_job_that_starts_later(self, job: Path) -> None:
        script = (
            "import sys, time\n"
            "time.sleep(0.3)\n"
            "with open('new.log', 'w') as log:\n"
            "    for part in ['starting\\n', 'val_loss', '=0.3', '61\\nval_loss=9\\n']:\n"
            "        log.write(part); log.flush(); time.sleep(0.2)\n"
        )
        with subprocess.Popen([sys.executable, "-c", script], cwd=job):
            done = run("triage", "new.log", "--expect", "0.3557", "--follow", "--timeout", "30", cwd=job)
        assert done.status == 0
        assert "loaded: the first val_loss (0.361, line 2)" in done.stdout
        assert done.stderr.startswith("waiting for val_loss in new.log (Ctrl-C ends it)\n")

    def test_time_runs_out(self, job: Path) -> None:
        done = run("triage", "empty.log", "--expect", "1", "--follow", "--timeout", "0.2", "-q", cwd=job)
        refused(done, "no val_loss in empty.log within 0.2 seconds", "hint: ")

    @pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
    def test_a_signal_ends_it(self, job: Path, sent: signal.Signals, status: int) -> None:
        before = signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # CI may run with SIGINT ignored, which is inherited
        process = start("triage", "empty.log", "--expect", "1", "--follow", cwd=job)
        signal.signal(signal.SIGINT, before)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("waiting for")
        time.sleep(0.3)
        process.send_signal(sent)
        stdout, stderr = process.communicate(timeout=30)
        assert (process.returncode, stdout) == (status, "")
        assert "Traceback" not in stderr
