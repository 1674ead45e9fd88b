"""The comparison by which an output proves itself: equal graphs are equal, and whatever is changed in one is found."""

from __future__ import annotations

import collections
import pickle
from typing import Any

import pytest

from ckptdoctor.pickles.compare import difference
from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.nodes import ByteString, DictNode, ExtensionNode, GlobalNode, PersistentNode, with_pairs
from ckptdoctor.pickles.parse import parse
from tests import builders as b
from tests.unit.test_pickles import PROTOCOLS, Demanding, Thing

SHARED = [1]
NAME = "".join(["na", "me"])
LOOP: list[Any] = [1]
LOOP.append((LOOP, {"loop": LOOP}))
ORDERED = collections.OrderedDict(a=1, b=[2])

VALUES: dict[str, Any] = {
    "plain": [
        None,
        True,
        False,
        1,
        -1,
        1 << 70,
        1.5,
        float("nan"),
        -0.0,
        "text",
        b"raw",
        bytearray(b"x"),
        (),
        (1, "a"),
    ],
    "dict": {"a": 1, "b": {"c": [2]}, 3: "d"},
    "ordered": ORDERED,
    "sets": [{1}, frozenset([2])],
    "objects": [Thing(x=1, y=[2]), Demanding(size=3), collections.deque([1])],
    "shared": {"a": SHARED, "b": SHARED, "c": (NAME, NAME), "d": [1]},
    "a loop": LOOP,
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", VALUES)
def test_what_is_parsed_twice_or_written_again_is_the_same(name, protocol):
    data = pickle.dumps(VALUES[name], protocol)
    source = parse(data).root
    assert difference(parse(data).root, source) is None
    assert difference(parse(emit(source)).root, source) is None


STATE = ["a", "b"]
OBJECT = b.call("m.f", b.text("argument")) + b.text("state") + b"b"
CHANGED: dict[str, tuple[Any, Any]] = {
    "a text": (["a"], ["b"]),
    "a number": ([1], [2]),
    "one that is true": ([1], [True]),
    "one that is a fraction": ([1], [1.0]),
    "the sign of nothing": ([0.0], [-0.0]),
    "text that is bytes": (["a"], [b"a"]),
    "bytes that may change": ([b"a"], [bytearray(b"a")]),
    "nothing": ([None], [False]),
    "a list that is a tuple": ([[1]], [(1,)]),
    "an empty tuple": ([()], [[]]),
    "one item more": ([1, 2], [1]),
    "a key": ({"a": 1}, {"b": 1}),
    "a value": ({"a": 1}, {"a": 2}),
    "order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "a dict that is ordered": ({"a": 1}, collections.OrderedDict(a=1)),
    "a set that is frozen": ({1}, frozenset([1])),
    "an item of a set": ({1}, {2}),
    "a state": (Thing(x=1), Thing(x=2)),
    "a keyword": (Demanding(size=1), Demanding(size=2)),
    "sharing that is lost": ([SHARED, SHARED], [SHARED, [1]]),
    "sharing that is new": ([SHARED, [1]], [SHARED, SHARED]),
    "sharing in another place": ([STATE, STATE, ["a", "b"]], [STATE, ["a", "b"], STATE]),
    "a loop that is cut": (LOOP, [1, (LOOP, {"loop": [1]})]),
}


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", CHANGED)
def test_whatever_is_changed_is_found(name, protocol):
    written, source = (parse(pickle.dumps(value, protocol)).root for value in CHANGED[name])
    assert difference(written, source)
    assert difference(source, written)


OPCODES: dict[str, tuple[bytes, bytes]] = {
    "another function": (b.call("m.f"), b.call("m.g")),
    "another module": (b.call("m.f"), b.call("n.f")),
    "another argument": (b.call("m.f", b.text("a")), b.call("m.f", b.text("b"))),
    "another way to make it": (b.global_("m.f") + b")R", b.global_("m.f") + b")\x81"),
    "no state": (OBJECT, OBJECT.removesuffix(b.text("state") + b"b")),
    "items that are a state": (b.call("m.f") + b"(K\1e", b.call("m.f") + b"]K\1ab"),
    "another storage": (b.storage("0"), b.storage("1")),
    "a reference in text": (b"Px\n", b.text("x") + b"Q"),
    "another extension": (b"\x82\1", b"\x82\2"),
    "a text of Python 2": (b"U\1a", b.text("a")),
}


@pytest.mark.parametrize("name", OPCODES)
def test_whatever_is_changed_in_an_inert_node_is_found(name):
    written, source = (parse(b.pickled(opcodes)).root for opcodes in OPCODES[name])
    assert difference(written, written) is None
    assert difference(written, source)
    assert difference(source, written)


def test_two_ways_to_write_an_old_style_instance_are_one():
    inst, obj = b"(I1\nic\nd\n.", b"(cc\nd\nI1\no."
    assert difference(parse(obj).root, parse(inst).root) is None


def test_what_is_replaced_must_be_what_stands_there():
    data = pickle.dumps({"weights": collections.OrderedDict(a=1), "again": None}, 2)
    source = parse(data).root
    weights = source.pairs[0][1]
    renamed = with_pairs(weights, [("b", 1)])
    written = parse(emit(source, replace=[(weights, renamed)])).root
    assert difference(written, source, [(weights, renamed)]) is None
    assert difference(written, source)
    assert difference(parse(data).root, source, [(weights, renamed)])


def test_nodes_of_every_kind_equal_themselves_only():
    kinds = [None, True, 1, 1.0, "1", b"1", ByteString(b"1"), bytearray(b"1"), (1,), [1], DictNode([(1, 1)])]
    kinds += [GlobalNode("m", "1"), ExtensionNode(1), PersistentNode("1"), PersistentNode("1", textual=True)]
    for one in kinds:
        for other in kinds:
            assert (difference(one, other) is None) == (one is other)


def test_a_graph_that_doubles_at_every_step_is_compared_in_its_own_size():
    data = b.pickled(b"K\1\x85" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(200)))
    assert difference(parse(data).root, parse(data).root) is None


def test_depth_does_not_matter():
    for data in (b.pickled(b")" + b"\x85" * 50_000), b.pickled(b"]" * 50_000 + b"a" * 49_999)):
        assert difference(parse(data).root, parse(data).root) is None
