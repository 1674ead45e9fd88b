"""Patterns: what may be written, what is refused and where, what matches, and how two sides pair."""

import time
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ckptdoctor.patterns import AmbiguousKey, Axis, Match, Pattern, PatternError, pair

# --- what a pattern matches


@pytest.mark.parametrize(
    ("pattern", "key", "captures", "choices"),
    [
        ("head.weight", "head.weight", {}, ()),
        ("blocks.{i}.mlp.{0,2}.{p}", "blocks.3.mlp.2.bias", {"i": "3", "p": "bias"}, (1,)),
        ("layer{i}.w", "layer12.w", {"i": "12"}, ()),
        ("layer{i}_norm.w", "layer1_norm.w", {"i": "1"}, ()),
        ("norm{1,2}.w", "norm2.w", {}, (1,)),
        ("head.{0..4}.w", "head.4.w", {}, (4,)),
        ("h.{9..11}", "h.10", {}, (1,)),
        ("{*m}.num_batches_tracked", "a.b.c.num_batches_tracked", {"m": "a.b.c"}, ()),
        ("a.{*m}", "a.b", {"m": "b"}, ()),
        ("{*m}.{x}.w", "a.b.c.w", {"m": "a.b", "x": "c"}, ()),
        ("{i:int}.w", "0.w", {"i": "0"}, ()),
        ("a.{i}.b.{i}", "a.7.b.7", {"i": "7"}, ()),
        ("a.{i}x{i}", "a.7x7", {"i": "7"}, ()),
        ("{i}{j}.{i}", "ab.a", {"i": "a", "j": "b"}, ()),
        ("{{a}}.{b}", "{a}.w", {"b": "w"}, ()),
        ("{{{a}}}", "{w}", {"a": "w"}, ()),
        ("größe.{p}", "größe.w", {"p": "w"}, ()),
        ("{p}", "a\nb", {"p": "a\nb"}, ()),
        ("{{,}}", "{,}", {}, ()),
        ("{a,ab}{x}", "abc", None, None),
    ],
)
def test_reads(pattern, key, captures, choices):
    if captures is None:
        with pytest.raises(AmbiguousKey):
            Pattern.parse(pattern).match(key)
        return
    match = Pattern.parse(pattern).match(key)
    assert match == Match(captures, choices)
    assert Pattern.parse(pattern).fill(match.captures, match.choices) == key


@pytest.mark.parametrize(
    ("pattern", "key"),
    [
        ("fc1.w", "fc10.w"),
        ("head.{p}", "aux_head.w"),
        ("head.{p}", "aux.head.w"),
        ("head.{p}", "head.0.w"),
        ("head.{p}", "head"),
        ("head", "head\n"),
        ("head", "head.w"),
        ("a.b", "axb"),
        ("layer{i}.w", "layer.w"),
        ("a.{*m}", "a"),
        ("a.{*m}", "a."),
        ("a.{*m}", "a..b"),
        ("{*m}.a.{p}", "a.w"),
        ("{i:int}", "01"),
        ("{i:int}", "-1"),
        ("{i:int}", "x"),
        ("{i:int}", "٣"),
        ("{0..4}", "5"),
        ("{0..4}", "00"),
        ("norm{1,2}", "norm12"),
        ("a.{i}.b.{i}", "a.7.b.8"),
        ("a.{p}", "A.w"),
        ("a.{p}", ""),
    ],
)
def test_does_not_read(pattern, key):
    assert Pattern.parse(pattern).match(key) is None


@pytest.mark.parametrize(
    ("pattern", "key", "readings"),
    [
        ("{a}_{b}", "x_y_z", [({"a": "x_y", "b": "z"}, ()), ({"a": "x", "b": "y_z"}, ())]),
        ("{a}{b}", "xyz", [({"a": "xy", "b": "z"}, ()), ({"a": "x", "b": "yz"}, ())]),
        ("{a,ab}{bc,c}", "abc", [({}, (0, 0)), ({}, (1, 1))]),
        ("{i:int}{p}", "12a", [({"i": "12", "p": "a"}, ()), ({"i": "1", "p": "2a"}, ())]),
    ],
)
def test_a_key_with_two_readings_is_an_error(pattern, key, readings):
    with pytest.raises(AmbiguousKey, match="in two ways") as caught:
        Pattern.parse(pattern).match(key)
    assert caught.value.key == key
    assert list(caught.value.readings) == [Match(*reading) for reading in readings]


