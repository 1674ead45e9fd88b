"""Ops written wrongly, and ops that do not fit: the message, the hint, and where the problem stands."""

import pytest

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OpError, parse_op

NORMAL = ("pad", "fill", "normal")


@pytest.mark.parametrize(
    ("value", "message", "hint", "at"),
    [
        ("cast", "cast: to is missing", "the dtype", ("cast",)),
        ({"cast": None}, "cast: to is missing", "the dtype", ("cast",)),
        ({"cast": 3}, "is not the name of a dtype", "float32", ("cast", "to")),
        ({"cast": "flaot16"}, "no dtype to cast to", "float16", ("cast", "to")),
        ({"cast": {"to": "float4_e2m1fn_x2"}}, "no dtype to cast to", "float", ("cast", "to")),
        ({"cast": {"too": "float16"}}, "unknown argument too", "did you mean to?", ("cast", "too")),
        ({"transpose": [0]}, "two different dimensions", "[0, 1]", ("transpose", "dims")),
        ({"transpose": [1, 1]}, "two different dimensions", "[0, 1]", ("transpose", "dims")),
        ({"transpose": [0, True]}, "list of whole numbers", "[0, 1]", ("transpose", "dims")),
        ({"reshape": {"shape": 4}}, "list of whole numbers", "[0, 1]", ("reshape", "shape")),
        ({"reshape": [-1, -1]}, "is not a shape", "one may be -1", ("reshape", "shape")),
        ({"reshape": [-2]}, "is not a shape", "not negative", ("reshape", "shape")),
        ({"trnspose": [0, 1]}, "unknown op trnspose", "did you mean transpose?", ("trnspose",)),
        ({"zzz": 1}, "unknown op zzz", "there are broadcast, cast, concat", ("zzz",)),
        ({"cast": "int8", "reshape": [1]}, "one name, not 2", "as a list", ()),
        (7, "a name with its arguments", "cast", ()),
        ("split", "exactly one of sizes, like, parts is needed", "sizes: the size of each", ("split",)),
        ({"split": {"parts": 2, "like": "target"}}, "exactly one of sizes", "write sizes", ("split",)),
        ({"split": {"parts": 0}}, "parts is not a whole number from 1", "2", ("split", "parts")),
        ({"split": {"sizes": []}}, "sizes is not a list of sizes", "one size for each", ("split", "sizes")),
        ({"split": {"sizes": [2, -1]}}, "sizes is not a list of sizes", "one size for each", ("split", "sizes")),
        ({"split": {"like": "source"}}, "like is not target", "write target", ("split", "like")),
        ({"split": 3}, "arguments need names", "split takes dim, sizes, like, parts", ("split",)),
        ({"concat": "0"}, "dim is not a whole number", "-1", ("concat", "dim")),
        ({"concat": True}, "dim is not a whole number", "-1", ("concat", "dim")),
        ({"permute": [0, 0]}, "dims names a dimension twice", "[2, 0, 1]", ("permute", "dims")),
        ({"slice": {"start": 1}}, "dim is missing", "the dimension", ("slice",)),
        ({"slice": {"dim": 0, "step": -1}}, "step is not a whole number from 1", "2", ("slice", "step")),
        ({"index": {"dim": 0}}, "exactly one of indices, to", "write indices", ("index",)),
        ({"index": {"dim": 0, "indices": [0], "to": ["a"]}}, "exactly one of indices, to", "write", ("index",)),
        ({"index": {"dim": 0, "indices": [0], "from": ["a"]}}, "names need both from and to", "from: [..]", ("index",)),
        ({"index": {"dim": 0, "to": ["a"]}}, "names need both from and to", "from: [..]", ("index",)),
        ({"index": {"dim": 0, "indices": [1, 1]}}, "and each once", "repeat", ("index", "indices")),
        ({"index": {"dim": 0, "indices": []}}, "needs at least one index", "repeat", ("index", "indices")),
        ({"index": {"dim": 0, "from": ["a", "a"], "to": ["a"]}}, "from names a twice", "of its own", ("index", "from")),
        ({"index": {"dim": 0, "from": ["a"], "to": ["a", "a"]}}, "to names a twice", "of its own", ("index", "to")),
        ({"index": {"dim": 0, "from": [500], "to": [500]}}, "from is not a list of names", "quote", ("index", "from")),
        (
            {"index": {"dim": 0, "from": ["a"], "to": ["b"]}},
            "b is not in from, and there is no fill",
            "mean",
            ("index",),
        ),
        ({"index": {"dim": 0, "from": ["a"], "to": ["b"], "fill": 0}}, "no name of to is in from", "fresh", ("index",)),
        ({"pad": {"dim": 0, "to": 4}}, "fill is missing", "the new values", ("pad",)),
        ({"pad": {"dim": 0, "fill": 0}}, "exactly one of to, like", "write to", ("pad",)),
        ({"pad": {"dim": 0, "to": 4, "fill": "zero"}}, "fill is no way to fill", "mean", ("pad", "fill")),
        ({"pad": {"dim": 0, "to": 4, "fill": float("inf")}}, "fill is no way to fill", "mean", ("pad", "fill")),
        ({"pad": {"dim": 0, "to": 4, "fill": True}}, "fill is no way to fill", "mean", ("pad", "fill")),
        ({"pad": {"dim": 0, "to": 4, "fill": {"normal": {"std": 1}}}}, "needs std and seed", "0.02", NORMAL),
        ({"pad": {"dim": 0, "to": 4, "fill": {"normal": 1}}}, "needs std and seed", "0.02", NORMAL),
        ({"pad": {"dim": 0, "to": 4, "fill": {"normal": {"std": 0, "seed": 1}}}}, "above 0", "0.02", (*NORMAL, "std")),
        ({"pad": {"dim": 0, "to": 4, "fill": {"normal": {"std": 1, "seed": -1}}}}, "from 0", "0.02", (*NORMAL, "seed")),
        ({"pad": {"dim": 0, "to": 4, "fill": 0, "at": "middle"}}, "at is not end or start", "write end", ("pad", "at")),
        ({"resize_vocab": {"to": -1}}, "to is not a size", "not a negative", ("resize_vocab", "to")),
        ({"resize_vocab": {"to": 1, "shrink": "yes"}}, "neither true nor false", "true", ("resize_vocab", "shrink")),
        ({"repeat": {"dim": 0, "times": 0}}, "times is not a whole number from 1", "2", ("repeat", "times")),
        ("scale", "by is missing", "the factor", ("scale",)),
        ({"scale": 0}, "by is not a finite number other than 0", "0.125", ("scale", "by")),
        ({"scale": float("nan")}, "by is not a finite number", "0.125", ("scale", "by")),
        ({"scale": 10**400}, "by is not a finite number", "0.125", ("scale", "by")),
        ({"scale": True}, "by is not a finite number", "0.125", ("scale", "by")),
        ({"interpolate": {"to": [4]}}, "to is not a height and a width", "[14, 14]", ("interpolate", "to")),
        ({"interpolate": {"to": [4, 0]}}, "to is not a height and a width", "[14, 14]", ("interpolate", "to")),
        ({"interpolate": {"from": [4, 4]}}, "exactly one of to, like", "write to", ("interpolate",)),
        ({"interpolate": {"to": [4, 4], "mode": "nearest"}}, "mode is not bicubic or", "bic", ("interpolate", "mode")),
        ({"rearrange": {"pattern": 3}}, "pattern is not a pattern", "(h d) c", ("rearrange", "pattern")),
        ({"rearrange": {"pattern": "a -> a", "sizes": 3}}, "are not sizes by the names", "8", ("rearrange", "sizes")),
        (
            {"rearrange": {"pattern": "abc -> abc", "sizes": {"abd": 3}}},
            "sizes has abd",
            "did you mean abc",
            ("rearrange",),
        ),
        ({"mean": 3}, "arguments need names", "mean takes none", ("mean",)),
    ],
)
def test_what_is_no_op(value, message, hint, at):
    with pytest.raises(OpError) as caught:
        parse_op(value)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.at == at


