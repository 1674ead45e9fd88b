"""Opcodes that make containers, and those that would run code in a real unpickler: here they make inert nodes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from ckptdoctor.pickles.machine import Handler, Machine, fail
from ckptdoctor.pickles.nodes import (
    CallNode,
    DictNode,
    ExtensionNode,
    GlobalName,
    GlobalNode,
    Node,
    PersistentNode,
    SetNode,
)
from ckptdoctor.pickles.values import text

_READ_AT_ONCE = ("OrderedDict", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


def mark(m: Machine, at: int) -> int:
    m.marks.append(m.stack)
    m.stack = []
    return at


def fresh(make: Callable[[], Node]) -> Handler:
    def push(m: Machine, at: int) -> int:
        m.stack.append(make())
        return at

    return push


def from_mark(make: Callable[[list[Node]], Node]) -> Handler:
    def push(m: Machine, at: int) -> int:
        items = m.since_mark()
        m.stack.append(make(items))
        return at

    return push


def tuple_from_mark(m: Machine, at: int) -> int:
    items = tuple(m.since_mark())
    m.stack.append(items)
    return at


def tuple1(m: Machine, at: int) -> int:
    m.stack[-1] = (m.stack[-1],)
    return at


def tuple2(m: Machine, at: int) -> int:
    last = m.stack.pop()
    m.stack[-1] = (m.stack[-1], last)
    return at


def tuple3(m: Machine, at: int) -> int:
    last, middle = m.stack.pop(), m.stack.pop()
    m.stack[-1] = (m.stack[-1], middle, last)
    return at


def pairs_of(items: list[Node]) -> list[tuple[Node, Node]]:
    if len(items) % 2:
        fail("a key without a value")
    return list(zip(items[::2], items[1::2], strict=True))


def extend(m: Machine, items: list[Node]) -> None:
    target = m.stack[-1]
    if type(target) is list:
        target.extend(items)
    elif type(target) is CallNode:
        note(target, "appends", items)
    else:
        fail("items are appended to something that is no list")


def set_pairs(m: Machine, pairs: list[tuple[Node, Node]]) -> None:
    target = m.stack[-1]
    if type(target) is DictNode:
        target.pairs.extend(pairs)
    elif type(target) is CallNode:
        note(target, "setitems", pairs)
    else:
        fail("items are set in something that is no dict")


def note(target: CallNode, what: Any, items: list[Any]) -> None:
    """Pickle writes items in batches; batches that follow each other are one edit."""
    if target.edits and target.edits[-1][0] == what:
        target.edits[-1][1].extend(items)
    else:
        target.edits.append((what, items))


def append(m: Machine, at: int) -> int:
    item = m.stack.pop()
    extend(m, [item])
    return at


def appends(m: Machine, at: int) -> int:
    extend(m, m.since_mark())
    return at


def setitem(m: Machine, at: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    set_pairs(m, [(key, value)])
    return at


def setitems(m: Machine, at: int) -> int:
    set_pairs(m, pairs_of(m.since_mark()))
    return at


def additems(m: Machine, at: int) -> int:
    items = m.since_mark()
    target = m.stack[-1]
    if type(target) is SetNode:
        target.items.extend(items)
    elif type(target) is CallNode:
        note(target, "additems", items)
    else:
        fail("items are added to something that is no set")
    return at


def global_(m: Machine, at: int) -> int:
    module, end = m.line(at)
    name, end = m.line(end)
    m.stack.append(m.name(text(module), text(name), at - 1))
    return end


def stack_global(m: Machine, at: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        fail("a global whose name is no text")
    m.stack.append(m.name(module, name, at - 1))
    return at


def extension(layout: str) -> Handler:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    def push(m: Machine, at: int) -> int:
        code = unpack(m.data, at)[0]
        m.note(GlobalName("copyreg", f"extension {code}", at - 1))
        m.stack.append(ExtensionNode(code))
        return at + size

    return push


def reduce(m: Machine, at: int) -> int:
    stack = m.stack
    arguments = stack.pop()
    if not isinstance(arguments, tuple):
        fail("a call whose arguments are no tuple")
    if arguments and (type(arguments[-1]) in (list, DictNode) or len(arguments) == 4):
        arguments = _settled(stack[-1], arguments)
    call = stack[-1] = CallNode("reduce", stack[-1], arguments)
    m.calls.append(call)
    return at


def _settled(function: Node, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a call that is read as a tensor or a mapping, as they are now: what a stream adds to a list or a dict
    later comes too late for the call. Those that can be so are the only or the last one, or in the third of four."""
    name = function.name if type(function) is GlobalNode else ""
    if name == "_rebuild_from_type_v2" and len(arguments) == 4 and isinstance(arguments[2], tuple):
        return (*arguments[:2], tuple(map(_copied, arguments[2])), arguments[3])
    return (*arguments[:-1], _copied(arguments[-1])) if name in _READ_AT_ONCE else arguments


def _copied(node: Node) -> Node:
    if type(node) is DictNode:
        return DictNode(list(node.pairs))
    return [list(item) if type(item) is list else item for item in node] if type(node) is list else node


def newobj(m: Machine, at: int) -> int:
    arguments = m.stack.pop()
    if not isinstance(arguments, tuple):
        fail("an object whose arguments are no tuple")
    m.stack[-1] = m.call(CallNode("newobj", m.stack[-1], arguments))
    return at


def newobj_ex(m: Machine, at: int) -> int:
    keywords, arguments = m.stack.pop(), m.stack.pop()
    if not isinstance(arguments, tuple) or type(keywords) is not DictNode:
        fail("an object whose arguments are no tuple and dict")
    m.stack[-1] = m.call(CallNode("newobj_ex", m.stack[-1], arguments, keywords))
    return at


def inst(m: Machine, at: int) -> int:
    module, end = m.line(at)
    name, end = m.line(end)
    arguments = tuple(m.since_mark())
    m.stack.append(m.call(CallNode("inst", m.name(text(module), text(name), at - 1), arguments)))
    return end


def obj(m: Machine, at: int) -> int:
    function, *arguments = m.since_mark()
    m.stack.append(m.call(CallNode("obj", function, tuple(arguments))))
    return at


def build(m: Machine, at: int) -> int:
    state = m.stack.pop()
    if type(m.stack[-1]) is not CallNode:
        fail("a state for something that is no object")
    m.stack[-1].edits.append(("build", state))
    return at


def persid(m: Machine, at: int) -> int:
    raw, at = m.line(at)
    m.persistent.append(PersistentNode(text(raw), textual=True))
    m.stack.append(m.persistent[-1])
    return at


def binpersid(m: Machine, at: int) -> int:
    stack = m.stack
    reference = stack[-1] = PersistentNode(stack[-1])
    m.persistent.append(reference)
    return at
