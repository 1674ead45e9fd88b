"""Rename keys inside a pickle and leave every other byte as it is.

`track` parses a stream once more, with texts that remember which bytes wrote them; `patch` writes new texts over these. A
text that was memoised and is read again elsewhere keeps its old value there: where it is read, it is written out. Frames of
protocol 4 and up say lengths that no longer hold, and are optional: they go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ckptdoctor.pickles.emit import text_opcode
from ckptdoctor.pickles.machine import Handler, Machine
from ckptdoctor.pickles.nodes import Node
from ckptdoctor.pickles.parse import HANDLERS, run


class Text(str):
    """A text of the stream with the bytes that put it there, from `start` to `end`.

    `origin` is the text that was memoised, if these bytes only fetch it from the memo. `copied` says that one set of bytes
    put it in two places (DUP), so that these cannot be changed for one of them.
    """

    __slots__ = ("copied", "end", "origin", "start")
    start: int
    end: int
    origin: Text | None
    copied: bool


class Tracked(NamedTuple):
    """A parsed stream whose texts know their bytes; `fetches` are all texts that came from the memo, `frames` the frames."""

    root: Node
    fetches: Sequence[Text]
    frames: Sequence[int]


class _TrackingMachine(Machine):
    __slots__ = ("fetches", "frames")

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.fetches: list[Text] = []
        self.frames: list[int] = []


def track(data: bytes) -> Tracked:
    """Parse one pickle; raises PickleError as `parse` does."""
    machine = _TrackingMachine(data)
    run(machine, 0, _HANDLERS)
    return Tracked(machine.stack[0], machine.fetches, machine.frames)


def patch(data: bytes, tracked: Tracked, renames: Sequence[tuple[Node, str]]) -> bytes | None:
    """The stream with each of these texts (by the bytes that wrote it) replaced; None where bytes serve two purposes."""
    changes: dict[int, tuple[int, bytes]] = {}
    for text, new in renames:
        if not isinstance(text, Text) or text.copied or text.start in changes:
            return None
        changes[text.start] = (text.end, text_opcode(new))
    renamed = {id(text) for text, _ in renames}
    for fetch in tracked.fetches:
        if fetch.origin is not None and id(fetch.origin) in renamed and fetch.start not in changes:
            changes[fetch.start] = (fetch.end, text_opcode(fetch))
    if changes:
        changes |= {start: (start + 9, b"") for start in tracked.frames}
    return _changed(data, changes)


def _changed(data: bytes, changes: dict[int, tuple[int, bytes]]) -> bytes:
    parts, at = [], 0
    for start, (end, new) in sorted(changes.items()):
        parts += [data[at:start], new]
        at = end
    return b"".join([*parts, data[at:]])


def _tracked_text(m: _TrackingMachine, start: int, end: int, origin: Text | None) -> None:
    text = Text(m.stack[-1])
    text.start, text.end, text.origin, text.copied = start, end, origin, False
    m.stack[-1] = text
    if origin is not None:
        m.fetches.append(text)


def _tracking(handler: Handler) -> Handler:
    """The handler of an opcode that pushes a text of its own, or one from the memo."""

    def handle(m: Machine, at: int) -> int:
        end = handler(m, at)
        value = m.stack[-1]
        if isinstance(value, str) and isinstance(m, _TrackingMachine):
            _tracked_text(m, at - 1, end, value.origin or value if isinstance(value, Text) else None)
        return end

    return handle


def _framing(handler: Handler) -> Handler:
    def handle(m: Machine, at: int) -> int:
        if isinstance(m, _TrackingMachine):
            m.frames.append(at - 1)
        return handler(m, at)

    return handle


def _copying(handler: Handler) -> Handler:
    def handle(m: Machine, at: int) -> int:
        if m.stack and isinstance(m.stack[-1], Text):
            m.stack[-1].copied = True
        return handler(m, at)

    return handle


def _tracking_table() -> list[Handler]:
    table = list(HANDLERS)
    for opcode in b"X\x8c\x8dVhjg":
        table[opcode] = _tracking(table[opcode])
    table[0x95] = _framing(table[0x95])
    table[ord("2")] = _copying(table[ord("2")])
    return table


_HANDLERS = _tracking_table()
