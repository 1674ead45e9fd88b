"""What every op of the table keeps: `out_specs` foretells `apply`, `inverse` undoes it, YAML comes back as it went."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OPS, Op, OpError, ops_schema, parse_op

torch = pytest.importorskip("torch")

# For each op some arguments that a map may give it, as plain YAML values. A new op adds its line here.
ARGUMENTS = {
    "cast": st.sampled_from(
        [
            "float64",
            "float32",
            "float16",
            "bfloat16",
            "float8_e4m3fn",
            "float8_e5m2",
            "int64",
            "int8",
            "uint8",
            "complex64",
        ]
    ).map(lambda name: {"to": name}),
    "reshape": st.lists(st.integers(-1, 6), max_size=4)
    .filter(lambda shape: shape.count(-1) < 2)
    .map(lambda shape: {"shape": shape}),
    "transpose": st.lists(st.integers(-3, 2), min_size=2, max_size=2, unique=True).map(lambda dims: {"dims": dims}),
}

SOURCES = ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn", "int64", "int32", "uint8", "bool", "complex64"]


def ops():
    return st.sampled_from(sorted(OPS)).flatmap(lambda name: ARGUMENTS[name].map(OPS[name].parse))


@st.composite
def tensors(draw):
    """Small tensors of small whole numbers, which each dtype holds; some are views that are not contiguous."""
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    values = torch.arange(torch.Size(shape).numel()).reshape(shape) % 7
    tensor = values.to(getattr(torch, draw(st.sampled_from(SOURCES))))
    return tensor.mT if tensor.dim() > 1 and draw(st.booleans()) else tensor


def spec_of(tensor) -> TensorSpec:
    return TensorSpec("key", tuple(tensor.shape), DTYPES[str(tensor.dtype).removeprefix("torch.")])


def bits(tensor) -> bytes:
    return bytes(tensor.contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def fits(op: Op, tensor) -> bool:
    try:
        return bool(op.out_specs((spec_of(tensor),)))
    except OpError:
        return False


def test_every_op_is_covered():
    assert set(ARGUMENTS) == set(OPS)
    assert list(OPS) == sorted(OPS)


@given(ops(), tensors())
def test_out_specs_is_what_apply_does(op, tensor):
    if not fits(op, tensor):
        return
    before = bits(tensor)
    made = op.apply((tensor,))
    assert [(tuple(each.shape), spec_of(each).dtype) for each in made] == list(op.out_specs((spec_of(tensor),)))
    assert all(each.is_contiguous() for each in made)
    assert bits(tensor) == before


@given(ops(), tensors())
def test_inverse_is_bit_for_bit_or_gives_its_reason(op, tensor):
    if not fits(op, tensor):
        return
    back = op.inverse((spec_of(tensor),))
    if isinstance(back, str):
        assert back
        return
    (again,) = back.apply(op.apply((tensor,)))
    assert (again.shape, again.dtype) == (tensor.shape, tensor.dtype)
    assert bits(again) == bits(tensor)


@given(ops(), tensors())
def test_what_does_not_fit_is_said_in_a_sentence(op, tensor):
    try:
        op.out_specs((spec_of(tensor),))
        message = op.describe()
    except OpError as error:
        message = error.message
    assert op.describe() in message


@given(ops())
def test_yaml_comes_back_as_it_went(op):
    assert type(op).parse(op.arguments()) == op
    assert parse_op({op.name: json.loads(json.dumps(op.arguments()))}) == op
    assert hash(op) == hash(type(op).parse(op.arguments()))


@given(ops())
def test_describe_is_short_text(op):
    assert op.describe().startswith(f"{op.name}(")
    assert op.describe().isprintable()


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_of_each_op(op):
    assert op.__doc__
    assert op.schema()
    assert not op.fan_in or not op.fan_out
    with pytest.raises(OpError, match=f"{op.name}: unknown argument nonsense") as caught:
        op.parse({"nonsense": 1})
    assert caught.value.at == ("nonsense",)
    assert caught.value.hint


@given(ops(), tensors())
def test_an_op_for_one_tensor_takes_one(op, tensor):
    spec = spec_of(tensor)
    if op.fan_in or op.input_names:
        return
    with pytest.raises(OpError, match="takes one tensor, not 2 tensors"):
        op.out_specs((spec, spec))
    with pytest.raises(OpError, match="takes one tensor, not 0 tensors"):
        op.inverse(())


def test_schema_is_json_and_names_every_op():
    schema = json.loads(json.dumps(ops_schema()))
    assert [list(each["properties"]) for each in schema["anyOf"]] == [[name] for name in OPS]


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
        ({"zzz": 1}, "unknown op zzz", "there are cast, reshape, transpose", ("zzz",)),
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


@pytest.mark.parametrize(
    ("dtype", "to", "number"),
    [
        ("float32", "float16", 1e6),
        ("float64", "float32", -1e300),
        ("float32", "float8_e4m3fn", 1e4),
        ("float8_e5m2", "float8_e4m3fn", 1e4),
        ("int64", "int8", 128),
        ("int64", "uint8", -1),
        ("int64", "float16", -(2**63)),
        ("complex128", "complex64", 1e300j),
    ],
)
def test_cast_does_not_lose_a_number(dtype, to, number):
    wide = {float: torch.float64, complex: torch.complex128, int: torch.int64}[type(number)]
    tensor = torch.tensor([1, number], dtype=wide).to(getattr(torch, dtype))
    with pytest.raises(OpError, match=f"too large for {to}") as caught:
        parse_op({"cast": to}).apply((tensor,))
    assert caught.value.hint


def test_cast_keeps_what_was_not_finite():
    tensor = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.1])
    (cast,) = parse_op({"cast": "float16"}).apply((tensor,))
    assert torch.equal(cast, tensor.half()) is False  # not a number is never equal
    assert torch.equal(cast.nan_to_num(7), tensor.half().nan_to_num(7))


@pytest.mark.parametrize("name", [name for name in DTYPES if name.startswith(("float8_e4m3", "float8_e5m2"))])
def test_small_floats_come_back_bit_for_bit(name):
    """All 256 of them but those that are no numbers."""
    every = torch.arange(256, dtype=torch.uint8).view(getattr(torch, name))
    numbers = every[torch.isfinite(every.float())]
    for wide in ("bfloat16", "float16", "float32", "float64"):
        op = parse_op({"cast": wide})
        back = op.inverse((spec_of(numbers),))
        if isinstance(back, Op):
            (again,) = back.apply(op.apply((numbers,)))
            assert bits(again) == bits(numbers)


@pytest.mark.parametrize("wide", ["float32", "float64"])
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_floats_come_back_bit_for_bit(name, wide):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(getattr(torch, name))
    numbers = every[torch.isfinite(every)]
    op = parse_op({"cast": wide})
    back = op.inverse((spec_of(numbers),))
    assert isinstance(back, Op)
    assert bits(back.apply(op.apply((numbers,)))[0]) == bits(numbers)


@pytest.mark.parametrize(
    ("dtype", "to", "can"),
    [
        ("float32", "float32", True),
        ("float32", "float16", False),
        ("float16", "bfloat16", False),
        ("bfloat16", "float32", True),
        ("uint8", "int16", True),
        ("int8", "uint16", False),
        ("uint8", "int8", False),
        ("int64", "float64", False),
        ("complex64", "complex128", True),
        ("bool", "uint8", False),
    ],
)
def test_which_casts_have_a_way_back(dtype, to, can):
    back = parse_op({"cast": to}).inverse((TensorSpec("k", (2,), DTYPES[dtype]),))
    assert (back == parse_op({"cast": dtype})) if can else isinstance(back, str)
