"""Puts values into the tensors of a live module, one after the other: by copy, or in place of tensors on the meta device.

Everything that can be refused is refused by `Filling(...)`, before the first value is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptdoctor.errors import TargetError
from ckptdoctor.execution.memory import tied_steps
from ckptdoctor.execution.values import Load, compute
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
        entries = _entries(module)
        self._live = {step.target.key: entries[step.target.stored_key] for step in plan.steps if step.filled}
        self._made: dict[str, Tensor] = {}
        _check_writable(self._live, module, plan.target.origin.reference)

    def run(self, load: Load) -> None:
        """Fill the module; `load` reads the source's tensors by key. Nothing is kept of what was read."""
        import torch

        filled = [step for step in self.plan.steps if step.filled and step.expression is not None]
        with torch.no_grad():
            for step in filled:
                if step.status == "computed":
                    compute(step, load)  # an op may refuse values; then the module is still as it was
            for step in filled:
                self._put(step, compute(step, load))
            self._tie()

    def _put(self, step: Step, value: Tensor) -> None:
        """Copy, which converts dtype and device; on the meta device, make the memory first."""
        key, live = step.target.key, self._live[step.target.key]
        if not live.is_meta:
            live.copy_(value)
            return
        first = step.target.tied_to or key
        if first not in self._made:
            self._made[first] = _allocated(live)
        self._made[first].copy_(value)
        self._replace(live, self._made[first])

    def _tie(self) -> None:
        """Tensors on the meta device that share memory with one that was filled, and are not the same object."""
        ties = tied_steps(self.plan)
        for step in self.plan.steps:
            if step.target.key in ties and self._live[step.target.key].is_meta:
                made = self._made[step.target.tied_to or step.target.key]
                self._replace(self._live[step.target.key], made)

    def _replace(self, old: Tensor, data: Tensor) -> None:
        """Let every name of a tensor stand for another one, by setattr as `load_state_dict(assign=True)` does."""
        from torch import nn

        new = nn.Parameter(data, old.requires_grad) if isinstance(old, nn.Parameter) else data
        for module, name in self._slots.pop(id(old), ()):
            setattr(module, name, new)


def _allocated(live: Tensor) -> Tensor:
    """Memory of the dtype and strides of a tensor on the meta device."""
    import torch

    return torch.empty_like(live, device="cpu")


def _entries(module: nn.Module) -> Mapping[str, Tensor]:
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
