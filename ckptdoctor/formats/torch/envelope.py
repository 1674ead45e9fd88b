"""The pickle of an output: the source's graph with other weights in it, or a plain state dict where there is no envelope.

A pure rename changes the bytes of the keys and no others (pickles/patch.py); anything else writes the graph again
(pickles/emit.py). Either way the result is parsed and compared with the source's graph: it must differ in what was planned,
and in nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ckptdoctor.errors import OutputError
from ckptdoctor.formats.base import Envelope, OutputTensor, WriteOptions
from ckptdoctor.formats.torch.edits import Pairs, Replacements, drop_optimizer, edit_envelope
from ckptdoctor.formats.torch.reader import TorchCheckpoint
from ckptdoctor.formats.torch.weights import Weights
from ckptdoctor.model import packed
from ckptdoctor.pickles.compare import difference
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.nodes import CallNode, GlobalNode, Node, mapping_pairs, with_pairs
from ckptdoctor.pickles.parse import Pickle, parse
from ckptdoctor.pickles.tensors import StorageNode, storage_of, tensor_node


@dataclass(slots=True)
class Contents:
    """A pickle, the storages it refers to, and the tensors for which it names storages that the source does not have."""

    pickle: bytes = b""
    storages: tuple[StorageNode, ...] = ()
    new_storages: dict[str, OutputTensor] = field(default_factory=dict)


def contents(origin: Envelope, tensors: Sequence[OutputTensor], options: WriteOptions) -> Contents:
    """The pickle that holds these tensors, with everything else that the source holds if it is a torch file.

    Raises PlanError for an edit of the envelope that makes no sense, OutputError if the result is not what was planned.
    """
    result = Contents()
    source = origin.source
    if not isinstance(source, TensorGraph):
        root = CallNode("reduce", GlobalNode("collections", "OrderedDict"), ())
        result.pickle = emit(with_pairs(root, _pairs(tensors, {}, "0", result.new_storages)))
        result.storages = _storages(parse(result.pickle))
        return result
    new = _pairs(tensors, _nodes(source, origin), source.free_storage, result.new_storages)
    weights = Weights(source, origin.place, new)
    replacements = Replacements()
    weights.replace(replacements)
    if options.drop_optimizer:
        for mapping in source.around(origin.place):
            drop_optimizer(mapping, replacements)
    for edit in options.envelope_edits:
        edit_envelope(source, origin.place, edit, replacements)
    only_renamed = weights.only_renamed and not options.envelope_edits and not options.drop_optimizer
    raw = source.archive.read("data.pkl") if isinstance(source, TorchCheckpoint) and only_renamed else None
    patched = weights.patched(raw) if raw is not None else None
    result.pickle = patched or emit(source.pickle.root, source.pickle.protocol, replace=replacements.pairs)
    written = parse(result.pickle)
    _check(written, source, replacements, origin)
    result.storages = _storages(written)
    return result


def _storages(pickle: Pickle) -> tuple[StorageNode, ...]:
    """Every storage that a pickle refers to, once, in order."""
    found = [storage for storage in map(storage_of, pickle.persistent) if storage]
    return tuple({storage.key: storage for storage in found}.values())


def _check(written: Pickle, source: TensorGraph, replacements: Replacements, origin: Envelope) -> None:
    """What was written must be the source's graph but for the replacements."""
    wrong = difference(written.root, source.pickle.root, replacements.pairs)
    if wrong is not None:
        raise OutputError(
            f"what would be written of {origin.source.path} is not what was planned: {wrong}",
            path=origin.source.path,
            hint="nothing was written; this is a defect of ckptdoctor, please report it",
        )


def _nodes(source: TensorGraph, origin: Envelope) -> dict[str, Node]:
    return {key: value for key, value in mapping_pairs(source.nodes[origin.place]) or [] if isinstance(key, str)}


def _pairs(
    tensors: Sequence[OutputTensor], old: Mapping[str, Node], free_storage: str, new_storages: dict[str, OutputTensor]
) -> Pairs:
    """A node for each tensor: the source's own where it is copied, else a new one on a new storage."""
    nodes: dict[str, Node] = {}
    for tensor in tensors:
        if tensor.stored is not None and tensor.stored.spec.stored_key in old:
            nodes[tensor.key] = old[tensor.stored.spec.stored_key]
        elif tensor.tied_to is None:
            storage = str(int(free_storage) + len(new_storages))
            new_storages[storage] = tensor
            nodes[tensor.key] = tensor_node(storage, packed(tensor.spec.dtype, tensor.spec.shape))
    return [(tensor.key, nodes.get(tensor.key) or nodes[tensor.tied_to or ""]) for tensor in tensors]
