"""Where the weights lie, which wrapper segments go, and that they come back."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.errors import KeyCollision
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.wrappers import (
    EVERYWHERE,
    IN_FRONT,
    NAMES,
    Place,
    SelectionError,
    align,
    place_text,
    rewrapped,
    select,
    stripped,
)


def manifest(keys: Iterable[str] | str, ties: dict[str, str] | None = None) -> Manifest:
    keys = keys.split() if isinstance(keys, str) else keys
    return Manifest(TensorSpec(key, (2,), DTYPES["float32"], tied_to=(ties or {}).get(key)) for key in keys)


def places(*texts: str) -> dict[Place, int]:
    return {() if text == "." else tuple(text.split("/")): 3 for text in texts}


# ---- select ------------------------------------------------------------------------------------------------------------

FOUND = {
    "the root of a bare state dict": ([".", "nested"], "."),
    "Lightning": (["state_dict", "optimizer_states/0/state/0", "callbacks/EMA"], "state_dict"),
    "a known name beside tensors at the root": ([".", "model"], "model"),
    "a known name before deeper ones": (["a/b", "model_state_dict", "other"], "model_state_dict"),
    "DeepSpeed": (["module", "optimizer/state/1"], "module"),
    "the only place, whatever its name": (["network/weights"], "network/weights"),
    "the only one that is no optimizer's": (["optim/state", "net", "lr_scheduler/x", "scaler/y"], "net"),
    "an optimizer by any name": (["optimizerG/state/0", "net"], "net"),
    "weights before their average": (["model_ema", "weights"], "weights"),
    "a named place before an average at the root": (["model", "ema"], "model"),
    "an average where nothing else is": (["model_ema"], "model_ema"),
    "an average inside": (["callbacks/ema_weights", "net"], "net"),
    "the root before an average": ([".", "ema_state_dict", "swa_model"], "."),
    "no average by accident of spelling": (["schema"], "schema"),
}


@pytest.mark.parametrize("name", FOUND)
def test_the_weights_are_found(name):
    there, expected = FOUND[name]
    assert place_text(select(places(*there))) == expected
    assert place_text(select(places(*reversed(there)))) == expected


@pytest.mark.parametrize("name", NAMES)
def test_each_known_name_is_found_among_others(name):
    assert select(places("x", name, "y/z")) == (name,)


@pytest.mark.parametrize(
    "there",
    [["state_dict", "model"], ["generator", "discriminator"], ["model_ema", "swa"], ["a/b", "a/c", "optimizer"]],
)
def test_two_equals_are_an_error_that_lists_them(there):
    with pytest.raises(SelectionError, match="several places") as caught:
        select(places(*there))
    candidates = [text for text in there if text != "optimizer"]
    assert [place_text(place) for place in caught.value.candidates] == candidates
    assert all(f"{text} (3 tensors)" in str(caught.value) for text in candidates)
    assert caught.value.hint == f"choose one, as --select {candidates[0]}"


@pytest.mark.parametrize("there", [[], ["optimizer/state/0"], ["optimizer_states/0/state/1", "scaler"]])
def test_no_weights_at_all_is_an_error(there):
    with pytest.raises(SelectionError, match="no state dict") as caught:
        select(places(*there))
    assert caught.value.candidates == ()
    assert caught.value.hint


def test_a_place_that_is_asked_for_is_taken_whatever_else_is_there():
    there = places("state_dict", "optimizer/state/0", "a/b", ".")
    for wanted in ("optimizer/state/0", "a/b", "state_dict"):
        assert select(there, wanted) == tuple(wanted.split("/"))
    for wanted in (".", "", "/", "./"):
        assert select(there, wanted) == ()
    assert select(there, "/a//b/") == ("a", "b")


def test_a_place_that_is_not_there_is_an_error_that_lists_the_others():
    with pytest.raises(SelectionError, match="no tensors at weights") as caught:
        select(places("state_dict", "ema"), "weights")
    assert caught.value.candidates == (("state_dict",), ("ema",))
    assert caught.value.hint == "tensors lie at state_dict, ema"
    with pytest.raises(SelectionError) as caught:
        select({}, "weights")
    assert caught.value.hint == "it holds no tensors by name"


# ---- align -----------------------------------------------------------------------------------------------------------


def keys_after(source: str, target: str, strip: list[str] | None = None) -> tuple[list[str], list[str]]:
    aligned = align(manifest(source), manifest(target), strip)
    assert aligned.target is not None
    return list(aligned.source), list(aligned.target)


ALIGNED = {
    "_orig_mod in front": ("_orig_mod.a.w", "a.w", "a.w", "a.w"),
    "_orig_mod within": ("a._orig_mod.w b.w", "a.w b.w", "a.w b.w", "a.w b.w"),
    "_orig_mod at the end": ("a._orig_mod", "a", "a", "a"),
    "_orig_mod twice": ("_orig_mod.a._orig_mod.w", "a.w", "a.w", "a.w"),
    "_orig_mod in the target": ("a.w", "_orig_mod.a.w", "a.w", "a.w"),
    "model._orig_mod.": ("model._orig_mod.a.w", "a.w", "a.w", "a.w"),
    "_orig_mod.module.": ("_orig_mod.module.a.w", "a.w", "a.w", "a.w"),
    "module._orig_mod.model.": ("module._orig_mod.model.a.w", "a.w", "a.w", "a.w"),
    "each of those that go everywhere": (".".join((*EVERYWHERE, "a", *EVERYWHERE, "w")), "a.w", "a.w", "a.w"),
    "module. where it matches": ("module.a.w module.b", "a.w b", "a.w b", "a.w b"),
    "module. within stays": ("a.module.w", "a.w", "a.module.w", "a.w"),
    "net. of a Lightning module": ("net.a.w loss.scale", "a.w", "a.w loss.scale", "a.w"),
    "a prefix that not all keys have": ("model.a model.b c", "a b c", "a b c", "a b c"),
    "a prefix of the target": ("a b", "net.a net.b", "a b", "a b"),
    "both have one": ("module.a module.b", "net.a net.b", "a b", "a b"),
    "two in a row": ("module.model.a", "a", "a", "a"),
    "the same twice": ("module.module.a", "a", "a", "a"),
    "a real name stays where it matches as it is": ("model.a model.b", "model.a model.b", "model.a model.b", "model.a model.b"),
    "no gain, nothing goes": ("module.a module.b", "x y", "module.a module.b", "x y"),
    "as many matches either way, nothing goes": ("a model.b", "a b.c", "a model.b", "a b.c"),
    "fewer matches, nothing goes": ("net.a net.b", "net.a net.b a", "net.a net.b", "net.a net.b a"),
    "three in a row at most": ("net.net.net.net.a", "a", "net.net.net.net.a", "a"),
    "a segment is a whole one": ("modules.a my_module.b", "a b", "modules.a my_module.b", "a b"),
}  # fmt: skip


@pytest.mark.parametrize("name", ALIGNED)
def test_align(name):
    source, target, expected_source, expected_target = ALIGNED[name]
    assert keys_after(source, target) == (expected_source.split(), expected_target.split())


def test_what_was_taken_out_is_kept_with_each_key_and_said():
    aligned = align(manifest("model._orig_mod.a model.b c"), manifest("a b c"))
    assert {key: spec.stored_key for key, spec in aligned.source.items()} == {
        "a": "model._orig_mod.a",
        "b": "model.b",
        "c": "c",
    }
    assert aligned.source["c"].raw_key is None
    assert set(aligned.source.origin.stripped) == {"_orig_mod", "model"}
    assert aligned.target is not None
    assert aligned.target.origin.stripped == ()


def test_ties_follow_their_keys():
    source = manifest("_orig_mod.a _orig_mod.b", ties={"_orig_mod.b": "_orig_mod.a"})
    assert align(source, None).source["b"].tied_to == "a"


def test_without_a_target_only_what_is_never_a_name_goes():
    aligned = align(manifest("module.a._orig_mod.w net.b"), None)
    assert list(aligned.source) == ["module.a.w", "net.b"]
    assert aligned.target is None


STRIPPED = {
    "nothing": ([], "_orig_mod.a module.b", "_orig_mod.a module.b"),
    "one in front": (["module"], "module.a module.module.b a.module.c", "a module.b a.module.c"),
    "the same twice": (["module", "module"], "module.module.a module.b", "a b"),
    "in any order": (["model", "net"], "net.model.a model.net.b net.c", "a b c"),
    "any name": (["encoder"], "encoder.a decoder.b", "a decoder.b"),
    "only what is said": (["module"], "_orig_mod.module.a module._orig_mod.b", "_orig_mod.module.a _orig_mod.b"),
    "both sorts": (["_orig_mod", "module"], "_orig_mod.module.a module.b._orig_mod.c", "a b.c"),
    "never the whole key": (["module", "a"], "module a.b", "module b"),
}


@pytest.mark.parametrize("name", STRIPPED)
def test_strip_says_what_goes_from_the_source(name):
    strip, source, expected = STRIPPED[name]
    assert keys_after(source, "x", strip)[0] == expected.split()


def test_strip_does_not_touch_names_of_the_target():
    assert keys_after("module.a", "module.a _orig_mod.b", ["module"]) == (["a"], ["module.a", "b"])


@pytest.mark.parametrize(
    ("source", "target", "strip"),
    [
        ("_orig_mod.a a", "a", None),
        ("a._orig_mod.w a._forward_module.w", "a.w", None),
        ("module.a module.b a", "a b", None),
        ("module.a a", "a", ["module"]),
        ("module a.module", "x", ["module", "a"]),
        ("a", "_orig_mod.a a", None),
    ],
)
def test_two_keys_that_would_become_one_are_an_error(source, target, strip):
    with pytest.raises(KeyCollision, match="would both be") as caught:
        keys_after(source, target, strip)
    assert len(caught.value.keys) == 2
    assert set(caught.value.keys) <= {*source.split(), *target.split()}
    assert "--strip" in (caught.value.hint or "")


# ---- and back --------------------------------------------------------------------------------------------------------


def written(source: str, new: str, strip: list[str] | None = None) -> list[str]:
    return list(rewrapped(new.split(), stripped(manifest(source), EVERYWHERE if strip is None else strip)).values())


REWRAPPED = {
    "a key gets its own back": ("_orig_mod.a.w b._orig_mod.w", "a.w b.w", "_orig_mod.a.w b._orig_mod.w"),
    "a new key those of all": ("_orig_mod.a.w _orig_mod.b.w", "c.w", "_orig_mod.c.w"),
    "the longest path decides": ("a._orig_mod.b.w a._orig_mod.c.w", "a.d.w a.b.x", "a._orig_mod.d.w a._orig_mod.b.x"),
    "deeper wrappers before shallower": ("_orig_mod.a._orig_mod.w", "a.x b", "_orig_mod.a._orig_mod.x _orig_mod.b"),
    "a path that is not wrapped": ("a._orig_mod.w b.w", "b.x b.y.z", "b.x b.y.z"),
    "nothing to put back": ("a.w b.w", "c.w a.w", "c.w a.w"),
    "a key without wrappers keeps none": ("_orig_mod.a b", "a b", "_orig_mod.a b"),
}  # fmt: skip


@pytest.mark.parametrize("name", REWRAPPED)
def test_rewrapped(name):
    source, new, expected = REWRAPPED[name]
    assert written(source, new) == expected.split()


def test_front_names_come_back_too():
    assert written("model._orig_mod.a.w model._orig_mod.b", "a.w c", [*EVERYWHERE, "model"]) == [
        "model._orig_mod.a.w",
        "model._orig_mod.c",
    ]


@pytest.mark.parametrize(
    ("source", "new"),
    [("_orig_mod.a.w b.w", "c.w"), ("a._orig_mod.w a.b", "a.c"), ("a._orig_mod.x.w a._forward_module.y.w", "a.z")],
)
def test_a_new_key_below_what_is_wrapped_in_two_ways_is_an_error(source, new):
    with pytest.raises(KeyCollision, match="in two ways") as caught:
        written(source, new)
    assert caught.value.keys == (new,)
    assert "--unwrap" in (caught.value.hint or "")


segments = st.sampled_from(["a", "b", "0", "w", "module", "net"])
wrappers = st.lists(st.sampled_from(EVERYWHERE), max_size=2)


@st.composite
def wrapped_keys(draw):
    """Distinct keys, each with wrappers at random places."""
    keys = draw(st.lists(st.lists(segments, min_size=1, max_size=4).map(tuple), min_size=1, max_size=8, unique=True))
    table = {}
    for key in keys:
        parts = [part for segment in key for part in (*draw(wrappers), segment)]
        table[".".join(key)] = ".".join(parts)
    return table


@settings(max_examples=300)
@given(wrapped_keys())
def test_every_key_comes_back_as_it_was(table):
    source = align(manifest(table.values()), None).source
    assert list(source) == list(table)
    assert rewrapped(table, source) == table


@settings(max_examples=300)
@given(wrapped_keys(), st.lists(segments, min_size=1, max_size=4).map(".".join))
def test_a_new_key_is_wrapped_or_refused_and_reads_as_itself(table, new):
    source = align(manifest(table.values()), None).source
    try:
        name = rewrapped([new], source)[new]
    except KeyCollision:
        return
    assert list(stripped(manifest([name]), EVERYWHERE)) == [new]


@settings(max_examples=300)
@given(
    st.lists(st.lists(segments, min_size=1, max_size=3).map(".".join), min_size=1, max_size=6, unique=True),
    st.lists(st.sampled_from(IN_FRONT), max_size=3),
    st.lists(st.sampled_from(IN_FRONT), max_size=3),
)
def test_wrapping_a_side_never_loses_a_match(keys, before_source, before_target):
    """What matched without wrappers matches with them: at most three segments in front of each side."""
    source, target = ([".".join((*front, key)) for key in keys] for front in (before_source, before_target))
    try:
        aligned = align(manifest(source), manifest(target))
    except KeyCollision:
        return
    assert aligned.target is not None
    assert len(set(aligned.source) & set(aligned.target)) == len(keys)


def test_what_all_keys_of_both_sides_begin_with_stays():
    source, target = (manifest([*(f"model.{name}.{i}" for i in range(9)), "model.x"]) for name in "ab")
    aligned = align(source, target)
    assert aligned.target is not None
    assert (aligned.source.origin.stripped, aligned.target.origin.stripped) == ((), ())
    assert align(manifest("model.model.x model.model.y"), manifest("model.x model.y")).source.origin.stripped == (
        "model",
    )
