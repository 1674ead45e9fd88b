"""Opcodes that make containers, and those that would run code in a real unpickler: here they make inert nodes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from ckptdoctor.pickles.machine import Handler, Machine, fail
from ckptdoctor.pickles.nodes import CallNode, DictNode, ExtensionNode, Node, PersistentNode, SetNode
from ckptdoctor.pickles.values import text


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
    module, at = m.line(at)
    name, at = m.line(at)
    m.stack.append(m.name(text(module), text(name)))
    return at


def stack_global(m: Machine, at: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        fail("a global whose name is no text")
    m.stack.append(m.name(module, name))
    return at


def extension(layout: str) -> Handler:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    def push(m: Machine, at: int) -> int:
        code = unpack(m.data, at)[0]
        m.note(f"copyreg extension {code}")
        m.stack.append(ExtensionNode(code))
        return at + size

    return push


def reduce(m: Machine, at: int) -> int:
    stack = m.stack
    arguments = stack.pop()
    if not isinstance(arguments, tuple):
        fail("a call whose arguments are no tuple")
    call = stack[-1] = CallNode("reduce", stack[-1], arguments)
    m.calls.append(call)
    return at


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
    module, at = m.line(at)
    name, at = m.line(at)
    arguments = tuple(m.since_mark())
    m.stack.append(m.call(CallNode("inst", m.name(text(module), text(name)), arguments)))
    return at


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
