"""The commands, assembled. Only the module of the command that runs is imported: every start pays for what stands here."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from ckptdoctor import __version__
from ckptdoctor.cli.guard import Signals, close_stdout, open_streams, status_of, stopped_early
from ckptdoctor.cli.options import command
from ckptdoctor.errors import OutputError
from ckptdoctor.lazy import load

COMMANDS = {
    "inspect": "ckptdoctor.cli.inspect:inspect",
    "diff": "ckptdoctor.cli.diff:diff",
    "remap": "ckptdoctor.cli.remap:remap",
    "gate": "ckptdoctor.cli.gate:gate",
    "verify": "ckptdoctor.cli.verify:verify",
    "triage": "ckptdoctor.cli.triage:triage",
    "schema": "ckptdoctor.cli.schema:schema",
}
MAP_COMMANDS = {
    "check": "ckptdoctor.cli.map_check:map_check",
    "invert": "ckptdoctor.cli.map_invert:map_invert",
}
READ_NOTHING = ("schema",)
"""Commands that read no checkpoint, and so have no limits."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    table: dict[str, str]

    def list_commands(self, ctx: Any) -> list[str]:
        """The names in the order of the table, then what is registered the usual way."""
        return [*self.table, *super().list_commands(ctx)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build one command."""
        if cmd_name not in self.table:
            return super().get_command(ctx, cmd_name)
        single = _typer()
        command(single, cmd_name, reads=cmd_name not in READ_NOTHING)(load(self.table[cmd_name]))
        built = typer.main.get_command(single)
        built.name = cmd_name
        return built


class _Root(LazyGroup):
    table = COMMANDS


class _Maps(LazyGroup):
    table = MAP_COMMANDS


def _typer(name: str | None = None, group: type[TyperGroup] = TyperGroup, summary: str | None = None) -> typer.Typer:
    """Plain help: Rich would cost more than everything else at every start."""
    return typer.Typer(
        name=name,
        cls=group,
        help=summary,
        add_completion=False,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


app = _typer("ckptdoctor", _Root)
maps = _typer("map", _Maps, "Work on maps.")


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"ckptdoctor {__version__}\n")
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


@maps.callback()
def _map_group() -> None:
    """Work on maps."""


app.add_typer(maps)


def _run_app() -> int | None:
    """The exit status of a command. What commands raise ends within them; an OSError here is that of a help page."""
    try:
        status: int | None = app(standalone_mode=False)
    except BrokenPipeError:
        return 0  # whoever read it has seen enough
    except OSError as error:
        raise OutputError(f"cannot write to stdout: {error.strerror}", path="-") from None
    return status


def run() -> None:
    """Parse the command line and run; ends in SystemExit."""
    open_streams()
    signals = Signals()
    signals.catch()
    words = " ".join(sys.argv[1:]).replace("=", " ")
    as_json = any(option in words for option in ("-f json", "-fjson", "--format json"))
    status = stopped_early(status_of(_run_app, as_json=as_json), signals)
    signals.ended = True
    close_stdout()
    signals.release()
    sys.exit(status)
