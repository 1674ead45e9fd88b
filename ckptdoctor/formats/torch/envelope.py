"""The pickle of an output: the source's graph with other weights in it, or a plain state dict where there is no envelope.

A pure rename changes the bytes of the keys and no others (pickles/patch.py); anything else writes the graph again
(pickles/emit.py). Either way the result, read back from the new file, is compared with the source's graph: it must differ in
what was planned, and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from ckptdoctor.collector import collector_paused
from ckptdoctor.errors import OutputError
from ckptdoctor.formats.base import Checkpoint, Envelope, WriteOptions, unsafe_copy
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.formats.torch.edits import Pairs, Replacements, drop_optimizers, edit_envelope
from ckptdoctor.formats.torch.reader import TorchCheckpoint
from ckptdoctor.formats.torch.states import replace_states
from ckptdoctor.formats.torch.weights import Weights
from ckptdoctor.model import packed
from ckptdoctor.pickles.compare import difference
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.nodes import CallNode, DictNode, GlobalNode, Node, mapping_pairs, with_pairs
from ckptdoctor.pickles.parse import Pickle, parse
from ckptdoctor.pickles.patch import patch, track
from ckptdoctor.pickles.tensors import StorageNode, storage_of, tensor_node
from ckptdoctor.unpickling import dangerous_globals

_SCALARS = (type(None), bool, int, float, str)


@dataclass(slots=True)
class Contents:
    """A pickle, the storages it refers to, the tensors for which it names storages that the source does not have, and what
    compares it, once it is written, with the source's."""

    pickle: bytes = b""
    storages: tuple[StorageNode, ...] = ()
    new_storages: dict[str, OutputTensor] = field(default_factory=dict)
    check: Callable[[Checkpoint], None] = lambda _: None


@collector_paused()
def contents(origin: Envelope, tensors: Sequence[OutputTensor], options: WriteOptions) -> Contents:
    """The pickle that holds these tensors, with everything else that the source holds if it is a torch file.

    Raises PlanError for an edit of the envelope that makes no sense, UnsafeCheckpoint where something would come along that
    does harm if it is unpickled.
    """
    result = Contents()
    source = origin.source
    if options.weights_only or not isinstance(source, TensorGraph):
        root = CallNode("reduce", GlobalNode("collections", "OrderedDict"), ())
        node = with_pairs(root, _pairs(tensors, {}, _New("0", result.new_storages)))
        around = source.around(origin.place) if isinstance(source, TensorGraph) else []
        for name, mapping in zip(reversed(origin.place), reversed(around), strict=False):
            node = DictNode([*_scalars(mapping, name), (name, node)])
        result.pickle = emit(node)
        result.storages = _storages(parse(result.pickle))
        return result
    new = _New(source.free_storage, result.new_storages)
    weights = [Weights(source, origin.place, _pairs(tensors, _nodes(source, origin.place), new))]
    weights += [
        Weights(source, copy.place, _pairs(copy.tensors, _nodes(source, copy.place), new))
        for copy in options.beside.copies
    ]
    replacements = Replacements()
    for each in weights:
        each.replace(replacements)
    edited = _edit_around(origin, source, options, replacements, new)
    patched = None if edited else _patched(source, weights)
    result.pickle = patched or emit(source.pickle.root, source.pickle.protocol, replace=replacements.pairs)
    written = source.pickle if patched else parse(result.pickle)  # keys are neither globals nor storages
    if harm := dangerous_globals([written]):
        raise unsafe_copy(source.path, harm)
    result.storages = _storages(written)
    result.check = partial(_check, source, replacements.pairs)
    return result


def _scalars(mapping: Node, place: str) -> Pairs:
    """Numbers and texts directly around the weights: Lightning does not open a file without its own version."""
    pairs = mapping_pairs(mapping) or []
    return [(key, value) for key, value in pairs if type(key) is str and key != place and type(value) in _SCALARS]


def _edit_around(
    origin: Envelope, source: TensorGraph, options: WriteOptions, replacements: Replacements, new: _New
) -> bool:
    """Note everything that changes around the weights; whether there is such a thing."""
    before = len(replacements)
    for optimizer in options.beside.optimizers:
        replace_states(source, optimizer, replacements, new.node)
    if options.drop_optimizer:
        drop_optimizers(source, origin.place, replacements)
    for edit in options.envelope_edits:
        edit_envelope(source, origin.place, edit, replacements)
    return len(replacements) > before or options.drop_optimizer or bool(options.envelope_edits)


def _patched(source: TensorGraph, weights: Sequence[Weights]) -> bytes | None:
    """The source's own bytes with keys renamed and nothing else; None where that is not enough."""
    if not isinstance(source, TorchCheckpoint) or not all(each.only_renamed for each in weights):
        return None
    raw = source.archive.read("data.pkl")
    tracked = track(raw)
    renames: list[tuple[Node, str]] = []
    for each in weights:
        found = each.renames(tracked)
        if found is None:
            return None
        renames += found
    return patch(raw, tracked, renames)


def _storages(pickle: Pickle) -> tuple[StorageNode, ...]:
    """Every storage that a pickle refers to, once, in order."""
    found = [storage for storage in map(storage_of, pickle.persistent) if storage]
    return tuple({storage.key: storage for storage in found}.values())


def _check(source: Checkpoint, replacements: Pairs, written: Checkpoint) -> None:
    """What was written must be the source's graph but for the replacements."""
    assert isinstance(source, TensorGraph)
    assert isinstance(written, TensorGraph)
    wrong = difference(written.pickle.root, source.pickle.root, replacements)
    if wrong is not None:
        raise OutputError(
            f"what was written of {source.path} is not what was planned: {wrong}",
            path=source.path,
            hint="nothing was left behind; this is a defect of ckptdoctor, please report it",
        )


def _nodes(source: TensorGraph, place: tuple[str, ...]) -> dict[str, Node]:
    return {key: value for key, value in mapping_pairs(source.nodes[place]) or [] if isinstance(key, str)}


class _New(NamedTuple):
    """Makes nodes on new storages, and remembers what these are to hold."""

    free_storage: str
    storages: dict[str, OutputTensor]

    def node(self, tensor: OutputTensor) -> Node:
        storage = str(int(self.free_storage) + len(self.storages))
        self.storages[storage] = tensor
        return tensor_node(storage, packed(tensor.spec.dtype, tensor.spec.shape))


def _pairs(tensors: Sequence[OutputTensor], old: Mapping[str, Node], new: _New) -> Pairs:
    """A node for each tensor: the source's own where it is copied, else a new one on a new storage.

    Where several are copies of one tensor, the source's own memory goes to the first and to what is tied to it.
    """
    nodes: dict[str, Node] = {}
    owners: dict[str, str] = {}
    kept: set[str] = set()
    for tensor in tensors:
        holder = tensor.tied_to or tensor.key
        spec = tensor.stored.spec if tensor.stored is not None and (holder == tensor.key or holder in kept) else None
        if (
            spec is not None
            and spec.stored_key in old
            and owners.setdefault(spec.tied_to or spec.key, holder) == holder
        ):
            nodes[tensor.key] = old[spec.stored_key]
            kept.add(tensor.key)
        elif tensor.tied_to is None:
            nodes[tensor.key] = new.node(tensor)
    return [(tensor.key, nodes.get(tensor.key) or nodes[tensor.tied_to or ""]) for tensor in tensors]
