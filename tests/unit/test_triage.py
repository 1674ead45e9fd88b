"""What a log says about the start, on logs as Lightning, plain loops and clusters write them."""

from __future__ import annotations

import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptdoctor
from ckptdoctor import render
from ckptdoctor.errors import (
    CheckpointNotFound,
    CkptDoctorError,
    CorruptCheckpoint,
    LogError,
    UnknownFormat,
    UsageError,
)
from ckptdoctor.reports import page_of
from ckptdoctor.triaging import Thresholds, Triage, triage
from ckptdoctor.triaging.expectation import find_expectation, in_name
from ckptdoctor.triaging.failures import WORDS, find_failure
from ckptdoctor.triaging.lines import LONGEST, Splitter
from ckptdoctor.triaging.metric import Metric
from ckptdoctor.triaging.sights import excerpt, rounding, text_of

EXPECT = 0.3557


# --- logs as they are written


def lightning_log(values: Iterable[float | str], *, every: int = 4) -> str:
    """stdout and stderr of Lightning 2.6 with its tqdm bar, a verbose ModelCheckpoint and EarlyStopping, byte for byte."""
    text = (
        "Seed set to 0\nGPU available: False, used: False\n"
        "Restoring states from the checkpoint path at /x/best-val_loss=0.3557-step=311.ckpt\n"
        "\rSanity Checking: |          | 0/? [00:00<?, ?it/s]"
        "\rSanity Checking DataLoader 0: 100%|██████████| 2/2 [00:00<00:00, 430.16it/s]\r            \r"
    )
    last = ""
    for epoch, value in enumerate(values):
        for step in range(every + 1):
            share = f"{100 * step // every:3}%|██▌       | {step}/{every}"
            text += f"\rEpoch {epoch}: {share} [00:00<00:00, 155.53it/s, v_num=0{last}]"
        text += "\n\rValidation: |          | 0/? [00:00<?, ?it/s]\x1b[A\n"
        text += "\rValidation DataLoader 0: 100%|██████████| 4/4 [00:00<00:00, 828.63it/s]\x1b[A\n\r         \x1b[A"
        last = f", train_loss=0.334, val_loss={value if isinstance(value, str) else format(value, '.3f')}"
        text += 2 * f"\rEpoch {epoch}: 100%|██████████| 4/4 [00:00<00:00, 147.76it/s, v_num=0{last}]"
        if not isinstance(value, str):
            text += f"Metric val_loss improved by 0.01 >= min_delta = 0.0. New best score: {value:.3f}\n"
            text += (
                f"Epoch {epoch}, global step {every * epoch}: 'val_loss' reached {value:.5f} (best {value:.5f}), "
                f"saving model to '/x/best-val_loss={value:.4f}-step={every * epoch}.ckpt' as top 1\n"
            )
    return text + "`Trainer.fit` stopped: `max_epochs=3` reached.\n"


def plain_log(values: Iterable[float | str]) -> str:
    return "".join(
        f"epoch {epoch}: train_loss=0.41 lr=1e-4\nepoch {epoch}: val_loss={value}\n"
        for epoch, value in enumerate(values)
    )


def csv_log(values: Iterable[float | str]) -> str:
    rows = ["epoch,step,train_loss,val_loss"]
    for epoch, value in enumerate(values):
        rows += [f"{epoch},{4 * epoch + 1},0.606,", f"{epoch},{4 * epoch + 3},,{value}"]
    return "\n".join(rows) + "\n"


def srun_log(values: Iterable[float], ranks: int = 4) -> str:
    """`srun --label`: every line has the rank in front, ranks come in any order."""
    lines = [
        f"{rank}: Initializing distributed: GLOBAL_RANK: {rank}, MEMBER: {rank + 1}/{ranks}" for rank in (2, 0, 3, 1)
    ]
    for epoch, value in enumerate(values):
        lines += [f"{rank}: epoch {epoch} val_loss: {value}" for rank in (1, 0, 3, 2)]
    return "\n".join(lines) + "\n"


NCCL = (
    "[rank3]:[E ProcessGroupNCCL.cpp:607] [Rank 3] Watchdog caught collective operation timeout: "
    "WorkNCCL(SeqNum=81, OpType=ALLREDUCE) ran for 1800254 milliseconds before timing out.\n"
)
OOM = "[rank0]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 79 GiB in total\n"
TIME = "slurmstepd: error: *** STEP 123.0 ON n01 CANCELLED AT 2024-05-01T10:00:00 DUE TO TIME LIMIT ***\n"
REFUSED = "RuntimeError: Error(s) in loading state_dict for TopoFlow:\n\tMissing key(s) in state_dict: head.4.weight\n"


@pytest.fixture
def judge(tmp_path: Path) -> Callable[..., Triage]:
    """Judge a text as the log `job.log` (or another name)."""

    def do(text: str | bytes, *, name: str = "job.log", **asked: Any) -> Triage:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        if "baseline" not in asked:
            asked.setdefault("expect", EXPECT)
        return triage(path, **asked)

    return do


Judge = Callable[..., Triage]


# --- the cases

LOGS = {"lightning": lightning_log, "plain": plain_log, "csv": csv_log, "srun": srun_log}
every_log = pytest.mark.parametrize("kind", LOGS)


def name_of(kind: str) -> str:
    return "metrics.csv" if kind == "csv" else "job.log"


