"""What the tests of safety have tried, counted: the last lines of a run say how many files, mutants, faults and kills.

A test says what it tried by `record_property(counted("mutants"), 10_000)`; only tests that passed count. conftest.py hands the
hook to pytest, so that the counts are also complete where several processes share the tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

KINDS = ("hostile files", "mutants", "faults", "kills")
_PREFIX = "safety: "


def counted(kind: str) -> str:
    """The name of the property for one kind of trial."""
    assert kind in KINDS, kind
    return _PREFIX + kind


def counts(reports: Iterable[Any]) -> dict[str, int]:
    """How many of each kind the passed tests among these have tried."""
    found: Counter[str] = Counter()
    for report in reports:
        for name, value in report.user_properties:
            if name.startswith(_PREFIX) and report.when == "call":
                found[name.removeprefix(_PREFIX)] += value
    return {kind: found[kind] for kind in KINDS}


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the counts, if anything was tried."""
    stats = terminalreporter.stats
    found = counts(stats.get("passed", ()))
    if any(found.values()):
        failed = len(stats.get("failed", ())) + len(stats.get("error", ()))
        text = ", ".join(f"{number:,} {kind}" for kind, number in found.items())
        terminalreporter.write_line(f"safety: tried {text}; {failed:,} tests failed")
