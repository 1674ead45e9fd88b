"""What a format that holds tensors only cannot take along: the plain values around the weights, as a JSON file beside it."""

from __future__ import annotations

import json

from ckptdoctor.formats.base import Envelope, WriteOptions, Written
from ckptdoctor.text import plural

ENVELOPE_SCHEMA = "ckptdoctor/envelope/1"


def keep_envelope(written: Written, name: str, origin: Envelope, options: WriteOptions) -> None:
    """Add the text of OUT.envelope.json to what was written in the format `name`; what is no plain value is listed in it."""
    from ckptdoctor.pickles.contents import TensorGraph
    from ckptdoctor.pickles.optimizers import OPTIMIZER_KEYS
    from ckptdoctor.pickles.plain import plain, summary

    source, place = origin
    if options.weights_only:
        return
    if not isinstance(source, TensorGraph):
        written.notes.append(f"{name} holds tensors only: the rest of the checkpoint was left out")
        return
    without: set[str] = set()
    if options.drop_optimizer:
        without = {*OPTIMIZER_KEYS, "lr_schedulers"} if place else without
        without |= {way[0] for way in source.optimizers(place) if len(way) == 1}
    found = plain(source.pickle.root, source.nodes[place], without)
    if not found.values and not found.left_out:
        return
    document = {"schema": ENVELOPE_SCHEMA, "envelope": found.data, "left_out": [str(item) for item in found.left_out]}
    written.sidecars[".envelope.json"] = json.dumps(document, indent=2, allow_nan=False) + "\n"
    note = f"{name} holds tensors only: {plural(found.values, 'plain value')} went to OUT.envelope.json"
    written.notes.append(note + (f"; left out: {summary(found.left_out)}" if found.left_out else ""))
