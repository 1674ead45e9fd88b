"""Which weight each member of the optimizers is: by name, or by place among the parameters and the shapes of the moments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ckptdoctor.model import Kind, Manifest, TensorSpec
from ckptdoctor.optimizer.naming import Naming, match_names, unmatched
from ckptdoctor.optimizer.orders import NoOrder, SeveralOrders, only_order
from ckptdoctor.optimizer.states import Member, OptimizerProblem, OptimizerState
from ckptdoctor.plan import Plan, Step
from ckptdoctor.text import listing, plural, printable, shape_text

_RUNNING = ("running_mean", "running_var")


def assign(optimizers: Sequence[OptimizerState], plan: Plan, model: Manifest | None = None) -> dict[Member, str]:
    """The key of the source's tensor that each member is. `model` says order and kinds of the source's parameters.

    Raises OptimizerProblem where nothing fits, or several ways do.
    """
    named = [optimizer for optimizer in optimizers if optimizer.named]
    found = by_name([member for optimizer in named for member in optimizer.members], plan.source)
    numbered = [group for optimizer in optimizers if not optimizer.named for group in optimizer.groups]
    taken = set(found.values())
    candidates = [spec for spec in parameters_of(plan, model) if spec.key not in taken]
    return found | _by_order(numbered, candidates, model is not None)


def naming_of(optimizer: OptimizerState, source: Manifest) -> Naming:
    """How a named optimizer names the source's tensors."""
    names = [member.name or "" for member in optimizer.members]
    naming = match_names(names, source)
    if naming is None:
        unknown = unmatched(names, source) or names
        where = "/".join(optimizer.way)
        raise OptimizerProblem(f"{printable(where)} names parameters that the weights do not have: {listing(unknown)}")
    return naming


def by_name(members: Sequence[Member], source: Manifest) -> dict[Member, str]:
    """The keys of members that have names."""
    if not members:
        return {}
    found: dict[Member, str] = {}
    taken: dict[str, Member] = {}
    naming = naming_of(OptimizerState((members[0].where.partition(",")[0],), (tuple(members),)), source)
    for member in members:
        key = naming.keys[member.name or ""]
        first = source[key].tied_to or key
        if first in taken:
            raise OptimizerProblem(f"{taken[first].where} and {member.where} share the weight {printable(first)}")
        if member.shape not in (None, source[first].shape):
            moments, weight = shape_text(member.shape or ()), shape_text(source[first].shape)
            raise OptimizerProblem(
                f"{member.where} has moments of {moments}, the weight {printable(first)} is {weight}"
            )
        found[member] = first
        taken[first] = member
    return found


def parameters_of(plan: Plan, model: Manifest | None = None) -> list[TensorSpec]:
    """The source's tensors that may be parameters, in the order in which an optimizer counts them; tied ones once."""
    if model is not None:
        return _of_model(plan.source, model)
    kinds = _kinds(plan)
    return [spec for spec in plan.source.values() if spec.tied_to is None and kinds[spec.key] != "buffer"]


def parameter_steps(plan: Plan) -> Iterator[Step]:
    """The steps of the target's parameters, in order. Of tied ones the one that says where the values come from, in the place
    of the first."""
    together: dict[str, list[Step]] = {}
    for step in plan.steps:
        together.setdefault(step.memory, []).append(step)
    for steps in together.values():
        if not any(step.target.kind == "buffer" for step in steps):
            yield next((step for step in steps if step.filled and step.expression is not None), steps[0])


def changes_places(plan: Plan) -> bool:
    """Whether tensors take the places of each other, round in a circle: the keys then say nothing of their order."""
    made_of = {step.target.key: step.sources[0] for step in plan.steps if step.filled and len(step.sources) == 1}
    seen: set[str] = set()
    for key in made_of:
        trail: set[str] = set()
        while key in made_of and key != made_of[key] and key not in seen:
            seen.add(key)
            trail.add(key)
            key = made_of[key]
        if key in trail:
            return True
    return False


