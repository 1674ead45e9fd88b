"""Ops written wrongly, and ops that do not fit: the message, the hint, and where the problem stands."""

import pytest

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OpError, parse_op


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
    ],
)
def test_what_is_no_op(value, message, hint, at):
    with pytest.raises(OpError) as caught:
        parse_op(value)
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.at == at


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"cast": "float16"}, "cast(float16)"),
        ({"transpose": [0, -1]}, "transpose(0, -1)"),
        ({"reshape": {"shape": [4, -1]}}, "reshape(4, -1)"),
        ({"reshape": []}, "reshape()"),
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
    ],
)
def test_what_cannot_be_done_to_these_shapes(value, shape, dtype, message):
    with pytest.raises(OpError) as caught:
        parse_op(value).out_specs((TensorSpec("k", shape, DTYPES[dtype]),))
    assert message in caught.value.message
