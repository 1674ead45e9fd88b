"""`rearrange: {pattern: "(h two d) c -> (h d two) c", sizes: {h: 8, two: 2}}`: dimensions taken apart and put together.

The pattern is that of einops: names for axes, parentheses for axes that make up one dimension, 1 for a dimension of size 1.
Each axis stands once on each side, so that elements move and none is lost; an ellipsis is not part of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import ArgumentKind, OpError, argument
from ckptdoctor.ops.base import Example, Op, OutSpec, only
from ckptdoctor.text import did_you_mean, listing, plural, printable, shape_text

if TYPE_CHECKING:
    import torch

Side: TypeAlias = tuple[tuple[str, ...], ...]
"""For each dimension the axes that make it up; none for a dimension of size 1."""

_TOKEN = re.compile(r"->|\.\.\.|\w+|\S")
_AXIS = re.compile(r"[A-Za-z](\w*[A-Za-z0-9])?", re.ASCII)
_HINT = 'write a pattern such as "(h d) c -> h d c"'


@lru_cache(maxsize=256)
def _parse(pattern: str) -> tuple[Side, Side]:
    """Both sides of a pattern. Raises OpError with a message that goes on after the argument's name."""
    tokens = _TOKEN.findall(pattern)
    if tokens.count("->") != 1:
        raise OpError("needs one arrow", hint=_HINT)
    arrow = tokens.index("->")
    left, right = _side(tokens[:arrow]), _side(tokens[arrow + 1 :])
    both = [[axis for group in side for axis in group] for side in (left, right)]
    for axes in both:
        twice = sorted({axis for axis in axes if axes.count(axis) > 1})
        if twice:
            raise OpError(f"has {listing(twice)} twice on one side", hint="each axis stands once on each side")
    single = sorted(set(both[0]) ^ set(both[1]))
    if single:
        hint = "each axis stands once on each side; a dimension of size 1 is written 1"
        raise OpError(f"has {listing(single)} on one side only", hint=hint)
    return left, right


def _side(tokens: list[str]) -> Side:
    groups: list[tuple[str, ...]] = []
    open_ = False
    for token in tokens:
        if token in "()":
            if open_ == (token == "("):
                raise OpError("has parentheses that do not pair", hint="they come in pairs and do not nest")
            open_ = token == "("
            groups += [()] if open_ else []
            continue
        axes = _axes(token)
        groups = [*groups[:-1], groups[-1] + axes] if open_ else [*groups, axes]
    if open_:
        raise OpError("has parentheses that do not pair", hint="they come in pairs and do not nest")
    return tuple(groups)


def _axes(token: str) -> tuple[str, ...]:
    if token == "1":
        return ()
    if token == "...":
        raise OpError("has an ellipsis", hint="name every dimension")
    if not _AXIS.fullmatch(token):
        raise OpError(f"has {printable(token)}, which is no axis", hint="an axis is a name, or 1")
    return (token,)


def _read_pattern(value: object) -> str:
    if not isinstance(value, str):
        raise OpError("is not a pattern", hint=_HINT)
    pattern = " ".join(value.split())
    _parse(pattern)
    return pattern


def _read_sizes(value: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(value, Mapping) or not all(type(size) is int and size >= 0 for size in value.values()):
        raise OpError("are not sizes by the names of axes", hint="write {h: 8, two: 2}")
    return tuple(sorted((str(name), size) for name, size in value.items()))


_PATTERN = ArgumentKind({"type": "string", "pattern": "->"}, _read_pattern)
_SIZES = ArgumentKind(
    {"type": "object", "additionalProperties": {"type": "integer", "minimum": 0}},
    _read_sizes,
    lambda sizes: dict(sizes),
)


@dataclass(frozen=True, slots=True)
class Rearrange(Op):
    """The same elements with dimensions taken apart, reordered and put together, as einops writes it."""

    name: ClassVar[str] = "rearrange"
    moves: ClassVar[bool] = True
    example: ClassVar[Example] = Example(
        '{from: "q.weight", to: "q.weight", op: {rearrange: {pattern: "(h two d) c -> (h d two) c", sizes: {h: 2, two: 2}}}}',
        {"q.weight": (12, 5)},
        {"q.weight": (12, 5)},
    )
    pattern: str = field(metadata=argument(_PATTERN, 'the dimensions before and after: "(h d) c -> h d c"'))
    sizes: tuple[tuple[str, int], ...] | None = field(
        default=None, metadata=argument(_SIZES, "the sizes of axes that the shape does not tell")
    )

    def check(self) -> None:
        """Sizes are those of axes of the pattern."""
        axes = [axis for group in _parse(self.pattern)[0] for axis in group]
        for name, _ in self.sizes or ():
            if name not in axes:
                hint = did_you_mean(name, axes) or f"its axes are {listing(axes)}"
                raise OpError(f"{self.name}: sizes has {printable(name)}, which the pattern has not", hint=hint)

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The sizes of the right side. Refuses a shape that is not that of the left side."""
        spec = only(self, inputs)
        size = self._solved(spec.shape)
        return ((tuple(prod(size[axis] for axis in group) for group in _parse(self.pattern)[1]), spec.dtype),)

    def _solved(self, shape: tuple[int, ...]) -> dict[str, int]:
        """The size of every axis."""
        left, _ = _parse(self.pattern)
        if len(left) != len(shape):
            message = (
                f"{self.describe()}: the left side is of {plural(len(left), 'dimension')}, unlike {shape_text(shape)}"
            )
            raise OpError(message, hint="let the left side have one item for each dimension")
        sizes = dict(self.sizes or ())
        for group, size in zip(left, shape, strict=True):
            unknown = [axis for axis in group if axis not in sizes]
            known = prod(sizes[axis] for axis in group if axis in sizes)
            if len(unknown) > 1 or (unknown and not known):
                message = f"{self.describe()}: the size of {listing(unknown)} cannot be told from {size:,}"
                raise OpError(message, hint=f"say all but one: sizes: {{{unknown[0]}: 8}}")
            if unknown:
                sizes[unknown[0]] = size // known
            if prod(sizes[axis] for axis in group) != size:
                text = f"({' '.join(group)})" if len(group) != 1 else group[0]
                message = f"{self.describe()}: {text if group else 1} does not fit {size:,} of {shape_text(shape)}"
                raise OpError(message, hint=f"the sizes known of it make {known:,}")
        return sizes

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The elements at their new places."""
        (tensor,) = inputs
        size = self._solved(tuple(tensor.shape))
        left, right = _parse(self.pattern)
        before = [axis for group in left for axis in group]
        order = [before.index(axis) for group in right for axis in group]
        apart = tensor.reshape([size[axis] for axis in before]).permute(order)
        return (apart.reshape([prod(size[axis] for axis in group) for group in right]).contiguous(),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The sides exchanged, with the sizes of all axes."""
        sizes = self._solved(only(self, inputs).shape)
        left, right = self.pattern.split("->")
        return Rearrange(f"{right.strip()} -> {left.strip()}".strip(), tuple(sorted(sizes.items())) or None)
