"""Where tensors are made while a constructor runs: new memory on the meta device, computed values on the CPU.

`torch.device("meta")` would send everything to meta, and `[x.item() for x in torch.linspace(0, rate, depth)]`, which
many vision transformers do, would fail. So only what *allocates* goes there; `linspace`, `arange`, `tensor` and
`from_numpy` stay real. Nothing is put on an accelerator, whatever device the code names: only shapes are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, cast

_ALLOCATIONS = "empty zeros ones full rand randn randint randperm normal empty_strided empty_permuted"
_MOVES = "cuda cpu xpu pin_memory"


def construction_mode(*, allocate: bool) -> AbstractContextManager[object]:
    """A mode in which accelerators are taken for the CPU and, unless `allocate`, new memory is on the meta device."""
    import torch
    from torch.overrides import TorchFunctionMode

    allocations = frozenset() if allocate else _functions(torch, _ALLOCATIONS)
    moves = _functions(torch.Tensor, _MOVES)

    class ConstructionMode(TorchFunctionMode):  # type: ignore[misc, unused-ignore]
        def __torch_function__(
            self,
            func: Callable[..., Any],
            types: Iterable[type],
            args: tuple[Any, ...] = (),
            kwargs: dict[str, Any] | None = None,
        ) -> Any:
            kwargs = dict(kwargs or {})
            if func in allocations and not _follows_a_tensor(args, kwargs):
                kwargs.pop("generator", None)  # a generator is of one device, and meta has no random numbers
                kwargs.pop("pin_memory", None)
                return func(*args, **{**kwargs, "device": "meta"})
            if func in moves:
                return args[0]
            if func is torch.Tensor.to:
                args = (args[0], *(_here(each, args[0]) for each in args[1:]))
            if "device" in kwargs:
                kwargs["device"] = _here(kwargs["device"], *args[:1])
            return func(*args, **kwargs)

    return cast("AbstractContextManager[object]", ConstructionMode())


def _functions(namespace: Any, names: str) -> frozenset[Callable[..., Any]]:
    return frozenset(getattr(namespace, name) for name in names.split() if hasattr(namespace, name))


def _follows_a_tensor(args: Iterable[object], kwargs: dict[str, object]) -> bool:
    import torch

    return "out" in kwargs or any(isinstance(each, torch.Tensor) for each in (*args, *kwargs.values()))


def _here(value: object, *tensors: object) -> object:
    """`value`, unless it is a device other than meta: then the device that the tensor, if there is one, has already."""
    import torch

    if not _is_device(value) or str(value).startswith("meta"):
        return value
    return next((each.device for each in tensors if isinstance(each, torch.Tensor)), torch.device("cpu"))


def _is_device(value: object) -> bool:
    """Whether `value` can stand for a device: a number is the index of an accelerator."""
    import torch

    return isinstance(value, str | int | torch.device) and not isinstance(value, bool)