class TestTheCases:
    @every_log
    @pytest.mark.parametrize(
        ("values", "case", "status"),
        [
            ([0.36], "loaded", 0),
            ([0.36, 0.35, 0.34, 0.33, 0.32, 0.31], "loaded", 0),
            ([0.398], "loaded", 0),
            ([0.41, 0.36], "loading problem", 1),
            ([1.99], "loading problem", 1),
            ([2.0], "another architecture", 1),
            ([7.5, 0.3], "another architecture", 1),
            ([0.36, 0.361, 0.36, 0.359, 0.362, 0.36], "flat", 1),
            ([0.36, 0.36, 0.36, 0.36, 0.36, 0.36], "flat", 1),
            ([0.36, 0.36, 0.36, 0.36, 0.36], "loaded", 0),
            ([0.36, 0.37, 0.38, 0.39, 0.40, 0.35], "loaded", 0),
            ([math.nan, math.nan], "not a number", 1),
            ([math.inf], "not a number", 1),
        ],
    )
    def test_are_told_apart(self, judge: Judge, kind: str, values: list[float], case: str, status: int) -> None:
        found = judge(LOGS[kind](values), name=name_of(kind))
        assert (found.case, found.exit_status) == (case, status)

    @every_log
    def test_name_their_evidence(self, judge: Judge, kind: str) -> None:
        found = judge(LOGS[kind]([0.41, 0.38]), name=name_of(kind))
        assert found.first is not None
        line = LOGS[kind]([0.41, 0.38]).split("\n")[found.first.line - 1]
        assert found.first.printed in line
        assert found.first.text.strip(".")[:40] in text_of(line.encode())
        assert found.ratio == pytest.approx(0.41 / EXPECT)

    def test_thresholds_are_what_one_makes_them(self, judge: Judge) -> None:
        values = [0.5, 0.49, 0.495]
        assert judge(plain_log(values), thresholds=Thresholds(loaded_up_to=1.5)).case == "loaded"
        assert judge(plain_log(values), thresholds=Thresholds(other_above=1.2)).case == "another architecture"
        assert judge(plain_log(values), thresholds=Thresholds(1.5, patience=2)).case == "loaded"
        assert judge(plain_log(values), thresholds=Thresholds(1.5, flat=0.05, patience=2)).case == "flat"

    def test_the_figures_of_the_record(self, judge: Judge) -> None:
        """First validation near 0.36: loaded; over 0.40: a loading problem; over 2.0: another architecture."""
        cases = [judge(f"val_loss={value}\n").case for value in (0.36, 0.3557, 0.40, 1.9, 2.01)]
        assert cases == ["loaded", "loaded", "loading problem", "loading problem", "another architecture"]

    def test_each_says_what_to_do(self, judge: Judge, tmp_path: Path) -> None:
        logs = [plain_log([value]) for value in (0.36, 0.5, 5, "nan")] + [
            plain_log([0.36] * 6),
            NCCL,
            OOM,
            TIME,
            REFUSED,
        ]
        results = [judge(text) for text in logs]
        assert all(result.next_step for result in results)
        assert len({result.next_step for result in results}) == 8, "a refused state dict is a loading problem"
        baseline = tmp_path / "my best-val_loss=0.3557.ckpt"
        baseline.write_bytes(b"no checkpoint")
        assert f"ckptdoctor diff '{baseline}' TARGET" in judge(plain_log([0.5]), baseline=baseline).next_step

    def test_a_first_validation_that_is_too_low_is_noted(self, judge: Judge) -> None:
        (note,) = judge("val_loss=0.0311\n").notes
        assert "0.09 times" in note
        assert judge("val_loss=0.34\n").notes == ()

    def test_a_loss_that_is_lost_later_is_noted(self, judge: Judge) -> None:
        found = judge(plain_log([0.36, 0.34, "nan", 0.33]))
        assert found.case == "loaded"
        assert found.notes == ("later the loss is nan (line 6)",)

    def test_rounding_that_could_matter_is_noted(self, judge: Judge) -> None:
        (note,) = judge("val_loss=0.4\n").notes
        assert "rounded" in note
        assert judge("val_loss=0.400\n").notes == ()


