"""What the first validation should be: said on the command line, recorded in the baseline checkpoint, or part of its name.

Lightning's ModelCheckpoint records in its state which metric it watched and what it was when the file was written
(`current_score`; `best_model_score` is that of the best file, which need not be this one). The record is read as everything
else in a checkpoint is: without running code from it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any

from ckptdoctor.errors import CheckpointNotFound, CkptDoctorError, CorruptCheckpoint, UnknownFormat, UsageError
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import Checkpoint
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.nodes import Node, mapping_pairs
from ckptdoctor.text import listing
from ckptdoctor.triaging.types import Expectation

_SCORES = ("current_score", "best_model_score")
_FLOATS = {"float64": "<d", "float32": "<f", "float16": "<e"}
_AGREES = 0.01
_Path = str | PathLike[str]


def find_expectation(expect: float | None, baseline: _Path | None, metric: str) -> Expectation | None:
    """The expectation, or None where nothing was given to take it from.

    Raises UsageError for one that ratios cannot be taken to, or where the baseline does not say what it reached;
    CheckpointError where it cannot be read.
    """
    if expect is not None and baseline is not None:
        raise UsageError("an expectation and a baseline to take it from contradict each other", hint="give one of them")
    if expect is not None:
        return _checked(Expectation(float(expect), "as given"), metric)
    return None if baseline is None else _checked(_of_baseline(Path(baseline), metric), metric)


def in_name(path: Path, metric: str) -> float | None:
    """The value that a checkpoint's name gives: `best-val_loss=0.3557-step=311.ckpt`."""
    parts = path.parts[-1 - metric.count("/") :]
    pattern = rf"(?<![A-Za-z0-9_]){re.escape(metric)}[=_]([-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?![0-9A-Za-z])"
    found = re.findall(pattern, "/".join(parts))
    return float(found[-1]) if found else None


def _checked(expectation: Expectation, metric: str) -> Expectation:
    value = expectation.value
    if not (isfinite(value) and value > 0):
        raise UsageError(
            f"the expectation of {metric} is {value:g} ({expectation.source}): ratios to it make no sense",
            hint="give a positive loss with --expect; a loss that may be negative cannot be judged by ratios",
        )
    return expectation


def _of_baseline(path: Path, metric: str) -> Expectation:
    named = in_name(path, metric)
    from_name = None if named is None else Expectation(named, f"from the name of {path.name}")
    try:
        with open_checkpoint(path) as checkpoint:
            found = _recorded(checkpoint, metric)
            watched = [] if found else list(_watched(checkpoint))
    except (CheckpointNotFound, UnknownFormat, CorruptCheckpoint) as error:
        raise_or_name = _without_file(error, from_name)
        return raise_or_name
    if found is None and from_name is None:
        raise UsageError(_unknown(path, metric, watched), hint=f"give it: --expect VALUE ({metric} of the baseline)")
    if found is None or from_name is None:
        return found or from_name  # type: ignore[return-value]
    return found._replace(notes=(*found.notes, *_disagreement(found, from_name, path)))
