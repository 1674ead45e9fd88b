"""A progress bar for long writes: bytes, rate, time left. On stderr, only on a terminal, and gone when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ckptdoctor.files import Observer


@contextmanager
def byte_progress(total: int | None, what: str, *, wanted: bool = True) -> Iterator[tuple[Observer, ...]]:
    """Observers to hand to whatever moves bytes; none where there is no terminal. `total` is a guess, in bytes."""
    if not wanted or not sys.stderr.isatty():
        yield ()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield (lambda chunk: bar.advance(task, len(chunk)),)
