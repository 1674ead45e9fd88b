"""`index: {dim: 1, from: [u, v, t], to: [u, t, rh], fill: mean}`: a dimension whose indices have names, in another order,
with some left out and some new. `index: {dim: 1, indices: [2, 0]}` does it by numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import INTEGER, WHOLE, ArgumentKind, OpError, argument, read_integers
from ckptdoctor.ops.base import Example, Op, OutSpec, Run, only
from ckptdoctor.ops.boxes import Box, along
from ckptdoctor.ops.filling import FILL, ZERO, Fill
from ckptdoctor.ops.shapes import dimension, outer
from ckptdoctor.text import listing

if TYPE_CHECKING:
    import torch


def _read_indices(value: object) -> tuple[int, ...]:
    indices = read_integers(value)
    if not indices or len(set(indices)) != len(indices):
        raise OpError("needs at least one index, and each once", hint="copies are made by repeat")
    return indices


def _read_names(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
        raise OpError("is not a list of names", hint="write [u, v, temp]; quote what is a number or a word of YAML")
    twice = sorted({each for each in value if value.count(each) > 1})
    if twice:
        raise OpError(f"names {listing(twice)} twice", hint="each index has a name of its own")
    return tuple(value)


_UNIQUE = {"type": "array", "minItems": 1, "uniqueItems": True}
_INDICES = ArgumentKind({**_UNIQUE, "items": INTEGER}, _read_indices)
_NAMES = ArgumentKind({**_UNIQUE, "items": {"type": "string"}}, _read_names)


@dataclass(frozen=True, slots=True)
class Index(Op):
    """Indices of a dimension by number or by name, in the order wanted; new names are filled, others left out."""

    name: ClassVar[str] = "index"
    one_of: ClassVar[tuple[str, ...]] = ("indices", "to")
    example: ClassVar[Example] = Example(
        '{from: "var_embed", to: "var_embed", op: {index: {dim: 1, from: [u, v, t], to: [u, v, t, rh], fill: mean}}}',
        {"var_embed": (1, 3, 4)},
        {"var_embed": (1, 4, 4)},
    )
    dim: int = field(metadata=argument(WHOLE, "the dimension; -1 is the last"))
    indices: tuple[int, ...] | None = field(default=None, metadata=argument(_INDICES, "the indices to take, in order"))
    from_: tuple[str, ...] | None = field(default=None, metadata=argument(_NAMES, "the names that the indices have"))
    to: tuple[str, ...] | None = field(default=None, metadata=argument(_NAMES, "the names to take, in order"))
    fill: Fill | None = field(
        default=None,
        metadata=argument(FILL, "the values of new names: a number, mean, or {normal: {std: 0.02, seed: 0}}"),
    )

    def check(self) -> None:
        """Names come in pairs of lists that share some, and new ones need values."""
        if (self.from_ is None) != (self.to is None):
            raise OpError(f"{self.name}: names need both from and to", hint="write from: [..], to: [..]")
        new = [each for each in self.to or () if each not in (self.from_ or ())]
        if new and self.fill is None:
            hint = "say of what: fill: mean, fill: 0 or fill: {normal: {std: 0.02, seed: 0}}"
            raise OpError(f"{self.name}: {listing(new)} is not in from, and there is no fill", hint=hint)
        if self.to is not None and len(new) == len(self.to):
            raise OpError(
                f"{self.name}: no name of to is in from", hint="declare the key as fresh: nothing of it is kept"
            )

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with as many indices as are taken. Refuses indices out of range, or too many or few names."""
        spec = only(self, inputs)
        dim, places = self._places(spec.shape)
        if self.fill is not None and _added(places):
            self.fill.judge(self, spec, dim)
        return (((*spec.shape[:dim], len(places), *spec.shape[dim + 1 :]), spec.dtype),)

    def _places(self, shape: tuple[int, ...]) -> tuple[int, list[int | None]]:
        """The dimension, and for each index of the output that of the input, or None if it is new."""
        dim = dimension(self, self.dim, shape)
        size = shape[dim]
        if self.indices is not None:
            return dim, [self._in_range(index, size) for index in self._once(size)]
        names = self.from_ or ()
        if len(names) != size:
            message = f"{self.describe()}: from has {len(names):,} names, and dim {self.dim} has size {size:,}"
            raise OpError(message, hint="name every index of the checkpoint's tensor, in order")
        place = {name: index for index, name in enumerate(names)}
        return dim, [place.get(name) for name in self.to or ()]

    def _once(self, size: int) -> tuple[int, ...]:
        indices = self.indices or ()
        if len({index + size if index < 0 else index for index in indices}) != len(indices):
            raise OpError(f"{self.describe()} takes an index of {size:,} twice", hint="copies are made by repeat")
        return indices

    def _in_range(self, index: int, size: int) -> int:
        if not -size <= index < size:
            message = f"{self.describe()}: {index} is out of range, dim {self.dim} has size {size:,}"
            raise OpError(message, hint=f"it goes from {-size} to {size - 1}" if size else "there is nothing to take")
        return index % size

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The elements taken, and the new ones between them."""
        import torch

        (tensor,) = inputs
        dim, places = self._places(tuple(tensor.shape))
        added = _added(places)
        if added and self.fill is not None:
            block = self.fill.values(self, tensor, dim, added)
            beyond = iter(range(tensor.shape[dim], tensor.shape[dim] + added))
            places = [next(beyond) if place is None else place for place in places]
            tensor = torch.cat([tensor, block], dim)
        return (tensor.index_select(dim, torch.tensor(places)).contiguous(),)

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """Pieces of the input, along the outermost dimension, if none is new."""
        spec = only(self, inputs)
        inner = outer(self, self.dim, spec.shape)
        _, places = self._places(spec.shape)
        if inner is None or _added(places):
            return None
        return (tuple(Run(0, at * inner, (at + 1) * inner) for at in places if at is not None),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The indices back, if none is left out."""
        spec = only(self, inputs)
        dim, places = self._places(spec.shape)
        lost = spec.shape[dim] - len(places) + _added(places)
        if lost:
            return f"{self.describe()} leaves out {spec.numel // spec.shape[dim] * lost:,} of {spec.numel:,} elements"
        if not places or not spec.shape[dim]:
            return f"{self.describe()} makes all elements anew"
        return Index(self.dim, tuple(places.index(index) for index in range(spec.shape[dim])))

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """Those of new names, and those of the input if none is left out."""
        spec = only(self, inputs)
        if any(new) and self.selected(spec) is not None:
            return Op.new_elements(self, inputs, new)
        dim, places = self._places(spec.shape)
        return (new[0] + _added(places) * prod(spec.shape[:dim]) * prod(spec.shape[dim + 1 :]),)

    def selected(self, spec: TensorSpec) -> tuple[int, tuple[int, ...]] | None:
        """The indices that are taken, if not all."""
        dim, places = self._places(spec.shape)
        taken = tuple(place for place in places if place is not None)
        return None if len(taken) == spec.shape[dim] else (dim, taken)

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Those at the indices that are taken; all of them where new ones are their mean."""
        shape = only(self, inputs).shape
        dim, places = self._places(shape)
        if _added(places) and self.fill is not None and self.fill.of_all:
            return (along(wanted, dim, range(shape[dim])),)
        found = (places[index] for index in wanted[dim])
        return (along(wanted, dim, frozenset(place for place in found if place is not None)),)

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """The same with zeros: each element keeps its moments, new ones have no history."""
        return (self if self.fill is None else replace(self, fill=ZERO),)


def _added(places: list[int | None]) -> int:
    return sum(place is None for place in places)