class TestFailures:
    @pytest.mark.parametrize(("message", "kind"), [(NCCL, "NCCL"), (OOM, "CUDA out of memory"), (TIME, "time limit")])
    def test_stand_beside_what_the_loss_says(self, judge: Judge, message: str, kind: str) -> None:
        found = judge(lightning_log([0.41]) + message)
        assert (found.case, found.failure and found.failure.kind) == ("loading problem", kind)
        assert "says nothing of the checkpoint" in page_of(found).sentence
        assert judge(lightning_log([0.36]) + message).exit_status == 0

    @pytest.mark.parametrize("message", [NCCL, OOM, TIME])
    def test_alone_say_nothing(self, judge: Judge, message: str) -> None:
        found = judge(lightning_log([]) + message)
        assert (found.case, found.exit_status, found.first) == ("infrastructure", 2, None)
        assert "says nothing of the checkpoint" in page_of(found).sentence

    def test_alone_need_no_expectation(self, judge: Judge) -> None:
        assert judge(NCCL, expect=None).case == "infrastructure"

    def test_may_be_printed_onto_a_bar(self, judge: Judge) -> None:
        bar = "\rEpoch 3:  40%|██▌       | 2/4 [00:00<00:00, 155.53it/s, v_num=0, val_loss=0.357]"
        found = judge(bar * 50 + TIME)
        assert (found.case, found.failure and found.failure.kind) == ("loaded", "time limit")
        assert found.failure is not None
        assert "TIME LIMIT" in found.failure.text

    def test_a_refused_state_dict_is_a_loading_problem_without_any_validation(self, judge: Judge) -> None:
        found = judge(lightning_log([]) + NCCL + REFUSED)
        assert (found.case, found.exit_status) == ("loading problem", 1)
        assert "refused state dict on line" in page_of(found).sentence
        beside = judge(REFUSED + plain_log([0.36]))
        assert (beside.case, beside.failure) == ("loaded", None)
        assert "refused" in beside.notes[0]

    @pytest.mark.parametrize(
        ("message", "kind"),
        [
            (
                "torch.distributed.DistBackendError: NCCL error in: ../ProcessGroupNCCL.cpp:1970, unhandled system error",
                "NCCL",
            ),
            ("ncclSystemError: System call (e.g. socket, malloc) or external library call failed", "NCCL"),
            ("terminate called: [Rank 0] NCCL watchdog thread terminated with exception: CUDA error", "NCCL"),
            ("RuntimeError: NCCL communicator was aborted on rank 1.", "NCCL"),
            ("To avoid data inconsistency, we are taking the entire process down.", "NCCL"),
            ("torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB", "CUDA out of memory"),
            ("RuntimeError: CUDA error: out of memory", "CUDA out of memory"),
            (
                "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
                "CUDA out of memory",
            ),
            (
                "slurmstepd: error: Detected 1 oom_kill event in StepId=1.0. Some of the step tasks have been OOM Killed.",
                "out of memory",
            ),
            ("slurmstepd: error: Detected 2 oom-kill event(s) in step 9.0 cgroup.", "out of memory"),
            ("srun: error: n01: task 3: Out Of Memory", "out of memory"),
            ("RuntimeError: DataLoader worker (pid 99) is killed by signal: Killed.", "out of memory"),
            (
                "slurmstepd: error: *** JOB 7 ON n01 CANCELLED AT 2024-05-01T10:00:00 DUE TO TIME LIMIT ***",
                "time limit",
            ),
            (
                "slurmstepd: error: *** JOB 7 ON n01 CANCELLED AT 2024-05-01T10:00:00 DUE TO PREEMPTION ***",
                "preemption",
            ),
            (
                "slurmstepd: error: *** JOB 7 ON n01 CANCELLED AT 2024-05-01T10:00:00 DUE TO NODE FAILURE ***",
                "node failure",
            ),
            ("slurmstepd: error: *** JOB 7 ON n01 CANCELLED AT 2024-05-01T10:00:00 ***", "cancelled"),
            ("srun: Job 7 was preempted", "preemption"),
            ("torch.distributed.DistNetworkError: The client socket has timed out after 600s", "network"),
            ("CUDA error: uncorrectable ECC error encountered", "node failure"),
        ],
    )
    def test_are_known_by_their_messages(self, judge: Judge, message: str, kind: str) -> None:
        assert any(word in message.encode() for word in WORDS)
        found = judge("starting\n" * 3000 + message + "\n")
        assert found.failure is not None
        assert (found.failure.kind, found.failure.line) == (kind, 3001)

    @pytest.mark.parametrize(
        "line",
        [
            "n01:99:99 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.1<0>",
            "[rank0]:[W ProcessGroupNCCL.cpp:1496] Warning: WARNING: destroy_process_group() was not called",
            "n01:99:99 [0] NCCL INFO NCCL_ASYNC_ERROR_HANDLING set by environment to 1.",
            "os.environ['TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC'] = '480'",
            "    except torch.cuda.OutOfMemoryError:",
            "distributed_backend=nccl",
            "GPU memory: 79 GiB, boom",
            "All distributed processes registered. Starting with 8 processes",
        ],
    )
    def test_harmless_lines_are_none(self, line: str) -> None:
        assert find_failure(line) is None


# --- values in text


class TestValues:
    @pytest.mark.parametrize(
        ("text", "printed"),
        [
            ("val_loss=0.3557", "0.3557"),
            ("val_loss: 0.36", "0.36"),
            ("val_loss : 0.36.", "0.36"),
            ("{'val_loss': 0.36, 'epoch': 3}", "0.36"),
            ('{"epoch": 3, "val_loss": 3.6e-01}', "3.6e-01"),
            ("{'val_loss': tensor(0.3557, device='cuda:0')}", "0.3557"),
            ("{'val_loss': np.float64(0.3557)}", "0.3557"),
            ("Epoch 1 | train_loss 0.5 | val_loss 0.3557", "0.3557"),
            ("│         val_loss          │    0.6681215763092041     │", "0.6681215763092041"),
            ("        val_loss            0.3557000160217285", "0.3557000160217285"),
            (" - loss: 0.41 - val_loss: 0.3557 - 3s/epoch", "0.3557"),
            ("val_loss = nan", "nan"),
            ("val_loss=-Infinity,", "-Infinity"),
            ("val_loss=1", "1"),
            ("val_loss=1.", "1."),
            ("val_loss=.5", ".5"),
            ("val_loss=1e-05", "1e-05"),
            ("\x1b[33mval_loss\x1b[0m=\x1b[1;36m0.3557\x1b[0m", "0.3557"),
            ("\x1b[3mv_num: 0.000 val_loss: 0.549\x1b[0mEpoch 0, global step 4: 'val_loss' reached 0.54933", "0.549"),
            (
                "Epoch 0: 100%|█| 4/4 [00:00, 1it/s, val_loss=0.549]Metric val_loss improved. New best score: 0.548",
                "0.549",
            ),
            ("Metric val_loss improved. New best score: 0.549", "0.549"),
            ("Metric val_loss improved by 0.097 >= min_delta = 0.0. New best score: 0.452", "0.452"),
            (
                "Epoch 0, global step 4: 'val_loss' reached 0.54933 (best 0.54933), saving model to 'val_loss=1.0.ckpt'",
                "0.54933",
            ),
            ("val_loss=0.36 (best val_loss=0.35)", "0.36"),
            ("best val_loss=0.35 val_loss=0.36", "0.36"),
        ],
    )
    def test_are_read(self, text: str, printed: str) -> None:
        written = Metric("val_loss").find(text_of(text.encode()))
        assert written is not None
        assert written.number == printed

    @pytest.mark.parametrize(
        "text",
        [
            "Restoring states from the checkpoint path at /x/best-val_loss=0.3557-step=311.ckpt",
            "loading 'val_loss=0.3557.ckpt'",
            "loading val_loss=0.3557-step=311.ckpt",
            "loading /x/val_loss=0.3557.ckpt",
            "saved /tmp/\x1b[35mbest-val_loss\x1b[0m=\x1b[36m0.3695\x1b[0m-step=1.ckpt",
            "train/val_loss=0.3",
            "best_val_loss=0.3",
            "avg.val_loss=0.3",
            "val_loss_epoch=0.3",
            "--val_loss=0.3",
            "best val_loss: 0.3557",
            "expected val_loss=0.3557",
            "monitor='val_loss', mode='min'",
            "patience for val_loss 10 epochs",
            "val_loss=",
            "val_loss=abc",
            "val_loss=0.35571: val_loss",
            "val_loss improved",
            "'val_loss' was not in top 3",
            "val_loss=1.2.3",
        ],
    )
    def test_that_are_none_are_not(self, text: str) -> None:
        assert Metric("val_loss").find(text_of(text.encode())) is None

    @pytest.mark.parametrize(
        ("metric", "text"),
        [
            ("val/loss", "val/loss=0.36"),
            ("val/loss/dataloader_idx_0", "val/loss/dataloader_idx_0: 0.36"),
            ("Validation loss", "12:00:00 INFO Validation loss: 0.36"),
            ("eval_loss", "{'eval_loss': 0.36, 'eval_runtime': 1.2}"),
            ("(a+b)*", "(a+b)*=0.36"),
            ("größe", "größe=0.36"),
        ],
    )
    def test_metrics_have_any_name(self, judge: Judge, metric: str, text: str) -> None:
        assert judge(text + "\n", metric=metric).case == "loaded"

    def test_a_checkpoint_that_is_restored_is_no_validation(self, judge: Judge) -> None:
        with pytest.raises(LogError, match="no val_loss in"):
            judge(lightning_log([]))
        with pytest.raises(UsageError, match="no expectation") as caught:
            judge(lightning_log([0.41]), expect=None)
        assert caught.value.hint is not None
        assert "--expect 0.3557" in caught.value.hint

    def test_bars_show_three_digits_messages_more(self, judge: Judge) -> None:
        found = judge(lightning_log([0.36049]))
        assert found.first is not None
        assert (found.first.printed, found.first.form) == ("0.36049", "checkpoint")

    @pytest.mark.parametrize(
        ("printed", "half"),
        [("0.549", 5e-4), ("3", 0.5), ("1e-05", 5e-6), ("1.5e+03", 50), ("nan", 0), ("-inf", 0), ("1.", 0.5)],
    )
    def test_rounding(self, printed: str, half: float) -> None:
        assert rounding(printed) == pytest.approx(half)


