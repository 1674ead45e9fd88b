"""The error for a model that does not hold what a receipt says: all problems as few lines, and no more lines than one reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from ckptdoctor.errors import WeightProblem, WeightsNotLoaded
from ckptdoctor.grouping import Label, labels
from ckptdoctor.text import plural, printable

LINES = 12
WIDTH = 100
"""How long one name may get."""
_HINTS: Mapping[str, str] = {
    "values": "call it right after the load, then further on: what stands between writes into them",
    "other": "look at how the load assigns names",
    "dtype": "a cast that is meant belongs into the map (op: {cast: bfloat16}), so that the receipt has the job's dtype",
    "shape": "is it the model that the file was written for?",
    "unreadable": "call it before the model is quantised or pruned, and after it has left the meta device",
    "missing": 'declare it in the map (fresh), or allow it: allow_random="..."',
    "unexpected": "give the part of the model that the file is of: assert_loaded(model.net, ...)",
}


def unproven(model: str, path: str, problems: Sequence[WeightProblem], tensors: int, compared: int) -> WeightsNotLoaded:
    """The error to raise. `tensors` is how many the receipt has, `compared` how many had their values compared."""
    kinds = {problem.kind for problem in problems}
    return WeightsNotLoaded(
        "\n".join((_title(model, path, problems, tensors, compared), *_lines(problems))),
        problems=problems,
        hint=next((hint for kind, hint in _HINTS.items() if kind in kinds), None),
    )


def _title(model: str, path: str, problems: Sequence[WeightProblem], tensors: int, compared: int) -> str:
    file, where = printable(path), _rank()
    changed = sum(problem.kind in ("values", "other") for problem in problems)
    if sum(problem.kind == "unexpected" for problem in problems) == tensors:
        return (
            f"{model} has none of the {plural(tensors, 'tensor')} of {file}{where}: is it the model that this is for?"
        )
    if compared > 1 and changed >= 0.9 * compared:
        same = compared - changed
        which = f"only {same} of the {compared:,} tensors has" if same == 1 else f"only {same} of the {compared:,} have"
        return (
            f"{which if same else f'none of the {compared:,} tensors has'} the values of {file} in {model}{where}: was "
            "another file loaded, or none, or an average (EMA) of the weights?"
        )
    wrong = "1 tensor is" if len(problems) == 1 else f"{len(problems):,} tensors are"
    return f"{model} does not hold the weights of {file}{where}: {wrong} not as written"


def _rank() -> str:
    from torch import distributed

    if not (distributed.is_available() and distributed.is_initialized()):
        return ""
    return f" (rank {distributed.get_rank()} of {distributed.get_world_size()})"


def _lines(problems: Sequence[WeightProblem]) -> list[str]:
    """What is wrong in the same way in one line, with exact labels for the names."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for problem in problems:
        groups[problem.text].append(problem.key)
    lines = [(label, text) for text, keys in groups.items() for label in labels(keys)]
    shown = [f"  {_name(label)}: {_clipped(text)}" for label, text in lines[:LINES]]
    rest = sum(label.size for label, _ in lines[LINES:])
    return [*shown, f"  and {plural(rest, 'tensor')} more"] if rest else shown


def _name(label: Label) -> str:
    """A label, or its first name where it is too long."""
    if len(label.text) <= WIDTH or label.size == 1:
        return _clipped(label.text)
    return f"{_clipped(label.first)} and {label.size - 1:,} more"


def _clipped(text: str) -> str:
    shown = printable(text)
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 3]}..."
