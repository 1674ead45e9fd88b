"""The receipt of a write: what stands in the output, of what it was made, and with which versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ckptdoctor import __version__
from ckptdoctor.execution.outputs import Fill
from ckptdoctor.formats.base import Written
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.model import Manifest
from ckptdoctor.plan import Plan, Step
from ckptdoctor.receipt import Receipt, TensorReceipt


def make_receipt(
    plan: Plan,
    final: Path,
    tensors: Mapping[str, OutputTensor],
    written: Written,
    command: Sequence[str],
    output: Mapping[str, Any],
    fill: Fill | None,
) -> Receipt:
    """The receipt for `final`; `tensors` are what was written, by target key."""
    rows = [_row(step, tensors[step.target.key], written, fill) for step in plan.steps if step.target.key in tensors]
    return Receipt(
        path=str(final),
        tool=_versions(),
        command=tuple(command),
        source=_described(plan.source),
        output=output,
        target=_described(plan.target) if plan.has_target else None,
        maps=tuple({"path": key_map.path, "sha256": key_map.sha256} for key_map in plan.maps),
        tensors=tuple(rows),
        random=tuple(step.target.key for step in plan.steps if step.target.key not in tensors),
        notes=(*plan.warnings, *written.notes),
        reverse=plan.reverse,
    )


def _row(step: Step, tensor: OutputTensor, written: Written, fill: Fill | None) -> TensorReceipt:
    spec = tensor.spec
    gap = fill if not step.has_values else None
    with_first = step.init is not None and tensor.tied_to is not None
    return TensorReceipt(
        key=tensor.key,
        target=step.target.key,
        status="filled" if gap and not step.of_model else step.status,
        sources=step.sources if step.has_values and not with_first else (),
        ops=() if with_first else gap.ops(step) if gap else step.ops,
        shape=spec.shape,
        dtype=spec.dtype.name,
        sha256=written.digests.get(tensor.key) or written.digests.get(tensor.tied_to or tensor.key),
        tied_to=tensor.tied_to,
        note="; ".join(dict.fromkeys(tensor.remarks)) or None,
    )


def _described(manifest: Manifest) -> dict[str, Any]:
    origin = manifest.origin
    return {
        "reference": origin.reference,
        "kind": origin.kind,
        "bytes": origin.nbytes,
        "selected": origin.selected,
        "stripped": list(origin.stripped),
        "fingerprint": manifest.fingerprint,
    }


def _versions() -> dict[str, str]:
    from importlib import metadata

    versions = {"ckptdoctor": __version__, "python": platform.python_version()}
    for package in ("torch", "numpy", "safetensors"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
