"""What the tests of safety have tried, counted: the last lines of a run say how many files, mutants, faults and kills.

A test says what it tried by `record_property(counted("mutants"), 10_000)`; only tests that passed count. conftest.py hands the
hooks to pytest, so that the counts are also complete where several processes share the tests. A run of the whole suite that has
tried less than `AT_LEAST` fails: docs/explanation/safety.md promises so much.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

AT_LEAST = {"hostile files": 500, "mutants": 70_000, "faults": 6_000, "kills": 300}
KINDS = tuple(AT_LEAST)
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
    found = counts(terminalreporter.stats.get("passed", ()))
    if any(found.values()):
        text = ", ".join(f"{number:,} {kind}" for kind, number in found.items())
        failed = sum(len(terminalreporter.stats.get(kind, ())) for kind in ("failed", "error"))
        terminalreporter.write_line(f"safety: tried {text}; {failed:,} tests failed")
        for kind in too_few(found) if _is_whole(terminalreporter.config) else ():
            terminalreporter.write_line(f"safety: too few {kind}: {found[kind]:,} of at least {AT_LEAST[kind]:,}")


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run of the whole suite that tried too little."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _is_whole(session.config) and too_few(counts(reporter.stats.get("passed", ()))):
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def too_few(found: Mapping[str, int]) -> list[str]:
    """The kinds of which less was tried than the documentation says."""
    return [kind for kind, least in AT_LEAST.items() if found[kind] < least]


def _is_whole(config: pytest.Config) -> bool:
    """Whether this is a run of everything, in the process that collects the reports."""
    options = config.option
    narrowed = options.keyword or options.markexpr or options.collectonly or getattr(options, "lf", False)
    return (
        config.args_source is pytest.Config.ArgsSource.TESTPATHS and not narrowed and not hasattr(config, "workerinput")
    )
