"""`ckptdoctor map invert`: the map that goes back."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from ckptdoctor import __version__
from ckptdoctor.cli.inputs import Request, key_maps, need_target, project_config
from ckptdoctor.cli.options import MapOptions, OutputOptions, Source, SourceOptions, Target, TargetOptions
from ckptdoctor.cli.output import check_options, publish
from ckptdoctor.cli.shown import next_command
from ckptdoctor.errors import UsageError
from ckptdoctor.files import check_output, write_text
from ckptdoctor.formats import READERS
from ckptdoctor.keymap import KeyMap
from ckptdoctor.plan import Plan
from ckptdoctor.plan.inverse import Inversion, Lost, invert
from ckptdoctor.plan.inverse_map import InverseMap, inverse_map
from ckptdoctor.reports.base import Column, Page, Row, Table
from ckptdoctor.text import listing, plural


def map_invert(
    source: Source,
    target: Target = None,
    *,
    out: Annotated[Path | None, typer.Option("--output", "-o", metavar="MAP2", help="The map to write.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace MAP2 if it exists.")] = False,
    maps: MapOptions,
    source_options: SourceOptions,
    target_options: TargetOptions,
    output: OutputOptions,
) -> int:
    """Write the map that goes back from TARGET to SOURCE. Exit status 1 where not every tensor comes back.

    What cannot be undone is in it as fresh and drop, with the reason. Reads no tensor.
    """
    check_options(output)
    if out is not None:
        check_output(out, overwrite=overwrite)
    elif output.format != "json":
        raise UsageError("map invert needs --output", hint="add -o MAP2, or -f json, which holds the text of the map")
    config = project_config()
    _check_one(key_maps(maps, config))
    plan = Request(source, target, source_options, target_options, maps).plan(config)
    need_target(plan)
    inversion = invert(plan)
    written = inverse_map(inversion, plan.maps[0], about=_about(plan))
    if out is not None:
        write_text(out, written.text, overwrite=overwrite)
    page = _page(plan, inversion, written, out)
    publish(page, output, next_step=_next(plan, out))
    return 0 if _back(inversion, written) == inversion.total and not written.lost else 1


def _check_one(maps: Sequence[KeyMap]) -> None:
    if not maps:
        raise UsageError("map invert needs a map", hint="add -m MAP")
    if len(maps) > 1:
        hint = "invert each by itself, with what it begins with and what it makes; remap --reverse takes several"
        raise UsageError(f"map invert takes one map, not {len(maps)}", hint=hint)


def _about(plan: Plan) -> tuple[str, ...]:
    (key_map,) = plan.maps
    return (
        f"The inverse of {key_map.path} (sha256 {key_map.sha256}),",
        f"from {plan.target.origin.reference} back to {plan.source.origin.reference};",
        f"written by ckptdoctor {__version__}, map invert.",
    )


def _next(plan: Plan, out: Path | None) -> str | None:
    """The map tried on its two sides, where what it begins with is a file and no model."""
    new, old = plan.target.origin, plan.source.origin
    if out is None or new.kind not in READERS:
        return None
    return next_command("map check", str(out), new.reference, old.reference)


def _back(inversion: Inversion, written: InverseMap) -> int:
    """How many tensors the map gives back."""
    gone = {key for lost in written.lost for key in lost.keys}
    return sum(step.filled and step.target.key not in gone for step in inversion.plan.steps)


def _page(plan: Plan, inversion: Inversion, written: InverseMap, out: Path | None) -> Page:
    bijective, dropped = _back(inversion, written), len(plan.unused("dropped"))
    parts = [f"bijective on {bijective:,} of {plural(inversion.total, 'tensor')}"]
    parts += [f"{plural(dropped, 'tensor')} dropped on the way there"] if dropped else []
    parts += [f"{plural(unused, 'tensor')} not used there"] if (unused := len(plan.remainders) - dropped) else []
    if written.lost:
        parts.append(f"not invertible: {listing(dict.fromkeys(lost.place for lost in written.lost))}")
    columns = (Column("WHERE"), Column("KEYS", fold=True), Column("WHY", fold=True))
    rows = tuple(Row((lost.place, listing(lost.keys), lost.reason), "bad") for lost in written.lost)
    return Page(
        title=f"{plan.target.origin.reference} -> {plan.source.origin.reference}",
        facts=(f"map written to {out}",) if out is not None else (),
        tables=(Table(columns, rows),) if rows else (),
        sentence="; ".join(parts),
        tone="good" if bijective == inversion.total else "bad",
        data=partial(_data, plan, inversion, written, out),
    )


def _data(plan: Plan, inversion: Inversion, written: InverseMap, out: Path | None) -> dict[str, Any]:
    return {
        "schema": "ckptdoctor/map-invert/1",
        "map": {"path": plan.maps[0].path, "sha256": plan.maps[0].sha256},
        "output": None if out is None else str(out),
        "bijective": _back(inversion, written),
        "total": inversion.total,
        "not_invertible": [_row(lost) for lost in written.lost],
        "text": written.text,
    }


def _row(lost: Lost) -> dict[str, Any]:
    where = None if lost.rule is None else {"file": lost.rule.file, "line": lost.rule.line}
    return {"where": where, "op": lost.op, "reason": lost.reason, "keys": sorted(lost.keys)}
