"""Ops that copy: `repeat` along a dimension, `broadcast` one tensor to several keys, and `same`, its way back."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import COUNT, FLAG, WHOLE, OpError, argument
from ckptdoctor.ops.base import Example, Op, OutSpec, Run, only
from ckptdoctor.ops.boxes import Box
from ckptdoctor.ops.numbers import as_bytes
from ckptdoctor.ops.shapes import alike, as_many, countable, dimension, outer
from ckptdoctor.ops.slicing import Slice

if TYPE_CHECKING:
    from typing import Literal

    import torch


@dataclass(frozen=True, slots=True)
class Repeat(Op):
    """Copies along a dimension: the whole again and again, or each index several times (`interleave: true`)."""

    name: ClassVar[str] = "repeat"
    example: ClassVar[Example] = Example(
        '{from: "k_proj.weight", to: "k_proj.weight", op: {repeat: {dim: 0, times: 4}}}',
        {"k_proj.weight": (2, 6)},
        {"k_proj.weight": (8, 6)},
    )
    dim: int = field(metadata=argument(WHOLE, "the dimension; -1 is the last"))
    times: int = field(metadata=argument(COUNT, "how often each element stands in the output"))
    interleave: bool = field(default=False, metadata=argument(FLAG, "whether copies stand side by side: a a b b"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape, `times` as large along `dim`."""
        spec = only(self, inputs)
        dim = dimension(self, self.dim, spec.shape)
        return (((*spec.shape[:dim], spec.shape[dim] * self.times, *spec.shape[dim + 1 :]), spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The copies: `torch.repeat_interleave`, or `Tensor.repeat` along one dimension."""
        (tensor,) = inputs
        dim = self.dim % tensor.dim()
        # As a view that says the same index `times` times: it copies any dtype.
        place = dim + 1 if self.interleave else dim
        shape = list(tensor.shape)
        shape[dim] *= self.times
        copies = tensor.unsqueeze(place)
        return (
            copies.expand(*copies.shape[:place], self.times, *copies.shape[place + 1 :]).reshape(shape).contiguous(),
        )

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """The input so many times, along the outermost dimension."""
        spec = only(self, inputs)
        if self.interleave or outer(self, self.dim, spec.shape) is None:
            return None
        return ((Run(0, 0, spec.numel),) * self.times,)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The slice with the first copy of each element."""
        self.out_specs(inputs)
        if self.interleave:
            return Slice(self.dim, step=self.times)
        return Slice(self.dim, 0, only(self, inputs).shape[self.dim])

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """The copies of those of the input."""
        self.out_specs(inputs)
        return (new[0] * self.times,)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: the copies share one gradient, and nothing says in which parts."""
        return None


@dataclass(frozen=True, slots=True)
class Broadcast(Op):
    """One tensor to several keys, a copy to each. There are as many copies as the rule has targets."""

    name: ClassVar[str] = "broadcast"
    fan_out: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "mlp.weight", to: "experts.{0,1}.weight", op: broadcast}',
        {"mlp.weight": (4, 6)},
        {"experts.0.weight": (4, 6), "experts.1.weight": (4, 6)},
    )
    copies: int | None = field(default=None, metadata=argument(COUNT, "how many; left out: one for each target"))

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """With as many copies as there are targets."""
        return as_many(replace(self, copies=self.copies or len(targets) or None), inputs, targets)

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape for each copy."""
        spec = only(self, inputs)
        if self.copies is None:
            raise OpError(f"{self.describe()}: how many copies is not known here", hint="write {broadcast: 2}")
        countable(self, self.copies)
        return ((spec.shape, spec.dtype),) * self.copies

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The copies; no two share memory."""
        tensor = inputs[0].contiguous()
        return (tensor, *(tensor.clone() for _ in range((self.copies or 1) - 1)))

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """The input, for each copy."""
        return ((Run(0, 0, only(self, inputs).numel),),) * len(self.out_specs(inputs))

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """`same`, which refuses copies that have become different."""
        self.out_specs(inputs)
        return Same()

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the input, for each copy."""
        return new * len(self.out_specs(inputs))

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places."""
        return (wanted,) * len(inputs)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: the copies share one gradient, and nothing says in which parts."""
        return None


@dataclass(frozen=True, slots=True)
class Same(Op):
    """Several tensors that are equal bit for bit become one; anything else is an error."""

    name: ClassVar[str] = "same"
    fan_in: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "experts.{0,1}.weight", to: "mlp.weight", op: same}',
        {"experts.0.weight": (4, 6), "experts.1.weight": (4, 6)},
        {"mlp.weight": (4, 6)},
    )

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The common shape. Refuses tensors that differ in shape or dtype."""
        spec = alike(self, inputs)
        return ((spec.shape, spec.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The first. Refuses others that differ from it."""
        import torch

        first = inputs[0].contiguous()
        if not all(torch.equal(as_bytes(first), as_bytes(each)) for each in inputs[1:]):
            hint = "take one of them by its key, or their mean"
            raise OpError(f"{self.describe()}: the tensors are not equal", hint=hint)
        return (first,)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The broadcast to as many."""
        self.out_specs(inputs)
        return Broadcast(len(inputs))

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places."""
        return (wanted,) * len(inputs)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: equal weights have moments of their own."""
        return None
