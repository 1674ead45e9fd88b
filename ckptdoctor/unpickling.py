"""What unpickling a file would call, and where in the file it stands: `exposures` lists every global that its pickles name.

The list comes from the opcodes, so what a stream makes and throws away again is in it. The places come from one walk through
the graph, made only where there is something to place. Nothing is imported, called or hashed by content.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

from ckptdoctor.danger import Danger, danger_of, shown
from ckptdoctor.pickles.nodes import (
    CallNode,
    DictNode,
    ExtensionNode,
    FrozenSetNode,
    GlobalName,
    GlobalNode,
    Node,
    PersistentNode,
    SetNode,
)
from ckptdoctor.pickles.parse import Pickle
from ckptdoctor.text import shortened

MAX_PLACES, MAX_PLACES_IN_ALL = 100, 10_000
"""Places that are kept for one global, and for all of a pickle; the uses beyond are counted."""
MAX_DOTS = 20
"""Attributes of attributes that are followed; more are nobody's name."""
_CALLERS = ("_rebuild_from_type", "_rebuild_from_type_v2", "reduce")
"""Functions of torch and of Python that call what they are given first."""
_CLASSES: tuple[Danger, ...] = ("dangerous", "unknown", "inert")
_Trail: TypeAlias = tuple["_Trail", str] | None
"""The way to a node, from its end: the name in its container, and the way to that."""


class Exposure(NamedTuple):
    """A global that is named, its class, where that is (`hyper_parameters/config`; `.` is the root), and how often.

    `global_name` is `module.name`, or for a call of what another call returns, that in words.
    """

    global_name: str
    danger: Danger
    places: tuple[str, ...] = ()
    uses: int = 0


def exposures(pickles: Iterable[Pickle]) -> tuple[Exposure, ...]:
    """Every global, dangerous ones first, else in the order in which they are named."""
    found: dict[str, Exposure] = {}
    for pickle in pickles:
        for exposure in _of_pickle(pickle):
            known = found.get(exposure.global_name, exposure._replace(places=(), uses=0))
            worse = min(known.danger, exposure.danger, key=_CLASSES.index)
            places = (*known.places, *exposure.places)[:MAX_PLACES]
            found[exposure.global_name] = Exposure(known.global_name, worse, places, known.uses + exposure.uses)
    return tuple(sorted(found.values(), key=lambda exposure: _CLASSES.index(exposure.danger)))


def dangerous_globals(pickles: Iterable[Pickle]) -> tuple[str, ...]:
    """Those that would do harm: by their names, or because a call is made and its result thrown away."""
    found: dict[str, None] = {}
    for pickle in pickles:
        classes = _classes(pickle, _thrown_away(pickle))
        found |= dict.fromkeys(path for path, danger in classes.items() if danger == "dangerous")
    return tuple(found)


def hash_cost(pickle: Pickle) -> int:
    """The most elements that Python would go through to hash one key of a mapping, or one item of a set, in the object.

    A tuple's hash is that of its elements, without end to the nesting and without a memory: tuples of tuples cost a stack
    overflow (SIGSEGV) at a depth of some hundred thousand, and two to the power of their depth where they are shared.
    """
    costs: dict[int, int] = {}
    return max((_cost(key, costs) for node, _ in _nodes(pickle.root) for key in _hashed(node)), default=0)


def _hashed(node: Node) -> Iterator[tuple[Node, ...]]:
    """The tuples among the keys and items of a node."""
    keys: Iterable[Node] = ()
    if type(node) is DictNode:
        keys = [key for key, _ in node.pairs]
    elif isinstance(node, SetNode):
        keys = node.items
    elif type(node) is CallNode:
        keys = [key for what, payload in node.edits if what == "setitems" for key, _ in payload]
        keys += [item for what, payload in node.edits if what == "additems" for item in payload]
    return (key for key in keys if type(key) is tuple)


