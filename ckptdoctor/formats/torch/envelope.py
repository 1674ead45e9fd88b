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
from ckptdoctor.formats.torch.renames import metadata_node, renamed_modules
from ckptdoctor.model import packed
from ckptdoctor.pickles.compare import difference
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.nodes import CallNode, GlobalNode, Node, mapping_pairs, with_pairs
from ckptdoctor.pickles.parse import parse
from ckptdoctor.pickles.patch import patch, track
from ckptdoctor.pickles.tensors import tensor_node


@dataclass(slots=True)
class Contents:
    """A pickle, and the tensors for which it names storages that the source does not have."""

    pickle: bytes = b""
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
        return result
    weights = _Weights(
        source, origin.place, _pairs(tensors, _nodes(source, origin), source.free_storage, result.new_storages)
    )
    replacements = Replacements()
    weights.replace(replacements)
    if options.drop_optimizer and origin.place:
        drop_optimizer(source.pickle.root, replacements)
    for edit in options.envelope_edits:
        edit_envelope(source.pickle.root, weights.mapping, edit, replacements)
    only_renamed = weights.only_renamed and not options.envelope_edits and not options.drop_optimizer
    raw = source.archive.read("data.pkl") if isinstance(source, TorchCheckpoint) and only_renamed else None
    patched = weights.patched(raw) if raw is not None else None
    result.pickle = patched or emit(source.pickle.root, source.pickle.protocol, replace=replacements.pairs)
    _check(result.pickle, source, replacements, origin)
    return result


def _check(pickle: bytes, source: TensorGraph, replacements: Replacements, origin: Envelope) -> None:
    wrong = difference(parse(pickle).root, source.pickle.root, replacements.pairs)
    if wrong is not None:
        raise OutputError(
            f"what would be written of {origin.source.path} is not what was planned: {wrong}",
            path=origin.source.path,
            hint="nothing was written; this is a defect of ckptdoctor, please report it",
        )


def _nodes(source: TensorGraph, origin: Envelope) -> dict[str, Node]:
    return {key: value for key, value in mapping_pairs(source.nodes[origin.place]) or [] if isinstance(key, str)}


class _Weights:
    """The state dict in the source's graph, and the pairs that shall stand in it."""

    def __init__(self, source: TensorGraph, place: tuple[str, ...], new: Pairs) -> None:
        self.place = place
        self.mapping = source.nodes[place]
        self.old = mapping_pairs(self.mapping) or []
        self.new = new + [pair for pair in self.old if not source.is_weight(*pair)]
        order = {id(value): number for number, (_, value) in enumerate(self.old)}
        self.only_renamed = sorted(id(value) for _, value in self.new) == sorted(order) and len(order) == len(self.old)
        if self.only_renamed:  # then the order of the source is kept
            self.new.sort(key=lambda pair: order[id(pair[1])])
        self.metadata = metadata_node(self.mapping)
        self.modules = self._renamed_modules()

    def replace(self, replacements: Replacements) -> None:
        """Note the new state dict, and its metadata, where they differ from the old."""
        if [key for key, _ in self.new] != [key for key, _ in self.old] or not self.only_renamed:
            replacements.put(self.mapping, with_pairs(self.mapping, self.new))
        if self.modules:
            pairs = [(self.modules.get(key, key), value) for key, value in mapping_pairs(self.metadata) or []]
            replacements.put(self.metadata, with_pairs(self.metadata, pairs))

    def patched(self, raw: bytes) -> bytes | None:
        """The source's own bytes with the keys renamed; None where that cannot be done."""
        tracked = track(raw)
        mapping = _at(tracked.root, self.place)
        keys = [key for key, _ in mapping_pairs(mapping) or []]
        pairs = zip(keys, self.new, strict=True)  # keys of other types are never renamed, and may be endless to compare
        renames = [(old, new) for old, (new, _) in pairs if isinstance(old, str) and old != new]
        if self.modules:
            modules = [key for key, _ in mapping_pairs(metadata_node(mapping)) or []]
            renames += [(old, self.modules[old]) for old in modules if old in self.modules]
        return patch(raw, tracked, renames)

    def _renamed_modules(self) -> Mapping[str, str]:
        if self.metadata is None:
            return {}
        new_of = {id(value): key for key, value in self.new}
        renamed = {key: new_of[id(value)] for key, value in self.old if id(value) in new_of}
        modules = [key for key, _ in mapping_pairs(self.metadata) or [] if isinstance(key, str)]
        return renamed_modules(modules, {key: new for key, new in renamed.items() if isinstance(key, str)})


def _number(name: str) -> int | None:
    return int(name) if name.isdecimal() and len(name) < 20 else None


def _at(root: Node, place: tuple[str, ...]) -> Node:
    """The mapping at a place; it is known to be there."""
    for name in place:
        pairs = list(enumerate(root)) if isinstance(root, list | tuple) else mapping_pairs(root) or []
        root = next(value for key, value in pairs if isinstance(key, str | int) and key in (name, _number(name)))
    return root


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
