"""Text for people: what folds keeps every character, and no line is too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.text import cells_of, cited, folded, listing, nearest, shortened


@given(st.text("ab.{}层é\u0301 ", max_size=80), st.integers(2, 30))
def test_folded_text_is_the_text_in_lines_that_fit(text: str, width: int) -> None:
    lines = folded(text, width)
    assert all(cells_of(line.rstrip()) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("two words", None, ["two words"]),
        ("two words", 9, ["two words"]),
        ("two words", 8, ["two ", "words"]),
        ("a.very.long.key", 6, ["a.very", ".long.", "key"]),
        ("  said: abcdefgh", 7, ["  said: ", "abcdefg", "h"]),
        ("层层层", 4, ["层层", "层"]),
        ("层", 1, ["层"]),
        ("", 4, [""]),
    ],
)
def test_examples(text: str, width: int | None, lines: list[str]) -> None:
    assert folded(text, width) == lines


def test_a_name_of_a_megabyte_is_folded_soon() -> None:
    started = time.perf_counter()
    assert len(folded("x" * 1_000_000, 80)) == 12_500
    assert time.perf_counter() - started < 5


def test_what_is_cited_is_harmless_and_short() -> None:
    assert cited("a\nb") == "'a\\nb'"
    assert cited("x" * 200) == f"'{'x' * 200}'"
    assert cited("x" * 201) == f"'{'x' * 200}...' (201 characters)"
    assert shortened("\x1b" * 1_000_000) == "\\x1b" * 200 + "... (1,000,000 characters)"
    assert listing(["y" * 300, "z"] * 5, limit=2) == "y" * 200 + "... (300 characters), z and 8 more"


def test_a_long_name_is_nobody_s_typing() -> None:
    started = time.perf_counter()
    assert nearest("x" * 100_000, ["x" * 100_001] * 100) == []
    assert nearest("weights", ["x" * 100_000, "weight"]) == ["weight"]
    assert time.perf_counter() - started < 1
