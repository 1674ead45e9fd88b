"""`ckptdoctor diff`: how a checkpoint and a target differ."""

from __future__ import annotations

from typing import Annotated

import typer

from ckptdoctor.cli.inputs import Request, project_config
from ckptdoctor.cli.options import MapOptions, MatchOptions, OutputOptions, Source, SourceOptions, Target, TargetOptions
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.shown import next_after_diff, shown_keys
from ckptdoctor.plan import Plan
from ckptdoctor.reports.comparison import Comparison


def diff(
    source: Source,
    target: Target = None,
    *,
    maps: MapOptions,
    source_options: SourceOptions,
    target_options: TargetOptions,
    match: MatchOptions,
    output: OutputOptions,
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if anything differs.")] = False,
) -> int:
    """Compare a checkpoint's keys and shapes with a target's: what would load, what would stay random."""
    check_options(output)
    plan = Request(source, target, source_options, target_options, maps).plan(project_config())
    status = 1 if exit_code and _differs(plan) else 0
    only = shown_keys(plan, match)
    publish(
        Comparison("diff", plan, exit_status=status, every_key=output.every_key, only=only),
        output,
        next_step=next_after_diff(plan, source, target),
    )
    return status


def _differs(plan: Plan) -> bool:
    return bool(plan.remainders) or any(step.status != "loaded" or step.other_dtype for step in plan.steps)
