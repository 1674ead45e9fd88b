"""What a pickle is parsed into. Plain values are Python's own (None, bool, int, float, str, bytes, bytearray, list, tuple);
everything that could have behaviour is one of the inert nodes below. Nodes compare by identity and are never hashed by
content, so a hostile key cannot make a dictionary slow, and a cycle cannot make a comparison endless."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

Node: TypeAlias = Any
"""A plain value or an inert node."""

How: TypeAlias = Literal["reduce", "newobj", "newobj_ex", "inst", "obj"]
Edit: TypeAlias = tuple[Literal["build", "appends", "setitems", "additems"], Any]
"""What happens to an object after it was made: a state, or a list of items (for `setitems` a list of pairs)."""


class ByteString(bytes):
    """A `str` of Python 2, which is bytes without a known encoding."""

    __slots__ = ()


class GlobalNode:
    """A name in a module. Two strings; never looked up."""

    __slots__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    @property
    def path(self) -> str:
        """`module.name`, for tables and messages."""
        return f"{self.module}.{self.name}"

    def __repr__(self) -> str:
        return f"<global {self.path}>"


class GlobalName(NamedTuple):
    """A global that a stream names, and at which byte it does so first."""

    module: str
    name: str
    at: int

    @property
    def path(self) -> str:
        """`module.name`, for tables and messages."""
        return f"{self.module}.{self.name}"


class ExtensionNode:
    """A code of the copyreg extension registry: a global by number, which only the writing program could resolve."""

    __slots__ = ("code",)

    def __init__(self, code: int) -> None:
        self.code = code


class PersistentNode:
    """A reference to something outside the pickle; torch uses it for storages."""

    __slots__ = ("pid", "textual")

    def __init__(self, pid: Node, *, textual: bool = False) -> None:
        self.pid = pid
        self.textual = textual


class DictNode:
    """A dictionary as the list of its pairs, in order, doubled keys and all."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[Node, Node]]) -> None:
        self.pairs = pairs


class SetNode:
    """A set as the list of its items."""

    __slots__ = ("items",)

    def __init__(self, items: list[Node]) -> None:
        self.items = items


class FrozenSetNode(SetNode):
    """A frozen set as the list of its items."""

    __slots__ = ()


class CallNode:
    """An object that a call would make: what would be called, with which arguments, and what happens to the result.

    `keywords` is used by `newobj_ex` alone. `edits` stand in the order of the stream.
    """

    __slots__ = ("arguments", "edits", "function", "how", "keywords")

    def __init__(self, how: How, function: Node, arguments: Node, keywords: Node = None) -> None:
        self.how: How = how
        self.function = function
        self.arguments = arguments
        self.keywords = keywords
        self.edits: list[Edit] = []

    def is_call_of(self, module: str, name: str) -> bool:
        """Whether this is a call of that global."""
        function = self.function
        return type(function) is GlobalNode and function.name == name and function.module == module


def mapping_pairs(node: Node) -> list[tuple[Node, Node]] | None:
    """The pairs of a dict or an OrderedDict, in order; None for anything else."""
    if type(node) is DictNode:
        return node.pairs
    if type(node) is CallNode and node.is_call_of("collections", "OrderedDict"):
        return _ordered_pairs(node)
    return None


def _ordered_pairs(node: CallNode) -> list[tuple[Node, Node]] | None:
    first = node.arguments[0] if node.arguments and node.how not in ("newobj", "newobj_ex") else ()
    if isinstance(first, list | tuple):  # protocols 0 and 1: OrderedDict([[key, value], ...])
        pairs = [(item[0], item[1]) for item in first if isinstance(item, list | tuple) and len(item) == 2]
    elif type(first) is DictNode:
        pairs = list(first.pairs)
    else:
        return None
    for what, payload in node.edits:
        if what == "setitems":
            pairs += payload
    return pairs


def with_pairs(node: Node, pairs: list[tuple[Node, Node]]) -> Node:
    """A new dict or OrderedDict like `node` (its state included) that holds `pairs` instead."""
    if type(node) is DictNode:
        return DictNode(pairs)
    copy = CallNode(node.how, node.function, () if node.how == "reduce" else node.arguments, node.keywords)
    copy.edits = [("setitems", pairs)] if pairs else []
    copy.edits += [edit for edit in node.edits if edit[0] != "setitems"]
    return copy