@pytest.mark.parametrize(("pattern", "key"), [("{a}_{b}", "x_y"), ("{a}{b}", "xy"), ("{a,ab}{bc,c}", "abbc")])
def test_one_reading_is_enough_of_patterns_that_could_have_two(pattern, key):
    assert Pattern.parse(pattern).match(key)


# --- what a pattern says of itself


def test_captures_and_groups_in_order():
    pattern = Pattern.parse("{*m}.{b}{a:int}.{x,y}.{b}.{0..2}")
    assert list(pattern.captures.items()) == [("m", "many"), ("b", "segment"), ("a", "int")]
    assert pattern.groups == (("x", "y"), ("0", "1", "2"))
    assert not pattern.literal
    assert str(pattern) == pattern.text == "{*m}.{b}{a:int}.{x,y}.{b}.{0..2}"


def test_literal():
    assert Pattern.parse("a.{{b}}").literal
    assert Pattern.parse("a.{{b}}").fill({}) == "a.{b}"
    assert not Pattern.parse("{p}").literal
    assert not Pattern.parse("{a,b}").literal


def test_patterns_of_one_text_are_one():
    assert len({Pattern.parse("a.{p}"), Pattern.parse("a.{p}"), Pattern.parse("b.{p}")}) == 2


def test_fill_says_what_is_not_given():
    with pytest.raises(KeyError):
        Pattern.parse("{p}").fill({})
    with pytest.raises(IndexError):
        Pattern.parse("{a,b}.{c,d}").fill({}, [0])


# --- what is no pattern


@pytest.mark.parametrize(
    ("text", "offset", "message", "hint"),
    [
        ("", 0, "empty", "head.weight"),
        (".a", 0, "empty segment", "one dot"),
        ("a.", 1, "empty segment", "one dot"),
        ("a..b", 2, "empty segment", "one dot"),
        ("a.*.b", 2, "stands for nothing", "write {name}"),
        ("*", 0, "stands for nothing", "{*name}"),
        ("a.{b", 2, "never closed", "{{"),
        ("a.b}", 3, "closes nothing", "}}"),
        ("a.{b{c}}", 4, "braces inside", "{a,b}"),
        ("a.{}", 2, "names nothing", "{name}"),
        ("a.{ }", 2, "names nothing", "{name}"),
        ("a.{0}", 2, "neither a name nor a group", "write 0 without braces"),
        ("a.{1abc}", 2, "neither a name nor a group", "{name}"),
        ("a.{x y}", 2, "neither a name nor a group", "{name}"),
        ("a.{x:float}", 2, "unknown kind", "{x:int}"),
        ("a.{x:}", 2, "unknown kind", "{x:int}"),
        ("a.{1:int}", 2, "no proper name", "{name:int}"),
        ("a.{*}", 2, "no name", "{*name}"),
        ("a.{*1}", 2, "no proper name", "{*name}"),
        ("a.{*m}x", 2, "part of a segment", "{m}"),
        ("{*m}.a.{*n}", 7, "second of its kind", "one {*name}"),
        ("{*m}.a.{*m}", 7, "second of its kind", "one {*name}"),
        ("{i}.{i:int}", 4, "{i:int} was {i} before", "write {i} both times"),
        ("a.{b,b}", 2, "lists b twice", None),
        ("a.{b,}", 2, "empty member", "{a,b}"),
        ("a.{b, c}", 2, "space beside a member", "without spaces"),
        ("a.{b,c.d}", 2, "dot inside a group", "one rule for each"),
        ("a.{0..2,4}", 2, "dot inside a group", "one rule for each"),
        ("a.{b,c*}", 2, "* inside a group", "plain names"),
        ("a.{4..0}", 2, "does not ascend", "{0..4}"),
        ("a.{3..3}", 2, "does not ascend", "write 3 without braces"),
        ("a.{00..4}", 2, "not a range", "{0..4}"),
        ("a.{a..c}", 2, "not a range", "{0..4}"),
        ("a.{-1..3}", 2, "not a range", "{0..4}"),
        ("a.{0..100000}", 2, "more than 100,000 members", "{name:int}"),
        ("a.{0.." + "9" * 5000 + "}", 2, "not a range", "{0..4}"),
    ],
)
def test_refuses(text, offset, message, hint):
    with pytest.raises(PatternError) as caught:
        Pattern.parse(text)
    assert message in caught.value.message
    assert caught.value.offset == offset
    assert (caught.value.hint is None) if hint is None else (hint in caught.value.hint)


