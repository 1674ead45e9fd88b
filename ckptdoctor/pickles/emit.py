"""A graph of nodes back into a stream that makes the same graph.

Shared nodes stay shared (everything but small plain values goes through the memo), the order of items and of edits is
kept, and nothing recurses, so depth does not matter. Only opcodes are used that the protocol of the source knows, none of
POP, DUP and FRAME unless a graph that contains itself needs the first: torch's restricted reader takes what is written here.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any

from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.nodes import (
    ByteString,
    CallNode,
    DictNode,
    ExtensionNode,
    FrozenSetNode,
    GlobalNode,
    Node,
    PersistentNode,
    SetNode,
)

_BATCH = 1000
_ITEM_OPCODES = {"appends": b"e", "setitems": b"u", "additems": b"\x90"}
_SINGLE_OPCODES = {"appends": b"a", "setitems": b"s"}


def emit(root: Node, protocol: int = 2, *, replace: Sequence[tuple[Node, Node]] = ()) -> bytes:
    """Write the graph below `root` as one pickle of at least protocol 2.

    `replace` are pairs of a node and what is written in its place, wherever it stands. Raises PickleError for a value that
    a pickle cannot hold.
    """
    emitter = _Emitter(replace)
    emitter.out += b"\x80" + bytes([max(protocol, 2)])
    emitter.run(root)
    return bytes(emitter.out + b".")


class _Emitter:
    """Output, memo, and the work that is still to do: nodes to write, and functions to call once these are written."""

    def __init__(self, replace: Sequence[tuple[Node, Node]]) -> None:
        self.replace = {id(old): new for old, new in replace}
        self.out = bytearray()
        self.memo: dict[int, int] = {}
        self.kept: list[Node] = []  # an id is only good as long as its object lives
        self.work: list[tuple[bool, Any]] = []
        self.globals: dict[tuple[str, str], GlobalNode] = {}

    def run(self, root: Node) -> None:
        self.later(root)
        while self.work:
            is_step, item = self.work.pop()
            if is_step:
                item()
            else:
                self.node(item)

    def later(self, *items: Node | Callable[[], None], steps: bool = False) -> None:
        """Do these next, in this order."""
        self.work.extend((steps, item) for item in reversed(items))

    def then(self, step: Callable[[], None]) -> None:
        """Do this next."""
        self.work.append((True, step))

    def write(self, opcodes: bytes) -> None:
        self.out += opcodes

    def memoize(self, node: Node) -> None:
        index = self.memo[id(node)] = len(self.kept)
        self.kept.append(node)
        self.out += b"q" + bytes([index]) if index < 256 else b"r" + struct.pack("<I", index)

    def recalled(self, node: Node) -> bool:
        """Write a reference if the node was written before."""
        index = self.memo.get(id(node))
        if index is None:
            return False
        self.out += b"h" + bytes([index]) if index < 256 else b"j" + struct.pack("<I", index)
        return True

    def node(self, node: Node) -> None:
        node = self.replace.get(id(node), node)
        writer = _WRITERS.get(type(node))
        if writer is None:
            raise PickleError(f"a value of type {type(node).__name__} has no place in a pickle")
        if type(node) is GlobalNode:  # one memo entry for each name, as pickle does it
            node = self.globals.setdefault((node.module, node.name), node)
        if not self.recalled(node):
            writer(self, node)


def _none(e: _Emitter, node: None) -> None:
    e.write(b"N")


def _bool(e: _Emitter, node: bool) -> None:
    e.write(b"\x88" if node else b"\x89")


def _int(e: _Emitter, node: int) -> None:
    if 0 <= node < 1 << 8:
        e.write(b"K" + bytes([node]))
    elif 0 <= node < 1 << 16:
        e.write(b"M" + struct.pack("<H", node))
    elif -(1 << 31) <= node < 1 << 31:
        e.write(b"J" + struct.pack("<i", node))
    else:
        raw = node.to_bytes((node if node >= 0 else ~node).bit_length() // 8 + 1, "little", signed=True)
        e.write((b"\x8a" + bytes([len(raw)]) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))) + raw)


def _float(e: _Emitter, node: float) -> None:
    e.write(b"G" + struct.pack(">d", node))


def _str(e: _Emitter, node: str) -> None:
    e.write(text_opcode(node))
    e.memoize(node)


def text_opcode(value: str) -> bytes:
    """BINUNICODE, which every protocol and every reader of torch files knows."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def _bytes(e: _Emitter, node: bytes) -> None:
    e.write((b"C" + bytes([len(node)]) if len(node) < 256 else b"B" + struct.pack("<I", len(node))) + node)
    e.memoize(node)


def _bytearray(e: _Emitter, node: bytearray) -> None:
    e.write(b"\x96" + struct.pack("<Q", len(node)) + bytes(node))
    e.memoize(node)


def _byte_string(e: _Emitter, node: ByteString) -> None:
    e.write((b"U" + bytes([len(node)]) if len(node) < 256 else b"T" + struct.pack("<i", len(node))) + node)
    e.memoize(node)


