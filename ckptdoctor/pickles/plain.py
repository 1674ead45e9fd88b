"""The plain values in a graph, as JSON can hold them, and a list of what they leave behind.

None, booleans, numbers, texts, lists, tuples (as lists) and dicts with text keys are plain; tensors, objects, bytes, sets and
numbers that JSON does not know are not. What is not plain is left out of a dict, stands as null in a list (so that the others
keep their places), and is named either way. A shared value is written wherever it stands, a hostile graph only up to
MAX_VALUES. To make one more kind of value plain, give it a branch in `_Walk.value`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from ckptdoctor.pickles.nodes import (
    ByteString,
    CallNode,
    DictNode,
    GlobalNode,
    Node,
    PersistentNode,
    SetNode,
    mapping_pairs,
)
from ckptdoctor.pickles.tensors import view_of
from ckptdoctor.text import listing, plural

MAX_DEPTH = 100
MAX_VALUES = 1_000_000
"""Values that are written at most; a long text counts as one for every 100 characters."""

_GONE: Any = object()
_INTEGERS = range(-(1 << 63), 1 << 64)
_Entry = tuple[tuple[str, ...], Node, Node]


class LeftOut(NamedTuple):
    """Something that is not plain: where it stands, what it is in a word, and what there is to add."""

    place: tuple[str, ...]
    kind: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{'/'.join(self.place) or '.'}: {self.kind}" + (f" ({self.detail})" if self.detail else "")


class Plain(NamedTuple):
    """The plain part of a graph (None if there is none), what it leaves out, and how many values it has."""

    data: Any
    left_out: list[LeftOut]
    values: int


def plain(node: Node, weights: Node = None, without: Collection[str] = ()) -> Plain:
    """The plain values at and below `node`.

    The dense tensors directly in the mapping `weights`, and the entries of `node` with a key in `without`, are passed over
    in silence: they are not what a caller wants to hear of.
    """
    walk = _Walk(weights)
    if without and (pairs := mapping_pairs(node)) is not None and node is not weights:
        node = DictNode([pair for pair in pairs if not (isinstance(pair[0], str) and pair[0] in without)])
    data = walk.value(node, ())
    return Plain(None if data is _GONE else data, walk.left_out, walk.values)


def summary(left_out: Sequence[LeftOut]) -> str:
    """What was left out by the first name of its place: `optimizer_states (357 tensors), callbacks (1 object)`."""
    counts: dict[str, Counter[str]] = {}
    for item in left_out:
        counts.setdefault(item.place[0] if item.place else "the root", Counter())[item.kind] += 1
    return listing(
        f"{name} ({', '.join(plural(number, kind) for kind, number in kinds.items())})"
        for name, kinds in counts.items()
    )


class _Walk:
    """One way through a graph. `above` are the containers around the present node, `budget` what may still be written."""

    def __init__(self, weights: Node) -> None:
        self.weights = weights
        self.left_out: list[LeftOut] = []
        self.values = 0
        self.budget = MAX_VALUES
        self.spent = False
        self.above: set[int] = set()

    def value(self, node: Node, place: tuple[str, ...]) -> Any:
        """The node as a value of JSON, or _GONE."""
        if isinstance(node, list | tuple):
            return self.inside(node, place, self.items)
        if mapping_pairs(node) is not None:
            return self.inside(node, place, self.pairs)
        node = _decoded(node)
        if (reason := _reason(node)) is not None:
            return self.leave(place, *reason)
        self.budget -= len(node) // 100 if isinstance(node, str) else 0
        self.values += 1
        return node

    def inside(self, node: Node, place: tuple[str, ...], read: Callable[[Node, tuple[str, ...]], Any]) -> Any:
        """A container, unless it stands in itself or too deep."""
        if id(node) in self.above:
            return self.leave(place, "value", "it holds itself")
        if len(self.above) >= MAX_DEPTH:
            return self.leave(place, "value", f"nested deeper than {MAX_DEPTH} levels")
        self.above.add(id(node))
        result = read(node, place)
        self.above.remove(id(node))
        return result

    def items(self, node: Sequence[Node], place: tuple[str, ...]) -> Any:
        """A list, with null for what is not plain; gone if nothing in it is."""
        self.values += not node
        result = [self.value(item, inner) for inner, _, item in self.affordable(enumerate(node), place)]
        if node and all(value is _GONE for value in result):
            return _GONE
        return [None if value is _GONE else value for value in result]

    def pairs(self, node: Node, place: tuple[str, ...]) -> Any:
        """A dict of what is plain and has a text as its key; gone if there was something and nothing is left."""
        pairs = mapping_pairs(node) or []
        self.values += not pairs
        result: dict[str, Any] = {}
        for inner, key, item in self.affordable(pairs, place):
            if node is self.weights and isinstance(key, str) and view_of(item) is not None:
                continue
            before = self.values
            value = self.value(item, inner)
            if value is not _GONE and not isinstance(key, str):
                self.values = before
                self.leave(inner, "value", "its key is no text")
            elif value is not _GONE:
                result[key] = value
        return result if result or not pairs else _GONE

    def affordable(self, pairs: Iterable[tuple[Node, Node]], place: tuple[str, ...]) -> Iterator[_Entry]:
        """Place, key and value of each pair until the budget is spent; where that is, one note."""
        for raw, value in pairs:
            key = _decoded(raw)
            inner = (*place, _name(key))
            self.budget -= 1 + len(inner[-1]) // 100
            if self.budget < 0 and not self.spent:
                self.spent = True
                self.leave(inner, "value", f"this and all that follows: more than {MAX_VALUES:,} values")
            if self.spent:
                return
            yield inner, key, value

    def leave(self, place: tuple[str, ...], kind: str, detail: str = "") -> Any:
        """Note something that is not written."""
        self.budget -= sum(map(len, place)) // 100
        self.left_out.append(LeftOut(place, kind, detail))
        return _GONE


def _reason(node: Node) -> tuple[str, str] | None:
    """What a node is that JSON cannot hold: a word, and a detail; None if it can."""
    if node is None or isinstance(node, bool | str):
        return None
    if isinstance(node, int):
        return None if node in _INTEGERS else ("number", "more than 64 bits")
    if isinstance(node, float):
        return None if isfinite(node) else ("number", "not finite")
    if isinstance(node, bytes | bytearray):
        return "byte string", ""
    if isinstance(node, SetNode):
        return "set", ""
    if isinstance(node, PersistentNode):
        return "storage", ""
    return _object(node)


def _object(node: Node) -> tuple[str, str]:
    function = node.function if isinstance(node, CallNode) else node
    if not isinstance(function, GlobalNode):
        return "object", ""
    if function.path.startswith(("torch._utils._rebuild_", "torch._tensor._rebuild_")):
        return "tensor", ""
    return "object", function.path


def _decoded(node: Node) -> Node:
    """A text of Python 2 as a text, where it is one."""
    if not isinstance(node, ByteString):
        return node
    try:
        return node.decode("utf-8")
    except UnicodeDecodeError:
        return node


def _name(key: Node) -> str:
    """A key or position as a part of a place."""
    if isinstance(key, str):
        return key
    return str(key) if isinstance(key, int) and key in _INTEGERS else f"a {type(key).__name__}"