FIRST = "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
NOISE = "{normal: {std: 0.02, seed: 1}}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"cast": "float16"}, "cast(float16)"),
        ({"transpose": [0, -1]}, "transpose(0, -1)"),
        ({"reshape": {"shape": [4, -1]}}, "reshape(4, -1)"),
        ({"reshape": []}, "reshape()"),
        ("concat", "concat(0)"),
        ("same", "same()"),
        ("broadcast", "broadcast()"),
        ({"split": {"sizes": [2, 1]}}, "split(dim=0, sizes=[2, 1])"),
        ({"index": {"dim": 0, "from": ["a", "\x1b"], "to": ["a"]}}, "index(dim=0, from=[a, \\x1b], to=[a])"),
        ({"index": {"dim": 0, "indices": list(range(14))}}, f"index(dim=0, indices=[{FIRST} and 2 more])"),
        (
            {"pad": {"dim": 0, "to": 4, "fill": {"normal": {"std": 0.02, "seed": 1}}}},
            f"pad(dim=0, fill={NOISE}, to=4, at=end)",
        ),
        ({"rearrange": {"pattern": "  a   b->b a", "sizes": {"a": 2}}}, "rearrange(pattern=a b->b a, sizes={a: 2})"),
    ],
)
def test_describe(value, text):
    assert parse_op(value).describe() == text


