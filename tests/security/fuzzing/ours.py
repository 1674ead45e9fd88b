"""How we read a mutant: open it, list every place, read every value. Only an error of ours may come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.errors import CkptDoctorError
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import Checkpoint, Place
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.nodes import CallNode, mapping_pairs
from ckptdoctor.pickles.optimizers import containers

MOST = 1 << 14
"""Bytes of one tensor that are compared: a few that stand in the file may legally be many as a tensor."""


class Value(NamedTuple):
    """A tensor: its shape, the name of its dtype, and its first bytes in row-major order."""

    shape: tuple[int, ...]
    dtype: str
    values: bytes


Tensors = Mapping[Place, Mapping[str, Value]]


class Reading(NamedTuple):
    """What we find in a checkpoint. `unopened` are the entries that we keep as calls, and say nothing of."""

    tensors: Tensors
    ties: Mapping[str, str]
    unopened: frozenset[tuple[Place, str]]


def read_checkpoint(path: Path) -> Reading:
    """Everything in a checkpoint, by the public way of reading one."""
    with open_checkpoint(path) as checkpoint:
        checkpoint.check_unchanged()
        tensors = {place: dict(_tensors(checkpoint, place)) for place in checkpoint.places}
        for place in checkpoint.places:
            checkpoint.others(place), checkpoint.has_optimizer(place)
        first, *_ = [*checkpoint.places, None]
        ties = [] if first is None else checkpoint.manifest(first).values()
        tied = {spec.key: spec.tied_to for spec in ties if spec.tied_to is not None}
        return Reading(tensors, tied, frozenset(_unopened(checkpoint)))


def _tensors(checkpoint: Checkpoint, place: Place) -> Iterator[tuple[str, Value]]:
    stored = checkpoint.stored(place) if checkpoint.has_data else {}
    for key, spec in checkpoint.manifest(place).items():
        values = b""
        if checkpoint.has_data:
            values = beginning(checkpoint.values(stored[key]), whole=spec.nbytes <= MOST)
        yield key, Value(spec.shape, spec.dtype.name, values)


def beginning(chunks: Iterable[bytes], *, whole: bool) -> bytes:
    """All that there is, or as much as is compared."""
    if whole:
        return b"".join(chunks)
    found = bytearray()
    for chunk in islice(chunks, MOST):
        found += chunk[:MOST]
        if len(found) >= MOST:
            break
    return bytes(found[:MOST])


def _unopened(checkpoint: Checkpoint) -> Iterator[tuple[Place, str]]:
    """Entries that some function would make, which is none of those that torch makes dense tensors by."""
    if isinstance(checkpoint, TensorGraph):
        for way, node in containers(checkpoint.pickle.root):
            for key, value in mapping_pairs(node) or []:
                if isinstance(key, str) and type(value) is CallNode and id(value) not in checkpoint.views:
                    yield way, key


def rewritten(path: Path, out: Path, reading: Reading) -> str | None:
    """What is wrong with an identity of the checkpoint, written to `out`; None where it is the same, or is refused whole."""
    try:
        manifest = read_manifest(path)
        if manifest.nbytes > MOST * 8:
            return None
        execute(make_plan(manifest), out)
    except CkptDoctorError as error:
        if "defect of ckptdoctor" in (error.hint or ""):
            return f"identity: {error}"
        left = sorted(entry.name for entry in out.parent.iterdir())
        return f"identity: it was refused and left {left}" if left else None
    again = read_manifest(out)
    if [spec._replace(tied_to=None) for spec in again.values()] != [
        spec._replace(tied_to=None) for spec in manifest.values()
    ]:
        return "identity: another manifest"
    found = read_checkpoint(out).tensors
    place = next(place for place, tensors in reading.tensors.items() if list(tensors) == list(manifest))
    return None if reading.tensors[place] in found.values() else "identity: other values"


def as_rows(document: Any) -> Any:
    """Lists for tuples and dicts for records, all the way down: what JSON makes of it."""
    if isinstance(document, tuple) and hasattr(document, "_asdict"):
        return {name: as_rows(value) for name, value in document._asdict().items()}
    if isinstance(document, Mapping):
        return {name: as_rows(value) for name, value in document.items()}
    return [as_rows(item) for item in document] if isinstance(document, list | tuple) else document
