"""`ckptdoctor map check`: is a map right by itself, for a checkpoint, and for a target?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ckptdoctor.cli.inputs import Request, project_config
from ckptdoctor.cli.options import MapOptions, OutputOptions, SourceOptions, Target, TargetOptions
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.keymap import load_map
from ckptdoctor.plan import check_alone
from ckptdoctor.reports.base import Page
from ckptdoctor.reports.comparison import Comparison
from ckptdoctor.text import plural


def map_check(
    map_path: Annotated[Path, typer.Argument(metavar="MAP", help="The map to check.")],
    source: Annotated[
        str | None, typer.Argument(metavar="[SOURCE]", help="A checkpoint or manifest to check it on.")
    ] = None,
    target: Target = None,
    *,
    source_options: SourceOptions,
    target_options: TargetOptions,
    output: OutputOptions,
) -> int:
    """Check a map: its language, and with SOURCE and TARGET that every rule fires and fits. Reads no tensor."""
    check_options(output)
    key_map = load_map(map_path)
    if source is None:
        check_alone(key_map)
        counts: tuple[tuple[int, str], ...] = (
            (len(key_map.rules), "rule"),
            (len(key_map.fresh), "fresh declaration"),
            (len(key_map.drop), "drop declaration"),
        )
        counts += ((len(key_map.tie), "tie"),) if key_map.tie else ()
        sentence = f"{map_path} is well formed: " + ", ".join(plural(*count) for count in counts)
        data = {
            "schema": "ckptdoctor/map-check/1",
            "map": {"path": str(map_path), "sha256": key_map.sha256},
            "passed": True,
        }
        publish(Page(title=str(map_path), sentence=sentence, data=lambda: data), output)
        return 0
    request = Request(source, target, source_options, target_options, MapOptions(maps=[map_path]))
    publish(Comparison("map check", request.plan(project_config()), every_key=output.every_key), output)
    return 0