@pytest.mark.parametrize(
    ("value", "shape", "dtype", "message"),
    [
        ({"transpose": [0, 2]}, (2, 3), "float32", "transpose(0, 2) needs dimensions that 2x3 does not have"),
        ({"transpose": [0, 1]}, (), "float32", "scalar does not have"),
        ({"transpose": [1, -1]}, (2, 3), "float32", "names one dimension of 2x3 twice"),
        ({"reshape": [4]}, (2, 3), "float32", "reshape(4) does not fit the 6 elements of 2x3"),
        ({"reshape": [4, -1]}, (2, 3), "float32", "does not fit"),
        ({"reshape": [0, -1]}, (0,), "float32", "does not fit"),
        ({"cast": "int64"}, (2,), "float32", "cast(int64) cannot keep the meaning of float32 numbers"),
        ({"cast": "float32"}, (2,), "complex64", "cannot keep the meaning"),
        ({"cast": "bool"}, (2,), "uint8", "cannot keep the meaning"),
        ({"cast": "float32"}, (2,), "float4_e2m1fn_x2", "cannot keep the meaning"),
        ({"concat": 2}, (2, 3), "float32", "concat(2): 2x3 has no dimension 2"),
        ({"concat": 0}, (), "float32", "concat(0): scalar has no dimension 0"),
        ({"split": {"sizes": [3, 3]}}, (7, 2), "float32", "the sizes add up to 6, and dim 0 has 7"),
        ({"split": {"parts": 3}}, (7, 2), "float32", "7 along dim 0 do not divide by 3"),
        ({"split": {"dim": -3, "parts": 1}}, (7, 2), "float32", "7x2 has no dimension -3"),
        ({"stack": 3}, (2, 3), "float32", "2x3 has no dimension 3"),
        ({"unstack": 0}, (0, 3), "float32", "0x3 has nothing along dim 0"),
        ({"unstack": 0}, (), "float32", "scalar has no dimension 0"),
        ({"permute": [1, 0]}, (2, 3, 4), "float32", "permute(1, 0) is no order of the 3 dimensions of 2x3x4"),
        ({"permute": [0, -2]}, (2, 3), "float32", "is no order of the 2 dimensions"),
        ({"permute": [0, 2]}, (2, 3), "float32", "2x3 has no dimension 2"),
        ({"slice": {"dim": 0, "stop": 3}}, (2, 3), "float32", "stop is out of range, dim 0 has size 2"),
        ({"slice": {"dim": 0, "start": -3}}, (2, 3), "float32", "start is out of range, dim 0 has size 2"),
        ({"slice": {"dim": 1, "start": 2, "stop": 2}}, (2, 3), "float32", "takes none of 3"),
        ({"index": {"dim": 1, "indices": [3]}}, (2, 3), "float32", "3 is out of range, dim 1 has size 3"),
        ({"index": {"dim": 1, "indices": [2, -1]}}, (2, 3), "float32", "takes an index of 3 twice"),
        (
            {"index": {"dim": 1, "from": ["u", "v"], "to": ["u"]}},
            (2, 3),
            "float32",
            "from has 2 names, and dim 1 has size 3",
        ),
        (
            {"index": {"dim": 0, "from": ["u"], "to": ["u", "v"], "fill": "mean"}},
            (1,),
            "int64",
            "needs floating-point numbers",
        ),
        ({"pad": {"dim": 0, "to": 1, "fill": 0}}, (2, 3), "float32", "2x3 has 2 along dim 0 already"),
        ({"pad": {"dim": 0, "to": 3, "fill": "mean"}}, (2,), "int32", "needs floating-point numbers, not int32"),
        ({"pad": {"dim": 0, "to": 3, "fill": "mean"}}, (0,), "float32", "nothing along dim 0 to take the mean of"),
        ({"pad": {"dim": 0, "to": 3, "fill": 0.5}}, (2,), "int32", "0.5 is no number of int32"),
        ({"pad": {"dim": 0, "to": 3, "fill": -1}}, (2,), "uint8", "-1 is no number of uint8"),
        ({"pad": {"dim": 0, "to": 3, "fill": 128}}, (2,), "int8", "128 is no number of int8"),
        ({"pad": {"dim": 0, "to": 3, "fill": 2}}, (2,), "bool", "2 is no number of bool"),
        ({"pad": {"dim": 0, "to": 3, "fill": 7e4}}, (2,), "float16", "70000.0 is no number of float16"),
        ({"pad": {"dim": 0, "to": 3, "fill": 0}}, (2,), "float8_e8m0fnu", "0 is no number of float8_e8m0fnu"),
        ({"resize_vocab": {"to": 1, "fill": 0}}, (2, 3), "float32", "would leave out 1 of 2 rows"),
        ({"resize_vocab": {"to": 0, "shrink": True}}, (2, 3), "float32", "would leave out 2 of 2 rows"),
        ({"resize_vocab": {"to": 4, "shrink": True}}, (2, 3), "float32", "needs 2 new rows"),
        ({"resize_vocab": {"to": 4, "fill": "mean"}}, (2,), "int64", "needs floating-point numbers"),
        ({"resize_vocab": {"to": 4, "fill": 0}}, (), "float32", "scalar has no dimension 0"),
        ({"repeat": {"dim": 2, "times": 2}}, (2, 3), "float32", "2x3 has no dimension 2"),
        ({"scale": 0.5}, (2,), "int64", "scale(0.5) needs floating-point numbers, not int64"),
        ({"scale": 1e-40}, (2,), "float32", "out of the range of float32"),
        ({"scale": 1e300}, (2,), "float32", "out of the range of float32"),
        ("mean", (2,), "int64", "mean() needs floating-point numbers"),
        ("weight_norm_parts", (2, 3), "int64", "cannot normalise 2x3 of int64"),
        ("weight_norm_parts", (2, 0), "float32", "cannot normalise 2x0 of float32"),
        ("weight_norm_parts", (), "float32", "scalar has no dimension 0"),
        ({"interpolate": {"to": [2, 2]}}, (1, 8, 4), "float32", "8 tokens are no square grid"),
        (
            {"interpolate": {"to": [2, 2], "prefix_tokens": 1}},
            (1, 9, 4),
            "float32",
            "9 tokens are no square grid and 1 bef",
        ),
        ({"interpolate": {"to": [2, 2], "from": [2, 4]}}, (1, 9, 4), "float32", "9 tokens are not 2 x 4"),
        ({"interpolate": {"to": [2, 2]}}, (2, 9, 4), "float32", "2x9x4 is no position embedding"),
        ({"interpolate": {"to": [2, 2]}}, (9,), "float32", "9 is no position embedding"),
        ({"interpolate": {"to": [2, 2]}}, (9, 4), "int64", "needs floating-point numbers"),
        ({"rearrange": {"pattern": "a b -> b a"}}, (2,), "float32", "the left side is of 2 dimensions, unlike 2"),
        ({"rearrange": {"pattern": "(a b) -> b a"}}, (6,), "float32", "the size of a, b cannot be told from 6"),
        ({"rearrange": {"pattern": "(a b) -> b a", "sizes": {"a": 4}}}, (6,), "float32", "(a b) does not fit 6 of 6"),
        ({"rearrange": {"pattern": "a b -> b a", "sizes": {"a": 4}}}, (6, 2), "float32", "a does not fit 6 of 6x2"),
        ({"rearrange": {"pattern": "1 a -> a"}}, (6, 2), "float32", "1 does not fit 6 of 6x2"),
    ],
)
def test_what_cannot_be_done_to_these_shapes(value, shape, dtype, message):
    op = parse_op(value)
    with pytest.raises(OpError) as caught:
        op.out_specs((TensorSpec("k", shape, DTYPES[dtype]),))
    assert message in caught.value.message
    assert op.describe() in caught.value.message


