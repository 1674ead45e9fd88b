"""Old Lightning checkpoints into a renamed module, remapped in memory while Lightning loads them.

    class Net(LightningModule):
        def on_load_checkpoint(self, checkpoint):
            remap_checkpoint(checkpoint, self, "rename.yaml")

That is all: `Trainer.fit(ckpt_path=...)`, `validate`, `test` and `load_from_checkpoint` call the hook. Checkpoints that the
renamed module has saved itself are left as they are. Lightning is not imported.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import PlanError, UsageError
from ckptdoctor.integrations.judging import Maps, judged, key_maps, policy_of, require

if TYPE_CHECKING:
    from torch import nn

    from ckptdoctor.keymap import KeyMap
    from ckptdoctor.model import Manifest
    from ckptdoctor.plan import Plan
    from ckptdoctor.policy import Policy, Verdict


def remap_checkpoint(
    checkpoint: MutableMapping[str, Any],
    module: nn.Module,
    map: Maps,
    max_random: str | int | None = None,
    *,
    prefix: str = "",
    optimizer: str = "keep",
    strip: str | Sequence[str] | None = None,
    max_unexpected: str | int | None = None,
    allow_random: str | Iterable[str] = (),
    allow_unexpected: str | Iterable[str] = (),
    fail_on: str | Iterable[str] = (),
) -> Verdict:
    """Replace `checkpoint["state_dict"]` by what the map makes of it for `module`; judged first, as by `load_into`.

    With a `prefix`, `module` is what has it in the LightningModule, and the map speaks of its keys:
    `remap_checkpoint(checkpoint, self.net, "rename.yaml", prefix="net.")`; all other entries stay. Tensors that are only
    renamed are not copied. What stays random is there with the module's own values, so that a strict load passes. A
    checkpoint that fits without the map, and not with it, is left alone.

    Optimizer states belong to the parameters in their order. Where the map adds, removes or reorders parameters,
    `optimizer="drop"` empties them and the schedulers' states, so that `fit` starts with fresh ones.

    Raises PolicyNotMet; KeyMapError; PlanError where the map does not fit, edits the envelope (that is for files), or would
    change a checkpoint that fits as it is; UsageError. Then the checkpoint is as it was.
    """
    from ckptdoctor.execution.memory import apply

    if optimizer not in ("keep", "drop"):
        raise UsageError(f"optimizer={optimizer!r}: choose from keep, drop")
    maps = key_maps(map)
    _refuse_envelope(maps)
    policy = policy_of(max_random, max_unexpected, allow_random, allow_unexpected, fail_on)
    weights = _weights(checkpoint)
    inside = _inside(weights, prefix)
    verdict = _verdict(inside, module, maps, policy, strip)
    require(verdict)
    if verdict.plan.maps:
        if optimizer == "keep":
            _check_optimizer(checkpoint, verdict.plan)
        made = apply(verdict.plan, inside, wrapped=True)
        _add_own_values(made, module, verdict.plan)
        checkpoint["state_dict"] = _outside(weights, made, prefix)
        for key in ("optimizer_states", "lr_schedulers") if optimizer == "drop" else ():
            checkpoint[key] = []
    return verdict


def _verdict(
    weights: Mapping[str, Any],
    module: nn.Module,
    maps: Sequence[KeyMap],
    policy: Policy,
    strip: str | Sequence[str] | None,
) -> Verdict:
    """The verdict with the maps; without them where only that fits: the checkpoint is one of the renamed module's own."""
    from ckptdoctor.model import Origin
    from ckptdoctor.targets.building.contents import manifest_of_module, manifest_of_object

    source = manifest_of_object(weights, Origin("the checkpoint", "memory"))
    target = manifest_of_module(module)
    as_it_is = judged(source, target, (), policy, strip)
    try:
        mapped = judged(source, target, maps, policy, strip)
    except PlanError:
        if as_it_is.passed:
            return as_it_is
        raise
    complete = not as_it_is.plan.remainders and all(step.filled for step in as_it_is.plan.steps)
    if not complete:
        return mapped
    if mapped.passed and _changes(mapped.plan):
        raise _either_way(source, maps)
    return as_it_is


def _changes(plan: Plan) -> bool:
    return bool(plan.remainders) or any(step.status in ("renamed", "computed") for step in plan.steps)


def _either_way(source: Manifest, maps: Sequence[KeyMap]) -> PlanError:
    names = ", ".join(key_map.path for key_map in maps)
    return PlanError(
        f"{source.origin.reference} fits the module as it is, and also as {names} changes it: was it remapped already?",
        hint="remap the old file once, with ckptdoctor remap, and take the hook out",
    )


def _refuse_envelope(maps: Sequence[KeyMap]) -> None:
    for edit in (edit for key_map in maps for edit in key_map.envelope[:1]):
        raise PlanError(
            "the map edits what stands around the weights, which Lightning has read by now",
            rule=edit.location,
            hint="write a file with ckptdoctor remap, or take envelope out of the map",
        )


def _check_optimizer(checkpoint: Mapping[str, Any], plan: Plan) -> None:
    from ckptdoctor.execution import keeps_parameter_order

    if checkpoint.get("optimizer_states") and not keeps_parameter_order(plan):
        raise PlanError(
            "the checkpoint holds optimizer states, which belong to its parameters in their order; the map adds, removes "
            "or reorders parameters",
            hint='start with a fresh optimizer: optimizer="drop"',
        )


def _weights(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, Mapping):
        raise UsageError('the checkpoint has no mapping at "state_dict"', hint="give what Lightning gives to the hook")
    return weights


def _add_own_values(made: dict[str, Any], module: nn.Module, plan: Plan) -> None:
    own = module.state_dict()
    for step in plan.steps:
        if not step.has_values:
            made[step.target.stored_key] = own[step.target.stored_key]


def _inside(weights: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
    """The entries below a prefix, without it, and what `_metadata` says of the modules there."""
    if not prefix:
        return weights
    inside: OrderedDict[str, Any] = OrderedDict(
        (key.removeprefix(prefix), value) for key, value in weights.items() if key.startswith(prefix)
    )
    if not inside:
        raise UsageError(f"no key of the checkpoint begins with {prefix!r}", hint='the prefix ends in a dot: "net."')
    metadata = getattr(weights, "_metadata", None)
    if isinstance(metadata, Mapping):
        below = {f"{path}.": of for path, of in metadata.items() if f"{path}.".startswith(prefix)}
        inside._metadata = {path.removeprefix(prefix).rstrip("."): of for path, of in below.items()}  # type: ignore[attr-defined]
    return inside


def _outside(weights: Mapping[str, Any], made: dict[str, Any], prefix: str) -> Mapping[str, Any]:
    """The entries put back below their prefix, beside those that were never below it."""
    if not prefix:
        return made
    whole: OrderedDict[str, Any] = OrderedDict(
        (key, value) for key, value in weights.items() if not key.startswith(prefix)
    )
    whole.update((prefix + key, value) for key, value in made.items())
    metadata = getattr(weights, "_metadata", None)
    if isinstance(metadata, Mapping):
        kept = {path: of for path, of in metadata.items() if not f"{path}.".startswith(prefix)}
        below = {(prefix + path).rstrip("."): of for path, of in getattr(made, "_metadata", {}).items()}
        whole._metadata = OrderedDict(kept | below)  # type: ignore[attr-defined]
    return whole