class TestCounting:
    """Validations are counted, not lines."""

    def counted(self, found: Triage) -> int:
        return found.following.validations

    @every_log
    @pytest.mark.parametrize("values", [[0.36], [0.36, 0.35, 0.34], [0.36, 0.36, 0.36, 0.35]])
    def test_every_validation_counts_once(self, judge: Judge, kind: str, values: list[float]) -> None:
        assert self.counted(judge(LOGS[kind](values), name=name_of(kind))) == len(values) - 1

    def test_a_bar_repeats_its_value(self, judge: Judge) -> None:
        bar = "\rEpoch 1:  25%|██▌       | 1/4 [00:00<00:00, 155.53it/s, v_num=0, val_loss=0.357]"
        assert self.counted(judge(bar * 500)) == 0

    def test_a_bar_may_fall_back_to_what_it_was(self, judge: Judge) -> None:
        assert self.counted(judge(lightning_log([0.36, 0.35, 0.36, 0.35]))) == 3

    def test_validations_that_are_not_among_the_best_count(self, judge: Judge) -> None:
        lines = ["Epoch 0, global step 4: 'val_loss' reached 0.36000 (best 0.36000), saving model to 'x.ckpt' as top 1"]
        lines += [f"Epoch {n}, global step {4 * n}: 'val_loss' was not in top 1" for n in range(1, 6)]
        assert judge("\n".join(lines)).case == "flat"
        assert judge("\n".join(lines[:-1])).case == "loaded"

    def test_processes_without_labels_print_the_same(self, judge: Judge) -> None:
        head = "All distributed processes registered. Starting with 8 processes\n"
        assert self.counted(judge(head + "epoch 0 val_loss=0.36\n" * 8 + "epoch 1 val_loss=0.36\n" * 8)) == 1
        assert self.counted(judge(head + "val_loss=0.36\n" * 8)) == 0
        assert self.counted(judge("val_loss=0.36\n" * 8)) == 7

    def test_numbers_in_front_may_be_epochs(self, judge: Judge) -> None:
        found = judge("".join(f"{epoch}: val_loss=0.36\n" for epoch in range(6)))
        assert (found.case, found.first and found.first.rank) == ("flat", None)

    def test_trainer_validate_before_fit_is_the_first(self, judge: Judge) -> None:
        table = "      Validate metric           DataLoader 0\n        val_loss            0.3557000160217285\n"
        found = judge(table + lightning_log([0.5, 0.4]))
        assert found.first is not None
        assert (found.case, found.first.form, found.first.line) == ("loaded", "table", 2)


class TestRanks:
    @pytest.mark.parametrize(
        "label",
        [
            "{}: ",
            "  {}: ",
            "[rank{}]: ",
            "[rank{}]:",
            "[default{}]:",
            "[1,{}]<stdout>: ",
            "[rank: {}] ",
            "Rank {}: ",
            "rank={} ",
        ],
    )
    def test_are_read_from_labels(self, judge: Judge, label: str) -> None:
        values = {3: 0.36, 0: 0.3601, 1: 0.42, 2: 0.36}
        text = "".join(
            f"{label.format(rank)}epoch {n} val_loss={value}\n" for n in range(3) for rank, value in values.items()
        )
        found = judge(text)
        assert found.first is not None
        assert (found.first.rank, found.first.printed, found.following.validations) == (3, "0.36", 2)
        (note,) = found.notes
        assert note == "the ranks disagree at the first validation: 0.36 (rank 2, line 4) to 0.42 (rank 1, line 3)"

    def test_that_agree_are_not_mentioned(self, judge: Judge) -> None:
        assert judge(srun_log([0.36, 0.35])).notes == ()

    def test_one_that_has_nan_is(self, judge: Judge) -> None:
        text = "[rank0]: val_loss=0.36\n[rank1]: val_loss=nan\n[rank0]: val_loss=0.35\n"
        assert judge(text).notes == ("rank 1 has nan at its first validation (line 2)",)

    def test_what_another_rank_prints_onto_a_bar_is_not_its(self, judge: Judge) -> None:
        bar = "Epoch 0: 100%|██████████| 2/2 [00:00<00:00, 78.90it/s, val_loss=0.360][rank: 1] Metric val_loss improved.\n"
        found = judge(bar)
        assert found.first is not None
        assert found.first.rank is None


