"""`fill: 0`, `fill: mean`, `fill: {normal: {std: 0.02, seed: 0}}`: the values of elements that no checkpoint has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import ArgumentKind, OpError
from ckptdoctor.ops.base import Op
from ckptdoctor.ops.numbers import LARGEST, is_finite, narrowed, need_float, wide

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Fill:
    """A number, or the mean along the dimension (`number` is None), or normal noise (`std` is not None)."""

    number: float | None = None
    std: float | None = None
    seed: int = 0

    def judge(self, op: Op, spec: TensorSpec, dim: int) -> None:
        """Raises OpError where a tensor like `spec` cannot be filled so along `dim`."""
        if self.number is not None:
            if not _can_be(self.number, spec):
                hint = "fill: 0 goes into every dtype of numbers"
                raise OpError(f"{op.describe()}: {self.number} is no number of {spec.dtype}", hint=hint)
            return
        need_float(op, spec)
        if self.std is None and not spec.shape[dim]:
            raise OpError(
                f"{op.describe()}: there is nothing along dim {dim} to take the mean of", hint="write fill: 0"
            )

    def values(self, op: Op, tensor: torch.Tensor, dim: int, count: int) -> torch.Tensor:
        """A block like `tensor` with `count` indices along `dim`. Noise is the same for the same seed and shape."""
        import torch

        shape = [*tensor.shape[:dim], count, *tensor.shape[dim + 1 :]]
        if self.number is not None:
            whole = not (tensor.is_floating_point() or tensor.is_complex())
            return torch.full(shape, int(self.number) if whole else float(self.number), dtype=tensor.dtype)
        if self.std is None:
            return narrowed(op, wide(tensor.contiguous()).mean(dim, keepdim=True), (tensor,)).expand(shape)
        kind = torch.float64 if tensor.dtype == torch.float64 else torch.float32
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(self.seed), dtype=kind) * self.std
        return narrowed(op, noise, (tensor.new_zeros(()),))

    @property
    def of_all(self) -> bool:
        """Whether the values are made of all others: their mean."""
        return self.number is None and self.std is None

    def plain(self) -> object:
        """As a map writes it."""
        if self.std is not None:
            return {"normal": {"std": self.std, "seed": self.seed}}
        return "mean" if self.number is None else self.number


ZERO = Fill(0)
MEAN = Fill()


def _can_be(number: float, spec: TensorSpec) -> bool:
    """Whether a dtype has this number, or for floating-point types one near it."""
    dtype = spec.dtype
    if dtype.family == "bool":
        return number in (0, 1)
    if dtype.family == "integer":
        low, high = (
            (0, 2**dtype.bits) if dtype.name.startswith("u") else (-(2 ** (dtype.bits - 1)), 2 ** (dtype.bits - 1))
        )
        return number == int(number) and low <= number < high
    largest = {"complex64": LARGEST["float32"], "complex128": LARGEST["float64"], **LARGEST}.get(dtype.name)
    return largest is not None and abs(number) <= largest


def _read_fill(value: object) -> Fill:
    if value == "mean":
        return MEAN
    if is_finite(value):
        return Fill(value)
    if isinstance(value, Mapping) and set(value) == {"normal"}:
        return _read_normal(value["normal"])
    raise OpError("is no way to fill", hint="write 0, another number, mean, or {normal: {std: 0.02, seed: 0}}")


def _read_normal(value: object) -> Fill:
    hint = "write {normal: {std: 0.02, seed: 0}}"
    if not isinstance(value, Mapping) or set(value) != {"std", "seed"}:
        raise OpError("needs std and seed of the normal distribution, and nothing else", hint=hint, at=("normal",))
    std, seed = value["std"], value["seed"]
    if not is_finite(std) or std <= 0:
        raise OpError("needs a std above 0", hint=hint, at=("normal", "std"))
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise OpError("needs a seed that is a whole number from 0", hint=hint, at=("normal", "seed"))
    return Fill(std=float(std), seed=seed)


_NORMAL = {
    "type": "object",
    "properties": {
        "std": {"type": "number", "exclusiveMinimum": 0, "description": "the standard deviation"},
        "seed": {"type": "integer", "minimum": 0, "description": "the seed of the generator"},
    },
    "required": ["std", "seed"],
    "additionalProperties": False,
    "description": "noise around 0",
}
FILL = ArgumentKind(
    {
        "anyOf": [
            {"type": "number"},
            {"const": "mean"},
            {
                "type": "object",
                "properties": {"normal": _NORMAL},
                "required": ["normal"],
                "additionalProperties": False,
            },
        ]
    },
    _read_fill,
    Fill.plain,
)