@given(st.text(alphabet="ab0.{}*,:1_ ", max_size=14))
def test_any_text_is_a_pattern_or_an_error_that_points_into_it(text):
    try:
        offset, kept = 0, Pattern.parse(text).text
    except PatternError as error:
        offset, kept = error.offset, text
    assert kept == text
    assert 0 <= offset <= max(len(text) - 1, 0)


# --- properties

_names = st.sampled_from(["a", "b", "c"])
_literals = st.text(alphabet="xy1{}", min_size=1, max_size=2).map(lambda t: t.replace("{", "{{").replace("}", "}}"))
_groups = st.lists(st.text(alphabet="xy1", min_size=1, max_size=2), min_size=2, max_size=3, unique=True).map(
    lambda members: "{" + ",".join(members) + "}"
)
_captures = st.builds("{{{}}}".format, _names)
_segments = st.lists(st.one_of(_literals, _groups, _captures), min_size=1, max_size=3).map("".join)
_patterns = st.lists(st.one_of(_segments, st.just("{*m}")), min_size=1, max_size=3).filter(
    lambda segments: segments.count("{*m}") < 2
)
_keys = st.lists(st.text(alphabet="xy1", min_size=1, max_size=4), min_size=1, max_size=4).map(".".join)


def readings(pattern: Pattern, key: str) -> list[Match]:
    """All readings of a key, by trying out every cut of the key and every member: slow, and plainly right."""
    cuts = [key[i:j] for i in range(len(key)) for j in range(i + 1, len(key) + 1)]
    values = {
        name: {cut for cut in cuts if kind == "many" or "." not in cut}
        - {cut for cut in cuts if cut.startswith(".") or cut.endswith(".") or ".." in cut}
        for name, kind in pattern.captures.items()
    }
    found = []
    for texts in product(*values.values()):
        captures = dict(zip(values, texts, strict=True))
        for choices in product(*(range(len(members)) for members in pattern.groups)):
            if pattern.fill(captures, choices) == key:
                found.append(Match(captures, choices))
    return found


@given(_patterns.map(".".join), _keys)
def test_match_finds_the_only_reading(text, key):
    pattern = Pattern.parse(text)
    assume(len(pattern.captures) < 3)
    every = readings(pattern, key)
    if len(every) > 1:
        with pytest.raises(AmbiguousKey) as caught:
            pattern.match(key)
        assert all(reading in every for reading in caught.value.readings)
    else:
        assert pattern.match(key) == (every[0] if every else None)


@given(_patterns.map(".".join), st.data())
def test_fill_is_undone_by_match(text, data):
    pattern = Pattern.parse(text)
    captures = {
        name: data.draw(_keys if kind == "many" else st.text(alphabet="xy1", min_size=1, max_size=3))
        for name, kind in pattern.captures.items()
    }
    choices = tuple(data.draw(st.integers(0, len(members) - 1)) for members in pattern.groups)
    key = pattern.fill(captures, choices)
    try:
        found = [pattern.match(key)]
    except AmbiguousKey as error:
        found = list(error.readings)
    assert len(found) > 1 or found == [Match(captures, choices)]
    assert all(pattern.fill(reading.captures, reading.choices) == key for reading in found)


@pytest.mark.parametrize("pattern", ["{a}_{b}_{c}_end", "{a}{b}{c}x", "{a:int}{b}{c:int}", "{*m}.{a}x{b}", "{a}.{a}x"])
@pytest.mark.parametrize("key", ["_" * 10_000, "a" * 10_000, "1" * 10_000, "x." * 5_000 + "y"])
def test_long_keys_take_no_time(pattern, key):
    start = time.perf_counter()
    assert Pattern.parse(pattern).match(key) is None
    assert time.perf_counter() - start < 3  # 0.1 s at most where it was written; hours with unbounded captures


# --- pairing


def pairing(source, target):
    return pair(Pattern.parse(source), Pattern.parse(target))


