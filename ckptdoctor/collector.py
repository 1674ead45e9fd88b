"""Python's cyclic garbage collector, which is in the way where many objects are made and all of them stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect no cycles for a while; also a decorator.

    The collector goes through all objects again each time their number has grown by a quarter, which is half the time of
    reading a large checkpoint, and finds nothing: a graph of nodes is in use until its reader is done. A hostile pickle gains
    nothing by it, for whatever it could leave behind as garbage it could as well keep.
    """
    if not gc.isenabled():  # an outer pause, or the program's own decision
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