def _cost(key: tuple[Node, ...], costs: dict[int, int]) -> int:
    """Elements in a tuple and in those in it, counted as often as they stand there; `costs` has those that are known."""
    work = [key]
    while work:
        top = work[-1]
        unknown = [item for item in top if type(item) is tuple and id(item) not in costs]
        if unknown and id(top) not in costs:
            work += unknown
        else:
            costs[id(top)] = 1 + sum(costs[id(item)] if type(item) is tuple else 1 for item in top)
            work.pop()
    return costs[id(key)]


def _of_pickle(pickle: Pickle) -> Iterator[Exposure]:
    thrown_away = _thrown_away(pickle)
    classes = _classes(pickle, thrown_away)
    wanted = {path for path, danger in classes.items() if danger != "inert"}
    places, uses = _uses(pickle.root, wanted) if wanted else ({}, {})
    named = {shown(name.module, name.name): name for name in pickle.globals}
    lost = {_function_text(call) for call in thrown_away}
    for path, danger in classes.items():
        where = places.get(path, [])
        if path in lost or (path in wanted and not where and not uses.get(path)):
            where = [*where, _lost_text(named.get(path))]
        yield Exposure(path, danger, tuple(where), max(uses.get(path, 0), len(where)))


def _classes(pickle: Pickle, thrown_away: Iterable[CallNode]) -> dict[str, Danger]:
    """Every global, what is fetched of one by `getattr`, and what is called by another way than its name."""
    functions = {function.path for call in pickle.calls for function in _called(call)}
    found: dict[str, Danger] = {}
    for name in pickle.globals:
        found[shown(name.module, name.name)] = danger_of(name.module, name.name, called=name.path in functions)
    for call in pickle.calls:
        if type(call.function) is GlobalNode:
            if _fetches(call):
                found[_fetched_text(call)] = _fetched_danger(call, called=False)
            elif call.function.name in _CALLERS and call.arguments and type(call.arguments[0]) is not GlobalNode:
                found[f"what {call.function.path} is given"] = "dangerous"
        elif type(call.function) is CallNode and _fetches(call.function):
            text = _fetched_text(call.function)
            found[text] = min(found.get(text, "inert"), _fetched_danger(call.function, called=True), key=_CLASSES.index)
        else:
            found[_function_text(call)] = "dangerous"
    return found | dict.fromkeys(map(_function_text, thrown_away), _CLASSES[0])


def _called(call: CallNode) -> Iterator[GlobalNode]:
    """The globals that are called: the function, and what some functions are given to call."""
    if type(call.function) is GlobalNode:
        yield call.function
        if call.function.name in _CALLERS and call.arguments and type(call.arguments[0]) is GlobalNode:
            yield call.arguments[0]


def _fetches(call: CallNode) -> bool:
    """Whether a call is `getattr` with a name: how protocol 2 names what lies in a class."""
    arguments = call.arguments
    known = call.is_call_of("builtins", "getattr") or call.is_call_of("__builtin__", "getattr")
    return known and isinstance(arguments, tuple) and len(arguments) == 2 and isinstance(arguments[1], str)


def _fetched(call: CallNode) -> tuple[str, str]:
    """Module and path of attributes that `getattr` leads to; the module is no name where it begins at an object."""
    names: list[str] = []
    node: Node = call
    while type(node) is CallNode and _fetches(node) and len(names) < MAX_DOTS:
        node, name = node.arguments
        names.append(name)
    if type(node) is GlobalNode:
        return node.module, ".".join([node.name, *reversed(names)])
    return "an object", ".".join(["its", *reversed(names)] if len(names) < MAX_DOTS else ["its", "__getattr__"])


def _fetched_text(call: CallNode) -> str:
    return shortened(shown(*_fetched(call)))


def _fetched_danger(call: CallNode, *, called: bool) -> Danger:
    return danger_of(*_fetched(call), called=called)


def _thrown_away(pickle: Pickle) -> list[CallNode]:
    """The calls whose result is nowhere in the object."""
    if not pickle.discards:
        return []
    kept = {id(node) for node, _ in _nodes(pickle.root)}
    return [call for call in pickle.calls if id(call) not in kept]


