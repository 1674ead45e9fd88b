"""Bytes of a log cut into segments at line breaks and carriage returns, a chunk at a time.

A progress bar is one line of any length, redrawn after each carriage return: every drawing is a segment, all of them have
the number of that line. Of a segment only the first LONGEST bytes are kept, so that memory is bounded whatever the file is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

CHUNK = 1 << 18
LONGEST = 1 << 14
_BREAK = re.compile(rb"[\r\n]")
_PIECE = re.compile(rb"([^\r\n]*)([\r\n]?)")


class Segment(NamedTuple):
    """What stands between two breaks. `whole` is False for the end of a log that does not end with a break."""

    line: int
    raw: bytes
    whole: bool = True


class Splitter:
    """Takes chunks in order and gives the segments that end in them; empty ones are left out."""

    def __init__(self) -> None:
        self.line = 1
        self._kept = b""

    def feed(self, chunk: bytes) -> Iterator[Segment]:
        """The segments that are complete with this chunk."""
        for found in _PIECE.finditer(chunk):
            piece, end = found.groups()
            if piece and len(self._kept) < LONGEST:
                self._kept = (self._kept + piece[:LONGEST])[:LONGEST]
            if end:
                if self._kept:
                    yield Segment(self.line, self._kept)
                    self._kept = b""
                self.line += end == b"\n"

    def skip(self, chunk: bytes) -> Iterator[Segment]:
        """Of a chunk in which nothing matters, the segment that began before it; lines are counted."""
        found = _BREAK.search(chunk)
        at = found.end() if found else len(chunk)
        yield from self.feed(chunk[:at])
        self.line += chunk.count(b"\n", at)
        last = max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1
        if at < len(chunk):
            self._kept = chunk[last:][:LONGEST]

    def rest(self) -> Segment | None:
        """What stands after the last break, if anything does; it stays there for the next chunk."""
        return Segment(self.line, self._kept, whole=False) if self._kept else None
