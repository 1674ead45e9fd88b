"""The health of a checkpoint: every tensor read once, and which of them hold the same bytes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from ckptdoctor.files import Progress, unnoticed
from ckptdoctor.formats.base import no_data
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.health.numbers import narrower
from ckptdoctor.health.tally import TensorHealth, health_of
from ckptdoctor.model import Manifest
from ckptdoctor.source import OpenSource


class Health(NamedTuple):
    """What was found of every tensor, and the groups of keys that hold the same bytes and share no memory.

    `remarks` are worth a warning, one line each.
    """

    tensors: Mapping[str, TensorHealth] = {}
    identical: tuple[tuple[str, ...], ...] = ()
    remarks: tuple[str, ...] = ()


def survey(source: OpenSource, manifest: Manifest, progress: Progress = unnoticed) -> Health:
    """Read the tensors of `manifest`: those of the source, under other keys perhaps. Tied ones are read once.

    It takes a chunk of memory, and some hundred bytes a tensor. Raises CheckpointError where there is no data, where it is
    damaged, and where it changes meanwhile.
    """
    checkpoint, place = source.envelope
    if not checkpoint.has_data:
        raise no_data(checkpoint)
    stored = checkpoint.stored(place)

    def chunks(tensor: StoredTensor) -> Iterator[bytes]:
        for chunk in checkpoint.values(tensor):
            progress(len(chunk))
            yield chunk

    found: dict[str, TensorHealth] = {}
    for key, spec in manifest.items():
        if spec.tied_to in found:
            found[key] = found[spec.tied_to]
        else:
            found[key] = health_of(spec.dtype, chunks(stored[spec.stored_key]), narrower(spec.dtype))
    checkpoint.check_unchanged()
    return Health(found, identical(manifest, found, stored))


def identical(
    manifest: Manifest, found: Mapping[str, TensorHealth], stored: Mapping[str, StoredTensor]
) -> tuple[tuple[str, ...], ...]:
    """Keys with the same bytes in different places, in order. Constants, which are often alike, and tensors of fewer than two
    elements are left out."""
    groups: defaultdict[tuple[str, int], dict[object, str]] = defaultdict(dict)
    for key, health in found.items():
        spec = manifest[key]
        if spec.numel > 1 and health.constant is None:
            tensor = stored[spec.stored_key]
            groups[health.sha256, spec.nbytes].setdefault((tensor.file, tensor.storage, tensor.layout.offset), key)
    return tuple(tuple(group.values()) for group in groups.values() if len(group) > 1)
