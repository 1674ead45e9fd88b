"""Ops between several tensors and one: `concat` and `split` along a dimension, `stack` and `unstack` along a new one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from math import prod
from typing import TYPE_CHECKING, ClassVar

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import (
    COUNT,
    INTEGER,
    LIKE,
    WHOLE,
    ArgumentKind,
    OpError,
    argument,
    read_integers,
)
from ckptdoctor.ops.base import Example, Op, OutSpec, Run, only
from ckptdoctor.ops.boxes import Box, along, between, moved
from ckptdoctor.ops.shapes import alike, as_many, countable, dimension, outer, target_size
from ckptdoctor.text import shape_text

if TYPE_CHECKING:
    import torch


def _read_sizes(value: object) -> tuple[int, ...]:
    sizes = read_integers(value)
    if not sizes or min(sizes) < 0:
        raise OpError("is not a list of sizes", hint="write one size for each output, such as [768, 768, 768]")
    return sizes


_SIZES = ArgumentKind({"type": "array", "items": {**INTEGER, "minimum": 0}, "minItems": 1}, _read_sizes)


@dataclass(frozen=True, slots=True)
class Concat(Op):
    """Several tensors one after the other along a dimension: q, k and v as qkv."""

    name: ClassVar[str] = "concat"
    fan_in: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "attn.{q,k,v}.weight", to: "attn.qkv.weight", op: {concat: {dim: 0}}}',
        {"attn.q.weight": (4, 4), "attn.k.weight": (2, 4), "attn.v.weight": (2, 4)},
        {"attn.qkv.weight": (8, 4)},
    )
    dim: int = field(default=0, metadata=argument(WHOLE, "the dimension whose sizes add up; -1 is the last"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The sizes along `dim` added up. Refuses tensors that differ elsewhere, or in dtype."""
        shape = list(alike(self, inputs, but=self.dim).shape)
        shape[self.dim] = sum(spec.shape[self.dim] for spec in inputs)
        return ((tuple(shape), inputs[0].dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The tensors joined."""
        import torch

        joined = torch.cat([_plain(tensor) for tensor in inputs], self.dim)
        return (joined.contiguous().view(inputs[0].dtype),)

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """One input after the other, along the outermost dimension."""
        if outer(self, self.dim, inputs[0].shape) is None:
            return None
        return (tuple(Run(number, 0, spec.numel) for number, spec in enumerate(inputs)),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The split into the sizes of the inputs."""
        alike(self, inputs, but=self.dim)
        return Split(self.dim, tuple(spec.shape[self.dim] for spec in inputs))

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Each input's part of them."""
        dim, ends = self.dim % len(wanted), [*accumulate((spec.shape[self.dim] for spec in inputs), initial=0)]
        return tuple(along(wanted, dim, between(wanted[dim], *pair)) for pair in pairwise(ends))


@dataclass(frozen=True, slots=True)
class Split(Op):
    """One tensor cut into several along a dimension: qkv as q, k and v. The sizes must add up."""

    name: ClassVar[str] = "split"
    fan_out: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    one_of: ClassVar[tuple[str, ...]] = ("sizes", "like", "parts")
    example: ClassVar[Example] = Example(
        '{from: "attn.qkv.weight", to: "attn.{q,k,v}.weight", op: {split: {dim: 0, sizes: [4, 2, 2]}}}',
        {"attn.qkv.weight": (8, 4)},
        {"attn.q.weight": (4, 4), "attn.k.weight": (2, 4), "attn.v.weight": (2, 4)},
    )
    dim: int = field(default=0, metadata=argument(WHOLE, "the dimension that is cut; -1 is the last"))
    sizes: tuple[int, ...] | None = field(default=None, metadata=argument(_SIZES, "the size of each output along dim"))
    like: str | None = field(default=None, metadata=argument(LIKE, "target: the sizes that the target's tensors have"))
    parts: int | None = field(default=None, metadata=argument(COUNT, "how many outputs of equal size"))

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """With `like: target`, the sizes of the targets."""
        op = self
        if self.like is not None:
            sizes = tuple(target_size(self, self.dim, each) for each in targets or (None,))
            op = replace(self, like=None, sizes=sizes)
        return as_many(op, inputs, targets)

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with each size along `dim`. Refuses sizes that do not add up, or parts that leave a rest."""
        spec = only(self, inputs)
        dim = dimension(self, self.dim, spec.shape)
        return tuple(
            ((*spec.shape[:dim], size, *spec.shape[dim + 1 :]), spec.dtype) for size in self._sizes(spec.shape[dim])
        )

    def _sizes(self, size: int) -> tuple[int, ...]:
        if self.parts is not None:
            countable(self, self.parts)
            if size % self.parts:
                raise OpError(
                    f"{self.describe()}: {size:,} along dim {self.dim} do not divide by {self.parts}",
                    hint="write the sizes: sizes: [..]",
                )
            return (size // self.parts,) * self.parts
        if self.sizes is None:
            target_size(self, self.dim, None)
        sizes = self.sizes or ()
        if sum(sizes) != size:
            raise OpError(
                f"{self.describe()}: the sizes add up to {sum(sizes):,}, and dim {self.dim} has {size:,}",
                hint="every element needs a place; leave some out with slice",
            )
        return sizes

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The pieces, in order."""
        import torch

        (tensor,) = inputs
        sizes = self._sizes(tensor.shape[self.dim])
        return tuple(each.contiguous() for each in torch.split_with_sizes(tensor, sizes, self.dim))

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """A piece of the input each, along the outermost dimension."""
        spec = only(self, inputs)
        inner = outer(self, self.dim, spec.shape)
        if inner is None:
            return None
        ends = list(accumulate(self._sizes(spec.shape[self.dim])))
        return tuple((Run(0, begin * inner, end * inner),) for begin, end in pairwise([0, *ends]))

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The concatenation."""
        self.out_specs(inputs)
        return Concat(self.dim)

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those of the piece."""
        shape = only(self, inputs).shape
        dim, start = self.dim % len(wanted), sum(self._sizes(shape[self.dim])[:output])
        return (along(wanted, dim, moved(wanted[dim], start)),)


@dataclass(frozen=True, slots=True)
class Stack(Op):
    """Several tensors of one shape along a new dimension: the weights of all experts in one."""

    name: ClassVar[str] = "stack"
    fan_in: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "experts.{e:int}.weight", to: "experts.weight", op: {stack: {dim: 0}}}',
        {"experts.0.weight": (4, 6), "experts.1.weight": (4, 6)},
        {"experts.weight": (2, 4, 6)},
    )
    dim: int = field(
        default=0, metadata=argument(WHOLE, "where the new dimension stands in the output; -1 is the last")
    )

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The common shape with the number of tensors at `dim`. Refuses tensors that differ in shape or dtype."""
        spec = alike(self, inputs)
        dim = dimension(self, self.dim, spec.shape, more=1)
        return (((*spec.shape[:dim], len(inputs), *spec.shape[dim:]), spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The tensors stacked."""
        import torch

        stacked = torch.stack([_plain(tensor) for tensor in inputs], self.dim)
        return (stacked.contiguous().view(inputs[0].dtype),)

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """One input after the other, where the new dimension is the outermost one."""
        shape = inputs[0].shape
        if prod(shape[: dimension(self, self.dim, shape, more=1)]) != 1:
            return None
        return (tuple(Run(number, 0, spec.numel) for number, spec in enumerate(inputs)),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The tensors apart again."""
        self.out_specs(inputs)
        return Unstack(self.dim)

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places, of each input that is among them."""
        dim = self.dim % len(wanted)
        rest = (*wanted[:dim], *wanted[dim + 1 :])
        none = along(rest, 0, range(0)) if rest else None
        return tuple(rest if number in wanted[dim] else none for number in range(len(inputs)))


@dataclass(frozen=True, slots=True)
class Unstack(Op):
    """One tensor for each index of a dimension, which goes away: the weights of each expert."""

    name: ClassVar[str] = "unstack"
    fan_out: ClassVar[bool] = True
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "experts.weight", to: "experts.{0,1}.weight", op: {unstack: {dim: 0}}}',
        {"experts.weight": (2, 4, 6)},
        {"experts.0.weight": (4, 6), "experts.1.weight": (4, 6)},
    )
    dim: int = field(default=0, metadata=argument(WHOLE, "the dimension that goes away; -1 is the last"))

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """Unchanged; refuses another number of targets than there are tensors."""
        return as_many(self, inputs, targets)

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape without `dim`, once for each of its indices. Refuses a dimension of size 0."""
        spec = only(self, inputs)
        dim = dimension(self, self.dim, spec.shape)
        if not spec.shape[dim]:
            raise OpError(f"{self.describe()}: {shape_text(spec.shape)} has nothing along dim {self.dim}")
        countable(self, spec.shape[dim])
        return (((*spec.shape[:dim], *spec.shape[dim + 1 :]), spec.dtype),) * spec.shape[dim]

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The tensors, in order."""
        (tensor,) = inputs
        return tuple(each.contiguous() for each in tensor.unbind(self.dim))

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """A piece of the input each, along the outermost dimension."""
        spec = only(self, inputs)
        inner = outer(self, self.dim, spec.shape)
        if inner is None:
            return None
        return tuple((Run(0, at * inner, (at + 1) * inner),) for at in range(spec.shape[self.dim]))

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The stack."""
        self.out_specs(inputs)
        return Stack(self.dim)

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those at one index."""
        dim = self.dim % (len(wanted) + 1)
        return ((*wanted[:dim], range(output, output + 1), *wanted[dim:]),)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as bytes, if it is of a type that torch stores and does not join."""
    import torch

    return tensor.view(torch.uint8) if "float4" in str(tensor.dtype) else tensor
