"""The verb: find the expectation and the log, read it or wait for it, judge."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from ckptdoctor.errors import LogError, UsageError
from ckptdoctor.text import did_you_mean, listing
from ckptdoctor.triaging.expectation import find_expectation
from ckptdoctor.triaging.files import find_log, read_log
from ckptdoctor.triaging.following import INTERVAL, watch
from ckptdoctor.triaging.judging import checked, judge, judge_failures
from ckptdoctor.triaging.types import Expectation, Reading, Thresholds, Triage

_Path = str | PathLike[str]
_DEFAULTS = Thresholds()


def triage(
    log: _Path,
    *,
    expect: float | None = None,
    baseline: _Path | None = None,
    metric: str = "val_loss",
    thresholds: Thresholds = _DEFAULTS,
    follow: bool = False,
    timeout: float | None = None,
    interval: float = INTERVAL,
) -> Triage:
    """Say what a training log tells of the start: was the checkpoint loaded?

    `log` is a plain log, a CSV file, or the folder of Lightning's CSVLogger. The expectation is `expect`, or what `baseline`
    (a checkpoint) records of `metric`, which has to be a loss: lower is better, and never negative. With `follow`, a log that
    grows or is still to come is watched until its first validation or a failure, for `timeout` seconds (None: for ever), with
    a look every `interval` seconds.

    A judgement that the log is bad is a `Triage` too. Raises UsageError where there is no expectation or no sense in one,
    CheckpointError where the baseline cannot be read, LogError where there is nothing to judge.
    """
    checked(thresholds)
    if not metric:
        raise UsageError("a metric without a name", hint="name it as the log does: --metric val_loss")
    expectation = find_expectation(expect, baseline, metric)
    if follow:
        if expectation is None:
            raise _no_expectation(metric, None)
        path, reading = watch(log, metric, timeout=timeout, interval=interval)
    else:
        path = _existing(log)
        reading = read_log(path, metric)
    return _judged(path, reading, expectation, thresholds, metric)


def _existing(log: _Path) -> Path:
    path = find_log(log)
    if path is None:
        what = f"no metrics.csv in {log}" if Path(log).is_dir() else f"there is no log {log}"
        raise LogError(what, path=log, hint="look at the path; --follow waits for a log that is still to come")
    return path


def _judged(
    path: Path, reading: Reading, expectation: Expectation | None, thresholds: Thresholds, metric: str
) -> Triage:
    log = str(path)
    if reading.first is None:
        if not reading.failures:
            raise _nothing_found(path, reading, metric)
        return judge_failures(reading.failures, expectation, thresholds, log=log, metric=metric)
    if expectation is None:
        raise _no_expectation(metric, reading.named)
    return judge(reading, expectation, thresholds, log=log, metric=metric)


def _nothing_found(path: Path, reading: Reading, metric: str) -> LogError:
    names = [name for name in reading.names if name != metric]
    others = [name for name in names if "loss" in name.lower()] or names
    hint = did_you_mean(metric, others) or (f"it has {listing(others)}: name one with --metric" if others else None)
    return LogError(f"no {metric} in {path}", path=path, hint=hint or "wait for the first validation: --follow")


def _no_expectation(metric: str, named: str | None) -> UsageError:
    hint = "give --expect VALUE, or --baseline CKPT to take it from the checkpoint"
    if named is not None:
        hint = (
            f"the log mentions a checkpoint with {metric}={named}: --expect {named}, if it is the one that was loaded"
        )
    return UsageError(f"no expectation of {metric} is known", hint=hint)