class TestBytes:
    def test_any_byte_may_come(self, judge: Judge) -> None:
        assert judge(b"\xff\xfe\0\x80caf\xe9 val_loss=0.36 \xf0\x9f\n").case == "loaded"
        assert judge(b"\0" * 5000 + b"\nval_loss=0.36\n").case == "loaded"

    def test_a_last_line_that_is_cut_off_is_noted(self, judge: Judge) -> None:
        found = judge(b"start\nval_loss=0.35")
        assert found.case == "loaded"
        assert "may lack its last digits" in found.notes[0]
        assert judge(b"start\n{'val_loss': 0.35, ").notes == ()
        assert "last digits" in judge("epoch,val_loss\n0,0.35", name="m.csv").notes[0]

    def test_long_lines_are_read_up_to_a_point(self, judge: Judge) -> None:
        with pytest.raises(LogError):
            judge(b"x" * 2 * LONGEST + b" val_loss=0.36\n")
        assert judge(b"x" * 10_000_000 + b"\r" + b"val_loss=0.36\n").case == "loaded"

    def test_one_line_of_many_drawings_is_one_line(self, judge: Judge) -> None:
        bar = "\rEpoch 0:  25%|██▌       | 1/4 [00:00<00:00, 155.53it/s, v_num=0]"
        found = judge("start\n" + bar * 50_000 + "\r{'val_loss': 0.36}\n")
        assert found.first is not None
        assert found.first.line == 2

    @settings(max_examples=200)
    @given(st.lists(st.sampled_from(["a", "bc", "\n", "\r", "\r\n", "", "\n\n"]), max_size=30), st.randoms())
    def test_chunks_do_not_matter(self, parts: list[str], shuffle: random.Random) -> None:
        data = "".join(parts).encode()
        whole = Splitter()
        expected = [(segment.line, segment.raw) for segment in whole.feed(data)], whole.rest(), whole.line
        pieces, skipping = Splitter(), Splitter()
        found, at = [], 0
        while at < len(data):
            size = shuffle.randint(1, 5)
            found += [(segment.line, segment.raw) for segment in pieces.feed(data[at : at + size])]
            for _ in skipping.skip(data[at : at + size]):
                pass
            at += size
        assert (found, pieces.rest(), pieces.line) == expected
        assert (skipping.rest(), skipping.line) == expected[1:]

    def test_dull_chunks_are_skipped_with_their_lines_counted(self, judge: Judge) -> None:
        found = judge("step 1 train_loss=0.4 \n" * 100_000 + "val_loss=0.36\n" + "x\n" * 200_000 + OOM)
        assert found.first is not None
        assert found.failure is not None
        assert (found.first.line, found.failure.line) == (100_001, 300_002)

    def test_what_is_shown_is_harmless(self, judge: Judge) -> None:
        found = judge("\x1b]0;title\x07\u202eval_loss=0.36 \x9b31m \x1b[2J\x08\n")
        for kind in ("table", "json", "markdown"):
            assert all(line.isprintable() for line in render(found, kind).split("\n"))

    @pytest.mark.parametrize("at", [0, 50, 199, 150])
    def test_excerpts_hold_what_they_are_of(self, at: int) -> None:
        text = "." * at + "HERE" + "." * (200 - at)
        assert "HERE" in excerpt(text, at)
        assert len(excerpt(text, at)) < 130


class TestCsv:
    def test_of_a_logger(self, tmp_path: Path) -> None:
        folder = tmp_path / "lightning_logs" / "version_0"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(csv_log([0.36, 0.35]))
        for log in (folder, folder / "metrics.csv", folder.parent):
            found = triage(log, expect=EXPECT)
            assert (found.log, found.case, found.following.validations) == (str(folder / "metrics.csv"), "loaded", 1)
            assert found.first is not None
            assert (found.first.line, found.first.text) == (3, "0,3,,0.36")

    def test_the_newest_version_is_taken(self, tmp_path: Path) -> None:
        for number, value in ((2, 0.9), (10, 0.36), (9, 0.8)):
            folder = tmp_path / f"version_{number}"
            folder.mkdir()
            (folder / "metrics.csv").write_text(csv_log([value]))
        (tmp_path / "version_11").mkdir()
        assert triage(tmp_path, expect=EXPECT).case == "loaded"

    @pytest.mark.parametrize(
        "text",
        [
            '"epoch","val_loss"\n"0","0.36"\n',
            "\ufeffval_loss,epoch\r\n0.36,0\r\n",
            "epoch, val_loss\n0, 0.36\n",
            "epoch,val_loss,x\n0\n0,abc,1\n,,\n\n0,0.36,1\n",
            "epoch,train_loss\n0,0.5\nepoch,val_loss\n0,0.36\n",
        ],
    )
    def test_is_read_as_people_write_it(self, judge: Judge, text: str) -> None:
        assert judge(text, name="a.CSV").case == "loaded"

    def test_without_the_column_says_which_there_are(self, judge: Judge) -> None:
        with pytest.raises(LogError) as caught:
            judge("epoch,step,val/loss\n0,1,0.3\n", name="metrics.csv")
        assert caught.value.hint == "did you mean val/loss?"


# --- expectations


