"""Options that several commands share, in groups; `command` lays the fields of a group out as parameters for Typer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer

from ckptdoctor.cli.guard import status_of
from ckptdoctor.errors import UsageError
from ckptdoctor.limits import Limits, limited
from ckptdoctor.text import bytes_of

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint, or a manifest.")]
Target = Annotated[
    str | None,
    typer.Argument(
        metavar="[TARGET]",
        help="pkg.mod:Name, file.py:Name, a YAML/JSON with _target_ or class_path, a checkpoint, or a manifest.",
    ),
]


class OutputOptions(NamedTuple):
    """How a result is shown."""

    format: Annotated[str, typer.Option("--format", "-f", help="table, json or markdown.")] = "table"
    report: Annotated[
        list[str] | None,
        typer.Option("--report", metavar="KIND=PATH", help="Write a report too (- is stdout). Repeatable."),
    ] = None
    every_key: Annotated[bool, typer.Option("--all", help="One row a key, no grouping.")] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="The closing sentence only.")] = False
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")] = False
    color: Annotated[str, typer.Option("--color", metavar="WHEN", help="auto, always or never.")] = "auto"


class SourceOptions(NamedTuple):
    """Which tensors of the file are meant, and under which names."""

    select: Annotated[
        str | None, typer.Option("--select", metavar="A/B", help="Where the weights lie in the file (. is the root).")
    ] = None
    strip: Annotated[
        str | None,
        typer.Option("--strip", metavar="A,B", help="Wrapper segments to take out of the keys ('' for none)."),
    ] = None


class TargetOptions(NamedTuple):
    """How the target is built."""

    target_config: Annotated[
        Path | None, typer.Option("--target-config", metavar="FILE", help="YAML or JSON with the target's arguments.")
    ] = None
    target_arg: Annotated[
        list[str] | None, typer.Option("--target-arg", metavar="K=V", help="One argument of the target. Repeatable.")
    ] = None
    no_target: Annotated[bool, typer.Option("--no-target", help="Leave the project's default target out.")] = False


class MapOptions(NamedTuple):
    """Which maps are applied."""

    maps: Annotated[
        list[Path] | None, typer.Option("--map", "-m", metavar="MAP", help="A map. Repeatable, in order.")
    ] = None
    no_map: Annotated[bool, typer.Option("--no-map", help="Leave the project's default maps out.")] = False


class MatchOptions(NamedTuple):
    """Which keys are shown."""

    match: Annotated[list[str] | None, typer.Option("--match", metavar="PATTERN", help="Show only these keys.")] = None


class PolicyOptions(NamedTuple):
    """What is allowed."""

    max_random: Annotated[
        str | None,
        typer.Option("--max-random", metavar="N|P%", help="At most so many parameters may be random, fresh or not."),
    ] = None
    allow_random: Annotated[
        list[str] | None, typer.Option("--allow-random", metavar="PATTERN", help="These may stay random. Repeatable.")
    ] = None
    max_unexpected: Annotated[
        str | None, typer.Option("--max-unexpected", metavar="N|P%", help="At most so many may be left unused.")
    ] = None
    allow_unexpected: Annotated[
        list[str] | None,
        typer.Option("--allow-unexpected", metavar="PATTERN", help="These may be left unused. Repeatable."),
    ] = None
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on", metavar="CHECKS", help="Also fail on: mismatched,dtype,tied,unexpected,buffers,unsafe."
        ),
    ] = None


class LimitOptions(NamedTuple):
    """How much a checkpoint may ask for. No command takes this group: `command` lays it out and has it hold."""

    max_opcodes: Annotated[
        int, typer.Option("--max-opcodes", metavar="N", min=1, help="Opcodes of a pickle, values of a JSON file.")
    ] = Limits().opcodes
    max_nesting: Annotated[
        int, typer.Option("--max-nesting", metavar="N", min=1, help="Levels in which weights are looked for.")
    ] = Limits().nesting
    max_metadata: Annotated[
        str, typer.Option("--max-metadata", metavar="SIZE", help="A pickle, header or index, unpacked.")
    ] = "64MiB"
    max_materialised: Annotated[
        str,
        typer.Option("--max-materialised", metavar="SIZE", help="What a tensor may have beyond its storage's bytes."),
    ] = "4GiB"

    @property
    def limits(self) -> Limits:
        """As the readers know them; raises UsageError."""
        return Limits(
            self.max_opcodes,
            self.max_nesting,
            size_of("--max-metadata", self.max_metadata),
            size_of("--max-materialised", self.max_materialised),
        )


def size_of(option: str, text: str) -> int:
    """The bytes that an option asks for; raises UsageError where that is no number, or nothing."""
    size = bytes_of(text)
    if not size:
        raise UsageError(f"{option} {text}: no number of bytes", hint=f"as in {option} 5GB")
    return size


def command(app: typer.Typer, name: str, *, reads: bool = True) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Register a function as a command: parameters that are one of the groups above are laid out as options.

    What it returns is the exit status; exceptions become one too. One that `reads` checkpoints gets the limits as options,
    which hold while it runs.
    """

    def register(function: Callable[..., int]) -> Callable[..., int]:
        hints = get_type_hints(function, include_extras=True)
        groups: dict[str, Any] = {name: hint for name, hint in hints.items() if hasattr(hint, "_fields")}
        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.name in groups:
                parameters += _laid_out(groups[parameter.name])
            else:
                annotation = hints[parameter.name]
                parameters.append(parameter.replace(annotation=annotation, kind=inspect.Parameter.KEYWORD_ONLY))
        parameters += _laid_out(LimitOptions) if reads else []

        def run(**given: Any) -> None:
            as_json = given.get("format") == "json"
            values = {name: _taken(group, given) for name, group in groups.items()}
            options = _taken(LimitOptions, given) if reads else LimitOptions()

            def limited_run() -> int:
                with limited(options.limits):
                    return function(**values, **given)

            raise typer.Exit(status_of(limited_run, as_json=as_json))

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name)(run)
        return function

    return register


def _taken(group: Any, given: dict[str, Any]) -> Any:
    """A group of the options that are given, which are taken out of them."""
    return group(**{field: given.pop(field) for field in group._fields})


def _laid_out(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field, kind, default=group._field_defaults[field], annotation=hints[field])
        for field in group._fields
    ]
