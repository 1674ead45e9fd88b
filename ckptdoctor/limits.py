"""How much a file may ask of its reader: what is over a limit is refused before it is made.

The limits hold in the current context (threads begin with the defaults, unless they are given a copy), as those of decimal do:

    with limited(Limits(opcodes=20_000_000)):
        manifest = read_manifest("huge.ckpt")

With the defaults, reading takes less than a gigabyte of memory and ten seconds, whatever the file holds. On the command line
each limit is a flag, which the hint of the error names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

LONGEST_NAME = 1 << 16
"""Characters in the key of a tensor, in a global or in the name of a file: more is no name, and no flag allows it."""
MOST_SEGMENTS = 256
"""Dots in a key, and in the path of a module."""
MOST_GLOBALS = 1 << 16
"""Different globals in one pickle: torch's own files name a dozen."""


class Limits(NamedTuple):
    """What one file may ask for.

    `opcodes`: steps of one pickle, and values of one JSON document. A tensor takes some ten, with the states of AdamW thirty:
    the default is enough for 100,000 such tensors.
    `nesting`: levels of mappings and lists in which weights are looked for (what lies deeper stays part of the envelope), and
    levels of a JSON document (deeper is an error).
    `metadata`: bytes of one pickle, header, index, manifest, receipt or directory, unpacked.
    `materialised`: bytes that the values of one tensor may have beyond those of its storage: four numbers in a file can be
    the view of a terabyte (a broadcast), which is listed as such and read only up to here.
    """

    opcodes: int = 3_000_000
    nesting: int = 64
    metadata: int = 64 << 20
    materialised: int = 4 << 30


class OverLimit(ValueError):
    """A limit is reached; `.limit` is its name. The message says by what, and names no file: whoever opened it does."""

    def __init__(self, limit: str, message: str) -> None:
        super().__init__(message)
        self.limit = limit

    @property
    def hint(self) -> str:
        """Which flag allows more."""
        return f"if you trust the file, allow more with --max-{self.limit} (now {getattr(limits(), self.limit):,})"


_DEFAULTS = Limits()
_CURRENT: ContextVar[Limits] = ContextVar("limits", default=_DEFAULTS)


def limits() -> Limits:
    """Those that hold now."""
    return _CURRENT.get()


@contextmanager
def limited(to: Limits) -> Iterator[Limits]:
    """Have these limits hold in the `with`."""
    token = _CURRENT.set(to)
    try:
        yield to
    finally:
        _CURRENT.reset(token)


def longest_name(names: Collection[str]) -> str | None:
    """A name among these that is too long for a key, or has too many segments; None where all are short."""
    if max(map(len, names), default=0) <= MOST_SEGMENTS:  # as good as always
        return None
    long = [name for name in names if len(name) > MOST_SEGMENTS]
    return next((name for name in long if len(name) > LONGEST_NAME or name.count(".") > MOST_SEGMENTS), None)


def check_metadata(nbytes: int, what: str) -> None:
    """Raise OverLimit where `what` (a pickle, a header) is longer than metadata may be."""
    if nbytes > limits().metadata:
        raise OverLimit("metadata", f"{what} is {nbytes:,} bytes long; {limits().metadata:,} are allowed")
