"""What ops that compute have in common: which dtypes they compute in, and how results get back into the tensor's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import OpError
from ckptdoctor.ops.base import Op

if TYPE_CHECKING:
    import torch

LARGEST = {
    "float64": 1.7976931348623157e308,
    "float32": 3.4028234663852886e38,
    "bfloat16": 3.3895313892515355e38,
    "float16": 65504.0,
    "float8_e5m2": 57344.0,
    "float8_e5m2fnuz": 57344.0,
    "float8_e4m3fn": 448.0,
    "float8_e4m3fnuz": 240.0,
}
"""The floating-point types that are computed with, and the largest number of each."""


def is_finite(value: object) -> TypeGuard[int | float]:
    """Whether a plain value is a number that float64 holds."""
    return type(value) in (int, float) and abs(value) <= LARGEST["float64"]  # type: ignore[arg-type]


def need_float(op: Op, spec: TensorSpec) -> None:
    """Raises OpError where the numbers are not of a floating-point type that is computed with."""
    if spec.dtype.name not in LARGEST:
        raise OpError(f"{op.describe()} needs floating-point numbers, not {spec.dtype}", hint="cast first")


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers in float32, or in float64 if they are that."""
    import torch

    return tensor if tensor.dtype == torch.float64 else tensor.float()


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The numbers in row-major order as bytes, one after the other: the tensor's own memory where they lie so already."""
    import torch

    plain = tensor.resolve_conj().resolve_neg().contiguous()
    # A dimension of size 1 may have any stride, which `view` does not take.
    return plain.as_strided((plain.numel(),), (1,)).view(torch.uint8)


def narrowed(
    op: Op, result: torch.Tensor, inputs: tuple[torch.Tensor, ...], *, by_element: bool = False
) -> torch.Tensor:
    """The result in the dtype of the inputs. Raises OpError where it is not finite, or too large, though they are finite.

    `by_element` says that each number of the result is made of the one at its place in the input.
    """
    import torch

    # What is too large is looked for before: some conversions of torch give the largest number instead.
    computed = wide(result)
    lost = ~(computed.abs() <= torch.finfo(inputs[0].dtype).max)
    if by_element:
        lost &= wide(inputs[0]).isfinite()
    elif not all(bool(wide(each).isfinite().all()) for each in inputs):
        lost &= computed.isfinite()
    if bool(lost.any()):
        message = (
            f"{op.describe()}: some results are no finite numbers of {str(inputs[0].dtype).removeprefix('torch.')}"
        )
        raise OpError(message, hint="cast to a wider dtype first, or look at the values")
    return result.to(inputs[0].dtype).contiguous()
