"""Sentences for what fits in shape and may still be wrong: a layer of a Sequential taken alone, its neighbours left behind;
tensors that the target ties, each with values of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from ckptdoctor.plan.tying import torn
from ckptdoctor.plan.types import Plan, Step, Take
from ckptdoctor.text import listing, plural

_Stacks: TypeAlias = Mapping[str, Mapping[str, int]]
_NAMED = 5


def warnings_for(plan: Plan) -> tuple[str, ...]:
    """Every warning once, in the order of the target."""
    return (*_left_behind_by(plan), *map(_torn, torn(plan)))


def _torn(group: Sequence[Step]) -> str:
    how = listing(f"{step.target.key} ({', '.join((*step.sources, *step.ops))})" for step in group if step.expression)
    return f"the target has one tensor for these, and they get values of their own: {how}; a model that loads them keeps one"


def _left_behind_by(plan: Plan) -> tuple[str, ...]:
    """Layers that are taken out of a stack whose other layers stay behind."""
    moved = [step for step in plan.steps if step.status == "renamed" and isinstance(step.expression, Take)]
    if not moved:
        return ()
    unused = _stacks((rest.source.key, rest.source.counted) for rest in plan.remainders)
    random = _stacks((step.target.key, step.random_parameters) for step in plan.steps if step.random)
    if not (unused or random):
        return ()
    found: dict[str, None] = {}
    for step in moved:
        source, target = _module(step.sources[0]), _module(step.target.key)
        for left, fate in (
            (_left_behind(source, target, unused), "of the checkpoint would stay unused"),
            (_left_behind(target, source, random), "of the target would stay random"),
        ):
            if left:
                names, parameters = _joined(left), plural(sum(left.values()), "parameter")
                what = f"{source} -> {target} fits in shape, but {names} {fate} ({parameters})"
                found[f"{what}: the model computes another function"] = None
    return tuple(found)


def _stacks(leftover: Iterable[tuple[str, int]]) -> _Stacks:
    """Numbered layers with the parameters in them that nobody uses, by the stack they stand in."""
    stacks: dict[str, dict[str, int]] = {}
    for key, count in leftover:
        layer = _module(key)
        stack, _, number = layer.rpartition(".")
        if number.isdecimal():
            layers = stacks.setdefault(stack, {})
            layers[layer] = layers.get(layer, 0) + count
    return stacks


def _left_behind(layer: str, partner: str, stacks: _Stacks) -> Mapping[str, int]:
    """Neighbours of a numbered layer that nobody uses, if its partner is no numbered layer of the like."""
    stack, _, number = layer.rpartition(".")
    if not number.isdecimal() or partner.rpartition(".")[2].isdecimal():
        return {}
    return {name: count for name, count in stacks.get(stack, {}).items() if name != layer}


def _module(key: str) -> str:
    return key.rpartition(".")[0]


def _joined(names: Iterable[str]) -> str:
    *most, last = names
    if len(most) >= _NAMED:
        return f"{', '.join(most[:_NAMED])} and {len(most) + 1 - _NAMED:,} more"
    return f"{', '.join(most)} and {last}" if most else last
