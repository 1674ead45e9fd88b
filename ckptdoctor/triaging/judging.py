"""The judgement: a reading of a log and an expectation give a `Triage`. Pure; every case has a sentence of what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from math import isfinite

from ckptdoctor.errors import UsageError
from ckptdoctor.triaging.failures import advice_for
from ckptdoctor.triaging.sights import rounding
from ckptdoctor.triaging.types import Case, Expectation, Failure, Following, Observation, Reading, Thresholds, Triage

_RANKS_AGREE = 0.01
_NEXT: dict[Case, str] = {
    "loaded": "nothing to mend: let the job run",
    "loading problem": "run ckptdoctor diff {baseline} TARGET: it lists what stays random and what is left unused",
    "another architecture": "run ckptdoctor diff {baseline} TARGET: are the target's arguments those of the checkpoint?",
    "flat": "see that the new parameters are in the optimizer, require gradients, and have a learning rate that moves them",
    "not a number": "run ckptdoctor diff {baseline} TARGET; if nothing stays random, look at the precision and the data",
}


def checked(thresholds: Thresholds) -> Thresholds:
    """The thresholds, if they make sense together; raises UsageError."""
    loaded, other, flat, patience = thresholds
    if not (isfinite(loaded) and loaded > 0):
        raise UsageError(f"loaded up to {loaded:g} times the expectation makes no sense", hint="give a ratio, as 1.12")
    if not (isfinite(other) and other >= loaded):
        raise UsageError(
            f"another architecture above {other:g}, but loaded up to {loaded:g} times the expectation",
            hint="the second ratio has to be the larger one",
        )
    if not 0 <= flat < 1:
        raise UsageError(f"flat below {flat:.4g} makes no sense", hint="give a share below 100%, as 1% (0.01)")
    if patience < 1:
        raise UsageError(f"a patience of {patience} validations makes no sense", hint="give 1 or more")
    return thresholds


def judge(reading: Reading, expectation: Expectation, thresholds: Thresholds, *, log: str, metric: str) -> Triage:
    """Judge a log by its first validation, and by what follows it. Raises UsageError where the loss is negative."""
    first = reading.first
    if first is None:
        raise ValueError("there is no validation to judge")
    if first.value < 0 and isfinite(first.value):
        raise UsageError(
            f"the first {metric} in {log} is {first.printed} (line {first.line:,}): ratios to a negative loss make no sense",
            hint="name a loss that cannot be negative with --metric",
        )
    case = _case(first.value / expectation.value, thresholds) if isfinite(first.value) else "not a number"
    if case == "loaded" and _is_flat(first, reading.following, thresholds):
        case = "flat"
    failure = next((each for each in reading.failures if not each.of_checkpoint), None)
    ratio = first.value / expectation.value
    notes = tuple(_notes(reading, first, expectation, thresholds))
    advice = _next_step(case, expectation)
    return Triage(log, metric, case, thresholds, first, expectation, ratio, reading.following, failure, notes, advice)


def judge_failures(
    failures: Sequence[Failure], expectation: Expectation | None, thresholds: Thresholds, *, log: str, metric: str
) -> Triage:
    """Judge a log that ends before any validation: machines say nothing of the checkpoint, a refused state dict does."""
    failure = next((each for each in failures if each.of_checkpoint), failures[0])
    case: Case = "loading problem" if failure.of_checkpoint else "infrastructure"
    advice = _next_step(case, expectation) if failure.of_checkpoint else advice_for(failure.kind)
    return Triage(log, metric, case, thresholds, expectation=expectation, failure=failure, next_step=advice)


def _case(ratio: float, thresholds: Thresholds) -> Case:
    if ratio <= thresholds.loaded_up_to:
        return "loaded"
    return "another architecture" if ratio > thresholds.other_above else "loading problem"


def _next_step(case: Case, expectation: Expectation | None) -> str:
    baseline = expectation.baseline if expectation else None
    return _NEXT[case].replace("{baseline}", shlex.quote(baseline) if baseline else "CKPT")


def _is_flat(first: Observation, following: Following, thresholds: Thresholds) -> bool:
    """Whether enough validations follow and not one of them is lower by the share that counts as learning."""
    best = following.best
    learns = best is not None and best.value <= first.value * (1 - thresholds.flat) and best.value < first.value
    return following.validations >= thresholds.patience and not learns


def _notes(reading: Reading, first: Observation, expectation: Expectation, thresholds: Thresholds) -> Iterable[str]:
    """What a reader of the judgement should know besides."""
    yield from expectation.notes
    yield from _doubts(first, expectation, thresholds)
    finite = {rank: each for rank, each in reading.ranks.items() if isfinite(each.value)}
    for rank in sorted(reading.ranks.keys() - finite.keys())[:1]:
        yield f"rank {rank} has {reading.ranks[rank].printed} at its first validation (line {reading.ranks[rank].line:,})"
    if len(finite) > 1:
        (low, least), (high, most) = (pick(finite.items(), key=lambda item: item[1].value) for pick in (min, max))
        if most.value - least.value > _RANKS_AGREE * abs(least.value):
            yield (
                f"the ranks disagree at the first validation: {least.printed} (rank {low}, line {least.line:,}) "
                f"to {most.printed} (rank {high}, line {most.line:,})"
            )
    if reading.following.lost is not None:
        yield f"later the loss is {reading.following.lost.printed} (line {reading.following.lost.line:,})"
    for failure in reading.failures:
        if failure.of_checkpoint:
            yield f"line {failure.line:,} tells of a state dict that was refused: {failure.text}"


def _doubts(first: Observation, expectation: Expectation, thresholds: Thresholds) -> Iterable[str]:
    """Reasons to doubt the first value."""
    ratio, reach = first.value / expectation.value, rounding(first.printed) / expectation.value
    if first.cut:
        yield f"the log ends in the middle of line {first.line:,}: {first.printed} may lack its last digits"
    if _case(max(ratio - reach, 0), thresholds) != _case(ratio + reach, thresholds):
        yield f"{first.printed} (line {first.line:,}) is rounded: with more digits the judgement could be another"
    if ratio * thresholds.loaded_up_to < 1:
        yield (
            f"the first validation is {ratio:.2f} times the expectation, so lower than it should be: "
            "are they the same loss on the same data?"
        )
