"""Ops that move elements and change none: `transpose: [0, 1]`, `permute: [2, 0, 1]`, `reshape: {shape: [4, -1]}`."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import INTEGER, ArgumentKind, OpError, argument, read_integers
from ckptdoctor.ops.base import Example, Op, OutSpec, Run, only
from ckptdoctor.ops.boxes import Box
from ckptdoctor.ops.shapes import dimension
from ckptdoctor.text import plural, shape_text

if TYPE_CHECKING:
    import torch


def _read_dims(value: object) -> tuple[int, ...]:
    dims = read_integers(value)
    if len(dims) != 2 or dims[0] == dims[1]:
        raise OpError("is not two different dimensions", hint="write [0, 1]")
    return dims


def _read_order(value: object) -> tuple[int, ...]:
    dims = read_integers(value)
    if len(set(dims)) != len(dims):
        raise OpError("names a dimension twice", hint="write every dimension once, such as [2, 0, 1]")
    return dims


def _read_shape(value: object) -> tuple[int, ...]:
    shape = read_integers(value)
    if min(shape, default=0) < -1 or shape.count(-1) > 1:
        raise OpError("is not a shape", hint="sizes are not negative; one may be -1: whatever remains")
    return shape


_DIMS = ArgumentKind({"type": "array", "items": INTEGER, "minItems": 2, "maxItems": 2}, _read_dims)
_ORDER = ArgumentKind({"type": "array", "items": INTEGER, "uniqueItems": True}, _read_order)
_SHAPE = ArgumentKind({"type": "array", "items": {**INTEGER, "minimum": -1}}, _read_shape)


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

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places, before."""
        box, (first, second) = list(wanted), self.dims
        box[first], box[second] = box[second], box[first]
        return (tuple(box),)


@dataclass(frozen=True, slots=True)
class Permute(Op):
    """All dimensions in a new order; negative ones count from the end."""

    name: ClassVar[str] = "permute"
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "conv.weight", to: "conv.weight", op: {permute: [3, 2, 0, 1]}}',
        {"conv.weight": (2, 2, 3, 8)},
        {"conv.weight": (8, 3, 2, 2)},
    )
    dims: tuple[int, ...] = field(metadata=argument(_ORDER, "which dimension of the input comes first, second, ..."))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's sizes in the new order. Refuses what is no order of all its dimensions."""
        spec = only(self, inputs)
        rank = len(spec.shape)
        dims = [dimension(self, dim, spec.shape) for dim in self.dims]
        if sorted(dims) != list(range(rank)):
            message = f"{self.describe()} is no order of the {plural(rank, 'dimension')} of {shape_text(spec.shape)}"
            raise OpError(message, hint="write every dimension once, such as [2, 0, 1]")
        return ((tuple(spec.shape[dim] for dim in dims), spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The permuted tensor, laid out anew."""
        (tensor,) = inputs
        return (tensor.permute(self.dims).contiguous(),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The permutation back."""
        self.out_specs(inputs)
        dims = [dim % len(self.dims) for dim in self.dims]
        return Permute(tuple(dims.index(dim) for dim in range(len(dims))))

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places, before."""
        dims = [dim % len(self.dims) for dim in self.dims]
        return (tuple(wanted[dims.index(dim)] for dim in range(len(dims))),)


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

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """The input."""
        return ((Run(0, 0, only(self, inputs).numel),),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The reshape to the input's shape."""
        return Reshape(only(self, inputs).shape)
