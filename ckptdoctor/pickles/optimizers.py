"""Where the graph of a file holds states of optimizers: under the usual names, and under any other by what they look like."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any, TypeAlias

from ckptdoctor.limits import LONGEST_NAME, limits
from ckptdoctor.pickles.nodes import CallNode, DictNode, Node, mapping_pairs

Way: TypeAlias = tuple[str, ...]
OPTIMIZER_KEYS = ("optimizer_states", "optimizer", "optimizer_state_dict", "optimizers")
_PLAIN = (type(None), bool, int, float, str)


_CONTAINERS = (DictNode, CallNode, list, tuple)
Trail: TypeAlias = Any
"""A way from its end, `(the trail before, key)`; None is the root. The ways of a million nodes would be a gigabyte."""


def items_of(node: Node) -> Iterable[tuple[Node, Node]] | None:
    """The entries of a mapping, or of a list by their numbers; None for anything else."""
    return enumerate(node) if isinstance(node, list | tuple) else mapping_pairs(node)


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


def containers(root: Node, past: Container[int] = ()) -> Iterator[tuple[Way, Node]]:
    """The root, and every mapping, list and tuple below it that holds something, once, with the way to it, as deep as the limit
    of nesting says; none whose identity is in `past`, nor what lies in it or has no name."""
    for trail, node in trails(root, past):
        yield way_of(trail), node


def trails(root: Node, past: Container[int]) -> Iterator[tuple[Trail, Node]]:
    """The same, but only one way is in memory at a time."""
    items = items_of(root) if id(root) not in past else None
    if items is None:
        return
    yield None, root
    deepest, seen = limits().nesting, {id(root)}
    work: list[tuple[Trail, Iterator[tuple[Node, Node]]]] = [(None, iter(items))]
    while work:
        trail, entries = work[-1]
        for key, value in entries:
            if type(value) not in _CONTAINERS or id(value) in past or id(value) in seen or not is_name(key):
                continue
            items = items_of(value)
            if not items or not value:
                continue
            seen.add(id(value))
            yield (trail, key), value
            if len(work) < deepest:
                work.append(((trail, key), iter(items)))
                break
        else:
            work.pop()


def way_of(trail: Trail) -> Way:
    """The names on a trail, from the root on."""
    names: list[str] = []
    while trail is not None:
        trail, key = trail
        names.append(str(key))
    return tuple(reversed(names))


def is_name(key: Node) -> bool:
    """Whether a key can be a part of a way: a text, or a number that it does not take long to write."""
    if isinstance(key, str):
        return len(key) <= LONGEST_NAME
    return isinstance(key, int) and key.bit_length() < 64


def optimizers_in(root: Node, weights: Node = None) -> Iterator[tuple[Way, Node]]:
    """Whatever looks like an optimizer's state dict; what lies in the mapping `weights` is passed over."""
    found = trails(root, () if weights is root else {id(weights)})
    return ((way_of(trail), node) for trail, node in found if is_optimizer(node))


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
        work += [inner for _, inner in items_of(value) or ()]
    return False
