"""`ckptdoctor triage`: was the start of a job what the checkpoint promised?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ckptdoctor.cli.guard import say
from ckptdoctor.cli.options import OutputOptions
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.errors import UsageError
from ckptdoctor.text import printable
from ckptdoctor.triaging import Thresholds
from ckptdoctor.triaging import triage as read_and_judge

Log = Annotated[
    str,
    typer.Argument(metavar="LOG", help="A job's log, a metrics.csv, or the folder of Lightning's CSVLogger."),
]


class ExpectationOptions(NamedTuple):
    """What the first validation should be."""

    expect: Annotated[
        float | None, typer.Option("--expect", metavar="X", help="What the first validation should be.")
    ] = None
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", metavar="CKPT", help="Take that from a checkpoint's callbacks, or from its name."),
    ] = None
    metric: Annotated[str, typer.Option("--metric", metavar="NAME", help="The loss, as the log writes its name.")] = (
        "val_loss"
    )


class ThresholdOptions(NamedTuple):
    """Where one case ends and the next begins."""

    loaded_up_to: Annotated[
        float, typer.Option("--loaded-up-to", metavar="R", help="Loaded: up to R times the expectation.")
    ] = 1.12
    other_above: Annotated[
        float, typer.Option("--other-above", metavar="R", help="Another architecture: above R times the expectation.")
    ] = 5.6
    flat: Annotated[
        str, typer.Option("--flat", metavar="P%", help="Flat: no validation that follows is better by P%.")
    ] = "1%"
    patience: Annotated[
        int, typer.Option("--patience", metavar="N", help="Validations that have to follow before it is called flat.")
    ] = 5


class FollowOptions(NamedTuple):
    """Whether to wait for a job that runs."""

    follow: Annotated[bool, typer.Option("--follow", help="Watch a running job up to its first validation.")] = False
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="SECONDS", help="With --follow: exit 2 when nothing was seen.")
    ] = None


def triage(
    log: Log,
    *,
    expectation: ExpectationOptions,
    thresholds: ThresholdOptions,
    waiting: FollowOptions,
    output: OutputOptions,
) -> int:
    """Read a training log: was the start what the checkpoint promised? Exit 1 if not."""
    check_options(output)
    limits = Thresholds(thresholds.loaded_up_to, thresholds.other_above, _share(thresholds.flat), thresholds.patience)
    if waiting.timeout is not None and not (waiting.follow and waiting.timeout >= 0):
        raise UsageError("--timeout goes with --follow, and takes a number of seconds")
    if waiting.follow and not output.quiet:
        say(f"waiting for {printable(expectation.metric)} in {printable(log)} (Ctrl-C ends it)")
    result = read_and_judge(
        log, **expectation._asdict(), thresholds=limits, follow=waiting.follow, timeout=waiting.timeout
    )
    publish(result, output, next_step=result.next_step)
    return result.exit_status


def _share(text: str) -> float:
    """`1%` or `0.01` as 0.01."""
    match = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*(%?)\s*", text)
    share = float(match[1]) / (100 if match[2] else 1) if match else 1.0
    if not share < 1:
        raise UsageError(f"--flat {text}: no share below 100%", hint="write a percentage, as in --flat 1%")
    return share
