"""What ops take from the target (`like: target`, the number of copies), and what they say where that does not fit."""

import pytest

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OpError, parse_op


def spec(*shape, dtype="float32", key="k"):
    return TensorSpec(key, shape, DTYPES[dtype])


@pytest.mark.parametrize(
    ("value", "inputs", "targets", "text"),
    [
        (
            {"split": {"dim": 0, "like": "target"}},
            [spec(8, 4)],
            [spec(4, 4), spec(2, 4), spec(2, 4)],
            "split(dim=0, sizes=[4, 2, 2])",
        ),
        (
            {"split": {"dim": -1, "like": "target"}},
            [spec(8, 4)],
            [spec(8, 1), spec(8, 3)],
            "split(dim=-1, sizes=[1, 3])",
        ),
        ({"split": {"parts": 2}}, [spec(8, 4)], [None, None], "split(dim=0, parts=2)"),
        ({"split": {"parts": 2}}, [spec(8, 4)], [], "split(dim=0, parts=2)"),
        (
            {"pad": {"dim": 1, "like": "target", "fill": 0}},
            [spec(2, 3)],
            [spec(2, 5)],
            "pad(dim=1, fill=0, to=5, at=end)",
        ),
        (
            {"resize_vocab": {"like": "target", "fill": "mean"}},
            [spec(10, 4)],
            [spec(12, 4)],
            "resize_vocab(to=12, fill=mean, shrink=false)",
        ),
        (
            {"interpolate": {"like": "target", "prefix_tokens": 1}},
            [spec(1, 5, 8)],
            [spec(1, 10, 8)],
            "interpolate(to=[3, 3], prefix_tokens=1, mode=bicubic, antialias=true)",
        ),
        ("broadcast", [spec(2)], [None, None, None], "broadcast(3)"),
        ({"broadcast": 2}, [spec(2)], [], "broadcast(2)"),
        ({"unstack": 0}, [spec(2, 3)], [None, None], "unstack(0)"),
        ({"concat": 0}, [spec(2, 3), spec(2, 3)], [None], "concat(0)"),
    ],
)
def test_what_is_filled_in(value, inputs, targets, text):
    op = parse_op(value).fitted(tuple(inputs), tuple(targets))
    assert op.describe() == text
    assert op.fitted(tuple(inputs), tuple(targets)) == op
    assert len(op.out_specs(tuple(inputs))) == (len(targets) or len(op.out_specs(tuple(inputs))))
    assert parse_op({op.name: op.arguments()}) == op


UNKNOWN = "the shape of the target is not known here"


@pytest.mark.parametrize(
    ("value", "inputs", "targets", "message"),
    [
        ({"split": {"like": "target"}}, [spec(8)], [], UNKNOWN),
        ({"split": {"like": "target"}}, [spec(8)], [spec(4), None], UNKNOWN),
        ({"split": {"like": "target"}}, [spec(8)], [spec(4), spec(3)], "the sizes add up to 7, and dim 0 has 8"),
        ({"split": {"dim": 1, "like": "target"}}, [spec(8, 2)], [spec(4), spec(4)], "4 has no dimension 1"),
        ({"split": {"parts": 2}}, [spec(8)], [None] * 3, "makes 2 tensors, and there are 3 keys for them"),
        ({"split": {"sizes": [4, 4]}}, [spec(8)], [spec(4)], "makes 2 tensors, and there are 1 key for them"),
        ({"unstack": 0}, [spec(8, 2)], [None] * 7, "makes 8 tensors, and there are 7 keys for them"),
        ({"broadcast": 2}, [spec(8)], [None] * 3, "makes 2 tensors, and there are 3 keys for them"),
        ("broadcast", [spec(8)], [], "how many copies is not known here"),
        ({"pad": {"dim": 0, "like": "target", "fill": 0}}, [spec(8)], [None], UNKNOWN),
        ({"pad": {"dim": 0, "like": "target", "fill": 0}}, [spec(8)], [spec()], "scalar has no dimension 0"),
        ({"resize_vocab": {"like": "target"}}, [spec(8)], [], UNKNOWN),
        ({"interpolate": {"like": "target"}}, [spec(4, 2)], [None], UNKNOWN),
        (
            {"interpolate": {"like": "target"}},
            [spec(4, 2)],
            [spec(8, 2)],
            "the 8 tokens of the target are no square grid",
        ),
        ({"interpolate": {"like": "target"}}, [spec(4, 2)], [spec(0, 2)], "the 0 tokens of the target are no square"),
        ({"interpolate": {"like": "target", "prefix_tokens": 2}}, [spec(6, 2)], [spec(1, 2)], "the -1 tokens"),
    ],
)
def test_what_cannot_be_filled_in(value, inputs, targets, message):
    op = parse_op(value)
    with pytest.raises(OpError) as caught:
        op.fitted(tuple(inputs), tuple(targets))
    assert message in caught.value.message
    assert caught.value.message.startswith(f"{op.name}(")
    assert caught.value.hint


