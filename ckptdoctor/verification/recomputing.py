"""What an op made, made again: the maps are read and planned anew, and each tensor is computed from the source's.

The receipt names the maps with their sha256; it also lists the target's keys with their shapes, so the target itself is not
needed. Where a map is gone or another one, or torch is not installed, there is nothing to compute with, and `why_not` says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import CkptDoctorError
from ckptdoctor.formats.tensors import chunks_of, sha256_of
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.receipt import Receipt, TensorReceipt
from ckptdoctor.text import printable
from ckptdoctor.verification.evidence import Evidence, Side
from ckptdoctor.verification.types import Problem

if TYPE_CHECKING:
    from ckptdoctor.plan import Plan


class Recomputed(NamedTuple):
    """What does not hold what it should, or why that was not looked into."""

    problems: tuple[Problem, ...] = ()
    why_not: str | None = None


def recomputed(evidence: Evidence, record: Receipt, source: Side, rows: Sequence[TensorReceipt]) -> Recomputed:
    """Compute these tensors of the output again, one at a time, and compare."""
    if not rows:
        return Recomputed()
    if find_spec("torch") is None:
        return Recomputed(why_not="torch is not installed")
    paths = []
    for recorded in record.maps:
        path = evidence.beside(recorded["path"])
        if path is None or _digest(path) != recorded["sha256"]:
            why_not = f"{printable(recorded['path'])} is {'gone' if path is None else 'another map now'}"
            return Recomputed(why_not=why_not)
        paths.append(path)
    try:
        plan = _plan(record, source.manifest, paths)
    except CkptDoctorError as error:
        return Recomputed(why_not=f"the maps do not fit {source.manifest.origin.reference} ({error.message})")
    return _compared(evidence, source, plan, rows)


def _digest(path: Path) -> str | None:
    """The sha256 of a file that may be a map."""
    from ckptdoctor.keymap.load import LARGEST

    try:
        return sha256_of([path.read_bytes()]) if path.is_file() and path.stat().st_size <= LARGEST else None
    except OSError:
        return None


def _plan(record: Receipt, source: Manifest, paths: Sequence[Path]) -> Plan:
    from ckptdoctor.keymap import load_map
    from ckptdoctor.plan import make_plan

    target = None if record.target is None else _target(record)
    maps = [load_map(path) for path in paths]
    if record.reverse and target is not None:
        from ckptdoctor.plan.inverse import invert

        return invert(make_plan(target, source, maps)).plan
    return make_plan(source, target, maps)


def _target(record: Receipt) -> Manifest:
    """The target as far as the receipt knows it. What stayed random has no shape there; nothing is made for it either.

    What shares memory in the output may do so in the target: then what initialises one of them initialises both.
    """
    target_of = {row.key: row.target for row in record.tensors}
    specs = [
        TensorSpec(row.target, row.shape, DTYPES[row.dtype], tied_to=target_of.get(row.tied_to or ""))
        for row in record.tensors
    ]
    return Manifest([*specs, *(TensorSpec(key, (), DTYPES["float32"]) for key in record.random)])


def _compared(evidence: Evidence, source: Side, plan: Plan, rows: Sequence[TensorReceipt]) -> Recomputed:
    from ckptdoctor.execution.memory import reader_of
    from ckptdoctor.execution.values import bytes_of, compute

    steps = {step.target.key: step for step in plan.steps if step.has_values}
    load = reader_of(plan, source.opened)
    problems = []
    for row in rows:
        step = steps.get(row.target)
        if step is None or step.ops != row.ops:
            return Recomputed(why_not=f"the maps make {printable(row.target)} in another way today")
        try:
            digest = sha256_of(chunks_of([bytes_of(compute(step, load))]))
        except CkptDoctorError as error:
            problems.append(Problem(row.key, f"cannot be computed from it: {error.message}"))
            continue
        if digest != evidence.output.values[row.key].sha256:
            problems.append(Problem(row.key, f"has other values than {', '.join(row.ops)} makes"))
    return Recomputed(tuple(problems))
