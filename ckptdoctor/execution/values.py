"""Values in memory: an expression of a plan computed with torch, and tensors to and from packed bytes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ckptdoctor.errors import MissingDependency, ShapeError
from ckptdoctor.model import TensorSpec
from ckptdoctor.ops import OpError
from ckptdoctor.plan import Expression, Step, Take

if TYPE_CHECKING:
    import torch

Load = Callable[[str], "torch.Tensor"]


def compute(step: Step, load: Load) -> torch.Tensor:
    """The tensor of a step; `load` gives the source's tensors by key. Raises ShapeError where values do not survive an op."""
    if step.init is not None and step.expression is None:
        _need_torch()
        return step.init.make(step.target)
    try:
        return _value(step.expression, load)
    except OpError as error:
        message = f"{step.target.key}: {error}"
        raise ShapeError(message, rule=step.rule, keys=(step.target.key,), hint=error.hint) from None


def _value(expression: Expression | None, load: Load) -> torch.Tensor:
    if expression is None:
        raise ValueError("nothing is computed for a tensor that stays random")
    if isinstance(expression, Take):
        return load(expression.key)
    return expression.op.apply(tuple(_value(inner, load) for inner in expression.inputs))[expression.output]


def tensor_of(data: bytes, spec: TensorSpec) -> torch.Tensor:
    """Packed little-endian values as a tensor of the spec's shape and dtype."""
    _need_torch()
    import torch

    dtype = getattr(torch, spec.dtype.name)
    if not data:
        return torch.empty(spec.shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(spec.shape)


def bytes_of(tensor: torch.Tensor) -> bytes:
    """The values of a tensor in row-major order, packed and little-endian."""
    import torch

    plain = tensor.detach().cpu().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise MissingDependency(
            "this map computes with tensors, which needs torch", hint="pip install 'ckptdoctor[torch]'"
        )
