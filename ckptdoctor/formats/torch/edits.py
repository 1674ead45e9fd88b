"""Edits of what stands around the weights: a map's `envelope`, and optimizer states that are left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import PlanError
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.nodes import CallNode, DictNode, Node, mapping_pairs, with_pairs
from ckptdoctor.pickles.optimizers import OPTIMIZER_KEYS, Way, is_optimizer
from ckptdoctor.text import did_you_mean, listing

if TYPE_CHECKING:
    from ckptdoctor.keymap import EnvelopeEdit

Pairs = list[tuple[Node, Node]]
_PLAIN = (type(None), bool, int, float, str, list, DictNode)


class Replacements:
    """Nodes and what stands in their place; several edits of one mapping add up."""

    def __init__(self) -> None:
        self._new: dict[int, tuple[Node, Node]] = {}

    def __len__(self) -> int:
        return len(self._new)

    @property
    def pairs(self) -> Pairs:
        """Old and new nodes."""
        return list(self._new.values())

    def now(self, node: Node) -> Node:
        """What stands for a node after the edits so far."""
        return self._new.get(id(node), (node, node))[1]

    def put(self, old: Node, new: Node) -> None:
        """Replace `old` (as it stands in the source)."""
        self._new[id(old)] = (old, new)


def drop_optimizers(source: TensorGraph, place: Way, replacements: Replacements) -> None:
    """Empty lists for Lightning, which wants the keys to be there; what else stands under the usual names is taken out, and
    what only looks like the state dict of an optimizer becomes an empty one."""
    emptied = (*OPTIMIZER_KEYS, "lr_schedulers")
    for root in source.around(place):
        pairs = [
            (key, [] if key in emptied and isinstance(value, list) else value)
            for key, value in mapping_pairs(replacements.now(root)) or []
            if key not in OPTIMIZER_KEYS or isinstance(value, list)
        ]
        replacements.put(root, with_pairs(root, pairs))
    for node in source.optimizers(place).values():
        if is_optimizer(node):
            replacements.put(node, DictNode([]))


def edit_envelope(source: TensorGraph, place: Way, edit: EnvelopeEdit, replacements: Replacements) -> None:
    """Carry out one edit of a map's `envelope`; raises PlanError where its path leads nowhere or to no plain value."""
    depth = min(len(place), len(edit.path))
    if edit.path[:depth] == place[:depth]:
        hint = "rules, fresh and drop speak of weights"
        raise _wrong(edit, f"{_text(edit)} is at, above or among the weights ({'/'.join(place) or 'the root'})", hint)
    parent = source.pickle.root
    for depth, name in enumerate(edit.path[:-1]):
        parent = _child(parent, name, edit, depth, replacements)
    name = edit.path[-1]
    pairs = _pairs(parent, edit, len(edit.path) - 1, replacements)
    keys = [key for key, _ in pairs if isinstance(key, str)]
    if edit.action != "add" and name not in keys:
        raise _nowhere(edit, len(edit.path) - 1, keys)
    if edit.action == "add" and name in keys:
        raise _wrong(edit, f"{_text(edit)} is there already", "use set to change it")
    old = next((value for key, value in pairs if isinstance(key, str) and key == name), None)
    if edit.action == "set" and type(old) not in _PLAIN:
        raise _wrong(
            edit,
            f"{_text(edit)} is no plain value but {_described(old)}",
            "only plain values can be set; drop takes anything",
        )
    replacements.put(parent, with_pairs(parent, _edited(pairs, edit)))


def _edited(pairs: Pairs, edit: EnvelopeEdit) -> Pairs:
    name = edit.path[-1]
    if edit.action == "drop":
        return [(key, value) for key, value in pairs if key != name]
    if edit.action == "add":
        return [*pairs, (name, _node(edit.value))]
    return [(key, _node(edit.value) if key == name else value) for key, value in pairs]


def _child(parent: Node, name: str, edit: EnvelopeEdit, depth: int, replacements: Replacements) -> Node:
    if isinstance(parent, list) and name.isdecimal() and int(name) < len(parent):
        return parent[int(name)]
    pairs = _pairs(parent, edit, depth, replacements)
    for key, value in pairs:
        if key == name:
            return value
    raise _nowhere(edit, depth, [key for key, _ in pairs])


def _pairs(parent: Node, edit: EnvelopeEdit, depth: int, replacements: Replacements) -> Pairs:
    pairs = mapping_pairs(replacements.now(parent))
    if pairs is None:
        raise _wrong(edit, f"{'/'.join(edit.path[:depth]) or 'the root'} is no mapping but {_described(parent)}", None)
    return pairs


def _node(value: Any) -> Node:
    if isinstance(value, dict):
        return DictNode([(key, _node(inner)) for key, inner in value.items()])
    return [_node(inner) for inner in value] if isinstance(value, list) else value


def _nowhere(edit: EnvelopeEdit, depth: int, keys: list[Any]) -> PlanError:
    names = [key for key in keys if isinstance(key, str)]
    place = "/".join(edit.path[: depth + 1])
    hint = did_you_mean(edit.path[depth], names) or f"there are {listing(names, limit=12)}"
    return _wrong(edit, f"the checkpoint has no {place}", hint)


def _wrong(edit: EnvelopeEdit, message: str, hint: str | None) -> PlanError:
    return PlanError(f"envelope: {message}", rule=edit.location, keys=("/".join(edit.path),), hint=hint)


def _text(edit: EnvelopeEdit) -> str:
    return "/".join(edit.path)


def _described(node: Node) -> str:
    if type(node) is CallNode:
        return f"an object of {getattr(node.function, 'path', 'a class')}"
    return f"a {type(node).__name__}"
