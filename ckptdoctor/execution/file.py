"""Carry a plan out: stream the tensors of the source into a new file, and write the receipt beside it.

Tensors that only change their name are copied as bytes; torch is imported only where an op has to compute something, and only
that op's tensors are in memory.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdoctor import __version__
from ckptdoctor.errors import CheckpointError, CorruptCheckpoint, PlanError, UsageError
from ckptdoctor.files import check_output, replacing, write_text
from ckptdoctor.formats import writer_for
from ckptdoctor.formats.base import OutputTensor, StoredTensor, WriteOptions, Writer, Written, no_data
from ckptdoctor.model import Manifest
from ckptdoctor.plan import Plan, Step, Take, ops_of
from ckptdoctor.receipt import Receipt, TensorReceipt, receipt_json, receipt_path
from ckptdoctor.source import OpenSource, open_source
from ckptdoctor.wrappers import rewrapped

if TYPE_CHECKING:
    import torch


def execute(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    unwrap: bool = False,
    options: WriteOptions | None = None,
    command: Sequence[str] = (),
) -> Receipt:
    """Write what the plan says to `output`, and a receipt beside it.

    The output has the format that the ending of its name asks for, else the source's; around the weights it has everything
    the source has, and the wrapper segments of its keys, unless `unwrap`. Mismatched, unexpected and random tensors are not
    written. Raises OutputError, or CheckpointError where the source is not what the plan was made for; then nothing is left
    behind and an older output is as it was.
    """
    options = (options or WriteOptions())._replace(
        envelope_edits=tuple(edit for key_map in plan.maps for edit in key_map.envelope)
    )
    final = check_output(output, overwrite=overwrite)
    with open_source(plan.source.origin.reference, selected=plan.source.origin.selected) as source:
        _check_source(plan, source, final)
        _check_optimizer(plan, source, options)
        names = _output_keys(plan, unwrap=unwrap)
        tensors = _output_tensors(plan, source, names)
        writer = writer_for(final, source.envelope.source.format)
        _check_envelope(options, source, writer)
        with replacing(final, overwrite=overwrite) as file:
            written = writer.write(file, tensors, source.envelope, options)
            source.envelope.source.source.check_unchanged()
            size = file.position
        receipt = _receipt(plan, final, names, written, command, {"format": writer.name, "bytes": size})
    write_text(receipt_path(final), receipt_json(receipt), overwrite=True)
    return receipt


def _check_source(plan: Plan, source: OpenSource, final: Path) -> None:
    checkpoint = source.envelope.source
    if not checkpoint.has_data:
        raise no_data(checkpoint)
    if final.exists() and final.samefile(checkpoint.path):
        raise UsageError(f"{final} is the source itself", hint="write to another file; the source is never written to")
    stored = [spec.stored_key for spec in plan.source.values()]
    if stored != list(source.manifest):
        raise CorruptCheckpoint(
            f"{checkpoint.path} is not the file that the plan was made for", path=checkpoint.path, hint="run it again"
        )


def _check_envelope(options: WriteOptions, source: OpenSource, writer: Writer) -> None:
    """A map that edits what stands around the weights needs a source and an output that have such a thing."""
    for edit in options.envelope_edits[:1]:
        if not source.envelope.source.has_envelope or not writer.keeps_envelope:
            without = writer.name if source.envelope.source.has_envelope else source.envelope.source.format
            raise PlanError(
                f"the map edits what stands around the weights, and {without} holds nothing but weights",
                rule=edit.location,
                hint="take envelope out of the map",
            )


def _check_optimizer(plan: Plan, source: OpenSource, options: WriteOptions) -> None:
    """Optimizer states are kept by position: they are right only if no parameter was added, removed or reordered."""
    if options.drop_optimizer or not source.envelope.source.has_optimizer() or keeps_parameter_order(plan):
        return
    raise CheckpointError(
        f"{source.envelope.source.path} holds optimizer states, which belong to its parameters in their order; "
        "the map adds, removes or reorders parameters",
        path=source.envelope.source.path,
        hint="leave the states out: --optimizer drop",
    )


def keeps_parameter_order(plan: Plan) -> bool:
    """Whether the target's parameters are the source's, in the same order, one for one. Buffers do not count."""
    steps = [step for step in plan.steps if step.target.kind != "buffer"]
    buffers = {key for step in plan.steps if step.target.kind == "buffer" for key in step.sources}
    order = [key for key in plan.source if key not in buffers]
    return all(step.filled for step in steps) and [key for step in steps for key in step.sources] == order


def _output_keys(plan: Plan, *, unwrap: bool) -> dict[str, str]:
    """Target key -> key as written, for everything that is written."""
    keys = [step.target.key for step in plan.steps if step.expression is not None and step.filled]
    return {key: key for key in keys} if unwrap else rewrapped(keys, plan.source)


def _output_tensors(plan: Plan, source: OpenSource, names: dict[str, str]) -> list[OutputTensor]:
    stored = source.envelope.source.stored(source.envelope.place)
    tensors = []
    first_of: dict[str, str] = {}
    for step in plan.steps:
        name = names.get(step.target.key)
        if name is None or step.given is None or step.expression is None:
            continue
        first = first_of.setdefault(_memory(plan.source, step), name)
        if first != name:
            tensors.append(OutputTensor(name, step.given, tied_to=first))
        elif isinstance(step.expression, Take):
            tensors.append(OutputTensor(name, step.given, stored=stored[plan.source[step.expression.key].stored_key]))
        else:
            tensors.append(OutputTensor(name, step.given, compute=partial(_computed, step, plan, stored, source)))
    return tensors


def _memory(source: Manifest, step: Step) -> str:
    """What two outputs share if they are tied: the source tensor that both are copies of."""
    if isinstance(step.expression, Take):
        return "source " + (source[step.expression.key].tied_to or step.expression.key)
    return "computed " + step.target.key


def _computed(step: Step, plan: Plan, stored: Mapping[str, StoredTensor], source: OpenSource) -> bytes:
    """The values of a step that needs an op, packed and little-endian."""
    from ckptdoctor.execution.values import bytes_of, compute, tensor_of

    checkpoint = source.envelope.source

    def load(key: str) -> torch.Tensor:
        spec = plan.source[key]
        return tensor_of(b"".join(checkpoint.values(stored[spec.stored_key])), spec)

    return bytes_of(compute(step, load))


def _receipt(
    plan: Plan, final: Path, names: dict[str, str], written: Written, command: Sequence[str], output: Mapping[str, Any]
) -> Receipt:
    rows = []
    for step in plan.steps:
        if step.given is None or step.target.key not in names:
            continue
        name, given = names[step.target.key], step.given
        ops = tuple(op.describe() for op in ops_of(step.expression))
        row = (name, step.target.key, step.status, step.sources, ops, given.shape, given.dtype.name)
        rows.append(TensorReceipt(*row, written.digests.get(name)))
    return Receipt(
        path=str(final),
        tool=_versions(),
        command=tuple(command),
        source=_described(plan.source),
        output=output,
        target=_described(plan.target) if plan.has_target else None,
        maps=tuple({"path": key_map.path, "sha256": key_map.sha256} for key_map in plan.maps),
        tensors=tuple(rows),
        random=tuple(step.target.key for step in plan.steps if not step.filled),
        notes=tuple(written.notes),
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
    for package in ("torch", "safetensors"):
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
