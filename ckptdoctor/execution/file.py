"""Carry a plan out: stream the tensors of the source into a new file, and write the receipt beside it.

Tensors that only change their name are copied as bytes; torch is imported only where an op has to compute something, and only
that op's tensors are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ckptdoctor.collector import collector_paused
from ckptdoctor.errors import CorruptCheckpoint, LimitExceeded, OutputError, PlanError, UsageError
from ckptdoctor.execution.beside import check_harmless, what_follows
from ckptdoctor.execution.outputs import Fill, check_filled, output_keys, output_tensors, stored_weights
from ckptdoctor.execution.provenance import make_receipt
from ckptdoctor.files import check_rewritable, same_file, staged
from ckptdoctor.formats import READERS, writer_for
from ckptdoctor.formats.base import WriteOptions, Writer, Written, no_data
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.limits import OverLimit
from ckptdoctor.plan import Plan
from ckptdoctor.receipt import RECEIPT_BEGINS, RECEIPT_SUFFIX, Receipt, check_not_again, receipt_json, receipt_path
from ckptdoctor.source import OpenSource, open_source


def execute(
    plan: Plan,
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    unwrap: bool = False,
    again: bool = False,
    to: str | None = None,
    options: WriteOptions | None = None,
    fill: Fill | None = None,
    command: Sequence[str] = (),
) -> Receipt:
    """Write what the plan says to `output`, and a receipt beside it.

    The output has the format `to`, else the one that the ending of its name asks for, else the source's; around the weights
    it has everything the source has, and the wrapper segments of its keys, unless `unwrap`. Mismatched and unexpected tensors
    are not written; those that stay random are if a map's `init` makes values, or `fill` has them. Raises OutputError;
    PlanError where `fill` lacks what `init: model` asks for; UsageError where the source is what one of these maps made,
    unless `again`; CheckpointError where it is not what the plan was made for. Then nothing is left behind and an older
    output is as it was, unless the message says that the new one is in place (and its receipt, or the disk, is not).
    """
    if not again:
        maps = {key_map.sha256: key_map.path for key_map in plan.maps}
        check_not_again(plan.source.origin.reference, maps, reverse=plan.reverse)
    check_filled(plan, fill)
    options = (options or WriteOptions())._replace(
        envelope_edits=tuple(edit for key_map in plan.maps for edit in key_map.envelope)
    )
    with open_source(plan.source.origin.reference, selected=plan.source.origin.selected) as source:
        writer = writer_for(output, source.envelope.source.format, to)
        if not writer.takes_shard_size and (options.shard_size is not None or options.link):
            raise UsageError(f"{writer.name} is one file: it has no shards to size or link", hint="say --to sharded")
        final = writer.destination(output, overwrite=overwrite)
        check_rewritable(receipt_path(final), RECEIPT_BEGINS)
        _check_source(plan, source, final)
        check_harmless(plan, source, writer, options)
        names = output_keys(plan, unwrap=unwrap, fill=fill)
        following = what_follows(plan, source, writer, options, names, unwrap=unwrap, fill=fill)
        tensors = output_tensors(plan, source, stored_weights(plan, source), names, fill)
        _check_envelope(options, source, writer)
        with staged(final, overwrite=overwrite) as staging:
            with writer.opened(staging.main, final) as opened:
                aside = options._replace(beside=following.beside)
                written = writer.write(opened, list(tensors.values()), source.envelope, aside)
            written.notes += following.notes
            source.envelope.source.check_unchanged()
            _check_written(staging.main, writer, written, list(tensors.values()), final)
            receipt = make_receipt(plan, final, tensors, written, command, _described(writer, written), fill)
            for suffix, text in {**written.sidecars, RECEIPT_SUFFIX: receipt_json(receipt)}.items():
                staging.put_beside(suffix, text)
            source.__exit__()  # here, so that nothing is left to do once the output is in place
            writer.destination(output, overwrite=overwrite)  # what stands there now may be replaced, too
    return receipt._replace(notes=(*receipt.notes, *staging.notes))


def _described(writer: Writer[Any], written: Written) -> dict[str, Any]:
    """The output, as the receipt describes it."""
    described = {"format": writer.name, "bytes": written.nbytes}
    if written.files:
        described |= {"files": list(written.files), "shards": written.shards}
    return described


def _check_source(plan: Plan, source: OpenSource, final: Path) -> None:
    checkpoint = source.envelope.source
    if not checkpoint.has_data:
        raise no_data(checkpoint)
    if same_file(final, checkpoint.path):
        raise UsageError(f"{final} is the source itself", hint="write to another file; the source is never written to")
    stored = [spec.stored_key for spec in plan.source.values()]
    if stored != list(source.manifest):
        raise CorruptCheckpoint(
            f"{checkpoint.path} is not the file that the plan was made for", path=checkpoint.path, hint="run it again"
        )


@collector_paused()
def _check_written(
    path: Path, writer: Writer[Any], written: Written, tensors: Sequence[OutputTensor], final: Path
) -> None:
    """Open the new file, before it takes its place, as anyone would: it must list exactly what was to be written."""
    wanted = sorted((tensor.key, tensor.spec.shape, tensor.spec.dtype.name) for tensor in tensors)
    try:
        with READERS[writer.name].open(path) as opened:
            written.check(opened)
            found = [
                sorted((spec.key, spec.shape, spec.dtype.name) for spec in opened.manifest(place).values())
                for place in opened.places
            ]
    except OverLimit as over:
        raise LimitExceeded(f"what was written for {final}: {over}", path=final, hint=over.hint) from None
    if wanted and wanted not in found:
        raise OutputError(
            f"what was written for {final} does not read back as what was planned",
            path=final,
            hint="nothing was left behind; this is a defect of ckptdoctor, please report it",
        )


def _check_envelope(options: WriteOptions, source: OpenSource, writer: Writer[Any]) -> None:
    """A map that edits what stands around the weights needs a source and an output that have such a thing."""
    for edit in options.envelope_edits[:1]:
        if options.weights_only:
            raise PlanError(
                "the map edits what stands around the weights, which --weights-only leaves out",
                rule=edit.location,
                hint="take envelope out of the map",
            )
        if not source.envelope.source.has_envelope or not writer.keeps_envelope:
            without = writer.name if source.envelope.source.has_envelope else source.envelope.source.format
            raise PlanError(
                f"the map edits what stands around the weights, and {without} holds nothing but weights",
                rule=edit.location,
                hint="take envelope out of the map",
            )