def _of_model(source: Manifest, model: Manifest) -> list[TensorSpec]:
    wanted = [spec for spec in model.values() if spec.kind != "buffer" and spec.tied_to is None]
    naming = match_names([spec.key for spec in wanted], source)
    if naming is None:
        names = [spec.key for spec in wanted]
        raise OptimizerProblem(
            f"the source model has parameters that the checkpoint has not: {listing(unmatched(names, source) or names)}",
            hint="name the model that the checkpoint was saved from with --source-model",
        )
    specs = [source[naming.keys[spec.key]] for spec in wanted]
    for ours, theirs in zip(specs, wanted, strict=True):
        if ours.shape != theirs.shape:
            raise OptimizerProblem(
                f"{printable(theirs.key)} is {shape_text(theirs.shape)} in the source model and "
                f"{shape_text(ours.shape)} in the checkpoint",
                hint="name the model that the checkpoint was saved from with --source-model",
            )
    return specs


def _kinds(plan: Plan) -> dict[str, Kind]:
    """What each tensor of the source is: as it says itself, as the target says, as batch norm names its buffers."""
    targets: dict[str, set[Kind]] = {}
    for step in plan.steps if plan.has_target else ():
        for key in step.sources if step.filled else ():
            targets.setdefault(key, set()).add(step.target.kind)
    return {key: _kind(spec, targets.get(key, set()), plan.source) for key, spec in plan.source.items()}


def _kind(spec: TensorSpec, targets: set[Kind], source: Manifest) -> Kind:
    if spec.kind != "unknown":
        return spec.kind
    if len(targets) == 1 and (only := next(iter(targets))) != "unknown":
        return only
    return "buffer" if looks_like_buffer(spec, source) else "unknown"


def looks_like_buffer(spec: TensorSpec, manifest: Mapping[str, TensorSpec]) -> bool:
    """Whether a tensor of unknown kind is surely none to train: it holds no fractions, or is a batch norm's statistics."""
    if spec.dtype.family not in ("float", "complex"):
        return True
    module, dot, name = spec.key.rpartition(".")
    return name in _RUNNING and all(f"{module}{dot}{each}" in manifest for each in _RUNNING)


def _by_order(
    groups: Sequence[Sequence[Member]], candidates: Sequence[TensorSpec], modelled: bool
) -> dict[Member, str]:
    members = sum(map(len, groups))
    if members > len(candidates):
        raise OptimizerProblem(
            f"moments fit no parameter order: the optimizers have {plural(members, 'parameter')}, and "
            f"the weights {plural(len(candidates), 'tensor')} that may be one (does a parameter stand in two optimizers?)"
        )
    try:
        orders = only_order([spec.shape for spec in candidates], [[each.shape for each in group] for group in groups])
    except NoOrder as error:
        raise _no_order(error, groups, candidates) from None
    except SeveralOrders as error:
        raise _several_orders(candidates[min(error.weight, len(candidates) - 1)], modelled) from None
    return {
        member: candidates[number].key
        for group, order in zip(groups, orders, strict=True)
        for member, number in zip(group, order, strict=True)
    }


def _no_order(error: NoOrder, groups: Sequence[Sequence[Member]], candidates: Sequence[TensorSpec]) -> OptimizerProblem:
    due = [groups[group][number] for group, number in error.due]
    member = next((each for each in due if each.shape is not None), None)
    if member is None or member.shape is None:
        return OptimizerProblem("moments fit no parameter order")
    weight = candidates[error.weight]
    return OptimizerProblem(
        f"moments fit no parameter order: {member.where} has moments of {shape_text(member.shape)}, "
        f"and the weight in its place ({printable(weight.key)}) is {shape_text(weight.shape)}"
    )


def _several_orders(weight: TensorSpec, modelled: bool) -> OptimizerProblem:
    message = (
        f"several parameter orders fit the moments: the shapes do not say which parameter {printable(weight.key)} is"
    )
    if modelled:
        return OptimizerProblem(
            message, hint="save the names with the states (param_names), or leave them out: --optimizer drop"
        )
    return OptimizerProblem(
        message, hint="name the model that it was saved from, so that buffers are known: --source-model pkg.mod:Name"
    )
