"""`ckptdoctor verify`: prove what was written."""

from __future__ import annotations

import os
import shlex
from typing import Annotated, Any

import typer

from ckptdoctor.cli.inputs import chosen_target, project_config
from ckptdoctor.cli.options import OutputOptions, SourceOptions, Target, TargetOptions
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.progress import byte_progress
from ckptdoctor.config import Config
from ckptdoctor.reports.verification import verification_page
from ckptdoctor.verification import Verification
from ckptdoctor.verification import verify as verify_output


def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="The checkpoint that was written.")],
    target: Target = None,
    *,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="SOURCE", help="What it was made from, where that is not where it was."),
    ] = None,
    source_options: SourceOptions,
    target_options: TargetOptions,
    output: OutputOptions,
) -> int:
    """Read a checkpoint again and prove it: checksums, receipt, source, ties, finite values, loading."""
    check_options(output)
    config = project_config()
    with byte_progress(_guess(out, against), "reading", wanted=not output.quiet) as progress:
        verification = verify_output(
            out,
            against=against,
            selected=source_options.select,
            strip=_segments(source_options),
            progress=progress,
            **_target(target, target_options, config),
        )
    publish(verification_page(verification, every_key=output.every_key), output, next_step=_next(verification))
    return 0 if verification.passed else 1


def _guess(out: str, against: str | None) -> int | None:
    """Bytes that will be read: the output for its checksums and again for its values, and a source of its size."""
    try:
        size = os.stat(out).st_size  # noqa: PTH116
        return 2 * size + (os.stat(against).st_size if against else size)  # noqa: PTH116
    except OSError:
        return None


def _segments(options: SourceOptions) -> list[str] | None:
    if options.strip is None:
        return None
    return [part for part in options.strip.replace(".", ",").split(",") if part]


def _target(reference: str | None, options: TargetOptions, config: Config) -> dict[str, Any]:
    """The target that is chosen, as arguments of `verify`."""
    chosen = chosen_target(reference, options, config)
    if chosen is None:
        return {}
    return {
        "target": chosen.reference,
        "target_config": chosen.config,
        "target_arguments": chosen.arguments,
        "search_path": chosen.search_path,
    }


def _next(verification: Verification) -> str | None:
    """How to write it again, where its bytes are not what they were and the source is still there."""
    damaged = verification["container"].passed is False or verification["digests"].passed is False
    if not damaged or verification.receipt is None or verification.source is None:
        return None
    words = list(verification.receipt.command)
    if words[:1] != ["remap"]:
        return None
    words += [] if "--overwrite" in words else ["--overwrite"]
    return f"write it again: ckptdoctor {shlex.join(words)}"