@pytest.mark.parametrize(
    ("value", "inputs", "message"),
    [
        ({"concat": 0}, [((2, 3), "float32"), ((2, 4), "float32")], "x0 is 2x3 and x1 is 2x4"),
        ({"concat": 0}, [((2, 3), "float32"), ((2,), "float32")], "x0 is 2x3 and x1 is 2"),
        ({"concat": 0}, [((2, 3), "float32"), ((2, 3), "float16")], "x0 is float32 and x1 is float16"),
        ({"stack": 0}, [((2, 3), "float32"), ((1, 3), "float32")], "x0 is 2x3 and x1 is 1x3"),
        ("mean", [((2,), "float32"), ((1,), "float32")], "x0 is 2 and x1 is 1"),
        ("same", [((2,), "float32"), ((2,), "float64")], "x0 is float32 and x1 is float64"),
        ("weight_norm", [((2, 1), "float32")], "takes g and v, not 1 tensor"),
        ("weight_norm", [((2, 3), "float32"), ((2, 1), "float32")], "g is 2x3, and v wants 2x1"),
        ({"weight_norm": 1}, [((2, 1), "float32"), ((2, 3), "float32")], "g is 2x1, and v wants 1x3"),
        ("weight_norm", [((2, 1), "float32"), ((2, 3), "float16")], "g is float32 and v is float16"),
    ],
)
def test_what_cannot_be_done_to_several(value, inputs, message):
    specs = tuple(TensorSpec(f"x{place}", shape, DTYPES[dtype]) for place, (shape, dtype) in enumerate(inputs))
    op = parse_op(value)
    with pytest.raises(OpError) as caught:
        op.out_specs(specs)
    assert message in caught.value.message
    assert op.describe() in caught.value.message
