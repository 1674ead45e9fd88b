"""The optimizer states in a file's graph as values: groups of members, each with the entries of its state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.nodes import Node, mapping_pairs
from ckptdoctor.pickles.optimizers import holds_states, is_name, items_of
from ckptdoctor.pickles.tensors import TensorView
from ckptdoctor.text import listing, printable, shape_text, shortened

Shape: TypeAlias = tuple[int, ...]
Order: TypeAlias = Literal[0, 1, 2]

# Averages of gradients, and of their squares, by the names that torch's optimizers and their kin give them.
_ORDERS: Mapping[str, Order] = {
    **dict.fromkeys(("exp_avg", "momentum_buffer", "grad_avg"), 1),
    **dict.fromkeys(("exp_avg_sq", "max_exp_avg_sq", "square_avg", "sum"), 2),
}
_PLAIN = (type(None), bool, int, float, str)


class OptimizerProblem(ValueError):
    """The states cannot follow. `.hint` says what to do."""

    def __init__(self, message: str, *, hint: str = "leave the states out: --optimizer drop") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a parameter's state; `view` is there for tensors. `order` is 0 where nothing is known of the name."""

    name: str
    value: Node
    view: TensorView | None = None

    @property
    def is_moment(self) -> bool:
        """Whether it is a tensor with an element for each of the parameter, rather than one value for all (`step`)."""
        if self.view is None or self.name == "step":
            return False
        return self.order > 0 or self.view.layout.shape != ()

    @property
    def order(self) -> Order:
        """1 for averages of gradients, 2 for those of their squares."""
        return _ORDERS.get(self.name, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Member:
    """A parameter as an optimizer knows it: its number or name, and its state (None: none yet). `where` is for people."""

    where: str
    id: int | str
    name: str | None
    entries: tuple[Entry, ...] | None

    @property
    def moments(self) -> tuple[Entry, ...]:
        """The entries with an element for each of the parameter's."""
        return tuple(entry for entry in self.entries or () if entry.is_moment)

    @property
    def scalars(self) -> tuple[Entry, ...]:
        """The other entries."""
        return tuple(entry for entry in self.entries or () if not entry.is_moment)

    @property
    def shape(self) -> Shape | None:
        """The shape of its moments, which is the parameter's; None where it has none."""
        return next((entry.view.layout.shape for entry in self.moments if entry.view), None)


@dataclass(frozen=True, slots=True)
class OptimizerState:
    """One optimizer: the way to its state dict from the root of the file, and its groups."""

    way: tuple[str, ...]
    groups: tuple[tuple[Member, ...], ...]

    @property
    def members(self) -> tuple[Member, ...]:
        """Those of all groups."""
        return tuple(member for group in self.groups for member in group)

    @property
    def named(self) -> bool:
        """Whether it knows all its parameters by name."""
        return bool(self.members) and all(member.name is not None for member in self.members)


def read_optimizers(graph: TensorGraph, place: tuple[str, ...]) -> list[OptimizerState]:
    """The optimizers beside the weights at a place; raises OptimizerProblem for what is no state dict of one."""
    found: dict[int, OptimizerState] = {}
    for outer, value in graph.optimizers(place).items():
        for way, node in _inside(outer, value):
            if id(node) not in found:
                found[id(node)] = _optimizer(graph, way, node)
    return list(found.values())


def _inside(way: tuple[str, ...], node: Node, depth: int = 0) -> Iterator[tuple[tuple[str, ...], Node]]:
    """The state dicts of optimizers in a value: itself, or the items of a list or of a mapping."""
    pairs = items_of(node)
    if not holds_states(node):
        return
    if pairs is not None and {"state", "param_groups"} <= {key for key, _ in pairs if isinstance(key, str)}:
        yield way, node
    elif pairs is not None and depth < 2:
        for key, value in items_of(node) or ():
            if not is_name(key):
                raise OptimizerProblem(f"{_text(way)} holds optimizers under keys that are no names")
            yield from _inside((*way, str(key)), value, depth + 1)
    else:
        raise OptimizerProblem(f"{_text(way)} is no state dict of an optimizer (state and param_groups)")


def _optimizer(graph: TensorGraph, way: tuple[str, ...], node: Node) -> OptimizerState:
    parts = {key: value for key, value in mapping_pairs(node) or [] if isinstance(key, str)}
    states, listed = mapping_pairs(parts["state"]), parts["param_groups"]
    if states is None or not isinstance(listed, list) or len(parts) != len(mapping_pairs(node) or []):
        raise OptimizerProblem(
            f"{_text(way)} is no state dict of an optimizer: state or param_groups is of another kind"
        )
    by_id = {key: value for key, value in states if _is_id(key)}
    groups = tuple(
        tuple(_members(graph, f"{_text(way)}, group {number}", group, by_id)) for number, group in enumerate(listed)
    )
    times = Counter(member.id for group in groups for member in group)
    shared = [str(each) for each, count in times.items() if count > 1]
    if shared:
        raise OptimizerProblem(f"{_text(way)}: two groups share the parameter {listing(shared)}")
    if stray := [_id_text(key) for key, _ in states if not _is_id(key) or key not in times]:
        raise OptimizerProblem(f"{_text(way)}: no group has the parameter {listing(stray)}, which has a state")
    return OptimizerState(way, groups)


def _members(graph: TensorGraph, where: str, group: Node, states: Mapping[int | str, Node]) -> Iterator[Member]:
    parts = {key: value for key, value in mapping_pairs(group) or [] if isinstance(key, str)}
    ids, names = parts.get("params"), parts.get("param_names")
    if not isinstance(ids, list) or not all(map(_is_id, ids)):
        raise OptimizerProblem(f"{where}: params is no list of numbers or names")
    if names is not None and not (isinstance(names, list) and len(names) == len(ids) and all(map(_is_text, names))):
        raise OptimizerProblem(f"{where}: param_names is no list of a name for each parameter")
    for number, each in enumerate(ids):
        name = names[number] if names is not None else each if isinstance(each, str) else None
        place = f"{where}, parameter {shortened(str(name if name is not None else each))}"
        yield Member(place, each, name, _entries(graph, place, states[each]) if each in states else None)


def _is_id(value: Node) -> bool:
    """A name, or a number of which no two have one hash."""
    return isinstance(value, str) or (type(value) is int and value.bit_length() < 61)


def _id_text(value: Node) -> str:
    return str(value) if _is_id(value) else f"a {type(value).__name__}"


def _is_text(value: Node) -> bool:
    return isinstance(value, str)


def _entries(graph: TensorGraph, where: str, node: Node) -> tuple[Entry, ...] | None:
    pairs = mapping_pairs(node)
    if pairs is None or not all(isinstance(key, str) for key, _ in pairs):
        raise OptimizerProblem(f"{where}: its state is no mapping of names")
    entries = tuple(Entry(key, value, graph.views.get(id(value))) for key, value in pairs)
    for entry in entries:
        if entry.view is None and type(entry.value) not in _PLAIN:
            raise OptimizerProblem(f"{where}: {shortened(entry.name)} is neither a tensor nor a number")
    _check_whole(where, [entry for entry in entries if entry.is_moment])
    return entries or None


def _check_whole(where: str, moments: list[Entry]) -> None:
    """Each moment has an element for each of the parameter; a factored one (Adafactor) has not."""
    shapes = {entry.name: entry.view.layout.shape for entry in moments if entry.view}
    factored = [name for name in shapes if {"row", "col"} & set(name.split("_"))]
    if not factored and len(set(shapes.values())) > 1:
        usual = next((shape for name, shape in shapes.items() if name in _ORDERS), next(iter(shapes.values())))
        factored = [name for name, shape in shapes.items() if shape != usual]
    if factored:
        named = listing(f"{name} ({shape_text(shapes[name])})" for name in factored)
        raise OptimizerProblem(f"{where}: {named} has not the parameter's shape; factored states cannot follow")


def _text(way: tuple[str, ...]) -> str:
    return printable("/".join(way))
