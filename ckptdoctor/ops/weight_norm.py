"""Weight normalisation: `weight_norm` makes a weight of its magnitude g and direction v, `weight_norm_parts` the reverse.

Salimans and Kingma 2016 (arXiv:1602.07868), equation 2: w = g * v / ||v||, with the norm over all dimensions but one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import WHOLE, OpError, argument
from ckptdoctor.ops.base import Example, Op, OutSpec, dimension, only
from ckptdoctor.ops.numbers import narrowed
from ckptdoctor.text import plural, shape_text

if TYPE_CHECKING:
    import torch

_FLOATS = ("float64", "float32", "float16", "bfloat16")
_ABOUT_DIM = "the dimension that g keeps (0 in torch.nn.utils.weight_norm); -1 is the last"


def _magnitudes(op: Op, dim: int, spec: TensorSpec) -> tuple[int, ...]:
    """The shape of g for a weight. Raises OpError for one that cannot be normalised."""
    kept = dimension(op, dim, spec.shape)
    if spec.dtype.name not in _FLOATS or not spec.numel:
        message = f"{op.describe()} cannot normalise {shape_text(spec.shape)} of {spec.dtype}"
        raise OpError(message, hint="it takes float64, float32, float16 or bfloat16")
    return tuple(size if place == kept else 1 for place, size in enumerate(spec.shape))


@dataclass(frozen=True, slots=True)
class WeightNorm(Op):
    """The weight w = g * v / ||v|| that `torch.nn.utils.weight_norm` computes of g and v, bit for bit."""

    name: ClassVar[str] = "weight_norm"
    input_names: ClassVar[tuple[str, ...]] = ("g", "v")
    example: ClassVar[Example] = Example(
        '{from: {g: "conv.weight_g", v: "conv.weight_v"}, to: "conv.weight", op: weight_norm}',
        {"conv.weight_g": (8, 1, 1), "conv.weight_v": (8, 4, 3)},
        {"conv.weight": (8, 4, 3)},
    )
    dim: int = field(default=0, metadata=argument(WHOLE, _ABOUT_DIM))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The shape of v. Refuses a g that has not one number for each index of `dim`, or another dtype."""
        if len(inputs) != 2:
            raise OpError(f"{self.describe()} takes g and v, not {plural(len(inputs), 'tensor')}")
        g, v = inputs
        shape = _magnitudes(self, self.dim, v)
        if g.shape != shape:
            message = f"{self.describe()}: g is {shape_text(g.shape)}, and v wants {shape_text(shape)}"
            raise OpError(message, hint="set dim to the dimension that g keeps, or exchange g and v")
        if g.dtype != v.dtype:
            raise OpError(f"{self.describe()}: g is {g.dtype} and v is {v.dtype}", hint="they must be of one dtype")
        return ((v.shape, v.dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The weight. Refuses a direction of zeros only, which has no norm to divide by."""
        import torch

        g, v = (tensor.contiguous() for tensor in inputs)
        return (narrowed(self, torch._weight_norm(v, g, self.dim % v.dim()), (v, g)),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """None: many g and v make the same weight."""
        self.out_specs(inputs)
        return f"{self.describe()} rounds, and other g and v make the same weight; weight_norm_parts makes some that do"

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: gradients of a weight are not those of its parts."""
        return None


@dataclass(frozen=True, slots=True)
class WeightNormParts(Op):
    """The two parts of a weight that `torch.nn.utils.weight_norm` begins with: first g = ||w||, then v = w."""

    name: ClassVar[str] = "weight_norm_parts"
    fan_out: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "conv.weight", to: "conv.{weight_g,weight_v}", op: weight_norm_parts}',
        {"conv.weight": (8, 4, 3)},
        {"conv.weight_g": (8, 1, 1), "conv.weight_v": (8, 4, 3)},
    )
    dim: int = field(default=0, metadata=argument(WHOLE, _ABOUT_DIM))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """One number for each index of `dim`, and the input's shape."""
        spec = only(self, inputs)
        return ((_magnitudes(self, self.dim, spec), spec.dtype), (spec.shape, spec.dtype))

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The parts. Refuses a part of zeros only, which has no direction: its weight would be no number."""
        import torch

        (tensor,) = inputs
        weight = tensor.contiguous()
        norm = narrowed(self, torch.norm_except_dim(weight, 2, self.dim % weight.dim()), (weight,))
        if bool((norm == 0).any()):
            message = f"{self.describe()}: the norm of some indices of dim {self.dim} is 0"
            raise OpError(message, hint="weight normalisation divides by it")
        return (norm, weight)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """None: g * v / ||v|| is rounded."""
        self.out_specs(inputs)
        return f"{self.describe()}: g * v / ||v|| is rounded; weight_norm comes near the weight, not to its bits"

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: gradients of the parts are not those of a weight."""
        return None
