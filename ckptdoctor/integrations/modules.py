"""`load_into`: from a checkpoint into a live `torch.nn.Module`, judged first. The one call for notebooks and scripts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING

from ckptdoctor.integrations.judging import Maps, judged, key_maps, policy_of, require, selected_by
from ckptdoctor.source import open_source

if TYPE_CHECKING:
    from torch import nn

    from ckptdoctor.policy import Verdict


def load_into(
    model: nn.Module,
    path: str | PathLike[str],
    map: Maps = None,
    max_random: str | int | None = None,
    *,
    select: str | None = None,
    strip: str | Sequence[str] | None = None,
    max_unexpected: str | int | None = None,
    allow_random: str | Iterable[str] = (),
    allow_unexpected: str | Iterable[str] = (),
    fail_on: str | Iterable[str] = (),
) -> Verdict:
    """Load a checkpoint into a model if, remapped, it fills the model as the policy asks; else change nothing.

    `map` is a map, or several in their order: paths or KeyMaps. The policy is that of `ckptdoctor remap`: what would be
    random, mismatched or unexpected fails, unless a map declares it (`fresh`, `drop`) or a pattern allows it.
    `max_random` (`"0.1%"`, `2`) and `max_unexpected` are limits instead; `fail_on` names more checks. `select` and `strip`
    say where in the file the weights lie and which wrapper segments its keys have; left out, they are found. The model may
    be wrapped by DDP, DataParallel or torch.compile: the map speaks of the keys of what is inside.

    Values are copied into the model's own tensors, which keep dtype, device and ties; so an optimizer that knows them stays
    right. Tensors on the meta device are replaced by tensors in memory, of the dtype that the model has; what stays random
    stays on the meta device. What a map initialises is written (`init: model` leaves it to the constructor); what it ties
    becomes one parameter, so make the optimizer afterwards. One tensor at a time is in memory. Nothing from the file is run,
    so `_extra_state` is left alone, and load_state_dict hooks are not called.

    Raises PolicyNotMet with the verdict and its table; CheckpointError, KeyMapError, PlanError or UsageError where it does
    not come to a verdict; TargetError for tensors that cannot be copied into (sharded, quantised). A damaged file that is
    noticed only while it is read leaves the model half loaded.
    """
    from ckptdoctor.execution.memory import reader_of
    from ckptdoctor.integrations.filling import Filling
    from ckptdoctor.targets.building.contents import manifest_of_module

    policy = policy_of(max_random, max_unexpected, allow_random, allow_unexpected, fail_on)
    maps, inner = key_maps(map), unwrapped(model)
    with open_source(path, selected=select or selected_by(maps)) as source:
        verdict = judged(source.manifest, manifest_of_module(inner), maps, policy, strip)
        require(verdict)
        filling, load = Filling(verdict.plan, inner), reader_of(verdict.plan, source)
        filling.run(load)
        source.envelope.source.check_unchanged()
    return verdict


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside DistributedDataParallel, DataParallel and torch.compile, in whatever order they are put on."""
    from torch.nn import DataParallel, Module
    from torch.nn.parallel import DistributedDataParallel

    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif isinstance(inner := model._modules.get("_orig_mod"), Module):
            model = inner
        else:
            return model
