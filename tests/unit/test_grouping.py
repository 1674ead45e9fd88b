"""Labels are exact: written out, they are the keys, each once. Nothing is shown that is not there."""

from __future__ import annotations

import re
import time
from itertools import chain, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.grouping import labels

NAME = st.one_of(
    st.integers(0, 12).map(str),
    st.sampled_from(["a", "b", "weight", "00", "01", "1a", "-1", "", " ", "9" * 30, "\u0663", "\u00b2", "é"]),
    st.text(st.characters(exclude_characters="."), max_size=3),
)
KEYS = st.lists(st.lists(NAME, min_size=1, max_size=4).map(".".join), max_size=30, unique=True)
PLAIN = KEYS.filter(lambda keys: not any(set(key) & set("{},") for key in keys))


def texts(keys: str) -> list[str]:
    return [label.text for label in labels(keys.split())]


def written_out(label: str) -> list[str]:
    """The keys of a label by what the notation means, in its order; knows nothing of how labels are made."""
    segments = re.split(r"\.(?![^{]*\})", label)
    return [".".join(choice) for choice in product(*map(members, segments))]


def members(segment: str) -> list[str]:
    group = re.fullmatch(r"\{(.*)\}", segment, re.DOTALL)
    parts = [segment] if group is None else group[1].split(",")
    ranges = [re.fullmatch(r"([0-9]+)\.\.([0-9]+)", part) for part in parts]
    return list(
        chain.from_iterable(
            [part] if found is None else map(str, range(int(found[1]), int(found[2]) + 1))
            for part, found in zip(parts, ranges, strict=True)
        )
    )


@given(PLAIN)
def test_written_out_they_are_exactly_the_keys(keys: list[str]) -> None:
    made = labels(keys)
    every = [key for label in made for key in written_out(label.text)]
    assert sorted(every) == sorted(keys)
    assert [list(label.keys) for label in made] == [written_out(label.text) for label in made]


@given(KEYS)
def test_every_key_is_in_one_label_whatever_it_is_made_of(keys: list[str]) -> None:
    made = labels(keys)
    assert sorted(key for label in made for key in label.keys) == sorted(keys)
    assert all(label.keys == (label.text,) for label in made if len(label.keys) == 1)


@given(KEYS)
def test_they_stand_in_the_order_of_their_first_keys(keys: list[str]) -> None:
    firsts = [min(map(keys.index, label.keys)) for label in labels(keys)]
    assert firsts == sorted(firsts)


@given(PLAIN, st.randoms())
def test_which_keys_go_together_does_not_depend_on_their_order(keys: list[str], random: object) -> None:
    mixed = sorted(keys)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert len(labels(mixed)) == len(labels(sorted(keys)))


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("", []),
        ("a.w", ["a.w"]),
        ("w b", ["{b,w}"]),
        ("b.0 b.1", ["b.{0,1}"]),
        ("b.0 b.1 b.2", ["b.{0..2}"]),
        ("b.2 b.10 b.9", ["b.{2,9,10}"]),
        ("b.10 b.9 b.8 b.1 b.x", ["b.{1,8..10,x}"]),
        ("b.00 b.01 b.02", ["b.{00,01,02}"]),
        ("a.0 a.1 b.0", ["a.{0,1}", "b.0"]),
        ("a.0 a.1 b.0 b.1", ["{a,b}.{0,1}"]),
        ("a a.b a.b.c", ["a", "a.b", "a.b.c"]),
        ("a.{x}.w a.{y}.w", ["a.{x}.w", "a.{y}.w"]),
        ("a.b,c.w a.d.w", ["a.b,c.w", "a.d.w"]),
        (".a .b", [".{a,b}"]),
        ("norm.weight norm.bias head.0.weight head.0.bias", ["norm.{bias,weight}", "head.0.{bias,weight}"]),
    ],
)
def test_examples(keys: str, expected: list[str]) -> None:
    assert texts(keys) == expected


def test_a_gap_is_never_closed() -> None:
    keys = [f"blocks.{i}.w" for i in (*range(6), *range(20, 30))]
    assert texts(" ".join(keys)) == ["blocks.{0..5,20..29}.w"]
    product_of_two = [f"blocks.{i}.mlp.fc{j}.{p}" for i in range(6) for j in (1, 2) for p in ("weight", "bias")]
    assert texts(" ".join(product_of_two)) == ["blocks.{0..5}.mlp.{fc1,fc2}.{bias,weight}"]
    without_one = [key for key in product_of_two if key != "blocks.3.mlp.fc2.bias"]
    assert sorted(chain.from_iterable(map(written_out, texts(" ".join(without_one))))) == sorted(without_one)


@pytest.mark.parametrize("kind", ["regular", "ragged"])
def test_time_is_linear_in_the_number_of_keys(kind: str) -> None:
    def keys(count: int) -> list[str]:
        if kind == "regular":
            return [f"blocks.{i}.experts.{j}.w{k}" for i in range(count // 100) for j in range(25) for k in range(4)]
        return [f"m{i % 997}.{i * 7919 % 1009}.{i}" for i in range(count)]

    def seconds(count: int) -> float:
        every = keys(count)
        start = time.process_time()
        assert labels(every)
        return time.process_time() - start

    few, many = (min(seconds(count) for _ in range(3)) for count in (10_000, 100_000))
    assert many < 40 * few, f"ten times the keys took {many / few:.1f} times as long"
