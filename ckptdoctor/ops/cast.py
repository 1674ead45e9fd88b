"""`cast: {to: float16}`: another dtype. Rounding is what was asked for; losing a number altogether is an error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import DTYPES, DType, TensorSpec
from ckptdoctor.ops.arguments import ArgumentKind, OpError, argument
from ckptdoctor.ops.base import Example, Op, OutSpec, only
from ckptdoctor.ops.boxes import Box
from ckptdoctor.text import did_you_mean

if TYPE_CHECKING:
    import torch

# torch stores the types of less than a byte and does not convert to them, calls complex32 an experiment, and e8m0 has
# neither a sign nor a zero.
_STORED_ONLY = ("float4_", "float6_", "float8_e8m0", "complex32")
_CASTABLE = {name: dtype for name, dtype in DTYPES.items() if not name.startswith(_STORED_ONLY)}

_CHUNK = 2**20  # elements that are compared at once

# What a family of dtypes can become without its meaning getting lost: no fractions cut off, no imaginary part dropped.
_BECOMES = {
    "bool": {"bool", "integer", "float", "complex"},
    "integer": {"integer", "float", "complex"},
    "float": {"float", "complex"},
    "complex": {"complex"},
}

# Which floating-point types hold every value of another one. Complex types and integers follow from their sizes.
_HOLDS = {
    "float16": {"float32", "float64"},
    "bfloat16": {"float32", "float64"},
    "float32": {"float64"},
    "float8_e4m3fn": {"float16", "bfloat16", "float32", "float64"},
    "float8_e4m3fnuz": {"float16", "bfloat16", "float32", "float64"},
    "float8_e5m2": {"float16", "bfloat16", "float32", "float64"},
    "float8_e5m2fnuz": {"float16", "bfloat16", "float32", "float64"},
}


def _read_dtype(value: object) -> DType:
    if not isinstance(value, str):
        raise OpError("is not the name of a dtype", hint="write float32, bfloat16, ...")
    if value not in _CASTABLE:
        hint = did_you_mean(value.removeprefix("torch."), _CASTABLE) or "write float32, bfloat16, ..."
        raise OpError(f"is no dtype to cast to: {value}", hint=hint)
    return _CASTABLE[value]


_DTYPE = ArgumentKind({"enum": list(_CASTABLE)}, _read_dtype)


@dataclass(frozen=True, slots=True)
class Cast(Op):
    """The same numbers in another dtype, rounded to the nearest where it holds fewer."""

    name: ClassVar[str] = "cast"
    example: ClassVar[Example] = Example(
        '{from: "{*key}", to: "{*key}", op: {cast: bfloat16}}', {"head.weight": (4, 6)}, {"head.weight": (4, 6)}
    )
    to: DType = field(metadata=argument(_DTYPE, "the dtype to convert to"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The shape of the input. Refuses what would cut off fractions or an imaginary part."""
        spec = only(self, inputs)
        if self.to.family not in _BECOMES[spec.dtype.family] or spec.dtype.name not in _CASTABLE:
            raise OpError(f"{self.describe()} cannot keep the meaning of {spec.dtype} numbers")
        return ((spec.shape, self.to),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The input in `to`. Refuses a finite number that would become infinite, infinities where `to` has none, and integers
        out of its range."""
        import torch

        (tensor,) = inputs
        cast = tensor.contiguous().to(getattr(torch, self.to.name))
        if (lost := _lost(tensor, cast)) is not None:
            raise OpError(f"{self.describe()}: {lost}", hint="cast to a wider dtype")
        return (cast,)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The cast back, if `to` holds every number of the input's dtype."""
        before = only(self, inputs).dtype
        if _holds(self.to, before):
            return Cast(before)
        return f"{self.to} does not hold every {before} number"

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the input."""
        self.out_specs(inputs)
        return new

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those in the same places."""
        return (wanted,) * len(inputs)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """No op: moments keep their own dtype."""
        return ()

    def note(self, inputs: tuple[torch.Tensor, ...], outputs: tuple[torch.Tensor, ...]) -> str | None:
        """The largest rounding error, as far as float64 tells."""
        largest, relative = 0.0, 0.0
        before, after = inputs[0].reshape(-1), outputs[0].reshape(-1)
        for start in range(0, len(before), _CHUNK):
            here = _rounding(before[start : start + _CHUNK], after[start : start + _CHUNK])
            largest, relative = max(largest, here[0]), max(relative, here[1])
        return f"largest rounding error {_short(largest)} ({_short(relative)} relative)" if largest else None


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether each value of `narrow` is one of `wide`, and the way back is a cast too."""
    if wide == narrow:
        return True
    if wide.family != narrow.family:
        return False
    if narrow.family == "float":
        return wide.name in _HOLDS.get(narrow.name, ())
    return wide.bits > narrow.bits and not (narrow.name.startswith("int") and wide.name.startswith("uint"))


def _lost(before: torch.Tensor, after: torch.Tensor) -> str | None:
    """Which numbers were beyond the range of the new dtype: finite ones that overflow, infinite ones, integers that wrap."""
    import torch

    if not (after.dtype.is_floating_point or after.dtype.is_complex):
        return _out_of_range(before, after.dtype)
    numbers = torch.view_as_real(before) if before.dtype.is_complex else before
    largest = torch.finfo(after.dtype).max
    if _largest(numbers.dtype) <= largest and not _finite_only(after.dtype):
        return None
    # Most functions do not take the 8-bit floats, and the magnitude of the least integer is no integer of its type.
    numbers = numbers.double() if not numbers.dtype.is_floating_point or numbers.dtype.itemsize == 1 else numbers
    if bool(((numbers.abs() > largest) & numbers.isfinite()).any()):
        return f"some numbers are too large for {_name(after.dtype)}"
    if _finite_only(after.dtype) and bool(numbers.isinf().any()):
        return f"some numbers are infinite, and {_name(after.dtype)} has no infinity"
    return None


def _out_of_range(integers: torch.Tensor, dtype: torch.dtype) -> str | None:
    import torch

    if dtype == torch.bool or not integers.numel():
        return None
    unsigned = integers.dtype == torch.uint64  # torch does not compare these: with the first bit flipped they are int64
    numbers = integers.contiguous().view(torch.int64) ^ -(2**63) if unsigned else integers.to(torch.int64)
    least, largest = (int(each) + 2**63 * unsigned for each in numbers.aminmax())
    limits = torch.iinfo(dtype)
    if limits.min <= least and largest <= limits.max:
        return None
    return f"numbers from {least:,} to {largest:,} are not all in the range of {_name(dtype)}, {limits.min:,} to {limits.max:,}"


def _finite_only(dtype: torch.dtype) -> bool:
    """Whether a floating-point type has no infinity."""
    return "fn" in _name(dtype)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _largest(dtype: torch.dtype) -> float:
    import torch

    if dtype == torch.bool:
        return 1
    return torch.finfo(dtype).max if dtype.is_floating_point else torch.iinfo(dtype).max


def _rounding(before: torch.Tensor, after: torch.Tensor) -> tuple[float, float]:
    """The largest difference of finite numbers, and the largest in relation to the number before."""
    import torch

    if not before.numel():
        return 0.0, 0.0
    exact, rounded = (each.to(torch.complex128 if each.is_complex() else torch.float64) for each in (before, after))
    error = torch.where(exact.isfinite(), (exact - rounded).abs(), 0.0)
    relative = torch.where(error > 0, error / exact.abs(), 0.0)
    return float(error.max()), float(relative.max())


def _short(number: float) -> str:
    """Two digits: `1.2e-4`."""
    digits, _, exponent = f"{number:.1e}".partition("e")
    return f"{digits}e{int(exponent)}"
