"""What the pickle of a torch file holds: its tensors, checked against their storages, and the mappings in which they lie.

Every format whose envelope is a pickle opens it as a `TensorGraph`; what differs between the formats is where the bytes of a
storage are (`record`). Nothing here reads a file.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence

from ckptdoctor.limits import longest_name
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.nodes import Node, mapping_pairs
from ckptdoctor.pickles.optimizers import (
    OPTIMIZER_KEYS,
    Way,
    holds_states,
    is_name,
    items_of,
    optimizers_in,
    trails,
    way_of,
)
from ckptdoctor.pickles.parse import Pickle
from ckptdoctor.pickles.tensors import StorageNode, TensorView, view_of
from ckptdoctor.text import cited, shape_text, shortened


class TensorGraph:
    """The graph of a file's pickle, its storages by key, its tensors by the identity of their nodes, and the mappings that
    directly hold tensors by their place. A base beside `Checkpoint`; `hold` fills it."""

    pickle: Pickle
    storages: Mapping[str, StorageNode]
    views: Mapping[int, TensorView]
    nodes: Mapping[Way, Node]

    def hold(self, pickle: Pickle, storages: Mapping[str, StorageNode]) -> None:
        """Take up a parsed pickle and its storages, which are checked already; raises PickleError for a bad tensor."""
        self.pickle, self.storages = pickle, storages
        self.views = checked_views(pickle)
        found = list(tensor_mappings(pickle.root, self.views))
        self.nodes = dict(found)
        if len(self.nodes) != len(found):
            raise PickleError("a text and a number that look alike are keys of one mapping")
        self._listed: dict[Way, Manifest] = {}

    @property
    def pickles(self) -> Sequence[Pickle]:
        """The one that holds the tensors, and any other that unpickling the file would read."""
        return [self.pickle]

    @abstractmethod
    def record(self, key: str) -> tuple[int, int, int]:
        """Where the bytes of a storage begin, how many there are, and their CRC (0: not recorded)."""

    def pairs(self, place: Way) -> list[tuple[str, TensorView]]:
        """Keys and views of the tensors at a place, in order."""
        pairs = mapping_pairs(self.nodes[place]) or []
        return [(key, self.views[id(value)]) for key, value in pairs if self.is_weight(key, value)]

    def is_weight(self, key: Node, value: Node) -> bool:
        """Whether an entry of a mapping is a dense tensor under a text key."""
        return isinstance(key, str) and id(value) in self.views

    def listed(self, place: Way) -> Manifest:
        """The tensors at a place; those that are the same view of one storage are tied."""
        if place not in self._listed:
            self._listed[place] = Manifest(_specs(self.pairs(place)))
        return self._listed[place]

    def others(self, place: Way) -> list[str]:
        """Entries of the mapping that are no dense tensors."""
        if not place:
            return []  # at the root of a file, everything else is the envelope
        pairs = mapping_pairs(self.nodes[place]) or []
        return [_name_of(key) for key, value in pairs if not self.is_weight(key, value)]

    def around(self, place: Way) -> list[Node]:
        """The mappings around a place, from the root inwards; none around the root."""
        found, node = [], self.pickle.root
        for name in place:
            if mapping_pairs(node) is not None:
                found.append(node)
            node = child(node, name)
        return found

    def optimizers(self, place: Way) -> dict[Way, Node]:
        """What belongs to optimizers, beside the weights at a place: what stands under their usual names around the weights,
        and what looks like their state dicts anywhere. What holds no states is left out."""
        named = {
            (*place[:depth], key): value
            for depth, mapping in enumerate(self.around(place))
            for key, value in mapping_pairs(mapping) or []
            if isinstance(key, str) and key in OPTIMIZER_KEYS
        }
        others = {
            way: node
            for way, node in optimizers_in(self.pickle.root, self.nodes.get(place))
            if not any(way[: len(name)] == name for name in named)
        }
        return {way: node for way, node in (named | others).items() if holds_states(node)}

    def has_optimizer(self, place: Way) -> bool:
        """Whether there are any such states."""
        return bool(self.optimizers(place))

    @property
    def free_storage(self) -> str:
        """The first name, counting up, that no storage has and none behind it."""
        numbers = (int(key) for key in self.storages if key.isdecimal() and len(key) < 20)
        return str(1 + max(numbers, default=-1))


def child(node: Node, name: str) -> Node:
    """What stands under a name in a mapping, or at a number in a list; the names of a place are known to be there."""
    return next(value for key, value in items_of(node) or () if is_name(key) and str(key) == name)


def checked_views(pickle: Pickle) -> dict[int, TensorView]:
    """Every tensor of the file by the identity of its node, checked against its storage."""
    views: dict[int, TensorView] = {}
    known: dict[tuple[int, int], TensorView] = {}  # in a hostile file, a million calls share their arguments
    for call in pickle.calls:
        alike = id(call.function), id(call.arguments)
        view = view_of(call) if call.edits else known.get(alike) or view_of(call)
        if view is not None:
            known[alike] = view
            storage, layout, _ = view
            if len(layout.shape) > 64 or layout.reach * layout.dtype.bits > storage.nbytes * 8:
                shape = shortened(shape_text(layout.shape[:64]))
                raise PickleError(f"a tensor of shape {shape} reaches beyond its storage {shortened(storage.key)}")
            views[id(call)] = view
    return views


def tensor_mappings(root: Node, views: Mapping[int, TensorView]) -> Iterator[tuple[Way, Node]]:
    """Every mapping that directly holds tensors under text keys, from the root down through mappings and lists.

    A doubled key in any mapping on the way is a PickleError.
    """
    for trail, node in trails(root, views):
        pairs = mapping_pairs(node) or []
        _check_distinct(pairs)
        if any(isinstance(key, str) and id(value) in views for key, value in pairs):
            yield way_of(trail), node


def _name_of(key: Node) -> str:
    """A key for people; one that is no name may be anything, also something that is endless to print."""
    return str(key) if is_name(key) else f"an entry under a {type(key).__name__}"


def _check_distinct(pairs: list[tuple[Node, Node]]) -> None:
    """No text and no number stands twice: the last would count when it is loaded, and the first for who looks for it.

    1, 1.0 and True are one key.
    """
    if (long := longest_name([key for key, _ in pairs if isinstance(key, str)])) is not None:
        raise PickleError(f"{cited(long)} is too long for a key")
    if len(pairs) == len({key for key, _ in pairs if type(key) is str}):
        return
    texts, numbers = set[str](), set[str]()  # as texts, numbers cannot be made to collide
    for key, _ in pairs:
        seen, name = (texts, key) if isinstance(key, str) else (numbers, _number(key))
        if name is not None:
            if name in seen:
                raise PickleError(f"the key {cited(name)} stands twice in one mapping")
            seen.add(name)


def _number(key: Node) -> str | None:
    whole = isinstance(key, int) or (isinstance(key, float) and key.is_integer())
    return str(int(key)) if whole and abs(key) < 1 << 64 else None


def _specs(pairs: list[tuple[str, TensorView]]) -> Iterator[TensorSpec]:
    first_of: dict[object, str] = {}
    for key, (storage, layout, parameter) in pairs:
        dtype, *where = layout
        first = first_of.setdefault((storage.key, dtype.name, *where), key) if 0 not in layout.shape else key
        tied_to = None if first == key else first
        yield TensorSpec(key, layout.shape, dtype, "parameter" if parameter else "unknown", tied_to)
