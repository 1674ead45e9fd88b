"""What maps declare fresh, key by key, with the values that an `init` gives; imported only where there is a map."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import KeyCollision, PlanError, ShapeError, UnusedRule
from ckptdoctor.initialisers import Copy, Initialiser
from ckptdoctor.ops import OpError
from ckptdoctor.ops.cast import Cast
from ckptdoctor.patterns import Pattern, pair
from ckptdoctor.plan import hints
from ckptdoctor.plan.keys import Keys
from ckptdoctor.plan.types import Apply, Expression
from ckptdoctor.text import did_you_mean, plural, printable, shape_text

if TYPE_CHECKING:
    from ckptdoctor.keymap import Declaration, KeyMap
    from ckptdoctor.model import Manifest, TensorSpec
    from ckptdoctor.plan.stage import Stage


class Fresh(NamedTuple):
    """Why a target key is fresh, and how its values are made: by `init`, which for a copy is the `expression`."""

    declaration: Declaration
    init: Initialiser | None = None
    expression: Expression | None = None


def fresh_keys(
    maps: Sequence[KeyMap], stages: Sequence[Stage], target: Manifest, problems: list[PlanError]
) -> dict[str, Fresh]:
    """The target keys that a map declares fresh. Each map copies from what its own stage saw."""
    found: dict[str, Fresh] = {}
    index = Keys(target)
    for key_map, stage in zip(maps, stages, strict=True):
        for declaration in key_map.fresh:
            keys = index.named(declaration.patterns, problems, declaration.location)
            if not keys and declaration.optional is None:
                problems.append(
                    hints.unused("fresh", declaration.patterns, declaration.location, target, told=len(problems))
                )
            refused: list[PlanError] = []
            for key in keys:
                try:
                    _add(found, key, _fresh(declaration, target[key], stage))
                except PlanError as problem:
                    refused.append(problem)
            problems += _as_one(refused)
    return found


def _fresh(declaration: Declaration, target: TensorSpec, stage: Stage) -> Fresh:
    """Raises PlanError where the tensor cannot be initialised so."""
    init = declaration.init
    if init is None:
        return Fresh(declaration)
    try:
        init.check(target)
        return Fresh(declaration, init, _copied(init, declaration, target, stage) if isinstance(init, Copy) else None)
    except OpError as error:
        what = f"{printable(target.key)} ({shape_text(target.shape)} {target.dtype})"
        raise ShapeError(
            f"{what} cannot be initialised: {error.message}",
            rule=declaration.location,
            keys=(target.key,),
            hint=error.hint or "choose another init, or leave it out",
        ) from None


def _copied(init: Copy, declaration: Declaration, target: TensorSpec, stage: Stage) -> Expression:
    """What makes a copy in the target's dtype. Raises PlanError, or OpError for a dtype that cannot become the target's."""
    key = _source_key(init.key, declaration.patterns, target.key)
    if key not in stage.inputs or key in stage.dropped:
        raise _not_there(key, declaration, target, stage)
    spec, expression = stage.inputs[key].spec, stage.inputs[key].expression
    if spec.shape != target.shape:
        raise ShapeError(
            f"{printable(target.key)} is {shape_text(target.shape)}, and {printable(key)}, of which it is to be a copy, "
            f"is {shape_text(spec.shape)}",
            rule=declaration.location,
            keys=(target.key, key),
            hint="copy a tensor of the same shape, or make it by a rule with an op",
        )
    if spec.dtype == target.dtype:
        return expression
    Initialiser.check(init, target)
    cast = Cast(target.dtype)
    cast.out_specs((spec,))
    return Apply(cast, (expression,))


def _source_key(key: Pattern, patterns: Sequence[Pattern], target: str) -> str:
    match = None if key.literal else patterns[0].match(target)
    return key.fill({}) if match is None else pair(patterns[0], key).fill(match)


def _not_there(key: str, declaration: Declaration, target: TensorSpec, stage: Stage) -> PlanError:
    message = f"{printable(target.key)} is to be a copy of {printable(key)}, which "
    where, keys = declaration.location, (target.key, key)
    if key in stage.dropped:
        dropped = stage.dropped[key][1].location
        hint = "take it out of drop: a tensor that is copied counts as used"
        return PlanError(f"{message}is dropped at {dropped}", rule=where, keys=keys, hint=hint)
    hint = did_you_mean(key, stage.inputs) or "ckptdoctor inspect SOURCE lists the checkpoint's keys"
    return UnusedRule(f"{message}the checkpoint does not have", rule=where, keys=keys, hint=hint)


def _add(found: dict[str, Fresh], key: str, fresh: Fresh) -> None:
    """One more declaration of a key; one that says how it is made says more than one that does not."""
    other = found.get(key)
    if other is None or (other.init is None and fresh.init is not None):
        found[key] = fresh
    elif fresh.init is not None and not _alike(fresh, other):
        raise KeyCollision(
            f"{printable(key)} is initialised by {fresh.init.describe()} here, and in another way at "
            f"{other.declaration.location}",
            rule=fresh.declaration.location,
            keys=(key,),
            hint="take it out of one of the two",
        )


def _alike(one: Fresh, other: Fresh) -> bool:
    """Whether two get the same values."""
    return (one.expression or one.init) == (other.expression or other.init)


def _as_one(problems: Sequence[PlanError]) -> Iterable[PlanError]:
    """The first of the problems of one declaration, with the keys of all."""
    if len(problems) < 2:
        return problems
    first, keys = problems[0], [key for problem in problems for key in problem.keys]
    message = f"{first.message}; the like holds for {plural(len(problems) - 1, 'other key')}"
    return [type(first)(message, rule=first.rule, keys=tuple(dict.fromkeys(keys)), hint=first.hint)]
