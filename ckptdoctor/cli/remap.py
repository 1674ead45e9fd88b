"""`ckptdoctor remap`: apply a map and write a checkpoint that the training job takes as it is."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ckptdoctor.cli.inputs import Request, initial_fill, policy_of, project_config
from ckptdoctor.cli.options import (
    MapOptions,
    OutputOptions,
    PolicyOptions,
    Source,
    SourceOptions,
    Target,
    TargetOptions,
)
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.progress import byte_progress
from ckptdoctor.errors import UsageError
from ckptdoctor.execution import execute
from ckptdoctor.files import check_output
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.policy import evaluate
from ckptdoctor.reports.comparison import Comparison


def remap(
    source: Source,
    target: Target = None,
    *,
    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="The checkpoint to write.")] = None,
    maps: MapOptions,
    policy: PolicyOptions,
    source_options: SourceOptions,
    target_options: TargetOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Write the keys without wrapper segments.")] = False,
    optimizer: Annotated[
        str, typer.Option("--optimizer", metavar="WHAT", help="Optimizer states: keep or drop.")
    ] = "keep",
    fill: Annotated[
        str,
        typer.Option("--fill", metavar="WHAT", help="What stays random: none (leave out) or init (the constructor's)."),
    ] = "none",
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The seed of --fill init.")] = 0,
    no_digests: Annotated[bool, typer.Option("--no-digests", help="No sha256 of tensors in the receipt.")] = False,
    output: OutputOptions,
) -> int:
    """Apply a map and write the remapped checkpoint, with a receipt beside it.

    Judged as by gate first: what would be missing, mismatched or unexpected and is not declared or allowed means exit
    status 1, and nothing is written.
    """
    check_options(output)
    if out is None and not dry_run:
        raise UsageError("remap needs --output", hint="add -o OUT, or --dry-run to see what would be done")
    if optimizer not in ("keep", "drop"):
        raise UsageError(f"--optimizer {optimizer}: choose from keep, drop")
    if fill not in ("none", "init"):
        raise UsageError(f"--fill {fill}: choose from none, init")
    if out is not None and not dry_run:
        check_output(out, overwrite=overwrite)
    config = project_config()
    rules = policy_of(policy, config, always=("mismatched", "unexpected"))
    request = Request(source, target, source_options, target_options, maps)
    plan = request.plan(config)
    verdict = evaluate(plan, rules)
    if dry_run or not verdict.passed or out is None:
        status = 0 if verdict.passed else 1
        step = None if verdict.passed else "nothing was written: mend the map, declare it (fresh, drop), or allow it"
        publish(Comparison("remap", plan, verdict, status, output.every_key), output, next_step=step)
        return status
    values = initial_fill(request, config, seed) if fill == "init" else None
    options = WriteOptions(digests=not no_digests, drop_optimizer=optimizer == "drop")
    total = plan.source.nbytes if options.drop_optimizer else plan.source.origin.nbytes
    with byte_progress(total, "writing", wanted=not output.quiet) as observers:
        receipt = execute(
            plan,
            out,
            overwrite=overwrite,
            unwrap=unwrap,
            options=options._replace(observers=observers),
            fill=values,
            command=sys.argv[1:],
        )
    words = " ".join(shlex.quote(word) for word in (str(out), target) if word is not None)
    publish(receipt, output, next_step=f"ckptdoctor gate {words}")
    return 0
