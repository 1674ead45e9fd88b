"""`ckptdoctor gate`: a judgement for CI, and before a big job starts."""

from __future__ import annotations

from ckptdoctor.cli.inputs import Request, need_target, policy_of, project_config
from ckptdoctor.cli.options import (
    MapOptions,
    MatchOptions,
    OutputOptions,
    PolicyOptions,
    Source,
    SourceOptions,
    Target,
    TargetOptions,
)
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.shown import next_after_diff, shown_keys
from ckptdoctor.policy import evaluate
from ckptdoctor.reports.comparison import Comparison


def gate(
    source: Source,
    target: Target = None,
    *,
    maps: MapOptions,
    policy: PolicyOptions,
    source_options: SourceOptions,
    target_options: TargetOptions,
    match: MatchOptions,
    output: OutputOptions,
) -> int:
    """Judge a checkpoint against a target: exit 1 if more would be random than is allowed."""
    check_options(output)
    config = project_config()
    rules = policy_of(policy, config)
    plan = Request(source, target, source_options, target_options, maps).plan(config)
    if rules.fail_on != {"unsafe"} or rules.max_random is not None:
        need_target(plan)
    verdict = evaluate(plan, rules)
    status = 0 if verdict.passed else 1
    only = shown_keys(plan, match)
    publish(
        Comparison("gate", plan, verdict, status, output.every_key, only),
        output,
        next_step=None if verdict.passed else next_after_diff(plan, source, target),
    )
    return status
