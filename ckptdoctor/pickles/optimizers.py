"""Where the graph of a file holds states of optimizers: under the usual names, and under any other by what they look like."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

from ckptdoctor.pickles.nodes import CallNode, DictNode, Node, mapping_pairs

Way: TypeAlias = tuple[str, ...]
OPTIMIZER_KEYS = ("optimizer_states", "optimizer", "optimizer_state_dict", "optimizers")
_DEEPEST = 64
_PLAIN = (type(None), bool, int, float, str)


def items_of(node: Node) -> list[tuple[Node, Node]] | None:
    """The entries of a mapping, or of a list by their numbers; None for anything else."""
    return list(enumerate(node)) if isinstance(node, list | tuple) else mapping_pairs(node)


def is_optimizer(node: Node) -> bool:
    """Whether a node looks like the state dict of an optimizer: `state`, and `param_groups` that list `params`."""
    parts = {key: value for key, value in mapping_pairs(node) or [] if isinstance(key, str)}
    groups = parts.get("param_groups")
    return (
        mapping_pairs(parts.get("state")) is not None
        and isinstance(groups, list)
        and all(isinstance(_params(group), list) for group in groups)
    )


def _params(group: Node) -> Node:
    return next((value for key, value in mapping_pairs(group) or [] if isinstance(key, str) and key == "params"), None)


def optimizers_in(root: Node, weights: Node = None) -> Iterator[tuple[Way, Node]]:
    """Whatever looks like an optimizer's state dict, from the root down; what lies in the mapping `weights` is passed over."""
    work: list[tuple[Way, Node]] = [((), root)]
    seen = {id(weights)} if weights is not root else set()
    while work:
        way, node = work.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if is_optimizer(node):
            yield way, node
        elif len(way) < _DEEPEST:
            work += [
                ((*way, str(key)), value)
                for key, value in reversed(items_of(node) or [])
                if type(value) in (DictNode, CallNode, list, tuple) and isinstance(key, str | int)
            ]


def holds_states(node: Node) -> bool:
    """Whether there is anything in the value of an optimizer's key: not so in None, a setting, or what is empty all through."""
    work, seen = [node], set[int]()
    while work:
        value = work.pop()
        if type(value) in _PLAIN or id(value) in seen:
            continue
        seen.add(id(value))
        items = items_of(value)
        if items is None or any(isinstance(key, str) and key == "param_groups" and inner for key, inner in items):
            return True
        work += [inner for _, inner in items]
    return False
