"""Ops that compute: `scale: 0.125` multiplies by a number, `mean` takes the mean of several tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import frexp
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import ArgumentKind, OpError, argument
from ckptdoctor.ops.base import Example, Op, OutSpec, only
from ckptdoctor.ops.boxes import Box
from ckptdoctor.ops.numbers import LARGEST, is_finite, narrowed, need_float, wide
from ckptdoctor.ops.shapes import alike

if TYPE_CHECKING:
    import torch

# The least normal numbers: a factor below is not exact in the type that is computed in.
_SMALLEST = {"float32": 1.1754943508222875e-38, "float64": 2.2250738585072014e-308}


def _read_factor(value: object) -> float:
    if not is_finite(value) or not value:
        raise OpError("is not a finite number other than 0", hint="write 0.125")
    return float(value) if abs(value) > 2**53 else value  # torch takes no larger integers


_FACTOR = ArgumentKind({"type": "number", "not": {"const": 0}}, _read_factor)


@dataclass(frozen=True, slots=True)
class Scale(Op):
    """Every number times `by`, computed in float32 (float64 for what is that) and rounded once."""

    name: ClassVar[str] = "scale"
    example: ClassVar[Example] = Example(
        '{from: "q.weight", to: "q.weight", op: {scale: 0.125}}', {"q.weight": (4, 6)}, {"q.weight": (4, 6)}
    )
    by: float = field(metadata=argument(_FACTOR, "the factor: finite, and not 0"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's. Refuses numbers that are not floating-point or complex, and factors out of their range."""
        spec = only(self, inputs)
        if spec.dtype.name not in ("complex64", "complex128"):
            need_float(self, spec)
        kind = _computed_in(spec)
        if not _SMALLEST[kind] <= abs(self.by) <= LARGEST[kind]:
            raise OpError(f"{self.describe()}: the factor is out of the range of {kind}", hint="cast to float64 first")
        return ((spec.shape, spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The products. Refuses a finite number that would become infinite."""
        import torch

        (tensor,) = inputs
        if tensor.is_complex():
            parts = torch.view_as_real(tensor.resolve_conj().contiguous())
            return (torch.view_as_complex(narrowed(self, wide(parts) * self.by, (parts,), by_element=True)),)
        return (narrowed(self, wide(tensor) * self.by, (tensor,), by_element=True),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The scale by 1 / `by`, where `by` is 1, 2, 4, ... or the negative of one: then nothing is rounded.

        A product that overflows is refused by `apply`. A fraction such as 0.5 has no inverse: the last bits of the
        smallest numbers get lost.
        """
        spec = only(self, inputs)
        self.out_specs(inputs)
        exact = abs(frexp(self.by)[0]) == 0.5 and abs(self.by) >= 1
        if exact and 1 / abs(self.by) >= _SMALLEST[_computed_in(spec)]:
            return Scale(1 / self.by)
        return f"{self.describe()} is not exact for every number: products are rounded"

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the input."""
        self.out_specs(inputs)
        return new

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places."""
        return (wanted,) * len(inputs)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """The scale by 1 / `by`, and by its square for the second moments.

        The model divides by `by` what it is given multiplied, so a gradient for the new weight is 1 / `by` of the old.
        """
        factor = 1 / self.by if order == 1 else (1 / self.by) * (1 / self.by)
        return (Scale(factor),) if _SMALLEST["float32"] <= abs(factor) <= LARGEST["float32"] else None


def _computed_in(spec: TensorSpec) -> str:
    return "float64" if spec.dtype.name in ("float64", "complex128") else "float32"


@dataclass(frozen=True, slots=True)
class Mean(Op):
    """The mean of several tensors, element by element, computed in float64 and rounded once."""

    name: ClassVar[str] = "mean"
    fan_in: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "experts.{e:int}.weight", to: "mlp.weight", op: mean}',
        {"experts.0.weight": (4, 6), "experts.1.weight": (4, 6)},
        {"mlp.weight": (4, 6)},
    )

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The common shape and dtype. Refuses tensors that differ, and numbers that are not floating-point."""
        spec = alike(self, inputs)
        need_float(self, spec)
        return ((spec.shape, spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The mean."""
        total = inputs[0].double()
        for tensor in inputs[1:]:
            total = total + tensor.double()
        return (narrowed(self, total / len(inputs), inputs),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """None: the tensors cannot be told from their mean."""
        self.out_specs(inputs)
        return "several tensors cannot be told from their mean"

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places."""
        return (wanted,) * len(inputs)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: the mean has a gradient of its own."""
        return None
