"""Text for people: what folds keeps every character, and no line is too long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.text import cells_of, folded


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
