"""Values in memory: an expression of a plan computed with torch, and tensors to and from packed bytes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ckptdoctor.errors import MissingDependency, ShapeError
from ckptdoctor.model import TensorSpec
from ckptdoctor.ops import OpError
from ckptdoctor.ops.numbers import as_bytes
from ckptdoctor.plan import Expression, Step, Take
from ckptdoctor.text import shape_text

if TYPE_CHECKING:
    import torch

    from ckptdoctor.formats.base import Checkpoint
    from ckptdoctor.formats.tensors import StoredTensor

Load = Callable[[str], "torch.Tensor"]


def compute(step: Step, load: Load, remarks: list[str] | None = None) -> torch.Tensor:
    """The tensor of a step; `load` gives the source's tensors by key. What ops remark is added to `remarks`.

    Raises ShapeError where values do not survive an op.
    """
    if step.init is not None and step.expression is None:
        _need_torch()
        return step.init.make(step.target)
    try:
        return _value(step.expression, load, remarks)
    except OpError as error:
        message = f"{step.target.key}: {error}"
        raise ShapeError(message, rule=step.rule, keys=(step.target.key,), hint=error.hint) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "alloc" not in str(error):
            raise
        message = (
            f"{step.target.key}: there is not enough memory for {shape_text(step.target.shape)} {step.target.dtype}"
        )
        hint = "run it where there is more, or make a smaller tensor"
        raise ShapeError(message, rule=step.rule, keys=(step.target.key,), hint=hint) from None


def _value(expression: Expression | None, load: Load, remarks: list[str] | None) -> torch.Tensor:
    if expression is None:
        raise ValueError("nothing is computed for a tensor that stays random")
    if isinstance(expression, Take):
        return load(expression.key)
    inputs = tuple(_value(inner, load, remarks) for inner in expression.inputs)
    outputs = expression.op.apply(inputs)
    if remarks is not None and (remark := expression.op.note(inputs, outputs)) is not None:
        remarks.append(f"{expression.op.describe()}: {remark}")
    return outputs[expression.output]


def tensor_of(checkpoint: Checkpoint, stored: StoredTensor) -> torch.Tensor:
    """A tensor of a file, with its shape and dtype; read straight into its memory where it lies in the file as it is."""
    _need_torch()
    import torch

    spec = stored.spec
    dtype, memory = getattr(torch, spec.dtype.name), bytearray(spec.nbytes)
    if not memory:
        return torch.empty(spec.shape, dtype=dtype)
    checkpoint.fill(memoryview(memory), stored)
    return torch.frombuffer(memory, dtype=dtype).reshape(spec.shape)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """The values of a tensor in row-major order, packed and little-endian: its own memory where that is so already."""
    return as_bytes(tensor.detach().cpu()).numpy().data if tensor.numel() else memoryview(b"")


_NEGLIGIBLE = 1e-16  # the square of the eps that torch's optimizers add to the root of a second moment


def out_of_range(values: torch.Tensor, spec: TensorSpec, *, vanishing: bool) -> str | None:
    """Why these (wide) values cannot be written as `spec` says: some are too large, or, where that counts, `vanishing`."""
    import torch

    dtype = getattr(torch, spec.dtype.name)
    if bool(((values.abs() > torch.finfo(dtype).max) & values.isfinite()).any()):
        return f"would be too large for {spec.dtype}"
    if vanishing and bool(((values.abs() > _NEGLIGIBLE) & (values.to(dtype) == 0)).any()):
        return f"would become 0 in {spec.dtype}"
    return None


def _need_torch() -> None:
    if find_spec("torch") is None:
        raise MissingDependency(
            "this map computes with tensors, which needs torch", hint="pip install 'ckptdoctor[torch]'"
        )
