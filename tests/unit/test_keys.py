"""Keys found by pattern: whatever they are looked up in, the same as by asking each of them, in their order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.errors import Location
from ckptdoctor.patterns import Pattern
from ckptdoctor.plan import keys as module
from ckptdoctor.plan.keys import Keys, match_of

WHERE = Location("map.yaml", 1, 1)


@pytest.mark.parametrize(
    ("text", "landmarks"),
    [
        ("a.b", []),
        ("a.b.{p}", []),
        ("a.{i}.mlp.{p}", [(2, "mlp")]),
        ("{i}.a.b", [(1, "a"), (2, "b")]),
        ("a.b{i}.c.{0,1}.d", [(2, "c"), (4, "d")]),
        ("{*m}.a.{p}.b", [(-3, "a"), (-1, "b")]),
        ("{i}.a.{*m}.{{b}}", [(1, "a"), (-1, "{b}")]),
    ],
)
def test_landmarks(text, landmarks):
    assert list(Pattern.parse(text).landmarks) == landmarks


SEGMENTS = st.sampled_from(["a", "b", "ab", "0", "1"])
KEYS = st.lists(st.lists(SEGMENTS, min_size=1, max_size=5).map(".".join), unique=True, max_size=40)
PARTS = st.sampled_from(["a", "b", "0", "{i}", "{a,ab}", "{0..1}", "a{j}", "{j}{k}"])


@st.composite
def patterns(draw):
    segments = draw(st.lists(PARTS, min_size=1, max_size=5))
    if draw(st.booleans()):
        segments.insert(draw(st.integers(0, len(segments))), "{*m}")
    return Pattern.parse(".".join(segments))


@given(KEYS, st.lists(patterns(), min_size=1, max_size=4))
@settings(max_examples=300)
def test_the_same_as_by_asking_each(given_keys, several):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FEW", 0)
        index = Keys(given_keys)
        for pattern in several:
            problems, expected_problems = [], []
            found = list(index.matching(pattern, problems, WHERE))
            asked = [(key, match_of(pattern, key, expected_problems, WHERE)) for key in given_keys]
            assert found == [(key, match) for key, match in asked if match is not None]
            assert list(map(str, problems)) == list(map(str, expected_problems))
