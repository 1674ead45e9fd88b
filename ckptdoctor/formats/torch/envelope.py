"""The pickle of an output: the source's graph with other weights in it, or a plain state dict where there is no envelope."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ckptdoctor.formats.base import Envelope, OutputTensor
from ckptdoctor.formats.torch.reader import OPTIMIZER_KEYS, TorchCheckpoint
from ckptdoctor.model import packed
from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.nodes import CallNode, GlobalNode, Node, mapping_pairs, with_pairs
from ckptdoctor.pickles.tensors import tensor_node

Pairs = list[tuple[Node, Node]]


@dataclass(slots=True)
class Contents:
    """A pickle, and the tensors for which it names storages that the source does not have."""

    pickle: bytes = b""
    new_storages: dict[str, OutputTensor] = field(default_factory=dict)


def contents(origin: Envelope, tensors: Sequence[OutputTensor], *, drop_optimizer: bool) -> Contents:
    """The pickle that holds these tensors, with everything else that the source holds if it is a torch file."""
    result = Contents()
    if not isinstance(origin.source, TorchCheckpoint):
        root = CallNode("reduce", GlobalNode("collections", "OrderedDict"), ())
        result.pickle = emit(with_pairs(root, _pairs(tensors, {}, "0", result.new_storages)))
        return result
    source = origin.source
    replace = _weights(source, origin.place, tensors, result.new_storages)
    if drop_optimizer and origin.place:
        replace += _without_optimizer(source.pickle.root)
    pickle = source.pickle
    result.pickle = emit(pickle.root, pickle.protocol, replace=replace) if replace else source.archive.read("data.pkl")
    return result


def _weights(
    source: TorchCheckpoint, place: tuple[str, ...], tensors: Sequence[OutputTensor], new: dict[str, OutputTensor]
) -> Pairs:
    """The mapping at `place` with the new tensors; nothing where it would be the same. Other entries stay, at the end."""
    mapping = source.nodes[place]
    old_pairs = mapping_pairs(mapping) or []
    nodes = {key: value for key, value in old_pairs if isinstance(key, str)}
    new_pairs = _pairs(tensors, nodes, source.free_storage, new)
    new_pairs += [pair for pair in old_pairs if id(pair[1]) not in source.views]
    if sorted(id(value) for _, value in new_pairs) == sorted(id(value) for _, value in old_pairs):
        order = {id(value): number for number, (_, value) in enumerate(old_pairs)}
        new_pairs.sort(key=lambda pair: order[id(pair[1])])  # a pure rename keeps the order of the source
    same = [key for key, _ in new_pairs] == [key for key, _ in old_pairs]
    same = same and all(new[1] is old[1] for new, old in zip(new_pairs, old_pairs, strict=True))
    return [] if same else [(mapping, with_pairs(mapping, new_pairs))]


def _pairs(
    tensors: Sequence[OutputTensor], old: dict[str, Node], free_storage: str, new_storages: dict[str, OutputTensor]
) -> Pairs:
    """A node for each tensor: the source's own where it is copied, else a new one on a new storage."""
    nodes: dict[str, Node] = {}
    for tensor in tensors:
        if tensor.tied_to is not None:
            nodes[tensor.key] = nodes[tensor.tied_to]
        elif tensor.stored is not None and tensor.stored.spec.stored_key in old:
            nodes[tensor.key] = old[tensor.stored.spec.stored_key]
        else:
            storage = str(int(free_storage) + len(new_storages))
            new_storages[storage] = tensor
            nodes[tensor.key] = tensor_node(storage, packed(tensor.spec.dtype, tensor.spec.shape))
    return list(nodes.items())


def _without_optimizer(root: Node) -> Pairs:
    """Empty lists for Lightning, which wants the keys to be there; other optimizer states are taken out."""
    pairs = [
        (key, [] if key in (*OPTIMIZER_KEYS, "lr_schedulers") and isinstance(value, list) else value)
        for key, value in mapping_pairs(root) or []
        if key not in OPTIMIZER_KEYS or isinstance(value, list)
    ]
    return [(root, with_pairs(root, pairs))]
