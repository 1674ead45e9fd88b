"""`ckptdoctor remap`: apply a map and write a checkpoint that the training job takes as it is."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from ckptdoctor.cli.inputs import Request, initial_fill, policy_of, project_config, source_model
from ckptdoctor.cli.options import (
    MapOptions,
    OutputOptions,
    PolicyOptions,
    Source,
    SourceOptions,
    Target,
    TargetOptions,
    size_of,
)
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.progress import byte_progress
from ckptdoctor.cli.shown import next_command
from ckptdoctor.config import Config
from ckptdoctor.errors import UsageError
from ckptdoctor.execution import Peak, check_harmless, execute, memory_peak
from ckptdoctor.execution.outputs import Fill, check_filled, model_keys
from ckptdoctor.files import once_in_place
from ckptdoctor.formats import writer_for
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.plan import Plan
from ckptdoctor.policy import evaluate
from ckptdoctor.receipt import Receipt
from ckptdoctor.reports.comparison import Comparison
from ckptdoctor.source import open_source


class WriteChoices(NamedTuple):
    """What is written, and where."""

    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="OUT", help="The checkpoint to write.")] = None
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="FORMAT", help="torch, safetensors, sharded (safetensors) or sharded-torch."),
    ] = None
    shard_size: Annotated[
        str | None, typer.Option("--shard-size", metavar="SIZE", help="At most so much in a shard, as 5GB.")
    ] = None
    link: Annotated[bool, typer.Option("--link", help="Hard links for shards that stay as they are.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and write nothing.")] = False
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False
    unwrap: Annotated[bool, typer.Option("--unwrap", help="Write the keys without wrapper segments.")] = False
    optimizer: Annotated[
        str, typer.Option("--optimizer", metavar="WHAT", help="Optimizer states: keep, follow (the map) or drop.")
    ] = "keep"
    weights_only: Annotated[
        bool, typer.Option("--weights-only", help="Leave out what stands around the weights, but numbers and texts.")
    ] = False
    source_model: Annotated[
        str | None,
        typer.Option(
            "--source-model",
            metavar="REF",
            help="The model SOURCE was saved from (as TARGET is named), to tell whose states these are.",
        ),
    ] = None
    fill: Annotated[
        str,
        typer.Option("--fill", metavar="WHAT", help="What stays random: none (left out) or init (the constructor's)."),
    ] = "none"
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The seed of --fill init and init: model.")] = 0
    reverse: Annotated[
        bool, typer.Option("--reverse", help="Go the map's way back: SOURCE is what it makes, TARGET the old model.")
    ] = False
    memory_limit: Annotated[
        str | None,
        typer.Option("--memory-limit", metavar="SIZE", help="Refuse what could need more memory than so much, as 8GB."),
    ] = None
    again: Annotated[bool, typer.Option("--again", help="Apply a map to what the same map has made.")] = False
    no_digests: Annotated[bool, typer.Option("--no-digests", help="No sha256 of tensors in the receipt.")] = False


def remap(
    source: Source,
    target: Target = None,
    *,
    write: WriteChoices,
    maps: MapOptions,
    policy: PolicyOptions,
    source_options: SourceOptions,
    target_options: TargetOptions,
    output: OutputOptions,
) -> int:
    """Apply a map and write the remapped checkpoint, with a receipt beside it.

    Judged as by gate first: what would be missing, mismatched or unexpected and is not declared or allowed means exit
    status 1, and nothing is written.
    """
    check_options(output)
    _check(source, write)
    config = project_config()
    rules = policy_of(policy, config, always=("mismatched", "unexpected"))
    request = Request(source, target, source_options, target_options, maps)
    plan = request.plan_back(config, again=write.again) if write.reverse else request.plan(config, again=write.again)
    verdict = evaluate(plan, rules)
    if write.dry_run or not verdict.passed or write.out is None:
        status = 0 if verdict.passed else 1
        step = None if verdict.passed else "nothing was written: mend the map, declare it (fresh, drop), or allow it"
        peak = _peak(plan, write)
        facts = (peak.text,) if peak is not None and verdict.passed else ()
        comparison = Comparison("remap", plan, verdict, status, output.every_key, facts=facts)
        publish(comparison, output, next_step=step)
        return status
    receipt = _written(plan, write.out, write, request, config, quiet=output.quiet)
    with once_in_place(receipt.path):
        publish(receipt, output, next_step=next_command("verify", str(write.out), target))
    return 0


def _check(source: str, write: WriteChoices) -> None:
    """Refuse what cannot be done before any work is done."""
    if write.optimizer not in ("keep", "follow", "drop"):
        raise UsageError(f"--optimizer {write.optimizer}: choose from keep, follow, drop")
    if write.source_model is not None and write.optimizer != "follow":
        raise UsageError("--source-model says whose optimizer states these are: it goes with --optimizer follow")
    if write.weights_only and write.optimizer == "follow":
        raise UsageError("--weights-only leaves optimizer states out: they cannot follow")
    if write.fill not in ("none", "init"):
        raise UsageError(f"--fill {write.fill}: choose from none, init")
    _bytes("--shard-size", write.shard_size)
    _bytes("--memory-limit", write.memory_limit)
    if write.dry_run:
        return
    if write.out is None:
        raise UsageError("remap needs --output", hint="add -o OUT, or --dry-run to see what would be done")
    guess = "sharded" if Path(source).is_dir() else "torch"
    writer_for(write.out, guess, write.to).destination(write.out, overwrite=write.overwrite)


def _bytes(option: str, text: str | None) -> int | None:
    return None if text is None else size_of(option, text)


def _peak(plan: Plan, write: WriteChoices) -> Peak | None:
    """What carrying the plan out needs, compared with --memory-limit; None where the source is a manifest."""
    origin = plan.source.origin
    with open_source(origin.reference, selected=origin.selected) as source:
        if not source.envelope.source.has_data:
            return None
        filled = plan.target.nbytes if write.fill == "init" or model_keys(plan) else 0
        to = writer_for(write.out or "", source.envelope.source.format, write.to)
        check_harmless(plan, source, to, WriteOptions(weights_only=write.weights_only))
        peak = memory_peak(plan, source, at_once=to.at_once, filled=filled)
    peak.check(_bytes("--memory-limit", write.memory_limit))
    return peak


def _fill(plan: Plan, write: WriteChoices, request: Request, config: Config) -> Fill | None:
    """The target's own initialisation: of all that stays random, or of what a map wants so (`init: model`)."""
    wanted = model_keys(plan)
    if write.fill != "init" and not wanted:
        return None
    try:
        fill = initial_fill(request, config, write.seed)
    except UsageError:
        check_filled(plan, None)  # says which entry of the map wants it
        raise
    return fill if write.fill == "init" else fill.only(wanted)


def _written(plan: Plan, out: Path, write: WriteChoices, request: Request, config: Config, *, quiet: bool) -> Receipt:
    if write.memory_limit is not None:
        _peak(plan, write)
    fill = _fill(plan, write, request, config)
    options = WriteOptions(
        digests=not write.no_digests,
        drop_optimizer=write.optimizer == "drop",
        follow_optimizer=write.optimizer == "follow",
        weights_only=write.weights_only,
        source_model=source_model(write.source_model, config),
        shard_size=_bytes("--shard-size", write.shard_size),
        link=write.link,
    )
    total = plan.source.nbytes if options.drop_optimizer or options.weights_only else plan.source.origin.nbytes
    with byte_progress(total, "writing", wanted=not quiet) as progress:
        return execute(
            plan,
            out,
            overwrite=write.overwrite,
            unwrap=write.unwrap,
            to=write.to,
            again=True,  # refused before the plan was made, or wanted
            options=options._replace(progress=progress),
            fill=fill,
            command=sys.argv[1:],
        )
