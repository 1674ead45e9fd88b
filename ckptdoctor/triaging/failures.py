"""Lines that say why a job died: one table of kinds, the first that fits a line is its kind.

The patterns are messages, not names that also stand in settings or source lines (NCCL_DEBUG=INFO writes many lines that mean
no harm). All kinds but the first are failures of machines and schedulers, which say nothing of the checkpoint.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class _Kind(NamedTuple):
    name: str
    pattern: re.Pattern[str]
    advice: str


class FoundFailure(NamedTuple):
    """The kind of a failure, and where in the text it stands."""

    kind: str
    start: int


_RESTART = "start the job again: the checkpoint was not to blame"
_TABLE = {
    "refused state dict": (r"Error\(s\) in loading state_dict", ""),
    "CUDA out of memory": (
        r"(?:CUDA|HIP) out of memory|\bOutOfMemoryError: |CUDA error: out of memory|_STATUS_ALLOC_FAILED",
        "take a smaller batch or more memory, and start the job again: the checkpoint was not to blame",
    ),
    "NCCL": (
        r"NCCL (?:[Ee]rror|ERROR|[Ff]ailure|timeout)|nccl(?:UnhandledCuda|System|Remote|Internal)Error|\bDistBackendError\b"
        r"|Watchdog caught collective operation timeout|NCCL communicator (?:was|is) aborted|taking the entire process down"
        r"|NCCL watchdog thread terminated",
        "look at the network and at what the other ranks say, and start the job again: the checkpoint was not to blame",
    ),
    "network": (r"\bDistNetworkError\b|client socket has timed out|Timed out initializing process group", _RESTART),
    "out of memory": (
        r"oom[-_]kill|\bOut Of Memory\b|OOM Killed|cgroup out-of-memory handler|is killed by signal: Killed"
        r"|insufficient shared memory",
        "give the job more memory, or its data loaders fewer workers: the checkpoint was not to blame",
    ),
    "time limit": (r"DUE TO TIME LIMIT", "ask for more time, and start the job again: the checkpoint was not to blame"),
    "preemption": (r"DUE TO PREEMPTION|\bPREEMPTED\b|\b[Jj]ob\b.{0,60}\bpreempted\b", _RESTART),
    "node failure": (r"DUE TO NODE FAILURE|\bNODE_FAIL\b|uncorrectable ECC|fallen off the bus|\bXid \(", _RESTART),
    "cancelled": (r"\b(?:JOB|STEP) \S{1,60} ON \S{1,200} CANCELLED AT\b", _RESTART),
}
_KINDS = tuple(_Kind(name, re.compile(pattern), advice) for name, (pattern, advice) in _TABLE.items())
OF_CHECKPOINT = _KINDS[0].name
WORDS = tuple(
    b"loading state_dict|NCCL|nccl|emory|EMORY|oom|OOM|ALLOC_FAILED|DistBackend|DistNetwork|timed out|Timed out"
    b"|Watchdog|taking the|signal: Killed|PREEMPT|preempted|NODE|ECC|off the bus|Xid|CANCELLED".split(b"|")
)
"""One of these stands in every line that a pattern fits: most lines are passed over with that."""


def find_failure(text: str) -> FoundFailure | None:
    """The failure that a line tells of."""
    matches = ((kind.name, kind.pattern.search(text)) for kind in _KINDS)
    return next((FoundFailure(name, match.start()) for name, match in matches if match is not None), None)


def advice_for(name: str) -> str:
    """What to do about a kind of failure."""
    return next(kind.advice for kind in _KINDS if kind.name == name)
