"""Sentences for what fits in shape and may still be wrong: a layer of a Sequential taken alone, its neighbours left behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptdoctor.plan.types import Plan, Take
from ckptdoctor.text import plural

Counts = Mapping[str, int]


def warnings_for(plan: Plan) -> tuple[str, ...]:
    """Every warning once, in the order of the target."""
    unused = {remainder.source.key: remainder.source.counted for remainder in plan.remainders}
    random = {step.target.key: step.random_parameters for step in plan.steps if step.random}
    found: dict[str, None] = {}
    for step in plan.steps:
        if step.status == "renamed" and isinstance(step.expression, Take):
            source, target = _module(step.expression.key), _module(step.target.key)
            moved = f"{source} -> {target} fits in shape, but"
            for warning in (
                _left_behind(source, target, unused, f"{moved} {{}} of the checkpoint would stay unused ({{}})"),
                _left_behind(target, source, random, f"{moved} {{}} of the target would stay random ({{}})"),
            ):
                if warning is not None:
                    found[warning + ": the model computes another function"] = None
    return tuple(found)


def _left_behind(layer: str, partner: str, leftover: Counts, sentence: str) -> str | None:
    """Neighbours of a numbered layer that nobody uses, if its partner is no numbered layer of the like."""
    stack, _, number = layer.rpartition(".")
    if not number.isdecimal() or partner.rpartition(".")[2].isdecimal():
        return None
    left = {_module(key): 0 for key in leftover if _module(key).rpartition(".")[0] == stack}
    neighbours = [name for name in left if name.rpartition(".")[2].isdecimal() and name != layer]
    if not neighbours:
        return None
    parameters = sum(count for key, count in leftover.items() if _module(key) in neighbours)
    return sentence.format(_joined(neighbours), plural(parameters, "parameter"))


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _joined(names: Iterable[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
