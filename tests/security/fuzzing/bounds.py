"""What a child may use while it tries a mutant: so much memory, a minute, one thread, no large file."""

from __future__ import annotations

import faulthandler
import gc
import resource
import signal
import warnings
from pathlib import Path

_PATIENCE = 60


def settle() -> None:
    """One thread, no noise, nothing of the parent for the collector to go through, and no file of more than 64 MiB."""
    import torch

    faulthandler.disable()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    gc.freeze()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))


class memory:
    """No more address space than so many bytes above what there is now."""

    def __init__(self, more: int) -> None:
        self.more = more

    def __enter__(self) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + self.more
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class patience:
    """After a minute the process is killed: what hangs is told from what is slow."""

    def __enter__(self) -> None:
        signal.setitimer(signal.ITIMER_REAL, _PATIENCE)

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
