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
    GlobalNode,
    Node,
    PersistentNode,
    SetNode,
)

_SHARED = (list, bytearray, DictNode, SetNode, CallNode)


def difference(written: Node, source: Node, replace: Sequence[tuple[Node, Node]] = ()) -> str | None:
    """What is different in `written`, in a few words; None if it is `source` with these nodes replaced."""
    new_of = {id(old): new for old, new in replace}
    work: list[tuple[Node, Node]] = [(written, source)]
    partner: dict[int, int] = {}
    back: dict[int, int] = {}
    compared: set[tuple[int, int]] = set()
    while work:
        ours, theirs = work.pop()
        theirs = new_of.get(id(theirs), theirs)
        pair = id(ours), id(theirs)
        if isinstance(theirs, _SHARED) and (back.setdefault(pair[1], pair[0]), partner.setdefault(*pair)) != pair:
            return "what is shared in one is not in the other"
        if isinstance(theirs, (tuple, *_SHARED)):
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
    if isinstance(node, tuple):
        return "tuple", node
    if isinstance(node, list):
        return "list", node
    if isinstance(node, DictNode):
        return "dict", [part for pair in node.pairs for part in pair]
    if isinstance(node, SetNode):
        return type(node).__name__, node.items
    if isinstance(node, CallNode):
        return _call_parts(node)
    if isinstance(node, PersistentNode):
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
    parts = [node.function, node.arguments, node.keywords]
    shape: list[Any] = [how]
    for what, payload in node.edits:
        items = [payload] if what == "build" else payload
        parts += [part for pair in items for part in pair] if what == "setitems" else items
        shape.append((what, len(items)))
    return tuple(shape), parts


def _named(node: Node) -> str:
    return node.path if isinstance(node, GlobalNode) else f"a {type(node).__name__}"
