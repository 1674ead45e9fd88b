"""Puts values into the tensors of a live module, one after the other: by copy, or in place of tensors on the meta device.

Everything that can be refused is refused by `Filling(...)`, before the first value is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptdoctor.errors import TargetError
from ckptdoctor.execution.memory import tied_steps
from ckptdoctor.execution.values import Load, compute
from ckptdoctor.plan import Apply
from ckptdoctor.text import listing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ckptdoctor.plan import Plan, Step


class Filling:
    """A plan about to be carried out on the module that its target describes.

    Raises TargetError where the module's state dict holds tensors that cannot be copied into: copies of the module's own,
    sharded and quantised ones, broadcast views.
    """

    def __init__(self, plan: Plan, module: nn.Module) -> None:
        self.plan = plan
        self._slots = _slots(module)
        entries = entries_of(module)
        self._live = {step.target.key: entries[step.target.stored_key] for step in plan.steps if step.has_values}
        self._made: dict[str, Tensor] = {}
        self._new: dict[int, Tensor] = {}
        self._follows = tied_steps(plan)
        _check_writable(self._live, module, plan.target.origin.reference)
        self._check_tied()

    def run(self, load: Load) -> None:
        """Fill the module; `load` reads the source's tensors by key. Nothing is kept of what was read."""
        import torch

        made = [step for step in self.plan.steps if step.has_values and step.target.key not in self._follows]
        with torch.no_grad():
            for step in made:
                if isinstance(step.expression, Apply):
                    compute(step, load)  # an op may refuse values; then the module is still as it was
            for step in made:
                self._put(step, compute(step, load))
            self._tie()

    def _put(self, step: Step, value: Tensor) -> None:
        """Copy, which converts dtype and device; on the meta device, make the memory first."""
        live = self._live[step.target.key]
        if not live.is_meta:
            live.copy_(value)
            return
        if step.memory not in self._made:
            self._made[step.memory] = _allocated(live)
        self._made[step.memory].copy_(value)
        self._replace(live, self._made[step.memory])

    def _tie(self) -> None:
        """What a map ties becomes one tensor; so does what the target ties where it has no memory yet."""
        for step in self.plan.steps:
            if step.target.key not in self._follows:
                continue
            live, first = self._live[step.target.key], self._live[self._follows[step.target.key]]
            if step.tie is not None and live is not first:
                self._put_in_place(live, self._new.get(id(first), first))
            elif live.is_meta:
                self._replace(live, self._made[step.memory])

    def _check_tied(self) -> None:
        """Raise TargetError where a tensor that a map ties to another stands nowhere in the module by itself."""
        lives = [(key, self._live[key], self._live[first]) for key, first in self._follows.items()]
        ties = {step.target.key for step in self.plan.steps if step.tie is not None}
        bad = [key for key, live, first in lives if key in ties and live is not first and id(live) not in self._slots]
        if bad:
            reference = self.plan.target.origin.reference
            hint = "tie them in the model's own code, and take them out of the map"
            raise TargetError(f"{reference}: {listing(bad)} cannot be tied", reference=reference, hint=hint)

    def _replace(self, old: Tensor, data: Tensor) -> None:
        """Let every name of a tensor stand for another one, by setattr as `load_state_dict(assign=True)` does."""
        from torch import nn

        self._put_in_place(old, nn.Parameter(data, old.requires_grad) if isinstance(old, nn.Parameter) else data)

    def _put_in_place(self, old: Tensor, new: Tensor) -> None:
        self._new[id(old)] = new
        for module, name in self._slots.pop(id(old), ()):
            setattr(module, name, new)


def _allocated(live: Tensor) -> Tensor:
    """Memory of the dtype and strides of a tensor on the meta device."""
    import torch

    return torch.empty_like(live, device="cpu")


def entries_of(module: nn.Module) -> Mapping[str, Tensor]:
    """The module's state dict with its own tensors."""
    try:
        return module.state_dict(keep_vars=True)
    except TypeError:  # an override without the argument gives detached tensors, which share the module's memory
        return module.state_dict()


def _slots(module: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """By the identity of a tensor, the modules and names that hold it."""
    slots: dict[int, list[tuple[nn.Module, str]]] = {}
    for inner in module.modules():
        for name, tensor in (*inner._parameters.items(), *inner._buffers.items()):
            if tensor is not None:
                slots.setdefault(id(tensor), []).append((inner, name))
    return slots


def _check_writable(live: Mapping[str, Tensor], module: nn.Module, reference: str) -> None:
    own = {_identity(tensor) for tensor in (*module.parameters(), *module.buffers()) if _is_plain(tensor)}
    bad = [key for key, tensor in live.items() if not _is_plain(tensor) or _identity(tensor) not in own]
    if bad:
        raise TargetError(
            f"{reference}: values cannot be copied into {listing(bad)}: sharded, quantised, broadcast, or no tensor of "
            "the module itself",
            reference=reference,
            hint="write a file with ckptdoctor remap, and let the code that made the model load it",
        )


def _is_plain(tensor: Tensor) -> bool:
    """Whether it is dense and each of its elements has a place of its own."""
    import torch

    if tensor.layout != torch.strided or hasattr(type(tensor), "__tensor_flatten__"):
        return False
    return not any(size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _identity(tensor: Tensor) -> int:
    """What a tensor and a detached copy of it have in common; without memory, the tensor itself."""
    return tensor.data_ptr() or id(tensor)
