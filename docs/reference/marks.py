"""Markdown and YAML as the reference writes them: tables, code, plain values in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from ckptdoctor.ops import Op

_WORD = re.compile(r"[A-Za-z_][\w.]*")
_YAML_WORDS = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}
_TYPES = {"integer": "a whole number", "number": "a number", "boolean": "`true` or `false`", "string": "a text"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table without the columns that are empty."""
    columns = [column for column in zip(head, *rows, strict=True) if any(column[1:])]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in zip(*columns, strict=True)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def code(text: str) -> str:
    """In backticks."""
    return f"`{text}`"


def listed(names: Iterable[str]) -> str:
    """Names in code, with commas."""
    return ", ".join(map(code, names))


def flow(value: object) -> str:
    """A plain value as a person writes it in one line of YAML."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {flow(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    plain = not isinstance(value, str) or (_WORD.fullmatch(value) and value.lower() not in _YAML_WORDS)
    return str(value).lower() if isinstance(value, bool) else str(value) if plain else json.dumps(value)


def shortest(op: Op) -> str:
    """An op as a map would write it, without what it would be anyway."""
    usual = {each.name.removesuffix("_"): each.default for each in fields(op) if each.default is not MISSING}
    given = {name: value for name, value in op.arguments().items() if usual.get(name, MISSING) != value}
    if not given:
        return op.name
    return flow({op.name: next(iter(given.values())) if len(fields(op)) == 1 else given})


def kind_of(schema: Mapping[str, Any]) -> str:
    """What a JSON Schema of an argument allows, in a few words."""
    if "anyOf" in schema:
        return " or ".join(map(kind_of, schema["anyOf"]))
    if "enum" in schema:
        names = [str(each) for each in schema["enum"]]
        return " or ".join(map(code, names)) if len(names) < 5 else f"{listed(names[:3])}, ..."
    if "const" in schema:
        return code(flow(schema["const"]))
    if schema["type"] == "array":
        return "names" if schema["items"]["type"] == "string" else "whole numbers"
    if schema["type"] == "object":
        inner = schema.get("properties")
        return code("{" + ", ".join(f"{name}: .." for name in inner) + "}") if inner else "sizes by name"
    return _TYPES[schema["type"]]


def sentence(text: str | None, paragraphs: int = 9) -> str:
    """A docstring, or its first paragraphs, in one line."""
    return " ".join(" ".join((text or "").split("\n\n")[:paragraphs]).split())


def lower(text: str) -> str:
    """A sentence to go on with after a colon."""
    return text[:1].lower() + text[1:] if text[1:2].islower() or text[1:2] == " " else text
