"""`slice: {dim: 0, start: 0, stop: 8}`: some indices of a dimension, as Python writes them. The way back from copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import COUNT, WHOLE, OpError, argument
from ckptdoctor.ops.base import Example, Op, OutSpec, Run, only
from ckptdoctor.ops.boxes import Box, along, chosen
from ckptdoctor.ops.shapes import dimension, outer

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Slice(Op):
    """The indices of a dimension from `start` to before `stop`; negative ones count from the end."""

    name: ClassVar[str] = "slice"
    example: ClassVar[Example] = Example(
        '{from: "pos_embed", to: "pos_embed", op: {slice: {dim: 1, start: 1}}}',
        {"pos_embed": (1, 9, 4)},
        {"pos_embed": (1, 8, 4)},
    )
    dim: int = field(metadata=argument(WHOLE, "the dimension; -1 is the last"))
    start: int | None = field(default=None, metadata=argument(WHOLE, "the first index; left out: from the beginning"))
    stop: int | None = field(default=None, metadata=argument(WHOLE, "the first index not taken; left out: to the end"))
    step: int = field(default=1, metadata=argument(COUNT, "from one index to the next"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with fewer indices along `dim`. Refuses indices out of range, and to take none at all."""
        spec = only(self, inputs)
        dim, taken = self._taken(spec.shape)
        return (((*spec.shape[:dim], len(taken), *spec.shape[dim + 1 :]), spec.dtype),)

    def _taken(self, shape: tuple[int, ...]) -> tuple[int, range]:
        dim = dimension(self, self.dim, shape)
        size = shape[dim]
        for name, index in (("start", self.start), ("stop", self.stop)):
            if index is not None and not -size <= index <= size:
                message = f"{self.describe()}: {name} is out of range, dim {self.dim} has size {size:,}"
                raise OpError(message, hint=f"it goes from {-size} to {size}")
        taken = range(*slice(self.start, self.stop, self.step).indices(size))
        if size and not taken:
            raise OpError(f"{self.describe()} takes none of {size:,}", hint="let start stand before stop")
        return dim, taken

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The elements at these indices."""
        (tensor,) = inputs
        dim, _ = self._taken(tuple(tensor.shape))
        where = (*(slice(None),) * dim, slice(self.start, self.stop, self.step))
        return (tensor[where].contiguous(),)

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """One piece of the input, along the outermost dimension."""
        spec = only(self, inputs)
        inner = outer(self, self.dim, spec.shape)
        _, taken = self._taken(spec.shape)
        return None if inner is None or self.step != 1 else ((Run(0, taken.start * inner, taken.stop * inner),),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """None, but where all is taken."""
        spec = only(self, inputs)
        ((shape, _),) = self.out_specs(inputs)
        if shape == spec.shape:
            return self
        return f"{self.describe()} leaves out {spec.numel - prod(shape):,} of {spec.numel:,} elements"

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the input where all is taken; else as every op."""
        # The zero-argument super() does not work in a dataclass with slots before Python 3.14.
        return new if self.selected(only(self, inputs)) is None else Op.new_elements(self, inputs, new)

    def selected(self, spec: TensorSpec) -> tuple[int, range] | None:
        """The indices that are taken, if not all."""
        dim, taken = self._taken(spec.shape)
        return None if len(taken) == spec.shape[dim] else (dim, taken)

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those at the indices that are taken."""
        dim, taken = self._taken(only(self, inputs).shape)
        return (along(wanted, dim, chosen(wanted[dim], taken)),)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """The same indices: each element keeps its moments."""
        return (self,)
