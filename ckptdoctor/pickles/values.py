"""Opcodes that push a plain value, or move values between stack and memo; factories where only a layout differs."""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable
from typing import Any

from ckptdoctor.pickles.machine import Handler, Machine, fail
from ckptdoctor.pickles.nodes import ByteString

_ESCAPE = re.compile(rb"""\\(?:[\\'"abfnrtv]|x[0-9a-fA-F]{2}|[0-3][0-7]{2}|[0-7]{1,2}(?![0-7]))""")
"""What Python 2 wrote between quotes. Other escapes would be kept with a warning, which is of no use to anybody."""


def constant(value: Any) -> Handler:
    def push(m: Machine, at: int) -> int:
        m.stack.append(value)
        return at

    return push


def number(layout: str) -> Handler:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    def push(m: Machine, at: int) -> int:
        m.stack.append(unpack(m.data, at)[0])
        return at + size

    return push


def byte(m: Machine, at: int) -> int:  # the commonest number by far: no struct
    m.stack.append(m.data[at])
    return at + 1


def counted(layout: str, make: Callable[[bytes], Any]) -> Handler:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    def push(m: Machine, at: int) -> int:
        start = at + size
        end: int = start + unpack(m.data, at)[0]
        if not start <= end <= len(m.data):
            fail("the pickle ends early")
        m.stack.append(make(m.data[start:end]))
        return end

    return push


def text_line(make: Callable[[bytes], Any]) -> Handler:
    def push(m: Machine, at: int) -> int:
        text, end = m.line(at)
        m.stack.append(make(text))
        return end

    return push


def text(raw: bytes) -> str:
    """Pickle's text: UTF-8 that may hold lone surrogates."""
    return raw.decode("utf-8", "surrogatepass")


def long(raw: bytes) -> int:
    return int.from_bytes(raw, "little", signed=True)


def int_line(raw: bytes) -> int | bool:
    return raw == b"01" if raw in (b"00", b"01") else int(raw)


def long_line(raw: bytes) -> int:
    return int(raw.removesuffix(b"L"))


def quoted(raw: bytes) -> ByteString:
    raw = raw.strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in b"'\"":
        fail("a string without quotes")
    if b"\\" in _ESCAPE.sub(b"", raw[1:-1]):
        fail("a string with an unknown escape")
    return ByteString(codecs.escape_decode(raw[1:-1])[0])


def raw_unicode(raw: bytes) -> str:
    return raw.decode("raw-unicode-escape")


def pop(m: Machine, at: int) -> int:
    m.discards = True
    if m.stack:
        m.stack.pop()
    else:  # POP on an empty stack takes the mark itself
        m.since_mark()
    return at


def pop_mark(m: Machine, at: int) -> int:
    m.discards = True
    m.since_mark()
    return at


def dup(m: Machine, at: int) -> int:
    m.stack.append(m.stack[-1])
    return at


def put_byte(m: Machine, at: int) -> int:
    m.memo[m.data[at]] = m.stack[-1]
    return at + 1


def get_byte(m: Machine, at: int) -> int:
    m.stack.append(m.memo[m.data[at]])
    return at + 1


_word = struct.Struct("<I").unpack_from


def put_word(m: Machine, at: int) -> int:
    m.memo[_word(m.data, at)[0]] = m.stack[-1]
    return at + 4


def get(layout: str) -> Handler:
    unpack, size = struct.Struct(layout).unpack_from, struct.calcsize(layout)

    def get(m: Machine, at: int) -> int:
        m.stack.append(m.memo[unpack(m.data, at)[0]])
        return at + size

    return get


def put_line(m: Machine, at: int) -> int:
    raw, end = m.line(at)
    m.memo[_index(raw)] = m.stack[-1]
    return end


def get_line(m: Machine, at: int) -> int:
    raw, end = m.line(at)
    m.stack.append(m.memo[_index(raw)])
    return end


def _index(raw: bytes) -> int:
    """A place in the memo. No larger than the binary opcodes can say it: larger ones could be made to collide."""
    if not (raw.isdigit() and len(raw) <= 10):
        fail("a place in the memo that is no count")
    return int(raw)


def memoize(m: Machine, at: int) -> int:
    m.memo[len(m.memo)] = m.stack[-1]
    return at


def proto(m: Machine, at: int) -> int:
    m.protocol = m.data[at]
    if m.protocol > 5:
        fail(f"pickle protocol {m.protocol}, newer than any known")
    return at + 1


def frame(m: Machine, at: int) -> int:
    (length,) = struct.unpack_from("<Q", m.data, at)
    if at + 8 + length > len(m.data):
        fail("a frame that is longer than the pickle")
    return at + 8


def stop(m: Machine, at: int) -> int:
    if len(m.stack) != 1 or m.marks:
        fail("the pickle does not end with one object")
    m.running = False
    return at


def unknown(m: Machine, at: int) -> int:
    fail("an unknown opcode")


def out_of_band(m: Machine, at: int) -> int:
    fail("data outside the pickle (protocol 5 buffers)")
