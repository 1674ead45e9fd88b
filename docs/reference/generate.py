"""Write map.md, the reference of the map language, from map.in.md and the tables of the code.

    python docs/reference/generate.py            # or: make docs
    python docs/reference/generate.py --check    # says what would change, and writes nothing

The prose stands in map.in.md; a comment such as `<!-- fields: rule -->` is where a table of the code goes.
`tests/docs/test_reference.py` holds map.md to what this script makes, and runs every example.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path

import op_pages
from marks import code, sentence, table

from ckptdoctor.cli.guard import text_of
from ckptdoctor.errors import CkptDoctorError
from ckptdoctor.initialisers import INITIALISERS
from ckptdoctor.keymap import arithmetic, language, parse_map
from ckptdoctor.model import Manifest
from ckptdoctor.plan import make_plan

HERE = Path(__file__).parent
PAGE, TEMPLATE = HERE / "map.md", HERE / "map.in.md"
TABLES = ("map", "rule", "fresh", "drop", "tie", "source", "envelope")

ALONE = """\
ckptdoctor: 1
rules:
  - {from: "h.{i}.{q,k,v}.w", to: "h.{i}.qkv.w", op: {concat: {dimm: 0}}}
  - {from: "mlp.{fc1,fc2}.{p}", to: "mlp.{0,1,2}.{p}"}
  - {from: embed, to: embed, op: {index: {dim: 1, from: [u, v, u], to: [u, v]}}}
  - {form: a.w, to: b.w}
"""
FITTING = """\
ckptdoctor: 1
rules:
  - {from: "h.{i}.{q,k,v}.w", to: "h.{i}.qkv.w", op: {concat: {dim: 0}}}
  - {from: "old.qkv.w", to: "new.{q,k,v}.w", op: {split: {sizes: [8, 8, 7]}}}
  - {from: "heads.w", to: "head.weight"}
  - {from: "norm.{n}", to: "norm.{N}"}
fresh: [{keys: "gate.{p}", why: "new"}]
"""
SOURCE = {
    **{f"h.{i}.{name}.w": (8, 8) for i in range(3) for name in "qv"},
    **{"old.qkv.w": (24, 8), "head.w": (4, 8), "norm.w": (8,)},
}
TARGET = {
    **{f"h.{i}.qkv.w": (24, 8) for i in range(3)},
    **{f"new.{name}.w": (8, 8) for name in "qkv"},
    **{"head.weight": (4, 8), "norm.w": (8,)},
}


def page() -> str:
    """The whole reference."""
    text = TEMPLATE.read_text()
    for name, part in PARTS.items():
        text = text.replace(f"<!-- {name} -->", part())
    left = re.findall(r"<!-- .*? -->", text)
    if left:
        raise SystemExit(f"{TEMPLATE} asks for what there is not: {', '.join(left)}")
    return text


def changes() -> str:
    """What the page would be, against what it is, as a diff; empty where they are equal."""
    old = PAGE.read_text() if PAGE.exists() else ""
    return "".join(difflib.unified_diff(old.splitlines(True), page().splitlines(True), "map.md", "map.md, made anew"))


def field_table(name: str) -> str:
    """The fields of one table of the language."""
    kind = getattr(language, name.upper())
    rows = ((code(each.name), each.kind.words, each.about, "yes" * each.required) for each in kind.fields)
    return table(("field", "is", "says", "needed"), rows)


def initialiser_table() -> str:
    """What `init` may be."""
    rows = []
    for name, init in INITIALISERS.items():
        given = {each.name: each.metadata["about"] for each in fields(init)}
        inner = ".." if len(given) == 1 else "{" + ", ".join(f"{each}: .." for each in given) + "}"
        about = "; ".join(text if len(given) == 1 else f"{code(each)}: {text}" for each, text in given.items())
        rows.append((code(f"{{{name}: {inner}}}" if given else name), sentence(init.__doc__), about))
    return table(("init", "gives", "arguments"), rows)


def wrong(text: str) -> str:
    """A map and what the command line says of it."""
    source, target = Manifest(op_pages.specs(SOURCE)), Manifest(op_pages.specs(TARGET))
    try:
        make_plan(source, target, parse_map(text, "map.yaml"))
    except CkptDoctorError as error:
        return f"```yaml\n{text}```\n\n```text\n{text_of(error)}\n```"
    raise SystemExit("a map that was to be wrong is not")


PARTS: Mapping[str, Callable[[], str]] = {
    **{f"fields: {name}": lambda name=name: field_table(name) for name in TABLES},  # type: ignore[misc]
    "arithmetic": lambda: arithmetic.HINT,
    "ops: fan in": op_pages.joining,
    "ops: fan out": op_pages.parting,
    "ops: overview": op_pages.overview,
    "ops: sections": op_pages.sections,
    "initialisers": initialiser_table,
    "errors: alone": lambda: wrong(ALONE),
    "errors: fitting": lambda: wrong(FITTING),
}

if __name__ == "__main__":
    if "--check" in sys.argv:
        difference = changes()
        print(difference or "map.md is up to date")
        sys.exit(bool(difference))
    PAGE.write_text(page())
