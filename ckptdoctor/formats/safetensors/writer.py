"""Writes safetensors files. The data begins, and lies, in pages as it does in the source, so that the kernel can copy it."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from ckptdoctor.errors import UsageError
from ckptdoctor.files import PAGE, OutputFile
from ckptdoctor.formats.base import Checkpoint, Envelope, WriteOptions, Writer, Written
from ckptdoctor.formats.moving import Mover
from ckptdoctor.formats.safetensors.reader import DTYPE_NAMES
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.model import TensorSpec
from ckptdoctor.text import plural, printable

ALIGNMENT = 8
ENVELOPE_SCHEMA = "ckptdoctor/envelope/1"
_NAMES = {torch_name: name for name, torch_name in DTYPE_NAMES.items()}


class SafetensorsWriter(Writer):
    """Writes one .safetensors file; what is plain in the envelope goes into a JSON file beside it."""

    name = "safetensors"
    suffixes = (".safetensors",)

    def write(
        self, output: OutputFile, tensors: Sequence[OutputTensor], origin: Envelope, options: WriteOptions
    ) -> Written:
        """Header, then the tensors: wide dtypes first, so that every one is aligned to its size, and else in the order of the
        source, so that they lie in pages as they lie there."""
        source = origin.source
        own = [tensor for tensor in tensors if tensor.tied_to is None]
        places = _places(own, source)
        laid = sorted(own, key=lambda tensor: (-tensor.spec.dtype.bits, places[tensor.key]))
        header = _header(own, laid, _output_metadata(tensors, source), _like(laid, places))
        output.reserve(len(header) + sum(tensor.spec.nbytes for tensor in own if _lies(tensor)))
        output.write(header)
        with Mover(output, source, options, crcs=False) as mover:
            sums = {tensor.key: mover.tensor(tensor) for tensor in laid}
            written = Written({key: each.sha256 for key, each in sums.items()} if options.digests else {})
        if source.has_envelope:
            _keep_envelope(written, origin, options)
        return written


def _keep_envelope(written: Written, origin: Envelope, options: WriteOptions) -> None:
    """The plain values around the weights as a file to be written beside the output; what is none is listed in it."""
    from ckptdoctor.pickles.contents import TensorGraph
    from ckptdoctor.pickles.optimizers import OPTIMIZER_KEYS
    from ckptdoctor.pickles.plain import plain, summary

    source, place = origin
    if not isinstance(source, TensorGraph):
        written.notes.append("safetensors holds tensors only: the rest of the checkpoint was left out")
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
    note = f"safetensors holds tensors only: {plural(found.values, 'plain value')} went to OUT.envelope.json"
    written.notes.append(note + (f"; left out: {summary(found.left_out)}" if found.left_out else ""))


def _output_metadata(tensors: Sequence[OutputTensor], source: Checkpoint) -> dict[str, str]:
    old_ties = getattr(source, "tied", {})
    kept = {key: value for key, value in source.metadata.items() if key not in old_ties} or {"format": "pt"}
    return kept | {tensor.key: tensor.tied_to for tensor in tensors if tensor.tied_to is not None}


def _places(tensors: Sequence[OutputTensor], source: Checkpoint) -> dict[str, tuple[int, int]]:
    """Where each lies in the source: number of the file, and byte; what is made in memory comes after all of them."""
    numbers = {id(file): number for number, file in enumerate(source.files)}
    places = {}
    for number, tensor in enumerate(tensors):
        span = tensor.stored.span() if tensor.stored is not None and _lies(tensor) else None
        places[tensor.key] = (len(numbers), number) if span is None else (numbers[id(span.file)], span.offset)
    return places


def _lies(tensor: OutputTensor) -> bool:
    """Whether its values are bytes of a file, one after the other."""
    return tensor.stored is not None and tensor.stored.as_it_lies


def _like(laid: Sequence[OutputTensor], places: Mapping[str, tuple[int, int]]) -> int:
    """Where in a page the data has to begin so that most bytes lie in their pages as they lie in the source."""
    weights: Counter[int] = Counter({0: 0})
    at = 0
    for tensor in laid:
        offset = places[tensor.key][1] - at
        if _lies(tensor) and offset % ALIGNMENT == 0:
            weights[offset % PAGE] += tensor.spec.nbytes
        at += tensor.spec.nbytes
    return weights.most_common(1)[0][0]


def _header(
    tensors: Sequence[OutputTensor], laid: Sequence[OutputTensor], metadata: Mapping[str, str], like: int
) -> bytes:
    """The header: tensors in their order, with spans as they are laid, padded so that the data begins like that in a page."""
    ends = accumulate((tensor.spec.nbytes for tensor in laid), initial=0)
    begins = {tensor.key: begin for tensor, begin in zip(laid, ends, strict=False)}
    document: dict[str, Any] = {"__metadata__": dict(metadata)}
    for tensor in tensors:
        if tensor.key in document:
            raise _no_place(f"a tensor with the key {tensor.key}", "rename it in a map")
        spec, begin = tensor.spec, begins[tensor.key]
        span = [begin, begin + spec.nbytes]
        document[tensor.key] = {"dtype": _dtype_name(spec), "shape": _shape(spec), "data_offsets": span}
    try:
        raw = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        raise _no_place(
            f"a key that is no Unicode text ({error.object[error.start]!r})", "rename it in a map"
        ) from None
    raw += b" " * ((like - 8 - len(raw)) % PAGE)
    return struct.pack("<Q", len(raw)) + raw


def _dtype_name(spec: TensorSpec) -> str:
    name = _NAMES.get(spec.dtype.name)
    if name is None:
        raise _no_place(f"{spec.key} of dtype {spec.dtype}", "cast it in a map, or write a torch file (.ckpt, .pt)")
    return name


def _no_place(what: str, hint: str) -> UsageError:
    return UsageError(f"safetensors has no place for {printable(what)}", hint=hint)


def _shape(spec: TensorSpec) -> list[int]:
    if spec.dtype.name == "float4_e2m1fn_x2":
        return [*spec.shape[:-1], spec.shape[-1] * 2]
    return list(spec.shape)
