"""A progress bar for long writes: bytes, rate, time left. On stderr, only on a terminal, and gone when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ckptdoctor.files import Progress, unnoticed


@contextmanager
def byte_progress(total: int | None, what: str, *, wanted: bool = True) -> Iterator[Progress]:
    """What to hand to whatever moves bytes; it shows nothing where there is no terminal. `total` is a guess, in bytes."""
    if not wanted or not sys.stderr.isatty():
        yield unnoticed
        return
    from rich import progress
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
