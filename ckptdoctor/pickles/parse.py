"""The reader of pickles: protocol 0 to 5 in, a graph of inert nodes out.

One small function an opcode, in one table. Each takes the machine and the position behind the opcode, and returns the
position behind its argument. No import, no call and no hash of anything that the stream names happens anywhere below.
Opcodes and their meaning: CPython's Lib/pickletools.py.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from ckptdoctor.limits import OverLimit, limits
from ckptdoctor.pickles import objects as o
from ckptdoctor.pickles import values as v
from ckptdoctor.pickles.machine import Handler, Machine, PickleError
from ckptdoctor.pickles.nodes import (
    ByteString,
    CallNode,
    DictNode,
    FrozenSetNode,
    GlobalName,
    Node,
    PersistentNode,
    SetNode,
)

_OPCODES: dict[bytes, Handler] = {
    b"N": v.constant(None), b"\x88": v.constant(True), b"\x89": v.constant(False), b")": v.constant(()),
    b"K": v.byte, b"M": v.number("<H"), b"J": v.number("<i"), b"G": v.number(">d"),
    b"\x8a": v.counted("<B", v.long), b"\x8b": v.counted("<i", v.long),
    b"I": v.text_line(v.int_line), b"L": v.text_line(v.long_line), b"F": v.text_line(float),
    b"X": v.counted("<I", v.text), b"\x8c": v.counted("<B", v.text), b"\x8d": v.counted("<Q", v.text),
    b"B": v.counted("<I", bytes), b"C": v.counted("<B", bytes), b"\x8e": v.counted("<Q", bytes),
    b"V": v.text_line(v.raw_unicode), b"\x96": v.counted("<Q", bytearray),
    b"T": v.counted("<i", ByteString), b"U": v.counted("<B", ByteString), b"S": v.text_line(v.quoted),
    b"]": o.fresh(list), b"}": o.fresh(lambda: DictNode([])), b"\x8f": o.fresh(lambda: SetNode([])),
    b"l": o.from_mark(list), b"t": o.tuple_from_mark, b"d": o.from_mark(lambda items: DictNode(o.pairs_of(items))),
    b"\x91": o.from_mark(FrozenSetNode),
    b"\x85": o.tuple1, b"\x86": o.tuple2, b"\x87": o.tuple3,
    b"a": o.append, b"e": o.appends, b"s": o.setitem, b"u": o.setitems, b"\x90": o.additems,
    b"c": o.global_, b"\x93": o.stack_global,
    b"\x82": o.extension("<B"), b"\x83": o.extension("<H"), b"\x84": o.extension("<i"),
    b"R": o.reduce, b"\x81": o.newobj, b"\x92": o.newobj_ex, b"i": o.inst, b"o": o.obj, b"b": o.build,
    b"P": o.persid, b"Q": o.binpersid,
    b"(": o.mark, b"0": v.pop, b"1": v.pop_mark, b"2": v.dup,
    b"q": v.put_byte, b"r": v.put_word, b"p": v.put_line, b"\x94": v.memoize,
    b"h": v.get_byte, b"j": v.get("<I"), b"g": v.get_line,
    b"\x80": v.proto, b"\x95": v.frame, b".": v.stop,
    b"\x97": v.out_of_band, b"\x98": v.out_of_band,
}  # fmt: skip

HANDLERS: list[Handler] = [_OPCODES.get(bytes([code]), v.unknown) for code in range(256)]


class Pickle(NamedTuple):
    """A parsed stream: the graph, its protocol, and where it ended.

    Also all that the stream names (`globals`), would call (`calls`) and refers to outside of it (`persistent`), in order of
    appearance. These come from the opcodes: what a stream makes and throws away again is in them too; `discards` says
    whether it throws anything away.
    """

    root: Node
    protocol: int
    end: int
    globals: tuple[GlobalName, ...]
    calls: tuple[CallNode, ...]
    persistent: tuple[PersistentNode, ...]
    discards: bool


def parse(data: bytes, start: int = 0, *, table: list[Handler] | None = None) -> Pickle:
    """Parse one pickle that begins at `start`; raises PickleError where it is malformed, OverLimit where it is too long."""
    machine = Machine(data)
    end = run(machine, start, table or HANDLERS)
    seen = tuple(machine.globals.values()), tuple(machine.calls), tuple(machine.persistent)
    return Pickle(machine.stack[0], machine.protocol, end, *seen, machine.discards)


def run(m: Machine, at: int, table: list[Handler]) -> int:
    """Run to STOP; returns the position behind it.

    Three quarters of what torch writes are these few opcodes. What their handlers do is done here too, where it takes no
    call; another handler in the table is called like any other.
    """
    data, memo, stack = m.data, m.memo, m.stack
    byte, put_word, get_byte = v.byte, v.put_word, v.get_byte
    mark, tuple_from_mark, tuple2 = o.mark, o.tuple_from_mark, o.tuple2
    word = struct.Struct("<I").unpack_from
    try:
        for _ in range(limits().opcodes):
            handler = table[data[at]]
            if handler is put_word:
                memo[word(data, at + 1)[0]] = stack[-1]
                at += 5
            elif handler is byte:
                stack.append(data[at + 1])
                at += 2
            elif handler is get_byte:
                stack.append(memo[data[at + 1]])
                at += 2
            elif handler is mark:
                m.marks.append(stack)
                m.stack = stack = []
                at += 1
            elif handler is tuple_from_mark:
                items = tuple(stack)
                m.stack = stack = m.marks.pop()
                stack.append(items)
                at += 1
            elif handler is tuple2:
                last = stack.pop()
                stack[-1] = (stack[-1], last)
                at += 1
            else:
                at = handler(m, at + 1)
                stack = m.stack
                if not m.running:
                    return at
    except (IndexError, KeyError, struct.error, ValueError, OverflowError) as error:
        raise PickleError(m.complaint(error, at)) from None
    raise OverLimit("opcodes", f"the pickle has more than {limits().opcodes:,} opcodes")
