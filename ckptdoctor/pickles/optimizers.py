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


def containers(root: Node, passed_over: Node = None) -> Iterator[tuple[Way, Node]]:
    """Every mapping, list and tuple from the root down, once, with the way to it; not `passed_over` nor what lies in it."""
    work: list[tuple[Way, Node]] = [((), root)]
    seen = {id(passed_over)}
    while work:
        way, node = work.pop()
        items = items_of(node) if id(node) not in seen else None
        if items is None:
            continue
        seen.add(id(node))
        yield way, node
        work += [
            ((*way, str(key)), value)
            for key, value in (reversed(items) if len(way) < _DEEPEST else ())
            if type(value) in (DictNode, CallNode, list, tuple) and is_name(key)
        ]


def is_name(key: Node) -> bool:
    """Whether a key can be a part of a way: a text, or a number that it does not take long to write."""
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def optimizers_in(root: Node, weights: Node = None) -> Iterator[tuple[Way, Node]]:
    """Whatever looks like an optimizer's state dict; what lies in the mapping `weights` is passed over."""
    found = containers(root, weights if weights is not root else None)
    return ((way, node) for way, node in found if is_optimizer(node))


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
