"""`apply`: a plan carried out on a state dict in memory, for notebooks and for `on_load_checkpoint`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptdoctor.errors import PlanError
from ckptdoctor.execution.values import compute
from ckptdoctor.plan import Plan

if TYPE_CHECKING:
    import torch


def apply(plan: Plan, state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict that the plan makes of this one, with the target's keys; what stays random is not in it.

    What is only renamed is the same tensor object, not a copy, so tied tensors stay tied. The keys may be those of the
    plan's source or those that stand in its file. Raises PlanError where a tensor is missing or has another shape.
    """

    def load(key: str) -> torch.Tensor:
        spec = plan.source[key]
        tensor = state_dict.get(spec.stored_key, state_dict.get(key))
        if tensor is None or tuple(tensor.shape) != spec.shape:
            found = "has no" if tensor is None else f"has another shape {tuple(tensor.shape)} for"
            raise PlanError(f"the state dict {found} {key}", keys=(key,), hint="make the plan from this state dict")
        return tensor

    return {step.target.key: compute(step, load) for step in plan.steps if step.filled and step.expression is not None}
