"""Ops that move elements and change none: `transpose: [0, 1]`, `reshape: {shape: [4, -1]}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.base import ArgumentKind, Example, Op, OpError, OutSpec, argument, only, read_integers
from ckptdoctor.text import shape_text

if TYPE_CHECKING:
    import torch


def _read_dims(value: object) -> tuple[int, ...]:
    dims = read_integers(value)
    if len(dims) != 2 or dims[0] == dims[1]:
        raise OpError("is not two different dimensions", hint="write [0, 1]")
    return dims


def _read_shape(value: object) -> tuple[int, ...]:
    shape = read_integers(value)
    if min(shape, default=0) < -1 or shape.count(-1) > 1:
        raise OpError("is not a shape", hint="sizes are not negative; one may be -1: whatever remains")
    return shape


_INTEGER = {"type": "integer"}
_DIMS = ArgumentKind({"type": "array", "items": _INTEGER, "minItems": 2, "maxItems": 2}, _read_dims)
_SHAPE = ArgumentKind({"type": "array", "items": {**_INTEGER, "minimum": -1}}, _read_shape)


@dataclass(frozen=True, slots=True)
class Transpose(Op):
    """Two dimensions change places; negative ones count from the end."""

    name: ClassVar[str] = "transpose"
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "proj.weight", to: "proj.weight", op: {transpose: [0, 1]}}',
        {"proj.weight": (4, 6)},
        {"proj.weight": (6, 4)},
    )
    dims: tuple[int, int] = field(metadata=argument(_DIMS, "the two dimensions that change places"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with two sizes exchanged. Refuses dimensions that it does not have."""
        spec = only(self, inputs)
        rank = len(spec.shape)
        if not all(-rank <= dim < rank for dim in self.dims):
            raise OpError(f"{self.describe()} needs dimensions that {shape_text(spec.shape)} does not have")
        if self.dims[0] % rank == self.dims[1] % rank:
            raise OpError(f"{self.describe()} names one dimension of {shape_text(spec.shape)} twice")
        shape = list(spec.shape)
        first, second = self.dims
        shape[first], shape[second] = shape[second], shape[first]
        return ((tuple(shape), spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The transposed tensor, laid out anew."""
        (tensor,) = inputs
        return (tensor.transpose(*self.dims).contiguous(),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The same transposition."""
        only(self, inputs)
        return self


@dataclass(frozen=True, slots=True)
class Reshape(Op):
    """The same elements in the same (row-major) order under another shape."""

    name: ClassVar[str] = "reshape"
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "patch.weight", to: "patch.weight", op: {reshape: [8, -1]}}',
        {"patch.weight": (8, 3, 2, 2)},
        {"patch.weight": (8, 12)},
    )
    shape: tuple[int, ...] = field(metadata=argument(_SHAPE, "the new sizes; one may be -1: whatever remains"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """`shape`, with the -1 worked out. Refuses sizes that do not add up."""
        spec = only(self, inputs)
        given = prod(size for size in self.shape if size != -1)
        shape = self.shape
        if -1 in shape and given and spec.numel % given == 0:
            shape = tuple(spec.numel // given if size == -1 else size for size in shape)
        if -1 in shape or prod(shape) != spec.numel:
            raise OpError(f"{self.describe()} does not fit the {spec.numel:,} elements of {shape_text(spec.shape)}")
        return ((shape, spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The same elements under another shape."""
        (tensor,) = inputs
        return (tensor.contiguous().reshape(self.shape),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The reshape to the input's shape."""
        return Reshape(only(self, inputs).shape)
