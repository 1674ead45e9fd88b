"""Change each tensor on its way into a module, so that a model built for real takes the memory of one module only."""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor, nn

Change: TypeAlias = "Callable[[Tensor], Tensor]"

SMALL = 16 << 10
"""Bytes. Smaller tensors stay real: they cost nothing, and constructors like to look at their own scalars."""


@contextmanager
def registering(change: Change) -> Iterator[None]:
    """While this is open, modules register `change(tensor)` instead of each parameter and buffer."""
    from torch import nn

    parameter, buffer = nn.Module.register_parameter, nn.Module.register_buffer

    def register_parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        parameter(self, name, None if param is None else change(param))  # type: ignore[arg-type]

    def register_buffer(self: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        buffer(self, name, None if tensor is None else change(tensor), persistent)

    _patch(register_parameter, register_buffer)
    try:
        yield
    finally:
        _patch(parameter, buffer)


def _patch(parameter: Callable[..., None], buffer: Callable[..., None]) -> None:
    from torch import nn

    nn.Module.register_parameter = parameter  # type: ignore[method-assign]
    nn.Module.register_buffer = buffer  # type: ignore[method-assign]


def moving_to_meta() -> Change:
    """A change that leaves the shape and takes the memory. A tensor that is registered twice stays one: it is tied."""
    moved: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}

    def move(tensor: Tensor) -> Tensor:
        if not _plain(tensor) or tensor.is_meta or tensor.nbytes <= SMALL:
            return tensor
        known = moved.get(id(tensor))
        if known is None or known[0]() is not tensor:  # an id may be used again
            known = moved[id(tensor)] = (weakref.ref(tensor), _empty_like(tensor))
        return known[1]

    return move


def _plain(tensor: Tensor) -> bool:
    import torch

    return type(tensor) in (torch.Tensor, torch.nn.Parameter)


def _empty_like(tensor: Tensor) -> Tensor:
    import torch

    empty = torch.empty_like(tensor.detach(), device="meta")
    if isinstance(tensor, torch.nn.Parameter):
        empty = torch.nn.Parameter(empty, requires_grad=tensor.requires_grad)
    empty.__dict__.update(tensor.__dict__)
    return empty


def within_half_of_memory() -> Change:
    """A change that changes nothing, and raises MemoryError before a model fills this machine."""
    left = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

    def count(tensor: Tensor) -> Tensor:
        nonlocal left
        left -= 0 if tensor.is_meta else tensor.nbytes
        if left < 0:
            raise MemoryError("the model looks at its own weights, and these would take half of this machine's memory")
        return tensor

    return count