@pytest.mark.parametrize(
    "value",
    [
        {"split": {"like": "target"}},
        {"pad": {"dim": 0, "like": "target", "fill": 0}},
        {"resize_vocab": {"like": "target"}},
        {"interpolate": {"like": "target"}},
        "broadcast",
    ],
)
def test_what_was_not_fitted_has_no_shape(value):
    with pytest.raises(OpError, match="not known here") as caught:
        parse_op(value).out_specs((spec(4, 2),))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("value", "inputs", "reason"),
    [
        ({"slice": {"dim": 0, "stop": 3}}, [spec(4, 2)], "leaves out 2 of 8 elements"),
        ({"index": {"dim": 0, "indices": [3, 1]}}, [spec(4, 2)], "leaves out 4 of 8 elements"),
        ({"index": {"dim": 0, "from": ["a", "b"], "to": ["b", "c"], "fill": 0}}, [spec(2, 5)], "leaves out 5 of 10"),
        ({"resize_vocab": {"to": 3, "shrink": True}}, [spec(4, 2)], "leaves out 2 of 8 elements"),
        ({"pad": {"dim": 0, "to": 3, "fill": 0}}, [spec(0, 2)], "makes all elements anew"),
        ({"interpolate": {"to": [3, 3]}}, [spec(4, 2)], "interpolating back does not give the old ones"),
        ("mean", [spec(4), spec(4)], "cannot be told from their mean"),
        ("weight_norm", [spec(4, 1), spec(4, 2)], "other g and v make the same weight"),
        ("weight_norm_parts", [spec(4, 2)], "is rounded"),
    ],
)
def test_why_there_is_no_inverse(value, inputs, reason):
    assert reason in parse_op(value).inverse(tuple(inputs))


@pytest.mark.parametrize(
    ("value", "inputs", "back"),
    [
        ({"concat": 1}, [spec(2, 1), spec(2, 3)], {"split": {"dim": 1, "sizes": [1, 3]}}),
        ({"split": {"dim": 1, "parts": 2}}, [spec(2, 4)], {"concat": 1}),
        ({"stack": -1}, [spec(2), spec(2)], {"unstack": -1}),
        ({"unstack": 1}, [spec(2, 3)], {"stack": 1}),
        ({"permute": [2, 0, -2]}, [spec(2, 3, 4)], {"permute": [1, 2, 0]}),
        ({"index": {"dim": 0, "indices": [2, 0, 1]}}, [spec(3)], {"index": {"dim": 0, "indices": [1, 2, 0]}}),
        (
            {"index": {"dim": 0, "from": ["a", "b"], "to": ["c", "b", "a"], "fill": 0}},
            [spec(2)],
            {"index": {"dim": 0, "indices": [2, 1]}},
        ),
        (
            {"pad": {"dim": 0, "to": 5, "fill": 0, "at": "start"}},
            [spec(3)],
            {"slice": {"dim": 0, "start": 2, "stop": 5}},
        ),
        ({"repeat": {"dim": 0, "times": 2}}, [spec(3)], {"slice": {"dim": 0, "start": 0, "stop": 3}}),
        ({"repeat": {"dim": 0, "times": 2, "interleave": True}}, [spec(3)], {"slice": {"dim": 0, "step": 2}}),
        ({"broadcast": 2}, [spec(3)], "same"),
        ("same", [spec(3), spec(3)], {"broadcast": 2}),
        ({"scale": -4}, [spec(3)], {"scale": -0.25}),
        (
            {"rearrange": {"pattern": "(a b) -> b a", "sizes": {"a": 2}}},
            [spec(6)],
            {"rearrange": {"pattern": "b a -> (a b)", "sizes": {"a": 2, "b": 3}}},
        ),
    ],
)
def test_the_way_back(value, inputs, back):
    assert parse_op(value).inverse(tuple(inputs)) == parse_op(back)
