"""The state dict inside the source's graph, and what shall stand in its place: keys, order, and the `_metadata` beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from ckptdoctor.formats.torch.edits import Replacements
from ckptdoctor.formats.torch.renames import metadata_node, renamed_modules
from ckptdoctor.limits import longest_name
from ckptdoctor.pickles.contents import TensorGraph, child
from ckptdoctor.pickles.nodes import Node, mapping_pairs, with_pairs
from ckptdoctor.pickles.patch import Tracked

Pairs: TypeAlias = list[tuple[Node, Node]]


class Weights:
    """Old and new pairs of a state dict. Entries that are no tensors (`_extra_state`) stay, and follow their modules."""

    def __init__(self, source: TensorGraph, place: tuple[str, ...], new: Pairs) -> None:
        self.place = place
        self.mapping = source.nodes[place]
        self.old = mapping_pairs(self.mapping) or []
        self.metadata = metadata_node(self.mapping)
        self.modules = self._renamed_modules(source, new)
        together = new + [(self._moved(key), value) for key, value in self.old if not source.is_weight(key, value)]
        ordered = _in_order_of(self.old, together)
        self.only_renamed = ordered is not None
        self.new = together if ordered is None else ordered
        self._shared = any(
            metadata_node(node) is self.metadata for node in source.nodes.values() if node is not self.mapping
        )

    def replace(self, replacements: Replacements) -> None:
        """Note the new state dict with its metadata, where they differ from the old."""
        if self.only_renamed and [key for key, _ in self.new] == [key for key, _ in self.old]:
            return
        new = with_pairs(self.mapping, self.new)
        if self._module_paths():
            new.edits = [
                (what, self._state(payload)) if what == "build" else (what, payload) for what, payload in new.edits
            ]
        replacements.put(self.mapping, new)

    def renames(self, tracked: Tracked) -> list[tuple[Node, str]] | None:
        """The texts of the source's own bytes to be changed, and to what; None where that is not all."""
        if not self.only_renamed or (self._shared and self._module_paths()):
            return None
        mapping = _at(tracked.root, self.place)
        keys = [key for key, _ in mapping_pairs(mapping) or []]
        pairs = zip(keys, self.new, strict=True)  # keys of other types are never renamed, and may be endless to compare
        renames: list[tuple[Node, str]] = [(old, new) for old, (new, _) in pairs if isinstance(old, str) and old != new]
        paths = self._module_paths()
        modules = [key for key, _ in mapping_pairs(metadata_node(mapping)) or []] if paths else []
        return renames + [(old, paths[old]) for old in modules if isinstance(old, str) and old in paths]

    def _renamed_modules(self, source: TensorGraph, new: Pairs) -> Mapping[str, str]:
        """New paths for every module that the metadata or a key names."""
        new_of = {id(value): key for key, value in new}
        kept = {
            key: new_of[id(value)] for key, value in self.old if source.is_weight(key, value) and id(value) in new_of
        }
        named = [key for key, _ in mapping_pairs(self.metadata) or []] + [_module(key) for key, _ in self.old]
        if all(old == new for old, new in kept.items()):
            return {}
        paths = (name for name in named if isinstance(name, str) and longest_name([name]) is None)
        return renamed_modules(dict.fromkeys(paths), kept)

    def _module_paths(self) -> Mapping[str, str]:
        """Those of them that stand in the metadata."""
        return {key: self.modules[key] for key, _ in mapping_pairs(self.metadata) or [] if _is_in(key, self.modules)}

    def _moved(self, key: Node) -> Node:
        module = _module(key)
        return (
            f"{self.modules[module]}.{key.rpartition('.')[2]}" if module is not None and module in self.modules else key
        )

    def _state(self, state: Node) -> Node:
        """The state of the OrderedDict with other module paths in its `_metadata`."""
        pairs = [
            (key, self._new_metadata() if value is self.metadata else value)
            for key, value in mapping_pairs(state) or []
        ]
        return with_pairs(state, pairs)

    def _new_metadata(self) -> Node:
        paths = self._module_paths()
        pairs = [
            (paths[key] if _is_in(key, paths) else key, value) for key, value in mapping_pairs(self.metadata) or []
        ]
        return with_pairs(self.metadata, pairs)


def _module(key: Node) -> str | None:
    return key.rpartition(".")[0] if isinstance(key, str) and "." in key else None


def _is_in(key: Node, table: Mapping[str, str]) -> bool:
    return isinstance(key, str) and key in table


def _in_order_of(old: Pairs, new: Pairs) -> Pairs | None:
    """The new pairs in the order of the old ones, if their values are the same, one for one; else None."""
    if len(old) != len(new):
        return None
    waiting: dict[int, list[tuple[Node, Node]]] = {}
    for pair in new:
        waiting.setdefault(id(pair[1]), []).append(pair)
    ordered = []
    for key, value in old:
        candidates = waiting.get(id(value))
        if not candidates:
            return None
        same = next(
            (pair for pair in candidates if pair[0] is key or (isinstance(key, str) and pair[0] == key)), candidates[0]
        )
        candidates.remove(same)
        ordered.append(same)
    return ordered


def _at(root: Node, place: tuple[str, ...]) -> Node:
    """The mapping at a place; it is known to be there."""
    for name in place:
        root = child(root, name)
    return root