def lightning_checkpoint(
    path: Path, *, score: Any = None, best: Any = None, monitor: str | None = "val_loss", mode: str = "min"
) -> Path:
    """What Lightning 2.6 writes, as far as it matters."""
    torch = pytest.importorskip("torch")
    when = "'every_n_train_steps': 0, 'every_n_epochs': 1, 'train_time_interval': None"
    key = f"ModelCheckpoint{{'monitor': {monitor!r}, 'mode': {mode!r}, {when}}}"
    state = {
        "monitor": monitor,
        "best_model_score": best if best is not None else score,
        "best_model_path": f"/x/{path.name}",
        "current_score": score,
        "dirpath": "/x",
        "best_k_models": {f"/x/{path.name}": score},
        "kth_best_model_path": "",
        "kth_value": score,
        "last_model_path": "",
    }
    data = {
        "epoch": 3,
        "global_step": 311,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {"net.a": torch.arange(6.0)},
        "loops": {},
        "callbacks": {
            "EarlyStopping{'monitor': 'val_loss', 'mode': 'min'}": {"wait_count": 0, "best_score": score},
            key: state,
        },
        "optimizer_states": [],
        "lr_schedulers": [],
    }
    torch.save(data, path)
    return path


class TestExpectations:
    @pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
    @pytest.mark.parametrize("shape", [(), (1,)])
    def test_of_callbacks(self, tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
        torch = pytest.importorskip("torch")
        score = torch.full(shape, EXPECT, dtype=getattr(torch, dtype))
        found = find_expectation(None, lightning_checkpoint(tmp_path / "best.ckpt", score=score), "val_loss")
        assert found is not None
        assert found.value == score.item()
        assert found.source == "current_score in best.ckpt"

    def test_of_callbacks_are_used(self, judge: Judge, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        path = lightning_checkpoint(tmp_path / "best.ckpt", score=torch.tensor(EXPECT))
        assert judge(plain_log([0.36]), baseline=path).case == "loaded"
        assert judge(plain_log([0.41]), baseline=path).case == "loading problem"

    def test_plain_numbers_will_do(self, tmp_path: Path) -> None:
        found = find_expectation(None, lightning_checkpoint(tmp_path / "best.ckpt", score=0.25), "val_loss")
        assert found is not None
        assert found.value == 0.25

    def test_of_another_file_than_the_best(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        path = lightning_checkpoint(tmp_path / "last.ckpt", score=torch.tensor(0.5), best=torch.tensor(0.25))
        found = find_expectation(None, path, "val_loss")
        assert found is not None
        assert found.value == 0.5
        assert found.notes == (
            "best_model_score in last.ckpt is 0.25: that is another file's; this one's current_score is 0.5",
        )

    def test_the_best_where_there_is_no_other(self, tmp_path: Path) -> None:
        found = find_expectation(None, lightning_checkpoint(tmp_path / "best.ckpt", best=0.25), "val_loss")
        assert found is not None
        assert (found.value, found.source) == (0.25, "best_model_score in best.ckpt")

    def test_of_the_name(self, tmp_path: Path) -> None:
        path = lightning_checkpoint(tmp_path / "best-val_loss=0.3557-step=311.ckpt", score=0.9, monitor="train_loss")
        found = find_expectation(None, path, "val_loss")
        assert found is not None
        assert (found.value, found.source) == (EXPECT, f"from the name of {path.name}")

    def test_name_and_callbacks_that_disagree_are_noted(self, tmp_path: Path) -> None:
        path = lightning_checkpoint(tmp_path / "best-val_loss=0.3557-step=311.ckpt", score=0.36)
        assert find_expectation(None, path, "val_loss").notes != ()  # type: ignore[union-attr]
        path = lightning_checkpoint(tmp_path / "best-val_loss=0.3557-step=311.ckpt", score=0.35571)
        assert find_expectation(None, path, "val_loss").notes == ()  # type: ignore[union-attr]

    def test_of_a_plain_loop(self, tmp_path: Path) -> None:
        torch = pytest.importorskip("torch")
        for value in (0.25, torch.tensor(0.25)):
            torch.save({"model": {"a": torch.zeros(3)}, "val_loss": value}, tmp_path / "loop.pt")
            found = find_expectation(None, tmp_path / "loop.pt", "val_loss")
            assert found is not None
            assert (found.value, found.source) == (0.25, "val_loss in loop.pt")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("best-val_loss=0.3557-step=311.ckpt", 0.3557),
            ("epoch=3-val_loss=0.36-v1.ckpt", 0.36),
            ("val_loss=0.36.ckpt", 0.36),
            ("val_loss=3.ckpt", 3.0),
            ("val_loss=1e-05.ckpt", 1e-05),
            ("model_val_loss_0.5.pt", None),
            ("model-val_loss_0.5.pt", 0.5),
            ("val_loss=-0.3.ckpt", -0.3),
            ("val_loss=0.9/val_loss=0.3.ckpt", 0.3),
            ("val_loss=0.9/last.ckpt", None),
            ("train_val_loss=0.3.ckpt", None),
            ("best.ckpt", None),
            ("val_loss=nan.ckpt", None),
        ],
    )
    def test_names(self, name: str, value: float | None) -> None:
        assert in_name(Path("/x") / name, "val_loss") == value

    def test_names_with_a_slash(self) -> None:
        assert in_name(Path("/x/best-val/loss=0.3557.ckpt"), "val/loss") == 0.3557

    def test_a_baseline_that_does_not_say_it(self, tmp_path: Path) -> None:
        path = lightning_checkpoint(tmp_path / "best.ckpt", score=0.9, monitor="train_loss")
        with pytest.raises(UsageError, match=r"neither the callbacks nor the name.*watched train_loss") as caught:
            find_expectation(None, path, "val_loss")
        assert "--expect" in str(caught.value.hint)

    def test_a_baseline_that_cannot_be_read(self, tmp_path: Path) -> None:
        named = tmp_path / "best-val_loss=0.3557.ckpt"
        with pytest.raises(CheckpointNotFound) as caught:
            find_expectation(None, named, "val_loss")
        assert caught.value.hint == "--expect 0.3557 takes what its name says"
        (tmp_path / "best.ckpt").write_bytes(b"PK\x03\x04 and so on")
        named.write_bytes(b"PK\x03\x04 and so on")
        with pytest.raises(CorruptCheckpoint):
            find_expectation(None, tmp_path / "best.ckpt", "val_loss")
        found = find_expectation(None, named, "val_loss")
        assert found is not None
        assert "its name alone" in found.notes[0]
        (tmp_path / "text.ckpt").write_bytes(b"hello")
        with pytest.raises(UnknownFormat):
            find_expectation(None, tmp_path / "text.ckpt", "val_loss")

    def test_larger_is_better_is_another_command(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="largest val_acc"):
            find_expectation(
                None, lightning_checkpoint(tmp_path / "a.ckpt", score=0.9, monitor="val_acc", mode="max"), "val_acc"
            )

    @pytest.mark.parametrize("value", [0, -0.3, math.nan, math.inf])
    def test_ratios_need_a_positive_number(self, judge: Judge, tmp_path: Path, value: float) -> None:
        with pytest.raises(UsageError, match="make no sense"):
            judge(plain_log([0.36]), expect=value)
        with pytest.raises(UsageError, match="make no sense"):
            judge(plain_log([0.36]), baseline=lightning_checkpoint(tmp_path / "a.ckpt", score=value))

    def test_nor_can_the_loss_be_negative(self, judge: Judge) -> None:
        with pytest.raises(UsageError, match=r"is -1\.5 \(line 2\): ratios to a negative loss make no sense"):
            judge(plain_log([-1.5]))
        assert judge(plain_log([0.36, -1.5])).case == "loaded"
        assert judge(plain_log([0])).case == "loaded"

    def test_one_is_needed_and_one_is_enough(self, judge: Judge, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no expectation of val_loss is known"):
            judge(plain_log([0.36]), expect=None)
        with pytest.raises(UsageError, match="contradict"):
            judge(plain_log([0.36]), expect=0.3, baseline=tmp_path)

    @pytest.mark.parametrize(
        "wrong",
        [
            (0, 5.6),
            (1.12, 1),
            (math.nan, 5.6),
            (1.12, math.inf),
            (1.12, 5.6, 1),
            (1.12, 5.6, -0.1),
            (1.12, 5.6, 0.01, 0),
        ],
    )
    def test_thresholds_have_to_make_sense(self, judge: Judge, wrong: tuple[float, ...]) -> None:
        with pytest.raises(UsageError):
            judge(plain_log([0.36]), thresholds=Thresholds(*wrong))  # type: ignore[arg-type]


# --- nothing to judge


class TestNothing:
    def test_no_log(self, tmp_path: Path) -> None:
        with pytest.raises(LogError, match="there is no log"):
            triage(tmp_path / "job.log", expect=1)
        with pytest.raises(LogError, match=r"no metrics\.csv in"):
            triage(tmp_path, expect=1)
        with pytest.raises(LogError, match="not a regular file"):
            triage("/dev/null", expect=1)
        (tmp_path / "file").touch()
        with pytest.raises(LogError, match="cannot read"):
            triage(tmp_path / "file" / "job.log", expect=1)

    @pytest.mark.parametrize(
        ("text", "hint"), [("", "--follow"), ("val/loss=0.3\n", "val/loss"), ("loss=0.3 acc=0.5\n", "loss")]
    )
    def test_no_validation(self, judge: Judge, text: str, hint: str) -> None:
        with pytest.raises(LogError, match="no val_loss in") as caught:
            judge(text)
        assert hint in str(caught.value.hint)

    def test_no_metric(self, judge: Judge) -> None:
        with pytest.raises(UsageError, match="without a name"):
            judge("x", metric="")


# --- the report


RESULTS = {
    "loaded": plain_log([0.36, 0.35]),
    "loading problem": lightning_log([0.41]) + NCCL,
    "another architecture": srun_log([7.5]),
    "flat": csv_log([0.36] * 7),
    "not a number": lightning_log(["nan"]),
    "infrastructure": TIME,
}


@pytest.mark.parametrize("case", RESULTS)
def test_a_page_says_case_evidence_and_next_step(judge: Judge, case: str) -> None:
    found = judge(RESULTS[case], name=name_of("csv" if case == "flat" else ""))
    page = page_of(found)
    assert page.sentence.startswith(f"{case}: ")
    data = page.data()
    assert (data["schema"], data["case"], data["exit_status"]) == ("ckptdoctor/triage/1", case, found.exit_status)
    assert data["next"] == found.next_step != ""
    place = found.first or found.failure
    assert place is not None
    assert f"line {place.line:,}" in page.sentence
    for kind in ("table", "markdown", "json"):
        text = render(found, kind)
        assert case in text
        assert "NaN" not in text
        assert "Infinity" not in text


def test_the_verb_is_public_and_stays_it() -> None:
    import_module("ckptdoctor.triaging.run")
    assert ckptdoctor.triage is triage
    assert "triage" in ckptdoctor.__all__


# --- any bytes give a judgement or an error of ours


REAL = {kind: make([0.3612, 0.3514, 0.41, 2.5]).encode() for kind, make in LOGS.items()}
WHOLE = b"".join(REAL.values()) + (NCCL + OOM + TIME + REFUSED).encode()


@settings(max_examples=300)
@given(st.sampled_from([*REAL, "all"]), st.randoms(use_true_random=False), st.integers(1, 30))
def test_mutations_never_crash(
    tmp_path_factory: pytest.TempPathFactory, kind: str, rnd: random.Random, count: int
) -> None:
    data = bytearray(REAL.get(kind, WHOLE))
    for _ in range(count):
        at, other = rnd.randrange(len(data) + 1), rnd.randrange(len(data) + 1)
        what = rnd.randrange(5)
        if what == 0:
            data[at : at + 1] = bytes([rnd.randrange(256)])
        elif what == 1:
            del data[at : at + rnd.randrange(40)]
        elif what == 2:
            data[at:at] = data[other : other + rnd.randrange(200)]
        elif what == 3:
            data[at:at] = rnd.choice(
                [b"\n", b"\r", b"nan", b"\x1b[", b"\x1b]", b"e", b"-", b"1e999", b"'", b",", b"\0", b"\xff"]
            )
        elif len(data) > 500:
            del data[at:]
    path = tmp_path_factory.getbasetemp() / ("mutated.csv" if kind == "csv" else "mutated.log")
    path.write_bytes(data)
    try:
        found = triage(path, expect=EXPECT)
    except CkptDoctorError:
        return
    for report in ("table", "json", "markdown"):
        assert found.case in render(found, report)


# --- jobs that run


class Writer(threading.Thread):
    """Does steps to a file, with a pause before each."""

    def __init__(self, *steps: Callable[[], object], pause: float = 0.08) -> None:
        super().__init__(daemon=True)
        self.steps, self.pause = steps, pause
        self.start()

    def run(self) -> None:
        for step in self.steps:
            time.sleep(self.pause)
            step()


class TestFollowing:
    def watch(self, log: Path, **asked: Any) -> Triage:
        return triage(log, expect=EXPECT, follow=True, interval=0.01, **{"timeout": 10, **asked})

    def append(self, log: Path, data: bytes) -> Callable[[], object]:
        def do() -> None:
            with log.open("ab") as file:
                file.write(data)

        return do

    def test_waits_for_the_first_validation(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        parts = [b"starting\n", b"step 1 val_lo", b"ss=0.3", b"6\n", b"val_loss=9\n"]
        writer = Writer(*(self.append(log, part) for part in parts))
        found = self.watch(log)
        writer.join()
        assert found.first is not None
        assert (found.case, found.first.printed, found.first.line) == ("loaded", "0.36", 2)

    def test_a_number_at_the_very_end_is_not_believed(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        log.write_bytes(b"val_loss=0.3")
        with pytest.raises(LogError, match=r"no val_loss in .* within 0\.05 seconds"):
            self.watch(log, timeout=0.05)
        writer = Writer(self.append(log, b"5"), self.append(log, b"9"), self.append(log, b"\n"))
        found = self.watch(log)
        writer.join()
        assert found.first is not None
        assert found.first.printed == "0.359"

    def test_one_that_something_follows_is(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        log.write_bytes(b"\rEpoch 0: 100%|#| 4/4 [00:00<00:00, 9.99it/s, val_loss=0.361]")
        assert self.watch(log).case == "loaded"

    def test_what_is_there_already_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "job.log").write_text(lightning_log([0.41, 0.36]))
        assert self.watch(tmp_path / "job.log", timeout=0).case == "loading problem"

    def test_truncation_starts_again(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        log.write_bytes(b"a job of yesterday\n" * 100)
        writer = Writer(lambda: log.write_bytes(b"val_loss=0.36\n"))
        found = self.watch(log)
        writer.join()
        assert found.first is not None
        assert found.first.line == 1

    def test_rewriting_with_more_bytes_starts_again(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        log.write_bytes(b"yesterday\n" * 3)
        writer = Writer(lambda: log.write_bytes(b"today\n" * 100 + b"val_loss=0.36\n"))
        found = self.watch(log)
        writer.join()
        assert found.first is not None
        assert found.first.line == 101

    def test_rotation_starts_again(self, tmp_path: Path) -> None:
        log, new = tmp_path / "job.log", tmp_path / "new"
        log.write_bytes(b"same\nsame\n")
        new.write_bytes(b"same\nsame\nsame\nval_loss=0.36\n")
        writer = Writer(lambda: new.rename(log))
        found = self.watch(log)
        writer.join()
        assert found.first is not None
        assert found.first.line == 4

    def test_a_log_may_go_and_come_back(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        log.write_bytes(b"one\n")
        writer = Writer(log.unlink, lambda: log.write_bytes(b"one\nval_loss=0.36\n"))
        found = self.watch(log)
        writer.join()
        assert found.case == "loaded"

    def test_a_folder_of_a_csv_logger_is_waited_for(self, tmp_path: Path) -> None:
        folder = tmp_path / "version_0"
        table = folder / "metrics.csv"
        writer = Writer(
            folder.mkdir,
            lambda: table.write_text("epoch,step,train_loss\n0,1,0.6\n"),
            lambda: table.write_text("epoch,step,train_loss,val_loss\n0,1,0.6,\n0,3,,0.3"),
            self.append(table, b"6\n"),
        )
        found = self.watch(folder)
        writer.join()
        assert found.first is not None
        assert (found.case, found.first.printed) == ("loaded", "0.36")

    def test_a_failure_ends_it(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        writer = Writer(self.append(log, b"starting\n"), self.append(log, NCCL.encode()))
        found = self.watch(log)
        writer.join()
        assert (found.case, found.exit_status) == ("infrastructure", 2)

    def test_time_runs_out(self, tmp_path: Path) -> None:
        started = time.monotonic()
        with pytest.raises(LogError, match="there is no such log"):
            self.watch(tmp_path / "job.log", timeout=0.1)
        assert time.monotonic() - started < 5

    def test_what_no_waiting_mends_is_said_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(LogError, match="not a regular file"):
            self.watch(Path("/dev/null"), timeout=None)
        with pytest.raises(UsageError, match="no expectation"):
            triage(tmp_path / "job.log", follow=True)
        with pytest.raises(CheckpointNotFound):
            triage(tmp_path / "job.log", baseline=tmp_path / "no.ckpt", follow=True)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_nor_what_may_not_be_read(self, tmp_path: Path) -> None:
        log = tmp_path / "job.log"
        log.touch(mode=0)
        with pytest.raises(LogError, match="cannot read"):
            self.watch(log)

    def test_a_process_that_writes_piece_by_piece(self, tmp_path: Path) -> None:
        log, data = tmp_path / "job.log", lightning_log([0.41234]).encode()
        writer = Writer(*(self.append(log, data[at : at + 97]) for at in range(0, len(data), 97)), pause=0.002)
        found = self.watch(log)
        writer.join()
        assert found.case == "loading problem"
        assert found.first is not None
        assert found.first.printed in ("0.412", "0.41234")
