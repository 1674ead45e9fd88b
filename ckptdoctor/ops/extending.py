"""Ops that make a tensor longer: `pad` along any dimension, `resize_vocab` for the rows of an embedding or a head."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import FLAG, LIKE, SIZE, WHOLE, OpError, argument, word
from ckptdoctor.ops.base import Example, Op, OutSpec, only
from ckptdoctor.ops.boxes import Box, along, between
from ckptdoctor.ops.filling import FILL, ZERO, Fill
from ckptdoctor.ops.shapes import dimension, target_size
from ckptdoctor.ops.slicing import Slice
from ckptdoctor.text import shape_text

if TYPE_CHECKING:
    import torch


def _padded(op: Op, tensor: torch.Tensor, dim: int, to: int, fill: Fill, at: str) -> torch.Tensor:
    """The tensor with new elements at the end or the start of `dim`."""
    import torch

    if to == tensor.shape[dim]:
        return tensor.contiguous()
    block = fill.values(op, tensor, dim, to - tensor.shape[dim])
    return torch.cat([tensor, block] if at == "end" else [block, tensor], dim).contiguous()


def _one_target(targets: tuple[TensorSpec | None, ...]) -> TensorSpec | None:
    return targets[0] if targets else None


@dataclass(frozen=True, slots=True)
class Pad(Op):
    """New elements before or after the others along a dimension, up to a size. They count as random."""

    name: ClassVar[str] = "pad"
    one_of: ClassVar[tuple[str, ...]] = ("to", "like")
    example: ClassVar[Example] = Example(
        '{from: "var_embed", to: "var_embed", op: {pad: {dim: 1, to: 8, fill: mean}}}',
        {"var_embed": (1, 6, 4)},
        {"var_embed": (1, 8, 4)},
    )
    dim: int = field(metadata=argument(WHOLE, "the dimension; -1 is the last"))
    fill: Fill = field(metadata=argument(FILL, "the new values: a number, mean, or {normal: {std: 0.02, seed: 0}}"))
    to: int | None = field(default=None, metadata=argument(SIZE, "the size that it gets"))
    like: str | None = field(default=None, metadata=argument(LIKE, "target: the size that the target's tensor has"))
    at: str = field(default="end", metadata=argument(word("end", "start"), "where the new elements stand"))

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """With `like: target`, the target's size."""
        if self.like is None:
            return self
        return replace(self, like=None, to=target_size(self, self.dim, _one_target(targets)))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with `to` along `dim`. Refuses a size below the input's, and values the dtype has not."""
        spec = only(self, inputs)
        dim = dimension(self, self.dim, spec.shape)
        size = target_size(self, self.dim, None) if self.to is None else self.to
        if size < spec.shape[dim]:
            message = (
                f"{self.describe()}: {shape_text(spec.shape)} has {spec.shape[dim]:,} along dim {self.dim} already"
            )
            raise OpError(message, hint="make it smaller with slice")
        if size > spec.shape[dim]:
            self.fill.judge(self, spec, dim)
        return (((*spec.shape[:dim], size, *spec.shape[dim + 1 :]), spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The input with the new elements."""
        (tensor,) = inputs
        return (_padded(self, tensor, self.dim % tensor.dim(), self.to or 0, self.fill, self.at),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The slice without the new elements."""
        ((shape, _),) = self.out_specs(inputs)
        size = only(self, inputs).shape[self.dim]
        if shape[self.dim] and not size:
            return f"{self.describe()} makes all elements anew"
        start = shape[self.dim] - size if self.at == "start" else 0
        return Slice(self.dim, start, start + size)

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those that are added, and those of the input."""
        ((shape, _),) = self.out_specs(inputs)
        return (new[0] + prod(shape) - inputs[0].numel,)

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those that were there; all of them where new ones are their mean."""
        dim, size = self.dim % len(wanted), only(self, inputs).shape[self.dim]
        if self.fill.of_all and self.to != size:
            return (along(wanted, dim, range(size)),)
        start = (self.to or 0) - size if self.at == "start" else 0
        return (along(wanted, dim, between(wanted[dim], start, start + size)),)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """The same with zeros: new elements have no history."""
        return (replace(self, fill=ZERO),)


@dataclass(frozen=True, slots=True)
class ResizeVocab(Op):
    """Another number of rows (dimension 0), for the embedding and the head of another vocabulary."""

    name: ClassVar[str] = "resize_vocab"
    one_of: ClassVar[tuple[str, ...]] = ("to", "like")
    example: ClassVar[Example] = Example(
        '{from: "embed.weight", to: "embed.weight", op: {resize_vocab: {to: 12, fill: mean}}}',
        {"embed.weight": (10, 4)},
        {"embed.weight": (12, 4)},
    )
    to: int | None = field(default=None, metadata=argument(SIZE, "the number of rows that it gets"))
    like: str | None = field(default=None, metadata=argument(LIKE, "target: the number that the target's tensor has"))
    fill: Fill | None = field(
        default=None, metadata=argument(FILL, "the new rows: a number, mean, or {normal: {std: 0.02, seed: 0}}")
    )
    shrink: bool = field(default=False, metadata=argument(FLAG, "whether the last rows may be left out"))

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """With `like: target`, the target's number of rows."""
        if self.like is None:
            return self
        return replace(self, like=None, to=target_size(self, 0, _one_target(targets)))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with `to` rows. Refuses to leave out rows without `shrink`, and to add some without `fill`."""
        way = self._way(only(self, inputs))
        if isinstance(way, Pad) and self.fill is not None and way.to != inputs[0].shape[0]:
            self.fill.judge(self, inputs[0], 0)
        return way.out_specs(inputs)

    def _way(self, spec: TensorSpec) -> Pad | Slice:
        """The op that does it."""
        rows = spec.shape[dimension(self, 0, spec.shape)]
        to = target_size(self, 0, None) if self.to is None else self.to
        if to < rows and (not self.shrink or not to):
            hint = "write shrink: true if they may go" if to else "one row must remain"
            raise OpError(f"{self.describe()} would leave out {rows - to:,} of {rows:,} rows", hint=hint)
        if to > rows and self.fill is None:
            hint = "say of what: fill: mean, fill: 0 or fill: {normal: {std: 0.02, seed: 0}}"
            raise OpError(f"{self.describe()} needs {to - rows:,} new rows", hint=hint)
        return Slice(0, 0, to) if to < rows else Pad(0, self.fill or ZERO, to)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The rows that stay, and the new ones after them."""
        (tensor,) = inputs
        to = self.to or 0
        if to < len(tensor):
            return Slice(0, 0, to).apply(inputs)
        return (_padded(self, tensor, 0, to, self.fill or ZERO, "end"),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The slice without the new rows; none where rows were left out."""
        return self._way(only(self, inputs)).inverse(inputs)

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the new rows, and those of the input."""
        return self._way(only(self, inputs)).new_elements(inputs, new)

    def selected(self, spec: TensorSpec) -> tuple[int, range] | None:
        """The rows that stay, if some do not."""
        way = self._way(spec)
        return way.selected(spec) if isinstance(way, Slice) else None

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """The rows that stay."""
        return self._way(only(self, inputs)).read(inputs, output, wanted)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """The same with zeros: new rows have no history."""
        return (replace(self, fill=ZERO),)
