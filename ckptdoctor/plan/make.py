"""`make_plan`: the stages one after the other, then the balance of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdoctor.collector import collector_paused
from ckptdoctor.errors import PlanError
from ckptdoctor.model import Manifest
from ckptdoctor.plan.balance import balance_of
from ckptdoctor.plan.settle import image_of, remainders, steps_by_name, steps_for
from ckptdoctor.plan.stage import Stage, Value, run_stage
from ckptdoctor.plan.tying import declared_ties, share
from ckptdoctor.plan.types import Plan, Take, taken_keys
from ckptdoctor.plan.warn import warnings_for

if TYPE_CHECKING:
    from ckptdoctor.keymap import Declaration, KeyMap
    from ckptdoctor.plan.fresh import Fresh


@collector_paused()
def make_plan(source: Manifest, target: Manifest | None = None, maps: KeyMap | Sequence[KeyMap] = ()) -> Plan:
    """Decide what becomes of every tensor of `source` and of `target` under these maps, in order.

    Without a target, the image of the maps is the target. Nothing is read. Raises PlanError (or one of its kinds) with all
    problems at once: a rule that names nothing, two producers for a key, an output that the target does not have or has in
    another shape.
    """
    maps = tuple(maps) if isinstance(maps, Sequence) else (maps,)
    if target is not None and not maps:
        return _plan_by_name(source, target)
    problems: list[PlanError] = []
    values: Mapping[str, Value] = {key: Value(spec, Take(key)) for key, spec in source.items()}
    dropped: dict[str, Declaration] = {}
    stages: list[Stage] = []
    for number, key_map in enumerate(maps or (None,), 1):
        stage = run_stage(key_map, values, target, last=number >= len(maps))
        problems += stage.problems
        if problems and number < len(maps):  # the next map would be judged on keys that this one did not make
            raise _error(problems)
        for value, declaration in stage.dropped.values():
            dropped |= dict.fromkeys(taken_keys(value.expression), declaration)
        values = stage.outputs
        stages.append(stage)
    if target is None:
        problems += [_fresh_without_target(fresh) for key_map in maps for fresh in key_map.fresh]
    image = target if target is not None else image_of(values, source)
    fresh = _fresh(maps, stages, image, problems) if target is not None else {}
    made = steps_for(image, values, fresh, problems)
    share(made, declared_ties(maps, image, problems), source, problems)
    if problems:
        raise _error(problems)
    steps = tuple(made.values())
    plan = Plan(source, image, maps, steps, remainders(source, steps, dropped), has_target=target is not None)
    balance_of(plan)  # every element of both sides is in one class, or we are wrong
    return replace(plan, warnings=warnings_for(plan))


def _plan_by_name(source: Manifest, target: Manifest) -> Plan:
    """The plan without a map, which nothing can be wrong with: what would be made on the way is as large as the plan."""
    made = steps_by_name(source, target)
    share(made, {}, source, [])
    steps = tuple(made.values())
    plan = Plan(source, target, (), steps, remainders(source, steps, {}), has_target=True)
    balance_of(plan)
    return replace(plan, warnings=warnings_for(plan))


def _error(problems: Sequence[PlanError]) -> PlanError:
    from ckptdoctor.plan.problems import in_order

    return PlanError.of(in_order(problems))


def _fresh(
    maps: Sequence[KeyMap], stages: Sequence[Stage], target: Manifest, problems: list[PlanError]
) -> dict[str, Fresh]:
    if not any(key_map.fresh for key_map in maps):
        return {}
    from ckptdoctor.plan.fresh import fresh_keys

    return fresh_keys(maps, stages, target, problems)


def check_alone(key_map: KeyMap) -> None:
    """What can be said of a map without manifests: raises PlanError for rules whose two sides need an op to fit together."""
    from ckptdoctor.plan.pipeline import misfit_of_ops

    problems = [problem for rule in key_map.rules if (problem := misfit_of_ops(rule)) is not None]
    if problems:
        raise PlanError.of(problems)


def _fresh_without_target(declaration: Declaration) -> PlanError:
    return PlanError(
        "fresh says which of the target's tensors stay random, and there is no target",
        rule=declaration.location,
        hint="name the target, or take the fresh out",
    )