def _global(e: _Emitter, node: GlobalNode) -> None:
    if "\n" in node.module or "\n" in node.name:
        raise PickleError("a global with a line break in its name")
    e.write(b"c%b\n%b\n" % tuple(part.encode("utf-8", "surrogatepass") for part in (node.module, node.name)))
    e.memoize(node)


def _extension(e: _Emitter, node: ExtensionNode) -> None:
    e.write(b"\x84" + struct.pack("<i", node.code))
    e.memoize(node)


def _tuple(e: _Emitter, node: tuple[Node, ...]) -> None:
    if not node:
        return e.write(b")")
    small = len(node) <= 3

    def close() -> None:
        if id(node) in e.memo:  # it holds itself and was written on the way: take the parts off again
            e.write(b"0" * len(node) if small else b"1")
            e.recalled(node)
        else:
            e.write(bytes([0x84 + len(node)]) if small else b"t")
            e.memoize(node)

    if not small:
        e.write(b"(")
    e.then(close)
    return e.later(*node)


def _list(e: _Emitter, node: list[Node]) -> None:
    e.write(b"]")
    e.memoize(node)
    _items(e, "appends", node, builtin=True)


def _dict(e: _Emitter, node: DictNode) -> None:
    e.write(b"}")
    e.memoize(node)
    _items(e, "setitems", node.pairs, builtin=True)


def _set(e: _Emitter, node: SetNode) -> None:
    e.write(b"\x8f")
    e.memoize(node)
    _items(e, "additems", node.items)


def _frozenset(e: _Emitter, node: FrozenSetNode) -> None:
    def close() -> None:
        if id(node) in e.memo:
            e.write(b"1")
            e.recalled(node)
        else:
            e.write(b"\x91")
            e.memoize(node)

    e.write(b"(")
    e.then(close)
    e.later(*node.items)


def _items(e: _Emitter, what: str, items: list[Any], *, builtin: bool = False) -> None:
    """Items in batches, as pickle writes them; a pair counts as one item.

    A batch of one has an opcode of its own: the last one of an object, but of a `builtin` list or dict only the first.
    pickle ends a dict of full batches with an empty one.
    """
    starts = range(0, len(items) + (builtin and what == "setitems" and len(items) >= _BATCH), _BATCH)

    def batch_step(batch: list[Any], single: bytes | None) -> Callable[[], None]:
        def step() -> None:
            e.write(b"" if single else b"(")
            e.then(lambda: e.write(single or _ITEM_OPCODES[what]))
            e.later(*([part for pair in batch for part in pair] if what == "setitems" else batch))

        return step

    batches = [items[start : start + _BATCH] for start in starts]
    singles = [len(batch) == 1 and not (builtin and len(items) > 1) for batch in batches]
    opcodes = [_SINGLE_OPCODES.get(what) if single else None for single in singles]
    e.later(*map(batch_step, batches, opcodes), steps=True)


def _persistent(e: _Emitter, node: PersistentNode) -> None:
    if node.textual:
        return e.write(b"P" + node.pid.encode("utf-8", "surrogatepass") + b"\n")
    e.then(lambda: e.write(b"Q"))
    return e.later(node.pid)


def _call(e: _Emitter, node: CallNode) -> None:
    def made() -> None:
        if id(node) in e.memo:
            e.write(b"00" if node.how != "newobj_ex" else b"000")
            e.recalled(node)
            return
        e.write({"reduce": b"R", "newobj": b"\x81", "newobj_ex": b"\x92"}[node.how])
        e.memoize(node)
        e.later(*(_edit_step(e, what, payload) for what, payload in node.edits), steps=True)

    if node.how in ("inst", "obj"):
        _old_style(e, node)
    else:
        e.then(made)
        e.later(node.function, node.arguments, *([node.keywords] if node.how == "newobj_ex" else []))


def _old_style(e: _Emitter, node: CallNode) -> None:
    """INST is written as OBJ, which says the same and takes its class from the stack."""

    def made() -> None:
        e.write(b"o")
        e.memoize(node)
        e.later(*(_edit_step(e, what, payload) for what, payload in node.edits), steps=True)

    e.write(b"(")
    e.then(made)
    e.later(node.function, *node.arguments)


def _edit_step(e: _Emitter, what: str, payload: Any) -> Callable[[], None]:
    def step() -> None:
        if what == "build":
            e.then(lambda: e.write(b"b"))
            e.later(payload)
        else:
            _items(e, what, payload)

    return step


_WRITERS: dict[type, Callable[[_Emitter, Any], None]] = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
    ByteString: _byte_string,
    tuple: _tuple,
    list: _list,
    DictNode: _dict,
    SetNode: _set,
    FrozenSetNode: _frozenset,
    GlobalNode: _global,
    ExtensionNode: _extension,
    PersistentNode: _persistent,
    CallNode: _call,
}
