"""Values out of YAML and JSON: for `--target-arg K=V`, for `--target-config`, and for a config that is the target."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import TargetNotBuildable, TargetNotFound, UsageError
from ckptdoctor.text import nearest, printable

if TYPE_CHECKING:
    import yaml

LIMIT = 1 << 20
"""A config is not larger than this, in bytes; larger JSON files are manifests."""


def parse_target_args(assignments: Iterable[str]) -> dict[str, Any]:
    """`["depth=6", "dims=[1, 2]"]` as keyword arguments; values are YAML. Raises UsageError for what is no `K=V`."""
    arguments: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(
                f"{printable(text)!r} is no argument", hint="write NAME=VALUE, as in depth=6 or 'dims=[1, 2]'"
            )
        if name in arguments:
            raise UsageError(f"the argument {name} is given twice")
        arguments[name] = _value(text, value)
    return arguments


def _value(text: str, value: str) -> Any:
    import yaml

    try:
        return yaml.load(value, yaml_loader())
    except yaml.YAMLError as error:
        raise UsageError(
            f"the value of {printable(text)!r} is not YAML", hint="quote what has braces, brackets or colons in it"
        ) from error


def read_settings(path: Path, reference: str) -> Any:
    """What a YAML or JSON file holds.

    Raises TargetNotFound if it is not there, TargetNotBuildable if it is neither YAML nor JSON or larger than `LIMIT`.
    """
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise TargetNotFound(
            f"{reference}: there is no file {path}", reference=reference, hint=files_like(path)
        ) from None
    except OSError as error:
        raise _unreadable(path, reference, error.strerror or type(error).__name__) from error
    if len(raw) > LIMIT:
        raise _unreadable(path, reference, "a config larger than 1 MiB")
    return _parsed_json(raw, path, reference) if path.suffix == ".json" else _parsed_yaml(raw, path, reference)


def _parsed_json(raw: bytes, path: Path, reference: str) -> Any:
    try:
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _unreadable(path, reference, f"no JSON: {error}") from error


def _parsed_yaml(raw: bytes, path: Path, reference: str) -> Any:
    import yaml

    try:
        return yaml.load(raw, yaml_loader())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise _unreadable(path, reference, f"no YAML: {place}{error.problem}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _unreadable(path, reference, f"no YAML: {error}") from error


def _unreadable(path: Path, reference: str, why: str) -> TargetNotBuildable:
    return TargetNotBuildable(f"{path} cannot be read: {printable(why)}", reference=reference)


@cache
def yaml_loader() -> type[yaml.SafeLoader]:
    """A safe loader to which `1e-5` is a number: YAML 1.1 wants a dot in it, and nobody who writes a config does."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?(\d[\d_]*)(\.\d*)?[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def files_like(path: Path) -> str | None:
    """A hint for a file that is not there: its neighbours of a similar name, or the folder that is missing as well."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {printable(str(folder))}"
    try:
        near = nearest(path.name, [each.name for each in folder.iterdir()])
    except PermissionError:
        return None
    return f"did you mean {' or '.join(printable(str(folder / name)) for name in near)}?" if near else None
