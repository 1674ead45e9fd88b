"""What was found, judged: works with their figures and bars, as JSON and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from benchmarks.measure import Figures

OURS = "ckptdoctor"


class Bar(NamedTuple):
    """What is promised of a process: its time beside another's, or (`against` None) the MB that it takes at most."""

    limit: float
    against: str | None = None
    of: str = OURS
    at_least: bool = False
    """The other takes that many times as long."""
    factor: float = 1.0
    what: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure beside its bar; `limit` None promises nothing, `found` None was not measured."""

    what: str
    found: float | None
    limit: float | None = None
    at_least: bool = False
    unit: str = "x"

    @property
    def met(self) -> bool | None:
        if self.found is None or self.limit is None:
            return None
        return self.found >= self.limit if self.at_least else self.found <= self.limit


@dataclass(frozen=True, slots=True)
class Work:
    """One piece of work, the processes that did it, and what is promised of it."""

    title: str
    nbytes: int = 0
    baseline: str | None = None
    figures: Mapping[str, Figures] = field(default_factory=dict)
    findings: Sequence[Finding] = ()
    not_run: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "title": self.title,
            "bytes": self.nbytes,
            "baseline": self.baseline,
            "processes": {name: self._process(figures) for name, figures in self.figures.items()},
            "findings": [asdict(finding) | {"met": finding.met} for finding in self.findings],
            "not_run": self.not_run,
        }

    def _process(self, figures: Figures) -> dict[str, Any]:
        if figures.failure is not None:
            return {"failure": figures.failure}
        base = self.figures.get(self.baseline or "")
        times = figures.over(base) if base is not None and base.failure is None else None
        return {
            "median_seconds": figures.median,
            "times_baseline": times,
            "peak_mb": figures.peak,
            "seconds": figures.seconds,
        }


def judge(bar: Bar, figures: Mapping[str, Figures]) -> Finding:
    """The finding for a bar."""
    ours, other = figures[bar.of], figures.get(bar.against or bar.of)
    failed = other is None or ours.failure is not None or other.failure is not None
    if bar.against is None:
        return Finding(bar.what or "peak memory", None if failed else ours.peak, bar.limit, unit="MB")
    ours_name = "time" if bar.of == OURS else bar.of.removeprefix(f"{OURS} ")
    what = bar.what or (f"{bar.against} / {ours_name}" if bar.at_least else f"{ours_name} / {bar.against}")
    if other is None or failed:
        return Finding(what, None, bar.limit, bar.at_least)
    ratio = other.over(ours) if bar.at_least else ours.over(other)
    return Finding(what, ratio * bar.factor, bar.limit, bar.at_least)


def amount(value: float, unit: str) -> str:
    """A figure for people."""
    return f"{value:,.0f} MB" if unit == "MB" else f"{value:,.2f} x"


def promise(finding: Mapping[str, Any]) -> str:
    """A bar for people, of a finding as JSON."""
    if finding["limit"] is None:
        return ""
    return f"{'at least' if finding['at_least'] else 'at most'} {amount(finding['limit'], finding['unit'])}"


def outcome(finding: Mapping[str, Any]) -> str:
    """What became of a bar."""
    if finding["found"] is None:
        return "failed"
    return {True: "met", False: "**missed**", None: ""}[finding["met"]]


def as_text(work: Mapping[str, Any]) -> str:
    """A work as JSON has it, for a terminal."""
    lines = [work["title"] + (f" ({work['bytes'] / 1e9:.2f} GB)" if work["bytes"] else "")]
    if work["not_run"]:
        lines.append(f"  not run: {work['not_run']}")
    for name, process in work["processes"].items():
        if "failure" in process:
            lines.append(f"  {name:<38} {process['failure']}")
            continue
        times = "" if process["times_baseline"] is None else f"{process['times_baseline']:8.2f} x {work['baseline']}"
        lines.append(f"  {name:<38} {process['median_seconds']:8.3f} s {process['peak_mb']:8,.0f} MB {times}")
    for finding in work["findings"]:
        found = "-" if finding["found"] is None else amount(finding["found"], finding["unit"])
        lines.append(f"    {finding['what']:<44} {found:>10}  {promise(finding):<16} {outcome(finding).strip('*')}")
    return "\n".join(lines)
