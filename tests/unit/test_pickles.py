"""Pickles: what the reader makes of a stream, and that the emitter writes the same graph again."""

from __future__ import annotations

import argparse
import collections
import datetime
import decimal
import fractions
import io
import math
import pickle
import pickletools
import time
import zipfile
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.machine import Handler, PickleError
from ckptdoctor.pickles.nodes import (
    ByteString,
    CallNode,
    DictNode,
    ExtensionNode,
    GlobalNode,
    PersistentNode,
    SetNode,
    mapping_pairs,
    with_pairs,
)
from ckptdoctor.pickles.parse import HANDLERS, Pickle, parse
from ckptdoctor.pickles.tensors import storage_of, tensor_node, view_of
from tests import builders as b

PROTOCOLS = range(6)


class Thing:
    """An object whose state is its `__dict__`; its identity matters, so it compares by what it holds."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.__dict__ == other.__dict__

    __hash__ = None  # type: ignore[assignment]


class Appended(list):
    """A list with a state: pickled with BUILD and APPENDS."""


class Keyed(dict):
    """A dict with a state: pickled with BUILD and SETITEMS."""


class Demanding:
    """Made by `__new__` with keywords: NEWOBJ_EX from protocol 4 on."""

    def __new__(cls, *, size: Any) -> Demanding:
        made = super().__new__(cls)
        made.size = size
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]:
        return (), {"size": self.size}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Demanding) and self.size == other.size

    __hash__ = None  # type: ignore[assignment]


def paths_of(parsed: Pickle) -> list[str]:
    return [name.path for name in parsed.globals]


def again(data: bytes, protocol: int, **loads: Any) -> Any:
    """Parse, emit, and let Python load what was emitted."""
    return pickle.loads(emit(parse(data).root, protocol), **loads)


atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 255, 256, 65535, 65536, 2**31 - 1, 2**31, -(2**31) - 1, -(2**39), 1 << 2100, -(1 << 2047)])
    | st.floats(allow_nan=False)
    | st.text(max_size=6)
    | st.binary(max_size=6)
    | st.binary(max_size=6).map(bytearray)
    | st.sampled_from(["\n", "a\\u0041", "\ud800", "é" * 200, b"x" * 300, b"x" * 256, range(1, 9, 2), slice(1, None), 1 + 2j])
    | st.sampled_from([int, len, collections.OrderedDict, datetime.date(2024, 2, 29), decimal.Decimal("1.5")])
)  # fmt: skip
hashable = st.integers() | st.text(max_size=4) | st.binary(max_size=3) | st.tuples(st.integers(), st.text(max_size=2))


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(hashable, inner, max_size=4)
        | st.dictionaries(hashable, inner, max_size=4).map(collections.OrderedDict)
        | st.sets(hashable, max_size=4)
        | st.frozensets(hashable, max_size=4)
        | inner.map(lambda value: Thing(value=value))
        | inner.map(lambda value: Demanding(size=value))
        | st.lists(inner, max_size=3).map(Appended)
        | st.dictionaries(hashable, inner, max_size=3).map(Keyed)
        | inner.map(lambda value: [value, value, (value, [value])])
    )


values = st.recursive(atoms, containers, max_leaves=12)


@settings(max_examples=300)
@given(values, st.sampled_from(PROTOCOLS))
@example([set(), frozenset(), (), b"", bytearray(), ""], 5)
def test_what_is_emitted_loads_as_what_was_parsed(value, protocol):
    assert again(pickle.dumps(value, protocol), protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_types_and_signs_survive_where_equality_is_blind(protocol):
    value = [True, 1, 1.0, -0.0, math.inf, math.nan, bytearray(b"a"), b"a", (), [], 2**63, -(2**63), "\ud800"]
    back = again(pickle.dumps(value, protocol), protocol)
    assert repr(back) == repr(value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("count", [0, 1, 2, 999, 1000, 1001, 2500])
def test_batches_of_any_size(protocol, count):
    value = [list(range(count)), dict.fromkeys(range(count)), set(range(count)), Appended(range(count))]
    assert again(pickle.dumps(value, protocol), protocol) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_shared_references_stay_shared_and_equal_ones_stay_apart(protocol):
    shared, name = [1], "".join(["na", "me"])
    value = {"a": shared, "b": shared, "c": [1], "d": (name, shared), "e": name, "f": Thing(x=shared)}
    back = again(pickle.dumps(value, protocol), protocol)
    assert back["a"] is back["b"] is back["d"][1] is back["f"].x
    assert back["c"] is not back["a"]
    assert back["e"] is back["d"][0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cycles_close_again(protocol):
    loop: list[Any] = [1]
    loop.append(loop)
    back = again(pickle.dumps(loop, protocol), protocol)
    assert back[1] is back

    keyed: dict[str, Any] = {}
    keyed["self"] = [keyed]
    back = again(pickle.dumps(keyed, protocol), protocol)
    assert back["self"][0] is back

    thing = Thing()
    thing.me = thing
    back = again(pickle.dumps(thing, protocol), protocol)
    assert back.me is back


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("length", range(1, 6))
def test_tuples_that_hold_themselves(protocol, length):
    inner: list[Any] = []
    value = (inner, *range(length - 1))
    inner.append(value)
    data = pickle.dumps(value, protocol)
    assert any(opcode.name in ("POP", "POP_MARK") for opcode, _, _ in pickletools.genops(data))
    back = again(data, protocol)
    assert back[0][0] is back
    assert back[1:] == value[1:]


@pytest.mark.parametrize("protocol", [4, 5])
def test_frozen_sets_that_hold_themselves(protocol):
    thing = HashedById()
    value = frozenset([thing])
    thing.owner = value
    back = again(pickle.dumps(value, protocol), protocol)
    assert next(iter(back)).owner is back


class HashedById:
    owner: Any


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_object_whose_arguments_hold_it(protocol):
    value = Reduced([])
    value.items.append(value)
    data = pickle.dumps(value, protocol)
    for back in (pickle.loads(data), again(data, protocol)):
        assert back.items[0].items is back.items
        assert len(back.items) == 1


class Reduced:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __reduce__(self) -> tuple[Any, ...]:
        return Reduced, (self.items,)


def test_strings_of_python_2_are_bytes_with_a_mark_and_stay_so():
    data = b"(S'quo\\'te\\x00'\np0\nS\"two\"\nU\x03\xff\x00aT\x05\x00\x00\x00long0g0\ntp1\n."
    root = parse(data).root
    assert root[:4] == (b"quo'te\0", b"two", b"\xff\0a", b"long0")
    assert all(type(item) is ByteString for item in root)
    assert root[4] is root[0]
    for encoding in ("bytes", "latin-1"):
        assert again(data, 2, encoding=encoding) == pickle.loads(data, encoding=encoding)


def test_numbers_and_text_of_protocol_0():
    data = b"(I01\nI00\nI-7\nL12345678901234567890L\nF1e300\nV\\u00e9\\u20ac\nl."
    assert parse(data).root == [True, False, -7, 12345678901234567890, 1e300, "é€"]
    assert again(data, 2) == pickle.loads(data)


OLD_STYLE = {
    "INST": b"(I1\nI2\nicollections\nOrderedDict\n.",
    "INST without arguments": b"(icollections\nOrderedDict\n.",
    "OBJ": b"(cfractions\nFraction\nI3\nI4\no.",
    "INST with a state": b"(iargparse\nNamespace\n(dS'a'\nI5\nsb.",
}


@pytest.mark.parametrize("data", [data for name, data in OLD_STYLE.items() if name != "INST"])
def test_old_style_instances_are_calls(data):
    parsed = parse(data)
    (made,) = parsed.calls
    assert parsed.root is made
    assert made.how in ("inst", "obj")
    assert again(data, 2) == pickle.loads(data)


def test_old_style_instances_name_their_class_and_keep_their_arguments():
    parsed = parse(OLD_STYLE["INST"])
    assert paths_of(parsed) == ["collections.OrderedDict"]
    assert parsed.root.arguments == (1, 2)
    assert parse(OLD_STYLE["INST with a state"]).root.edits[0][0] == "build"
    assert isinstance(again(OLD_STYLE["INST with a state"], 2, encoding="latin-1"), argparse.Namespace)
    assert again(OLD_STYLE["OBJ"], 2) == fractions.Fraction(3, 4)


def test_persistent_references_and_extension_codes_are_written_again():
    data = b"\x80\x02](Pplain text\nX\x01\x00\x00\x00k\x85Q\x82\x07\x83\x07\x01e."
    root = parse(data).root
    assert [type(item) for item in root] == [PersistentNode, PersistentNode, ExtensionNode, ExtensionNode]
    back = parse(emit(root)).root
    assert [back[0].pid, back[1].pid, back[2].code, back[3].code] == ["plain text", ("k",), 7, 263]
    assert (back[0].textual, back[1].textual) == (True, False)


def test_lists_come_from_the_opcodes_popped_calls_too():
    popped = b.call("os.system", b.text("true")) + b"0"
    hidden = b"(" + b.call("evil.one") + b"Pgone\n" + b"1"
    parsed = parse(b.pickled(popped, hidden, b.global_("seen.name"), b"0", b"N"))
    assert parsed.root is None
    assert paths_of(parsed) == ["os.system", "evil.one", "seen.name"]
    assert [call.function.path for call in parsed.calls] == ["os.system", "evil.one"]
    assert [reference.pid for reference in parsed.persistent] == ["gone"]


def test_globals_by_extension_code_and_by_stack_are_listed():
    stacked = b"\x8c\x02os\x8c\x06system\x93"
    parsed = parse(b.pickled(stacked, b"0", b"\x84\x05\x00\x00\x00"))
    assert paths_of(parsed) == ["os.system", "copyreg.extension 5"]


def test_nothing_that_is_named_is_imported_called_or_hashed():
    import sys

    stream = b.pickled(b.dict_([(b.call("canary_that_is_not_there.f"), b"N"), (b.list_(b"N"), b"N")]))
    root = parse(stream).root
    assert type(root) is DictNode
    assert root.pairs[1][0] == [None]  # a key that no dict could hold
    assert "canary_that_is_not_there" not in sys.modules


# ---- what torch writes ---------------------------------------------------------------------------------------------


def data_pkl(obj: Any, **options: Any) -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(obj, file, **options)
    with zipfile.ZipFile(file) as archive:
        return archive.read("archive/data.pkl")


def torch_objects() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    state = b.state_dict(names=["encoder", "decoder"])
    hyper = argparse.Namespace(lr=-0.5, big=-(2**39), huge=1 << 70, name="x", sizes=[1, 2, 3], none=None, raw=b"\0\xff")
    sets = {"set": {1, 2, 3}, "frozen": frozenset("ab"), "bytes": bytearray(b"abc"), "self": torch.Size([1, 2])}
    loop: dict[str, Any] = {"name": "x"}
    loop["loop"] = (loop, [loop])
    return {
        "plain": dict(state),
        "lightning": b.lightning_like(state, hyper_parameters=hyper),
        "awkward": {**b.awkward_tensors(), **b.awkward_parameters()},
        "others": {"sets": sets, "loop": loop, "optimizer": torch.optim.Adam(torch.nn.Linear(2, 2).parameters())},
        "many": {f"layer.{i}.{i % 7}": i for i in range(2001)},
        "many, ordered": collections.OrderedDict((f"layer.{i}", i) for i in range(2001)),
    }


@pytest.mark.parametrize("name", ["plain", "lightning", "awkward", "others", "many", "many, ordered"])
def test_a_torch_pickle_is_emitted_as_torch_wrote_it(name):
    data = data_pkl(torch_objects()[name])
    assert emit(parse(data).root) == data


def test_texts_of_one_character_are_the_exception():
    """CPython has one object for each: those that torch wrote twice (`str(0)`) come out as one that is referred to."""
    data = data_pkl({"0": b.state_dict(), "names": [str(0), str(0)]})
    back = emit(parse(data).root)
    texts = [argument for opcode, argument, _ in pickletools.genops(back) if opcode.name == "BINUNICODE"]
    assert len(back) < len(data)
    assert texts.count("0") == 1
    assert shape_of(parse(back).root) == shape_of(parse(data).root)


@pytest.mark.parametrize("protocol", [1, 3, 4, 5])
def test_other_protocols_are_emitted_as_an_equal_graph(protocol):
    data = data_pkl(torch_objects()["lightning"], pickle_protocol=protocol)
    parsed = parse(data)
    back = parse(emit(parsed.root, parsed.protocol))
    assert shape_of(back.root) == shape_of(parsed.root)
    assert paths_of(back) == paths_of(parsed)
    assert [r.pid[2:] for r in back.persistent] == [r.pid[2:] for r in parsed.persistent]
    assert len(back.calls) == len(parsed.calls)


def shape_of(root: Any) -> list[Any]:
    """The graph as a flat list, in which a node that was met before is only its number."""
    seen: dict[int, int] = {}
    out: list[Any] = []
    work = [root]
    while work:
        node = work.pop()
        if isinstance(node, tuple | list | DictNode | SetNode | CallNode | PersistentNode):
            if id(node) in seen:
                out.append(("again", seen[id(node)]))
                continue
            seen[id(node)] = len(seen)
        if isinstance(node, DictNode):
            parts = [part for pair in node.pairs for part in pair]
        elif isinstance(node, CallNode):
            parts = [node.function, node.arguments, node.keywords, *node.edits]
        else:
            parts = {SetNode: "items", PersistentNode: "pid"}.get(type(node))
            parts = [getattr(node, parts)] if parts else list(node) if isinstance(node, tuple | list) else []
        if isinstance(node, GlobalNode):
            out.append(node.path)
        else:
            out.append((type(node).__name__, len(parts)) if parts else (type(node).__name__, repr(node)[:40]))
        work += parts
    return out


def test_emitted_pickles_need_neither_pop_nor_frames():
    pickles = [data_pkl(torch_objects()["lightning"], pickle_protocol=protocol) for protocol in (2, 4, 5)]
    for data in pickles:
        names = {opcode.name for opcode, _, _ in pickletools.genops(emit(parse(data).root))}
        assert not names & {"POP", "POP_MARK", "DUP", "FRAME", "MEMOIZE", "STACK_GLOBAL"}


def test_replacing_a_key_leaves_the_same_text_elsewhere_alone():
    key = "".join(["we", "ight"])
    root = parse(pickle.dumps({"weights": {key: 1}, "names": [key, key]}, 2)).root
    weights = root.pairs[0][1]
    renamed = with_pairs(weights, [("bias", weights.pairs[0][1])])
    assert pickle.loads(emit(root, replace=[(weights, renamed)])) == {"weights": {"bias": 1}, "names": [key, key]}


def test_with_pairs_keeps_the_state_of_an_ordered_dict():
    value = collections.OrderedDict(a=1, b=2)
    value._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    root = parse(pickle.dumps(value, 2)).root
    assert mapping_pairs(root) == [("a", 1), ("b", 2)]
    back = pickle.loads(emit(with_pairs(root, [("c", 3)])))
    assert back == collections.OrderedDict(c=3)
    assert back._metadata == {"": {"version": 1}}
    assert pickle.loads(emit(with_pairs(root, []))) == collections.OrderedDict()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pairs_of_an_ordered_dict_at_every_protocol(protocol):
    root = parse(pickle.dumps(collections.OrderedDict(a=1, b=2), protocol)).root
    assert mapping_pairs(root) == [("a", 1), ("b", 2)]
    assert pickle.loads(emit(with_pairs(root, [("z", 9)]), protocol)) == {"z": 9}


def test_mapping_pairs_of_anything_else_is_none():
    for value in ([1], (1,), "text", collections.defaultdict(int)):
        assert mapping_pairs(parse(pickle.dumps(value, 2)).root) is None


def test_a_value_that_no_pickle_holds_is_refused():
    with pytest.raises(PickleError, match="complex"):
        emit([1j])
    with pytest.raises(PickleError):
        emit(GlobalNode("line\nbreak", "f"))
    with pytest.raises(PickleError):
        emit(GlobalNode("half \ud800", "f\n"))


def test_odd_names_are_written_as_they_were_read():
    stream = b.pickled(b"](cmod\xed\xa0\x80\nname\nPp\xed\xa0\x80\ne", protocol=0)
    assert paths_of(parse(emit(parse(stream).root))) == paths_of(parse(stream))


# ---- tensors in pickles ----------------------------------------------------------------------------------------------


def test_a_tensor_node_is_read_back_as_what_it_was_made_of():
    from ckptdoctor.model import DTYPES, packed

    for dtype in DTYPES.values():
        if dtype.bits >= 8:
            layout = packed(dtype, (2, 3))
            view = view_of(parse(emit(tensor_node("7", layout))).root)
            assert view is not None
            assert (view.layout, view.storage.key, view.storage.nbytes) == (layout, "7", 6 * dtype.itemsize)


BAD_TENSORS = {
    "no storage": b.tensor(b.text("no storage")),
    "negative size": b.tensor(shape=(-1,)),
    "huge size": b.tensor(shape=(1 << 63,)),
    "huge stride": b.tensor(stride=(1 << 70,)),
    "negative offset": b.tensor(offset=-1),
    "unequal lengths": b.tensor(shape=(2, 2)),
    "shape that is text": b.call("torch._utils._rebuild_tensor_v2", b.storage(), b"K\0", b.text("4"), b.tuple_()),
    "a size that is True": b.call("torch._utils._rebuild_tensor_v2", b.storage(), b"K\0", b"\x88\x85", b"K\x01\x85"),
    "unknown storage": b.tensor(b.storage(kind="torch.StringStorage")),
    "storage of a module": b.tensor(b.storage(kind="evil.FloatStorage")),
    "untyped without dtype": b.tensor(b.storage(kind="torch.storage.UntypedStorage")),
    "negative numel": b.tensor(b.storage(numel=-4)),
    "unknown dtype": b.tensor(b.storage(kind="torch.storage.UntypedStorage"), dtype="torch.float3"),
    "dtype of a module": b.tensor(b.storage(kind="torch.storage.UntypedStorage"), dtype="evil.float32"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_a_malformed_tensor_is_a_pickle_error(name):
    root = parse(b.pickled(BAD_TENSORS[name])).root
    with pytest.raises(PickleError):
        view_of(root)


LATE = b"q\7"  # a place in the memo, from which it is taken again


def test_what_is_added_after_a_call_comes_too_late_for_it():
    from ckptdoctor.model import DTYPES

    flags, late = b"}" + LATE, b"h\7" + b.text("neg") + b"\x88s0"
    made = b.tuple_(b.storage(), b.number(0), b.tuple_(b.number(4)), b.tuple_(b.number(1)), b"\x89", b"N", flags)
    function, kind = b.global_("torch._utils._rebuild_tensor_v2"), b.global_("torch.Tensor")
    for tensor in (b.tensor(metadata=flags), b.call("torch._tensor._rebuild_from_type_v2", function, kind, made, b"N")):
        view = view_of(parse(b.pickled(tensor, late)).root)
        assert view is not None
        assert (view.layout.neg, view.layout.dtype) == (False, DTYPES["float32"])

    pair = b.list_(b.text("w"), b"K\1") + b"q\x08"
    late = b"h\7" + b.list_(b.text("v"), b"K\2") + b"a0" + b"h\x08K\3a0"
    for argument in (b"]" + LATE + pair + b"a", b"}" + LATE + b.text("w") + b"K\1s"):
        added = late if argument[:1] == b"]" else b"h\7" + b.text("v") + b"K\2s0"
        root = parse(b.pickled(b.call("collections.OrderedDict", argument), added)).root
        assert mapping_pairs(root) == [("w", 1)]


@pytest.mark.parametrize("opcode", [b"R", b"\x81"])
def test_an_ordered_dict_of_a_dict_holds_it_if_it_is_called(opcode):
    root = parse(b.pickled(b.global_("collections.OrderedDict"), b.tuple_(b.dict_({"w": b"K\1"})), opcode)).root
    assert mapping_pairs(root) == ([("w", 1)] if opcode == b"R" else [])
    unknown = b.call("collections.OrderedDict", b.call("collections.Counter"))
    assert mapping_pairs(parse(b.pickled(unknown)).root) is None


def test_what_is_no_dense_tensor_is_none():
    for data in (b"N", b.call("torch._utils._rebuild_sparse_tensor"), b.call("evil._rebuild_tensor_v2"), b.text("x")):
        assert view_of(parse(b.pickled(data)).root) is None
    assert storage_of(PersistentNode(("module", "x", "y", "z", 1))) is None
    assert storage_of(PersistentNode("text", textual=True)) is None


def test_a_parameter_of_a_parameter_of_a_parameter_ends_soon():
    deep = b.pickled(b.global_("torch._utils._rebuild_parameter") * 50_000, b.tensor(), b"\x85R" * 50_000)
    root = parse(deep).root
    assert view_of(root) is None


# ---- streams that are broken -----------------------------------------------------------------------------------------


def small_stream() -> bytes:
    value = {"w": [1, 2.5, "text", b"raw", None, True, (1, 2, 3, 4), -1, 1 << 70], "s": {1}, "f": frozenset([2])}
    return pickle.dumps([value, Thing(a=bytearray(b"x")), collections.OrderedDict(a=1), Demanding(size=1)], 4)


def test_every_truncation_is_a_pickle_error():
    for data in (data_pkl(torch_objects()["lightning"]), small_stream(), pickle.dumps(torch_free(), 0)):
        for end in range(len(data)):
            with pytest.raises(PickleError):
                parse(data[:end])


def torch_free() -> Any:
    return {"a": [1, 1 << 80, 2.5, "é\n", b"raw"], "o": collections.OrderedDict(x=Thing(y=1)), "s": {1, 2}}


FLIPS = [1 << bit for bit in range(8)] + [0xFF, 0x55, 0x2A, 0x13]


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_flipped_byte_is_read_or_refused_and_never_anything_else(protocol):
    data = bytearray(pickle.dumps([torch_free(), (1, 2, 3, 4)], protocol) if protocol < 4 else small_stream())
    outcomes = set()
    for at in range(len(data)):
        keep = data[at]
        for flip in FLIPS:
            data[at] = keep ^ flip
            started = time.perf_counter()
            outcomes.add(read_and_written(bytes(data)))
            assert time.perf_counter() - started < 2
        data[at] = keep
    assert outcomes == {"read", "refused"}


def read_and_written(data: bytes) -> str:
    """What was read can be written, and is read again."""
    try:
        parsed = parse(data)
        parse(emit(parsed.root, parsed.protocol))
    except PickleError:
        return "refused"
    return "read"


BARE = [bytes([code]) for code in b"](}()tle0125aesudRbocNK.QqhjrX\x85\x86\x87\x81\x92\x93\x90\x91\x8f\x94"]
WITH_ARGUMENT = [b"K\1", b"q\0", b"h\0", b"q\1", b"h\1", b"cm\nn\n", b"X\1\0\0\0a"]


@settings(max_examples=400)
@given(st.lists(st.sampled_from(BARE) | st.sampled_from(WITH_ARGUMENT), max_size=40))
def test_any_opcodes_in_any_order(opcodes):
    read_and_written(b.pickled(*opcodes, protocol=4))


def called_through(handler: Handler) -> Handler:
    return lambda machine, at: handler(machine, at)


CALLED = [called_through(handler) for handler in HANDLERS]
"""Every opcode by its handler, also those that the loop does itself."""


def outcome(data: bytes, table: list[Handler] | None) -> Any:
    try:
        parsed = parse(data, table=table)
    except PickleError as error:
        return str(error)
    return shape_of(parsed.root), parsed.end, paths_of(parsed), len(parsed.calls), len(parsed.persistent)


@settings(max_examples=400)
@given(st.lists(st.sampled_from(BARE) | st.sampled_from(WITH_ARGUMENT), max_size=40), st.integers(0, 3))
@example([b"K"], 1)
@example([b"q"], 1)
@example([b"h\7"], 0)
@example([b"t"], 0)
@example([b"N\x86"], 0)
@example([b"r\0\0\0\0"], 0)
@example([b"Nr\0\0\0"], 1)
def test_what_the_loop_does_itself_is_what_the_handlers_do(opcodes, cut):
    data = b.pickled(*opcodes, protocol=4)
    data = data[: len(data) - cut]
    assert outcome(data, None) == outcome(data, CALLED)


def test_the_loop_and_the_handlers_agree_on_what_torch_writes():
    for name in torch_objects():
        data = data_pkl(torch_objects()[name])
        assert outcome(data, None) == outcome(data, CALLED)


LARGE_CLAIMS = {
    "LONG_BINPUT": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "text of 4 GiB": b"\x80\x02X\xff\xff\xff\xffabc.",
    "text of 2^63": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "bytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "bytearray": b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\xffabc.",
    "long": b"\x80\x02\x8b\xff\xff\xff\x7fabc.",
    "a negative long": b"\x80\x02\x8b\xff\xff\xff\xffabc.",
    "a negative string": b"\x80\x01T\xff\xff\xff\xffabc.",
    "frame": b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN.",
}


@pytest.mark.parametrize("name", LARGE_CLAIMS)
def test_large_claims_cost_nothing(name):
    import tracemalloc

    tracemalloc.start()
    outcome = read_and_written(LARGE_CLAIMS[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome == ("read" if name == "LONG_BINPUT" else "refused")
    assert peak < 1 << 20


DEEP = 50_000
DEEP_STREAMS = {
    "tuples": b.pickled(b")" + b"\x85" * DEEP),
    "tuples as keys": b.pickled(b"})" + b"\x85" * DEEP + b"Ns"),
    "lists": b.pickled(b"]" * DEEP + b"a" * (DEEP - 1)),
    "calls": b.pickled(b"cm\nf\n" * DEEP + b")R" + b"\x85R" * (DEEP - 1)),
    "marks": b.pickled(b"(" * DEEP + b"l" * DEEP),
    "dicts": b.pickled(b"}" + b"K\0}" * DEEP + b"s" * DEEP),
}


@pytest.mark.parametrize("name", DEEP_STREAMS)
def test_depth_does_not_matter(name):
    assert read_and_written(DEEP_STREAMS[name]) == "read"


def test_colliding_keys_cost_nothing():
    keys = b"".join(b.number(i * ((1 << 61) - 1)) + b"N" for i in range(20_000))
    started = time.perf_counter()
    assert read_and_written(b.pickled(b"}(" + keys + b"u")) == "read"
    assert time.perf_counter() - started < 5


def test_a_graph_that_doubles_at_every_step_is_written_in_its_own_size():
    doubling = b"K\1\x85" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(200))
    assert len(emit(parse(b.pickled(doubling)).root)) < 5_000


def test_the_message_says_where():
    with pytest.raises(PickleError, match=r"byte 2 \(opcode 0xff\)|byte 2"):
        parse(b"\x80\x02\xff.")
    with pytest.raises(PickleError, match="ends early"):
        parse(b"\x80\x02")
    with pytest.raises(PickleError, match="protocol 9"):
        parse(b"\x80\x09N.")


def test_a_pickle_in_a_row_of_pickles_says_where_it_ends():
    first, second = pickle.dumps([1], 2), pickle.dumps("x", 2)
    parsed = parse(first + second)
    assert (parsed.root, parsed.end) == ([1], len(first))
    assert parse(first + second, parsed.end).root == "x"


def test_integers_are_as_short_as_pickle_makes_them():
    for value in (-(2**39), -(2**47), 2**39, -(2**31) - 1, 1 << 2040, -(1 << 2039)):
        assert emit(value) == pickle.dumps(value, 2)
