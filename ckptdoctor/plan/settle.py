"""The state of every tensor once the maps have run: each target tensor gets a step, each unused source tensor a remainder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ckptdoctor.errors import KeyCollision, PlanError, ShapeError
from ckptdoctor.model import Manifest, Origin, TensorSpec
from ckptdoctor.plan import hints
from ckptdoctor.plan.stage import Value
from ckptdoctor.plan.types import Expression, Remainder, Status, Step, Take, over_firsts, taken_keys
from ckptdoctor.text import printable, shape_text

if TYPE_CHECKING:
    from ckptdoctor.errors import Location
    from ckptdoctor.keymap import Declaration
    from ckptdoctor.plan.fresh import Fresh


def image_of(values: Mapping[str, Value], source: Manifest) -> Manifest:
    """What the maps make of the source, as a target of its own. Keys are tied that are made in one way of tied tensors."""
    ties = _ties(values, source) if any(spec.tied_to for spec in source.values()) else {}
    specs = [value.spec._replace(key=key, raw_key=None, tied_to=ties.get(key)) for key, value in values.items()]
    return Manifest(specs, Origin("(the image of the map)", "image"))


def _ties(values: Mapping[str, Value], source: Manifest) -> dict[str, str]:
    """For each key that is tied, the first that it is tied to. Two that are made of the very same tensor are copies."""
    uses: dict[tuple[Expression, str], int] = {}
    firsts: dict[tuple[Expression, int], str] = {}
    ties = {}
    for key, value in values.items():
        made, taken = over_firsts(value.expression, source), set(taken_keys(value.expression))
        copy = max(uses.get((made, each), 0) for each in taken)
        uses |= dict.fromkeys(((made, each) for each in taken), copy + 1)
        ties[key] = firsts.setdefault((made, copy), key)
    return {key: first for key, first in ties.items() if first != key}


def steps_for(
    target: Manifest,
    values: Mapping[str, Value],
    fresh: Mapping[str, Fresh],
    problems: list[PlanError],
) -> dict[str, Step]:
    """A step for each target tensor, in order. What a rule made has to fit; what only has the same name may not."""
    unknown: dict[Location, dict[str, list[str]]] = {}
    for key, value in values.items():
        if value.rule is None:
            continue
        if key not in target:
            unknown.setdefault(value.rule, {})[key] = list(taken_keys(value.expression))
        elif (problem := _misfit(key, value, fresh, target)) is not None:
            problems.append(problem)
    for rule, made in unknown.items():
        problems.append(hints.unknown_target(made, rule, target, told=len(problems)))
    return {key: _step(spec, values.get(key), fresh.get(key)) for key, spec in target.items()}


def steps_by_name(source: Manifest, target: Manifest) -> dict[str, Step]:
    """The same where there is no map: every tensor is filled by that of its own name."""
    given = dict(source.items())
    return {key: _step_by_name(spec, given.get(key)) for key, spec in target.items()}


def _step_by_name(target: TensorSpec, given: TensorSpec | None) -> Step:
    if given is None:
        return Step(target, "missing")
    return Step(target, "loaded" if given.shape == target.shape else "mismatched", Take(given.key), given)


def _misfit(key: str, value: Value, fresh: Mapping[str, Fresh], target: Manifest) -> PlanError | None:
    if key in fresh:
        return KeyCollision(
            f"{printable(key)} is made by this rule, and declared fresh at {fresh[key].declaration.location}",
            rule=value.rule,
            keys=(key,),
            hint="take it out of one of the two",
        )
    if value.spec.shape != target[key].shape:
        sources = list(taken_keys(value.expression))
        return ShapeError(
            f"{printable(key)} would be {shape_text(value.spec.shape)} (from {printable(', '.join(sources))}), "
            f"the target wants {shape_text(target[key].shape)}",
            rule=value.rule,
            keys=(key, *sources),
            hint="map another tensor, add an op that changes the shape, or declare the key fresh",
        )
    return None


def _step(target: TensorSpec, value: Value | None, fresh: Fresh | None) -> Step:
    if fresh is not None:
        declaration, init, expression = fresh
        return Step(target, "fresh", expression, rule=declaration.location, why=declaration.why, init=init)
    if value is None:
        return Step(target, "missing")
    if value.spec.shape != target.shape:
        return Step(target, "mismatched", value.expression, value.spec)
    return Step(target, _status(target.key, value), value.expression, value.spec, value.rule, new=value.new)


def _status(key: str, value: Value) -> Status:
    if not isinstance(value.expression, Take):
        return "computed"
    return "loaded" if value.expression.key == key else "renamed"


def remainders(source: Manifest, steps: Sequence[Step], dropped: Mapping[str, Declaration]) -> tuple[Remainder, ...]:
    """Every source tensor that no step uses, with the reason."""
    used = {step.target.key for step in steps if step.status == "loaded"}  # of the tensor of its own name
    mismatched: set[str] = set()
    for step in (step for step in steps if step.status not in ("loaded", "missing")):
        if step.status == "mismatched":
            mismatched.update(step.sources)
        elif step.has_values:
            used.update(step.sources)
    return tuple(
        _remainder(spec, dropped.get(key), mismatched=key in mismatched)
        for key, spec in source.items()
        if key not in used
    )


def _remainder(spec: TensorSpec, dropped: Declaration | None, *, mismatched: bool) -> Remainder:
    if dropped is not None:
        return Remainder(spec, "dropped", dropped.location, dropped.why)
    return Remainder(spec, "mismatched" if mismatched else "unexpected")
