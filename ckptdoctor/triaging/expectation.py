"""What the first validation should be: said on the command line, recorded in the baseline checkpoint, or part of its name.

Lightning's ModelCheckpoint records in its state which metric it watched and what it was when the file was written
(`current_score`; `best_model_score` is that of the best file, which need not be this one). The record is read as everything
else in a checkpoint is: without running code from it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from math import inf, isfinite, prod
from os import PathLike
from pathlib import Path

from ckptdoctor.errors import CheckpointError, CheckpointNotFound, UsageError
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import Checkpoint, Place
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
    value = in_name(path, metric)
    named = None if value is None else Expectation(value, f"from the name of {path.name}", str(path))
    try:
        with open_checkpoint(path) as checkpoint:
            recorded = _recorded(checkpoint, metric)
            found = recorded or named
            if found is None:
                raise _unknown(checkpoint, metric)
    except CheckpointNotFound as error:
        hint = f"--expect {value:g} takes what its name says" if value is not None else error.hint
        raise CheckpointNotFound(error.message, path=path, hint=hint) from None
    except CheckpointError as error:
        if named is None:
            raise
        return named._replace(notes=(f"{error}; the expectation is from its name alone",))
    if recorded and named and abs(recorded.value - named.value) > _AGREES * abs(named.value):
        note = f"the name of {path.name} says {named.value:g}, but its callbacks say {recorded.value:g}, which is taken"
        return recorded._replace(notes=(*recorded.notes, note))
    return found


def _recorded(checkpoint: Checkpoint, metric: str) -> Expectation | None:
    """What the callbacks or, in a file of a loop without Lightning, an entry of that name record."""
    if not isinstance(checkpoint, TensorGraph):
        return None
    for name, state in _states(checkpoint):
        scores = [(key, _scalar(checkpoint, state.get(key), ("callbacks", name), key)) for key in _SCORES]
        values = [(key, value) for key, value in scores if value is not None]
        if state.get("monitor") == metric and values:
            if "'mode': 'max'" in name:
                raise UsageError(
                    f"{checkpoint.path} was chosen by the largest {metric}: this command compares losses",
                    hint="name a loss with --metric, and its value with --expect",
                )
            return _of_callback(values, checkpoint.path)
    entry = _scalar(checkpoint, dict(_pairs(checkpoint.pickle.root)).get(metric), (), metric)
    return None if entry is None else Expectation(entry, f"{metric} in {checkpoint.path.name}", str(checkpoint.path))


def _of_callback(values: list[tuple[str, float]], path: Path) -> Expectation:
    key, value = values[0]
    notes = [
        f"{other_key} in {path.name} is {other:g}: that is another file's; this one's {key} is {value:g}"
        for other_key, other in values[1:]
        if abs(other - value) > _AGREES * abs(value)
    ]
    return Expectation(value, f"{key} in {path.name}", str(path), tuple(notes))


def _unknown(checkpoint: Checkpoint, metric: str) -> UsageError:
    states = _states(checkpoint) if isinstance(checkpoint, TensorGraph) else ()
    watched = {str(state["monitor"]) for _, state in states if isinstance(state.get("monitor"), str)}
    but = f" (its callbacks watched {listing(sorted(watched))})" if watched else ""
    return UsageError(
        f"neither the callbacks nor the name of {checkpoint.path} say which {metric} it reached{but}",
        hint=f"say it: --expect VALUE, the {metric} that the baseline reached",
    )


def _states(graph: TensorGraph) -> Iterator[tuple[str, dict[str, Node]]]:
    """Name and state of each of Lightning's callbacks."""
    for name, state in _pairs(dict(_pairs(graph.pickle.root)).get("callbacks")):
        yield name, dict(_pairs(state))


def _pairs(node: Node) -> list[tuple[str, Node]]:
    return [(key, value) for key, value in mapping_pairs(node) or [] if isinstance(key, str)]


def _scalar(checkpoint: Checkpoint, node: Node, place: Place, key: str) -> float | None:
    """A number, or the value of a tensor of one element that lies under a key of a place."""
    if isinstance(node, int | float) and not isinstance(node, bool):
        return _float(node)
    if not isinstance(checkpoint, TensorGraph) or id(node) not in checkpoint.views or place not in checkpoint.places:
        return None
    tensor = checkpoint.stored(place).get(key)
    if tensor is None or prod(tensor.spec.shape) != 1:
        return None
    raw, dtype = b"".join(checkpoint.values(tensor)), tensor.spec.dtype
    if dtype.name == "bfloat16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    if dtype.name in _FLOATS:
        return float(struct.unpack(_FLOATS[dtype.name], raw)[0])
    return None


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        return inf
