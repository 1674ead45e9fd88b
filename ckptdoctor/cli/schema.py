"""`ckptdoctor schema`: the JSON Schemas of what is read and written."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from ckptdoctor.cli.output import write_stdout
from ckptdoctor.errors import UsageError
from ckptdoctor.keymap import map_schema
from ckptdoctor.reports.schema import report_schema
from ckptdoctor.text import did_you_mean

SCHEMAS = {"map": map_schema, "report": report_schema}


def schema(name: Annotated[str, typer.Argument(metavar="map|report", help="Which schema.")]) -> int:
    """Print a JSON Schema: of the map language (for editors), or of the JSON reports."""
    if name not in SCHEMAS:
        raise UsageError(f"there is no schema {name!r}", hint=did_you_mean(name, SCHEMAS) or "choose from map, report")
    write_stdout(json.dumps(SCHEMAS[name](), indent=2) + "\n")
    return 0
