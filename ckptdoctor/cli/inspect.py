"""`ckptdoctor inspect`: what is in a checkpoint or a target."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ckptdoctor.cli.inputs import project_config, target_manifest
from ckptdoctor.cli.options import OutputOptions, SourceOptions, TargetOptions
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.progress import byte_progress
from ckptdoctor.errors import UsageError
from ckptdoctor.files import rewrite_text
from ckptdoctor.formats.manifest import manifest_json
from ckptdoctor.reports.inspection import Inspection
from ckptdoctor.source import Description, describe
from ckptdoctor.wrappers import EVERYWHERE, stripped

if TYPE_CHECKING:
    from ckptdoctor.health import Health
    from ckptdoctor.model import Manifest


def inspect(
    reference: Annotated[
        str, typer.Argument(metavar="SOURCE|TARGET", help="A checkpoint, a manifest, or a model reference.")
    ],
    source: SourceOptions,
    target: TargetOptions,
    manifest: Annotated[
        Path | None,
        typer.Option("--manifest", metavar="OUT.json", help="Write the manifest, to stand in for the file or model."),
    ] = None,
    stats: Annotated[
        bool,
        typer.Option("--stats", help="Read the values: NaN, constants, equal bytes, what narrower dtypes would lose."),
    ] = False,
    output: OutputOptions = OutputOptions(),  # noqa: B008
) -> int:
    """Show what is in a checkpoint or in a target: keys, shapes, dtypes, and where they lie."""
    check_options(output)
    is_target = _names_code(reference)
    if is_target:
        if stats:
            raise _no_values(reference)
        found = target_manifest(reference, target, project_config())
        assert found is not None
        listed, facts, globals_ = Description(found)
    else:
        listed, facts, globals_ = describe(reference, selected=source.select)
    segments = EVERYWHERE if source.strip is None else [part for part in source.strip.split(",") if part]
    listed = stripped(listed, segments)
    health = _health(listed, source.select, output) if stats else None
    if manifest is not None:
        rewrite_text(manifest, manifest_json(listed))
        facts = (*facts, f"manifest written to {manifest}")
    publish(Inspection(listed, is_target, facts, output.every_key, globals_, health), output)
    return 0


def _health(listed: Manifest, selected: str | None, output: OutputOptions) -> Health:
    from ckptdoctor.health import survey
    from ckptdoctor.source import open_source

    with open_source(listed.origin.reference, selected=selected) as opened:
        if not opened.envelope.source.has_data:
            raise _no_values(listed.origin.reference)
        with byte_progress(listed.nbytes, "reading", wanted=not output.quiet) as progress:
            return survey(opened, listed, progress)


def _no_values(reference: str) -> UsageError:
    return UsageError(
        f"--stats looks at values, and {reference} is a list of tensors without them",
        hint="give a checkpoint, or leave --stats out",
    )


def _names_code(reference: str) -> bool:
    if Path(reference).is_file() and Path(reference).suffix not in (".yaml", ".yml", ".json"):
        return False
    from ckptdoctor.targets import names_code

    return names_code(reference)