@pytest.mark.parametrize(
    ("source", "target", "key", "filled"),
    [
        ("blocks.{i}.mlp.{0,2}.{p}", "blocks.{i}.mlp.{fc1,fc2}.{p}", "blocks.3.mlp.2.w", "blocks.3.mlp.fc2.w"),
        ("norm{1,2}.{p}", "norm{2,1}.{p}", "norm1.w", "norm2.w"),
        # the same members stay together although another group stands between
        ("{a,b}.{0,2}", "{fc1,fc2}.{a,b}", "b.0", "fc1.b"),
        ("{a,b}.{a,b}", "{a,b}.{a,b}", "a.b", "a.b"),
        ("{a,b}.{c,d}", "{e,f}.{g,h}", "b.c", "f.g"),
        ("{a,b}.{x,y}.{a,b}", "{p,q}.{a,b}.{a,b}", "a.y.b", "q.a.b"),
        ("{b}.{a}", "{a}.{b}", "x.y", "y.x"),
        ("l.{i:int}", "m.{i}", "l.3", "m.3"),
        ("l.{*p}", "m.{*p}.x", "l.a.b", "m.a.b.x"),
        ("{0..2}", "{a,b,c}", "1", "b"),
        ("{0..1}", "x{0,1}", "1", "x1"),
    ],
)
def test_pairs(source, target, key, filled):
    both = pairing(source, target)
    assert not both.fan_in
    assert not both.fan_out
    assert both.fill(both.source.match(key)) == filled


def test_a_group_on_the_source_side_only_is_a_fan_in():
    both = pairing("b.{i}.{q,k,v}.{p}", "b.{i}.qkv.{p}")
    assert both.fan_in == (Axis(0, ("q", "k", "v")),)
    assert both.fan_out == ()
    assert {both.fill(both.source.match(f"b.1.{member}.w")) for member in "qkv"} == {"b.1.qkv.w"}


def test_a_capture_on_the_source_side_only_is_a_fan_in():
    assert pairing("experts.{e:int}.w", "experts.w").fan_in == (Axis("e"),)


def test_what_stands_on_the_target_side_only_is_a_fan_out():
    both = pairing("head.{p}", "head.{0..4}.{p}")
    assert both.fan_out == (Axis(0, ("0", "1", "2", "3", "4")),)
    with pytest.raises(ValueError, match="does not bind"):
        both.fill(both.source.match("head.weight"))
    assert pairing("mlp", "mlp.{p}").fan_out == (Axis("p"),)


def test_equal_groups_pair_first_and_the_rest_is_the_axis():
    both = pairing("{w,b}.{q,k,v}.{x,y}", "{x,y}.{w,b}")
    assert both.groups == ((2, 0), (0, 1))
    assert both.fan_in == (Axis(1, ("q", "k", "v")),)


@pytest.mark.parametrize(
    ("target", "texts"), [("{0..4}", ["{0..4}"]), ("{a,b}", ["{a,b}"]), ("{i:int}.{*p}", ["{i:int}", "{*p}"])]
)
def test_an_axis_is_named_as_it_is_written(target, texts):
    assert [axis.text for axis in pairing("a", target).fan_out] == texts


@pytest.mark.parametrize(
    ("source", "target", "offset", "message"),
    [
        ("a.{q,k,v}", "a.{x,y}", 2, "{q,k,v} has 3 members against 2 in {x,y}"),
        ("{a,b}.{q,k,v}", "n.{a,b}.{x,y}", 8, "3 members against 2"),
        ("{a,b}.{q,k,v}", "n.{x,y}", 2, "2 groups ({a,b}, {q,k,v}) in {a,b}.{q,k,v} against 1 group ({x,y})"),
        ("a.{p}", "a.{*p}", 2, "{*p} is {p} in a.{p}"),
        ("a.{*p}", "a.b.{p}", 4, "{p} is {*p} in a.{*p}"),
        ("a.{p}", "a.{p:int}", 2, "{p:int} is {p}"),
    ],
)
def test_what_does_not_pair(source, target, offset, message):
    with pytest.raises(PatternError) as caught:
        pairing(source, target)
    assert message in caught.value.message
    assert caught.value.offset == offset


def test_twenty_rules_on_fifty_thousand_keys():
    keys = [f"blocks.{i}.mlp.{j}.weight" for i in range(50) for j in range(1000)]
    texts = ["blocks.{i}.attn.{q,k,v}.{p}", "{*m}.num_batches_tracked", "blocks.{i}.mlp.{0,2}.{p}", "head.{p}"]
    patterns = [Pattern.parse(text) for text in texts] * 5
    start = time.perf_counter()
    assert sum(pattern.match(key) is not None for pattern in patterns for key in keys) == 5 * 100
    assert time.perf_counter() - start < 5  # 0.3 s where it was written
