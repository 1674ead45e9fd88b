"""What ops ask of shapes: a dimension there is, several tensors that agree, the size that a target has."""

from __future__ import annotations

from math import prod

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import OpError
from ckptdoctor.ops.base import Op
from ckptdoctor.text import plural, printable, shape_text

_MOST = 10**6


def outer(op: Op, dim: int, shape: tuple[int, ...]) -> int | None:
    """The elements behind one index of a dimension, if it is the outermost one (but for some of size 1); else None."""
    at = dimension(op, dim, shape)
    return prod(shape[at + 1 :]) if prod(shape[:at]) == 1 else None


def dimension(op: Op, dim: int, shape: tuple[int, ...], *, more: int = 0) -> int:
    """`dim` counted from 0; `more` is 1 where the op adds a dimension. Raises OpError for one that there is not."""
    rank = len(shape) + more
    if not -rank <= dim < rank:
        hint = f"dim goes from {-rank} to {rank - 1} here" if rank else "a scalar has no dimension"
        raise OpError(f"{op.describe()}: {shape_text(shape)} has no dimension {dim}", hint=hint)
    return dim % rank


def target_size(op: Op, dim: int, target: TensorSpec | None) -> int:
    """What a target's size is along `dim`, for `like: target`. Raises OpError where that is not known."""
    if target is None:
        hint = "give a target, let this op be the last of its rule, or write the size instead of like"
        raise OpError(f"{op.describe()}: the shape of the target is not known here", hint=hint)
    return target.shape[dimension(op, dim, target.shape)]


def alike(op: Op, inputs: tuple[TensorSpec, ...], *, but: int | None = None) -> TensorSpec:
    """The first of several tensors that agree in dtype and shape, except along the dimension `but`. Raises OpError."""
    if not inputs:
        raise OpError(f"{op.describe()} takes one tensor or more, not 0 tensors")
    first = inputs[0]
    axis = None if but is None else dimension(op, but, first.shape)
    for spec in inputs:
        if spec.dtype != first.dtype:
            both = f"{printable(first.key)} is {first.dtype} and {printable(spec.key)} is {spec.dtype}"
            raise OpError(f"{op.describe()}: {both}", hint="cast to one dtype in a rule before, in a map of its own")
        if spec.shape != first.shape and _rest(spec.shape, axis) != _rest(first.shape, axis):
            both = f"{printable(first.key)} is {shape_text(first.shape)} and {printable(spec.key)} is {shape_text(spec.shape)}"
            hint = "the shapes must be equal" + ("" if axis is None else f" but for dim {axis}")
            raise OpError(f"{op.describe()}: {both}", hint=hint)
    return first


def _rest(shape: tuple[int, ...], axis: int | None) -> tuple[int | None, ...]:
    return tuple(None if place == axis else size for place, size in enumerate(shape))


def countable(op: Op, outputs: int) -> None:
    """Raises OpError where an op would make more tensors than any checkpoint has keys."""
    if outputs > _MOST:
        raise OpError(f"{op.describe()} would make {outputs:,} tensors", hint=f"at most {_MOST:,} are made of one")


def as_many(op: Op, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
    """The op, if it gives one output for each of the targets (or their number is unknown). Raises OpError if not."""
    made = len(op.out_specs(inputs))
    if targets and made != len(targets):
        message = (
            f"{op.describe()} makes {plural(made, 'tensor')}, and there are {plural(len(targets), 'key')} for them"
        )
        raise OpError(message, hint="let the rule name one key for each")
    return op
