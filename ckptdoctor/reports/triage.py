"""The page of a triage: the case, and the lines of the log that it is judged by."""

from __future__ import annotations

from functools import partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from ckptdoctor import __version__
from ckptdoctor.reports.base import Column, Page, Row, Table, Tone
from ckptdoctor.text import plural

if TYPE_CHECKING:
    from ckptdoctor.triaging import Observation, Triage
    from ckptdoctor.triaging.types import Expectation, Failure, Thresholds

SCHEMA = "ckptdoctor/triage/1"
_COLUMNS = (
    Column("FOUND"),
    Column("LINE", right=True),
    Column("VALUE", right=True),
    Column("RATIO", right=True),
    Column("TEXT", fold=True),
)
_TONES: dict[str, Tone] = {"loaded": "good", "infrastructure": "note"}


def triage_page(result: Triage) -> Page:
    """What was found where, what that means, and what to do next."""
    expected = result.expectation
    against = f" against {expected.value:g} ({expected.source})" if expected else ""
    return Page(
        title=f"{result.log}: {result.metric}{against}",
        tables=(Table(_COLUMNS, tuple(_rows(result))),),
        sentence=f"{result.case}: {_reason(result)}{_failed(result)}",
        tone=_TONES.get(result.case, "bad"),
        warnings=result.notes,
        details=lambda: [_limits(result.thresholds)],
        data=partial(_data, result),
    )


def _rows(result: Triage) -> list[Row]:
    rows = []
    if result.first is not None:
        rows.append(_row("first validation", result.first, result))
    if result.following.best is not None:
        rows.append(_row(f"best of {plural(result.following.validations, 'later one')}", result.following.best, result))
    if result.failure is not None:
        failure = result.failure
        rows.append(Row((f"failure: {failure.kind}", f"{failure.line:,}", "", "", failure.text), "note"))
    return rows


def _row(what: str, value: Observation, result: Triage) -> Row:
    ratio = value.value / result.expectation.value if result.expectation else None
    return Row((what, f"{value.line:,}", value.printed, _times(ratio), value.text))


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _reason(result: Triage) -> str:
    """Why it is this case, in the figures."""
    if result.first is None or result.ratio is None:
        failure = result.failure
        where = (
            f"{failure.kind} on line {failure.line:,}, before any {result.metric}" if failure else "nothing was found"
        )
        if result.case == "loading problem":
            return where
        return f"{where}, which says nothing of the checkpoint"
    limits, first = result.thresholds, result.first
    found = (
        f"the first {result.metric} ({first.printed}, line {first.line:,}) is {result.ratio:.2f} times the expectation"
    )
    if result.case == "not a number":
        return f"the first {result.metric} is {first.printed} (line {first.line:,})"
    if result.case == "another architecture":
        return f"{found}, above {limits.other_above:g}"
    if result.case == "loading problem":
        return f"{found}, above {limits.loaded_up_to:g}"
    if result.case == "flat":
        later = plural(result.following.validations, "later validation")
        return f"{found}, but none of {later} is better by {100 * limits.flat:g}%: the new parameters do not learn"
    return f"{found}, and up to {limits.loaded_up_to:g} is loaded"


def _limits(limits: Thresholds) -> str:
    return (
        f"loaded: up to {limits.loaded_up_to:g} times the expectation; another architecture: above {limits.other_above:g} "
        f"times; flat: no improvement of {100 * limits.flat:g}% over {plural(limits.patience, 'validation')} or more"
    )


def _failed(result: Triage) -> str:
    """What is to be said of a failure beside a loss."""
    if result.failure is None or result.first is None:
        return ""
    when = "later" if result.failure.line >= result.first.line else "before that"
    what = f"{result.failure.kind}, line {result.failure.line:,}"
    return f"; {when} the job failed ({what}), which says nothing of the checkpoint"


def _data(result: Triage) -> dict[str, Any]:
    following = result.following
    return {
        "schema": SCHEMA,
        "tool": __version__,
        "log": result.log,
        "metric": result.metric,
        "case": result.case,
        "expectation": _expectation(result.expectation),
        "ratio": _finite(result.ratio),
        "first": _value(result.first),
        "following": {"validations": following.validations, "best": _value(following.best)},
        "failure": _failure(result.failure),
        "thresholds": result.thresholds._asdict(),
        "notes": list(result.notes),
        "next": result.next_step,
        "exit_status": result.exit_status,
    }


def _expectation(expected: Expectation | None) -> dict[str, Any] | None:
    fields = ("value", "source", "baseline")
    return None if expected is None else {name: getattr(expected, name) for name in fields}


def _value(value: Observation | None) -> dict[str, Any] | None:
    """`value` is null where it is no number; `printed` says what stands there."""
    if value is None:
        return None
    fields = ("printed", "line", "text", "form", "rank")
    return {"value": _finite(value.value), **{name: getattr(value, name) for name in fields}}


def _failure(failure: Failure | None) -> dict[str, Any] | None:
    return None if failure is None else {"kind": failure.kind, "line": failure.line, "text": failure.text}


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
