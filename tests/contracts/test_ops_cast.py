"""Casting: which numbers survive, which casts have a way back, and what the receipt says."""

import pytest

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import Op, OpError, parse_op

torch = pytest.importorskip("torch")

from tests.contracts.op_cases import bits, spec_of  # noqa: E402 - needs torch


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
