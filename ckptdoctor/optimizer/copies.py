"""Averaged copies of the weights in the same file (EMA): state dicts with the weights' keys, which go through the same plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ckptdoctor.errors import KeyCollision
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.ops import OpError
from ckptdoctor.optimizer.moments import spec_of
from ckptdoctor.optimizer.naming import Naming, match_names
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.optimizers import OPTIMIZER_KEYS, containers
from ckptdoctor.plan import Apply, Plan, Step, Take
from ckptdoctor.text import plural, printable
from ckptdoctor.wrappers import is_average, place_text

_COUNTERS = ("n_averaged",)  # what torch.optim.swa_utils.AveragedModel has beside the weights
Place = tuple[str, ...]


class WeightCopy(NamedTuple):
    """A state dict that goes along: its keys by those of the source, and its new keys by those of the target."""

    place: Place
    old: Mapping[str, str]
    new: Mapping[str, str]
    counters: tuple[str, ...] = ()


def find_copies(
    graph: TensorGraph, place: Place, plan: Plan, written: Collection[str], *, unwrap: bool = False
) -> tuple[list[WeightCopy], list[str]]:
    """The averaged copies that can go through the plan, and what people should know; `written` are the target's keys."""
    copies: list[WeightCopy] = []
    left: dict[Place, str] = {}
    for other in graph.nodes:
        if other != place and is_average(other) and not set(other) & set(OPTIMIZER_KEYS):
            made = _listed_copy(other, graph, plan, written, unwrap)
            if isinstance(made, WeightCopy):
                copies.append(made)
            else:
                left[other] = made
    notes = [
        f"{printable(place_text(copy.place))} went the same way as the weights ({plural(len(copy.new), 'tensor')})"
        for copy in copies
        if _changes(copy, plan)
    ]
    holders = {copy.place[:depth] for copy in copies for depth in range(len(copy.place))}
    notes += [
        f"{printable(place_text(other))} was left as it is: {why}"
        for other, why in left.items()
        if other not in holders and plan.maps
    ]
    return copies, notes


def averages_in_lists(graph: TensorGraph) -> list[Place]:
    """Averaged copies that are lists of tensors, in the order of the parameters: without keys, they follow no map."""
    return [
        way
        for way, node in containers(graph.pickle.root)
        if isinstance(node, list | tuple)
        and len(node) > 1
        and (is_average(way) or way[-1:] == ("shadow_params",))
        and all(id(value) in graph.views for value in node)
    ]


def _listed_copy(
    place: Place, graph: TensorGraph, plan: Plan, written: Collection[str], unwrap: bool
) -> WeightCopy | str:
    try:
        manifest = graph.listed(place)
    except PickleError:
        return "a key stands twice in it"
    return _copy(place, manifest, plan, written, unwrap)


def _copy(place: Place, manifest: Manifest, plan: Plan, written: Collection[str], unwrap: bool) -> WeightCopy | str:
    """The copy, or why it cannot go along."""
    counters = tuple(key for key in manifest if key in _COUNTERS and key not in plan.source)
    naming = match_names([key for key in manifest if key not in counters], plan.source)
    if naming is None:
        return "its keys are not those of the weights"
    old = {key: name for name, key in naming.keys.items()}
    other = [key for key, name in old.items() if manifest[name].shape != plan.source[key].shape]
    if other:
        return f"its {printable(old[other[0]])} has another shape than the weight"
    specs = {key: manifest[name] for key, name in old.items()}
    if (refused := next(filter(None, (_refused(step, specs) for step in plan.steps)), None)) is not None:
        return refused
    targets = _targets(plan, old, written)
    if targets is None:
        return "the map joins tensors of which it has only a part"
    new = _new_names(naming, targets, unwrap)
    return WeightCopy(place, old, new, counters) if new is not None else "there are no names for the new tensors"


def _refused(step: Step, specs: Mapping[str, TensorSpec]) -> str | None:
    """Why a step cannot be computed of the copy's tensors, whose dtypes may be others than those of the weights."""
    if not isinstance(step.expression, Apply) or not step.has_values or not specs.keys() >= set(step.sources):
        return None
    try:
        spec_of(step.expression, specs)
    except OpError as error:
        return error.message
    return None


def _targets(plan: Plan, old: Mapping[str, str], written: Collection[str]) -> list[str] | None:
    """The target's keys that the copy will have: those made of what it has, and those made of nothing in the source."""
    steps = [step for step in plan.steps if step.target.key in written]
    without = {step.memory for step in steps if step.has_values and any(key not in old for key in step.sources)}
    partly = [step for step in steps if step.has_values and {key in old for key in step.sources} == {True, False}]
    return None if partly else [step.target.key for step in steps if step.memory not in without]


def _new_names(naming: Naming, targets: Sequence[str], unwrap: bool) -> dict[str, str] | None:
    try:
        return naming.names_for(targets, unwrap=unwrap)
    except KeyCollision:
        return None


def _changes(copy: WeightCopy, plan: Plan) -> bool:
    computed = any(not isinstance(step.expression, Take) for step in plan.steps if step.target.key in copy.new)
    return computed or sorted(copy.old.values()) != sorted(copy.new.values())
