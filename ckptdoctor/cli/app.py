"""The commands, assembled. Importing this is what every start pays for: no torch, no numpy, no Rich, no YAML here."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ckptdoctor import __version__
from ckptdoctor.cli.diff import diff
from ckptdoctor.cli.gate import gate
from ckptdoctor.cli.guard import INTERRUPTED, catch_signals, say
from ckptdoctor.cli.inspect import inspect
from ckptdoctor.cli.map_check import map_check
from ckptdoctor.cli.options import command
from ckptdoctor.cli.output import write_stdout
from ckptdoctor.cli.remap import remap
from ckptdoctor.cli.schema import schema


def _group(name: str, summary: str | None = None) -> typer.Typer:
    """Plain help: Rich would cost more than everything else at every start."""
    return typer.Typer(
        name=name,
        help=summary,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _group("ckptdoctor")
maps = _group("map", "Work on maps.")

for name, function in (("inspect", inspect), ("diff", diff), ("remap", remap), ("gate", gate), ("schema", schema)):
    command(app, name)(function)
command(maps, "check")(map_check)
app.add_typer(maps)


def _version(wanted: bool) -> None:
    if wanted:
        write_stdout(f"ckptdoctor {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Checkpoint surgery for PyTorch: see what would stay random, mend it with a map, prove it, gate it.

    Exit status: 0 nothing wrong, 1 findings, 2 could not do it, 130 interrupted.
    """


def run() -> None:
    """Parse the command line and run; ends in SystemExit."""
    catch_signals()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except KeyboardInterrupt:
        say("interrupted")
        os._exit(INTERRUPTED)
