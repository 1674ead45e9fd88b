"""Whether two graphs are the same: equal values, the same objects with the same arguments, shared where the other shares.

This is how an output proves itself: what was written is parsed again and must be the source's graph but for what was meant to
change. Iterative, so depth and cycles do not matter.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from ckptdoctor.pickles.nodes import (
    CallNode,
    DictNode,
    ExtensionNode,
    FrozenSetNode,
    GlobalNode,
    Node,
    PersistentNode,
    SetNode,
)

_SHARED = frozenset({list, bytearray, DictNode, SetNode, FrozenSetNode, CallNode})
_ONCE = frozenset({tuple, GlobalNode})
"""Not told apart by identity; but a pair of them is compared once, for graphs that double at every step."""
_PLAIN = frozenset({str, int, bool, type(None), bytes})


def difference(written: Node, source: Node, replace: Sequence[tuple[Node, Node]] = ()) -> str | None:
    """What is different in `written`, in a few words; None if it is `source` with these nodes replaced."""
    new_of = {id(old): new for old, new in replace}
    work: list[tuple[Node, Node]] = [(written, source)]
    partner: dict[int, int] = {}
    taken: set[int] = set()
    compared: set[tuple[int, int]] = set()
    while work:
        ours, theirs = work.pop()
        theirs = new_of.get(id(theirs), theirs)
        kind = type(theirs)
        if kind in _PLAIN and type(ours) is kind and ours == theirs:
            continue
        if kind in _SHARED:
            known = partner.get(id(theirs))
            if known == id(ours):
                continue
            if known is not None or id(ours) in taken:
                return "what is shared in one is not in the other"
            partner[id(theirs)] = id(ours)
            taken.add(id(ours))
        elif kind in _ONCE:
            pair = id(ours), id(theirs)
            if pair in compared:
                continue
            compared.add(pair)
        left, right = _parts(ours), _parts(theirs)
        if left[0] != right[0] or len(left[1]) != len(right[1]):
            return f"{_named(ours)} where {_named(theirs)} should be"
        work += zip(left[1], right[1], strict=True)
    return None


def _parts(node: Node) -> tuple[Any, Sequence[Node]]:
    """What has to be equal as it is, and the nodes below."""
    kind = type(node)
    if kind is tuple:
        return "tuple", node
    if kind is CallNode:
        return _call_parts(node)
    if kind is list:
        return "list", node
    if kind is DictNode:
        return "dict", [part for pair in node.pairs for part in pair]
    if kind is SetNode or kind is FrozenSetNode:
        return kind.__name__, node.items
    if kind is PersistentNode:
        return ("persistent", node.textual), (node.pid,)
    return _leaf(node), ()


def _leaf(node: Node) -> Any:
    if isinstance(node, GlobalNode):
        return "global", node.module, node.name
    if isinstance(node, ExtensionNode):
        return "extension", node.code
    if isinstance(node, float):
        return "float", struct.pack(">d", node)
    if isinstance(node, str):
        return "text", str(node)
    return type(node).__name__, node


def _call_parts(node: CallNode) -> tuple[Any, Sequence[Node]]:
    how = "obj" if node.how == "inst" else node.how  # two opcodes for one thing
    if not node.edits:
        return (how,), (node.function, node.arguments, node.keywords)
    parts = [node.function, node.arguments, node.keywords]
    shape: list[Any] = [how]
    for what, payload in node.edits:
        items = [payload] if what == "build" else payload
        parts += [part for pair in items for part in pair] if what == "setitems" else items
        shape.append((what, len(items)))
    return tuple(shape), parts


def _named(node: Node) -> str:
    return node.path if isinstance(node, GlobalNode) else f"a {type(node).__name__}"