def _function_text(call: CallNode) -> str:
    """What is called, in words; a name where it has one."""
    depth, function = 0, call.function
    while type(function) is CallNode and depth < 20:
        depth, function = depth + 1, function.function
    if type(function) is ExtensionNode:
        name = f"copyreg.extension {function.code}"
    else:
        name = shown(function.module, function.name) if type(function) is GlobalNode else f"a {type(function).__name__}"
    return f"the result of {name}" if depth else name


def _lost_text(name: GlobalName | None) -> str:
    return "thrown away" + (f" (byte {name.at:,} of the pickle)" if name is not None else "")


def _uses(root: Node, wanted: set[str]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Where each of the wanted globals stands, and how often."""
    places: dict[str, list[str]] = {path: [] for path in wanted}
    uses = dict.fromkeys(wanted, 0)
    left = MAX_PLACES_IN_ALL
    for node, trail in _nodes(root):
        for path in _paths_at(node):
            if path not in wanted:
                continue
            uses[path] += 1
            if left and len(places[path]) < MAX_PLACES and (place := _place_text(trail)) not in places[path]:
                places[path].append(place)
                left -= 1
    return places, uses


def _paths_at(node: Node) -> Iterator[str]:
    """The names under which a node is listed."""
    if type(node) is GlobalNode:
        yield shown(node.module, node.name)
    elif type(node) is CallNode:
        if type(node.function) is not GlobalNode:
            yield _function_text(node)
        elif _fetches(node):
            yield _fetched_text(node)
        elif node.function.name in _CALLERS:
            yield f"what {node.function.path} is given"


def _place_text(trail: _Trail) -> str:
    names = []
    while trail is not None:
        trail, name = trail
        names.append(name)
        if len(names) == 64:
            names.append("...")
            break
    return shortened("/".join(reversed(names)) or ".")


def _nodes(root: Node) -> Iterator[tuple[Node, _Trail]]:
    """Every container and node that can be reached from the root, once, and every use of a global, with the way to it."""
    work: list[tuple[Node, _Trail]] = [(root, None)]
    seen: set[int] = set()
    while work:
        node, trail = work.pop()
        kind = type(node)
        if kind is GlobalNode or kind is ExtensionNode:
            yield node, trail
        elif kind in _CHILDREN and id(node) not in seen:
            seen.add(id(node))
            yield node, trail
            work += reversed([(child, way) for child, way in _CHILDREN[kind](node, trail) if type(child) in _LOOKED_AT])


def _of_pairs(pairs: Iterable[tuple[Node, Node]], trail: _Trail) -> Iterator[tuple[Node, _Trail]]:
    for key, value in pairs:
        name = key[:200] if isinstance(key, str) else str(key) if type(key) is int and key.bit_length() < 64 else "?"
        yield key, trail
        yield value, (trail, name)


def _of_items(items: Iterable[Node], trail: _Trail) -> Iterator[tuple[Node, _Trail]]:
    return ((item, (trail, str(number))) for number, item in enumerate(items))


def _of_call(call: CallNode, trail: _Trail) -> Iterator[tuple[Node, _Trail]]:
    """What a call uses stands where the call does; its state and its items are in it, by their names."""
    yield call.function, trail
    yield from ((each, trail) for each in (call.arguments or ()))
    yield call.keywords, trail
    for what, payload in call.edits:
        if what == "setitems":
            yield from _of_pairs(payload, trail)
        elif what == "build" and type(payload) is DictNode:
            yield from _of_pairs(payload.pairs, trail)
        else:
            yield payload, trail


_CHILDREN: dict[type, Callable[[Any, _Trail], Iterable[tuple[Node, _Trail]]]] = {
    DictNode: lambda node, trail: _of_pairs(node.pairs, trail),
    list: _of_items,
    tuple: _of_items,
    SetNode: lambda node, trail: ((item, trail) for item in node.items),
    FrozenSetNode: lambda node, trail: ((item, trail) for item in node.items),
    PersistentNode: lambda node, trail: [(node.pid, trail)],
    CallNode: _of_call,
}
_LOOKED_AT = {*_CHILDREN, GlobalNode, ExtensionNode}
