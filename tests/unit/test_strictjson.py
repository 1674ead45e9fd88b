"""JSON from files of unknown origin: read as json reads it, or refused."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.strictjson import StrictJsonError, loads, nesting

documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


def depth(value) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@settings(max_examples=200)
@given(documents, st.booleans())
def test_what_json_writes_is_read(document, ascii_only):
    try:
        raw = json.dumps(document, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return
    assert nesting(raw) == depth(document)
    if depth(document) <= 8:
        assert loads(raw) == document


@settings(max_examples=300)
@given(st.binary(max_size=30) | st.text(alphabet='{}[]",:\\ue+-.0aNIn ', max_size=30).map(str.encode))
def test_anything_else_is_a_strict_json_error(raw):
    try:
        value = loads(raw)
    except StrictJsonError:
        return
    assert value == json.loads(raw)


REFUSED = {
    "a name twice": b'{"a": 1, "a": 1}',
    "a name twice, deep": b'{"x": [{"a": 1, "b": 2, "a": 3}]}',
    "a name twice, once escaped": b'{"a": 1, "\\u0061": 1}',
    "NaN": b"[NaN]",
    "Infinity": b"[Infinity]",
    "minus Infinity": b"-Infinity",
    "1e400": b"[1e400]",
    "-1e400": b"[-1e400]",
    "too many digits": b"9" * 5000,
    "not UTF-8": b'"\xff"',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "a BOM": b'\xef\xbb\xbf{"a": 1}',
    "half a surrogate in raw UTF-8": b'"\xed\xa0\x80"',
    "empty": b"",
    "cut": b'{"a": ',
    "cut in a text": b'{"a": "b',
    "two documents": b"{}{}",
    "a comment": b"[1, /* two */ 2]",
    "a trailing comma": b"[1,]",
    "single quotes": b"{'a': 1}",
    "a control character": b'"a\nb"',
    "nine levels": b"[" * 9 + b"]" * 9,
    "a million levels": b"[" * 1_000_000,
    "many levels, mixed": b'{"a":[' * 100_000,
    "closed first": b"]" * 50 + b"[" * 55,
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    with pytest.raises(StrictJsonError):
        loads(REFUSED[name])


@pytest.mark.parametrize(
    ("raw", "levels"),
    [(b'"[[[["', 0), (b'["\\"[[[", []]', 2), (b'{"a\\\\": [1]}', 2), (b"[[1], [2, [3]]]", 3), (b'"\\\\\\"[[', 0)],
)
def test_brackets_in_texts_do_not_count(raw, levels):
    assert nesting(raw) == levels


def test_eight_levels_are_read():
    assert loads(b"[" * 8 + b"]" * 8) == [[[[[[[[]]]]]]]]


@pytest.mark.parametrize("raw", [b'{"a": 1, "a": 1}', b'{"a:b": 1, "a:b": 2}', b'{"a": {"b": ":"}, "\\u0061": {}}'])
def test_a_doubled_name_is_found_whatever_the_caller_counts(raw):
    for count in (0, 1, 2, raw.count(b":") + 1):
        if count != raw.count(b":"):  # only a caller who counts names that are not there could hide one
            with pytest.raises(StrictJsonError, match="twice"):
                loads(raw, count_names=lambda _, count=count: count)
    assert loads(b'{"a:b": {"c": 1}}', count_names=lambda _: 2) == {"a:b": {"c": 1}}


def test_a_doubled_name_among_very_many_is_found_soon():
    names = ",".join(f'"k{i}": 0' for i in range(100_000))
    started = time.perf_counter()
    with pytest.raises(StrictJsonError, match="k99999"):
        loads(f'{{{names}, "k99999": 1}}'.encode())
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize("text", [b"a" * 4_000_000, b"\\n" * 2_000_000, b"\\\\" * 2_000_000])
def test_a_long_text_takes_memory_in_proportion(text):
    raw = b'["' + text + b'"]'
    tracemalloc.start()
    assert nesting(raw) == 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(raw)
