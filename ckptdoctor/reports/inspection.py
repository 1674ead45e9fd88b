"""The page of `inspect`: what lies in a checkpoint or a target."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdoctor import __version__
from ckptdoctor.grouping import labels
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.reports.base import Column, Page, Row, Table, Tone
from ckptdoctor.reports.data import source_data, target_data
from ckptdoctor.reports.health import health_data, health_tables, health_warnings, health_words
from ckptdoctor.text import bytes_text, listing, plural, shape_text

if TYPE_CHECKING:
    from ckptdoctor.health import Health
    from ckptdoctor.unpickling import Exposure

SCHEMA = "ckptdoctor/inspection/1"
_COLUMNS = (
    Column("KEY", fold=True),
    Column("SHAPE"),
    Column("DTYPE"),
    Column("KIND"),
    Column("TENSORS", right=True),
    Column("PARAMETERS", right=True),
)
_DANGERS: dict[str, Tone] = {"dangerous": "bad", "unknown": "plain"}
_MOST_GLOBALS = 100
"""Rows for the globals of one class; JSON has all of them."""


class Inspection(NamedTuple):
    """A manifest to be shown; `is_target` says on which side it stands, `facts` are further lines about the file, `globals`
    what its pickles name, and `health` is what reading the values told, if they were read."""

    manifest: Manifest
    is_target: bool = False
    facts: tuple[str, ...] = ()
    every_key: bool = False
    globals: tuple[Exposure, ...] = ()
    health: Health | None = None


def inspection_page(inspection: Inspection) -> Page:
    """The page of a checkpoint or a target."""
    manifest, health = inspection.manifest, inspection.health
    files = f", {manifest.origin.files:,} files" if manifest.origin.files > 1 else ""
    return Page(
        title=f"{manifest.origin.reference} ({manifest.origin.kind}{files})",
        facts=(*_facts(manifest), *inspection.facts, *_harmless(inspection.globals)),
        tables=(
            _table(manifest, inspection.every_key),
            *_globals_tables(inspection.globals),
            *(health_tables(health, manifest, every_key=inspection.every_key) if health else ()),
        ),
        sentence=_sentence(manifest) + (f"; {health_words(health, manifest)}" if health else ""),
        warnings=(*manifest.origin.notes, *(health_warnings(health, manifest) if health else ())),
        details=partial(_details, manifest),
        data=partial(_data, inspection),
    )


def _details(manifest: Manifest) -> list[str]:
    return [f"fingerprint {manifest.fingerprint}", f"{manifest.nbytes:,} bytes of tensors"]


def _facts(manifest: Manifest) -> list[str]:
    origin = manifest.origin
    facts = [f"the weights lie at {origin.selected}"] if origin.selected else []
    return facts + ([f"wrapper segments in the keys: {', '.join(origin.stripped)}"] if origin.stripped else [])


def _sentence(manifest: Manifest) -> str:
    parts = [plural(len(manifest), "tensor"), plural(manifest.parameters, "parameter")]
    parts += [plural(manifest.buffers, "buffer element")] if manifest.buffers else []
    size = f"{bytes_text(manifest.nbytes)} of weights"
    if manifest.origin.nbytes and manifest.origin.kind != "manifest":
        size += f" in {bytes_text(manifest.origin.nbytes)} on disk"
    return ", ".join([*parts, size])


def _table(manifest: Manifest, every_key: bool) -> Table:
    groups: dict[Hashable, list[TensorSpec]] = {}
    for spec in manifest.values():
        alike = spec.key if every_key else (spec.shape, spec.dtype, spec.kind, spec.tied_to)
        groups.setdefault(alike, []).append(spec)
    position = {key: number for number, key in enumerate(manifest)}
    rows = [
        (min(position[key] for key in label.keys), _row(label.text, specs[0], len(label.keys)))
        for specs in groups.values()
        for label in labels(spec.key for spec in specs)
    ]
    return Table(_COLUMNS, tuple(row for _, row in sorted(rows, key=lambda pair: pair[0])))


def _row(text: str, spec: TensorSpec, count: int) -> Row:
    text += f"  (tied to {spec.tied_to})" if spec.tied_to else ""
    parameters = f"{spec.counted * count:,}"
    return Row((text, shape_text(spec.shape), spec.dtype.name, spec.kind, f"{count:,}", parameters))


def _harmless(globals_: Sequence[Exposure]) -> list[str]:
    """In a line, what needs no table: which is so for nearly every file."""
    inert = bool(globals_) and all(each.danger == "inert" for each in globals_)
    return (
        [f"unpickling it would make tensors and containers only ({plural(len(globals_), 'global')}, all inert)"]
        if inert
        else []
    )


def _globals_tables(globals_: Sequence[Exposure]) -> tuple[Table, ...]:
    """What the file's pickles name, where that is not inert: a row for each global, and one for all that are."""
    if all(each.danger == "inert" for each in globals_):
        return ()
    columns = (Column("CLASS"), Column("GLOBAL", fold=True), Column("WHERE", fold=True))
    rows = []
    for danger, tone in _DANGERS.items():
        alike = [each for each in globals_ if each.danger == danger]
        rows += [Row((danger, each.global_name, listing(each.places, 3)), tone) for each in alike[:_MOST_GLOBALS]]
        if (more := len(alike) - _MOST_GLOBALS) > 0:
            rows.append(Row((danger, f"{more:,} more", ""), tone))
    if inert := [each.global_name for each in globals_ if each.danger == "inert"]:
        rows.append(Row(("inert", ", ".join(inert), "")))
    return (Table(columns, tuple(rows), "Unpickling it would make or call (ckptdoctor does not):"),)


def _data(inspection: Inspection) -> dict[str, Any]:
    manifest = inspection.manifest
    side = target_data(manifest) if inspection.is_target else source_data(manifest)
    tensors = [
        {
            "key": spec.key,
            "stored_key": spec.stored_key,
            "shape": list(spec.shape),
            "dtype": spec.dtype.name,
            "kind": spec.kind,
            "tied_to": spec.tied_to,
            "parameters": spec.counted,
        }
        for spec in manifest.values()
    ]
    name = "target" if inspection.is_target else "source"
    globals_ = [
        {"global": each.global_name, "class": each.danger, "places": list(each.places), "uses": each.uses or None}
        for each in inspection.globals
    ]
    health = {} if inspection.health is None else {"health": health_data(inspection.health)}
    head = {"schema": SCHEMA, "tool": __version__, name: side, "facts": list(inspection.facts)}
    return head | {"globals": globals_, "tensors": tensors, **health}
