"""Ops with tensors to try them on, for the contract tests: `cases()` draws some that fit, and some that do not."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OPS, Op, OpError

DTYPE_NAMES = [
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "float8_e4m3fn",
    "int64",
    "int32",
    "uint8",
    "bool",
    "complex64",
]
CASTS = [
    "float64",
    "float32",
    "float16",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "int64",
    "int8",
    "uint8",
    "complex64",
]


class Case(NamedTuple):
    op: Op
    tensors: tuple[torch.Tensor, ...]

    @property
    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(map(spec_of, self.tensors))

    def fits(self) -> bool:
        return refusal(self.op.out_specs, self.specs) is None


def refusal(function, *arguments) -> OpError | None:
    """The error with which a call refuses its arguments, if it does."""
    try:
        function(*arguments)
    except OpError as error:
        return error
    return None


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec("key", tuple(tensor.shape), DTYPES[str(tensor.dtype).removeprefix("torch.")])


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def dims(shape):
    return st.integers(-len(shape), max(0, len(shape) - 1)) | st.integers(-4, 3)


def sizes(shape, least=0, most=6):
    return st.sampled_from([*shape, *(size + 1 for size in shape), 2]) | st.integers(least, most)


FILLS = st.sampled_from([0, -3, "mean", {"normal": {"std": 0.5, "seed": 3}}])


def given_some(required, optional):
    return st.fixed_dictionaries(required, optional=optional)


@st.composite
def split(draw, shape):
    dim = draw(dims(shape))
    if draw(st.booleans()):
        return {"dim": dim, "parts": draw(st.integers(1, 4))}
    whole = shape[dim] if -len(shape) <= dim < len(shape) else 3
    first = draw(st.integers(0, whole))
    return {"dim": dim, "sizes": draw(st.sampled_from([[first, whole - first], [whole], [first, 1]]))}


@st.composite
def index(draw, shape):
    dim = draw(dims(shape))
    whole = shape[dim] if -len(shape) <= dim < len(shape) else 3
    names = [f"v{number}" for number in range(whole)]
    if not names or draw(st.booleans()):
        return {"dim": dim, "indices": draw(st.lists(st.integers(-whole, max(whole - 1, 0)), min_size=1, unique=True))}
    to = draw(st.permutations([*names, "new", "other"]))[: draw(st.integers(1, whole + 2))]
    return {"dim": dim, "from": names, "to": to, "fill": draw(FILLS)}


@st.composite
def rearrange(draw, shape):
    axes = [f"a{number}" for number in range(len(shape))]
    known = {}
    left = list(axes)
    if shape and draw(st.booleans()):
        left[0] = f"({axes[0]} b)"
        known = {"b": draw(st.sampled_from([1, 2, shape[0]]))}
        axes = [*axes, "b"]
    axes = draw(st.permutations(axes))
    right = list(axes)
    if len(axes) > 1 and draw(st.booleans()):
        right = [f"({axes[0]} {axes[1]})", "1", *axes[2:]]
    return {"pattern": f"{' '.join(left)} -> {' '.join(right)}", "sizes": known}


def shapes():
    return st.lists(st.integers(0, 4), max_size=3).map(tuple)


def grids(shape):
    del shape
    return given_some(
        {"to": st.lists(st.integers(1, 4), min_size=2, max_size=2)},
        {
            "from": st.sampled_from([[2, 2], [2, 1], [1, 3]]),
            "prefix_tokens": st.integers(0, 1),
            "mode": st.sampled_from(["bicubic", "bilinear"]),
            "antialias": st.booleans(),
        },
    )


# For each op some arguments that a map may give it, as plain YAML values, for a tensor of some shape.
# A new op adds its line here.
ARGUMENTS = {
    "broadcast": lambda shape: st.integers(1, 3).map(lambda copies: {"copies": copies}),
    "cast": lambda shape: st.sampled_from(CASTS).map(lambda name: {"to": name}),
    "concat": lambda shape: dims(shape).map(lambda dim: {"dim": dim}),
    "index": index,
    "interpolate": grids,
    "mean": lambda shape: st.just({}),
    "pad": lambda shape: given_some(
        {"dim": dims(shape), "to": sizes(shape), "fill": FILLS}, {"at": st.sampled_from(["start", "end"])}
    ),
    "permute": lambda shape: (
        st.permutations(range(len(shape))).flatmap(
            lambda order: st.sampled_from([order, [dim - len(shape) for dim in order], [*order, len(order)]])
        )
    ).map(lambda order: {"dims": list(order)}),
    "rearrange": rearrange,
    "repeat": lambda shape: given_some({"dim": dims(shape), "times": st.integers(1, 3)}, {"interleave": st.booleans()}),
    "reshape": lambda shape: (
        st.lists(st.integers(-1, 6), max_size=4).filter(lambda shape: shape.count(-1) < 2)
        | st.sampled_from([[-1], [-1, 1], list(reversed(shape))])
    ).map(lambda shape: {"shape": list(shape)}),
    "resize_vocab": lambda shape: given_some({"to": sizes(shape)}, {"fill": FILLS, "shrink": st.booleans()}),
    "same": lambda shape: st.just({}),
    "scale": lambda shape: st.sampled_from([0.125, 2, -4.0, 3, 1e-9, 100.0]).map(lambda by: {"by": by}),
    "slice": lambda shape: given_some(
        {"dim": dims(shape)},
        {"start": st.integers(-3, 3), "stop": st.integers(-3, 4), "step": st.integers(1, 3)},
    ),
    "split": split,
    "stack": lambda shape: dims((*shape, 1)).map(lambda dim: {"dim": dim}),
    "transpose": lambda shape: st.lists(st.integers(-3, 2), min_size=2, max_size=2, unique=True).map(
        lambda dims: {"dims": dims}
    ),
    "unstack": lambda shape: dims(shape).map(lambda dim: {"dim": dim}),
    "weight_norm": lambda shape: dims(shape).map(lambda dim: {"dim": dim}),
    "weight_norm_parts": lambda shape: dims(shape).map(lambda dim: {"dim": dim}),
}


def ops():
    return st.sampled_from(sorted(OPS)).flatmap(
        lambda name: shapes().flatmap(lambda shape: ARGUMENTS[name](shape).map(OPS[name].parse))
    )


@st.composite
def tensors(draw, shape, dtype):
    """Small whole numbers, which each dtype holds; some are views that are not contiguous."""
    values = torch.arange(1, torch.Size(shape).numel() + 1).reshape(shape) % 7
    tensor = values.to(getattr(torch, dtype))
    if len(shape) > 1 and draw(st.booleans()):
        return tensor.mT.contiguous().mT
    return tensor


@st.composite
def inputs(draw, op: Op, shape, dtype):
    """As many tensors as the op takes; those of an op that joins differ along its dimension, and now and then elsewhere."""
    if op.input_names:
        dim = op.dim % len(shape) if shape else 0
        part = tuple(size if place == dim else 1 for place, size in enumerate(shape))
        return draw(tensors(part, dtype)), draw(tensors(shape, dtype))
    if not op.fan_in:
        return (draw(tensors(shape, dtype)),)
    made = []
    for _ in range(draw(st.integers(1, 3))):
        each = list(shape)
        if op.name == "concat" and shape:
            each[op.dim % len(shape)] = draw(st.integers(0, 3))
        other = draw(st.sampled_from([dtype] * 5 + ["float32"]))
        made.append(draw(tensors(tuple(each), other)))
    return tuple(made)


@st.composite
def cases(draw, names=None, dtypes=DTYPE_NAMES):
    name = draw(st.sampled_from(sorted(names or OPS)))
    shape = draw(st.sampled_from([(1, 5, 2), (4, 3), (1, 4, 2)]) if name == "interpolate" else shapes())
    op = OPS[name].parse(draw(ARGUMENTS[name](shape)))
    return Case(op, draw(inputs(op, shape, draw(st.sampled_from(dtypes)))))
