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


@pytest.mark.parametrize(
    ("dtype", "to", "number", "limits"),
    [
        ("int64", "int8", 128, "1 to 128 .* int8, -128 to 127"),
        ("int64", "uint8", -1, "-1 to 1 .* uint8, 0 to 255"),
        ("int64", "uint64", -1, "-1 to 1 .* uint64, 0 to 18,446,744,073,709,551,615"),
        ("uint64", "int64", 2**63 + 5, "1 to 9,223,372,036,854,775,813 .* int64"),
        ("uint8", "int8", 200, "1 to 200 .* int8"),
        ("int8", "uint8", -100, "-100 to 1 .* uint8"),
        ("int8", "uint16", -1, "-1 to 1 .* uint16"),
        ("int32", "uint32", -5, "-5 to 1 .* uint32"),
        ("uint32", "int32", 2**31, "1 to 2,147,483,648 .* int32"),
    ],
)
def test_integers_that_would_wrap_are_refused(dtype, to, number, limits):
    tensor = torch.tensor([1, number], dtype=getattr(torch, dtype))
    with pytest.raises(OpError, match=limits):
        parse_op({"cast": to}).apply((tensor,))


@pytest.mark.parametrize("to", [name for name in DTYPES if name.startswith("int")])
@pytest.mark.parametrize("dtype", [name for name in DTYPES if name.startswith(("int", "uint"))])
def test_integers_in_range_are_kept(dtype, to):
    tensor = torch.tensor([0, 127], dtype=getattr(torch, dtype))
    (cast,) = parse_op({"cast": to}).apply((tensor,))
    assert cast.tolist() == [0, 127]
    assert not parse_op({"cast": to}).apply((tensor[:0],))[0].numel()


@pytest.mark.parametrize("to", ["float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2fnuz"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float8_e5m2"])
def test_infinities_are_refused_where_there_are_none(dtype, to):
    tensor = torch.tensor([1.0, float("-inf")]).to(getattr(torch, dtype))
    with pytest.raises(OpError, match=f"{to} has no infinity"):
        parse_op({"cast": to}).apply((tensor,))
    (nan,) = parse_op({"cast": to}).apply((torch.tensor([float("nan")]),))
    assert nan.float().isnan().all()


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


@pytest.mark.parametrize(
    ("tensor", "to", "note"),
    [
        (torch.tensor([1.0, 1 + 2**-10, 3.0]), "bfloat16", "largest rounding error 9.8e-4 (9.8e-4 relative)"),
        (torch.tensor([100.1]), "float16", "largest rounding error 2.5e-2 (2.5e-4 relative)"),
        (torch.tensor([1e-30]), "float16", "largest rounding error 1.0e-30 (1.0e0 relative)"),
        (torch.tensor([float("inf"), 1.0]), "float16", None),
        (torch.tensor([0.5, 2]), "float16", None),
        (torch.tensor([]), "float16", None),
        (torch.tensor([2**24 + 1]), "float32", "largest rounding error 1.0e0 (6.0e-8 relative)"),
        (torch.tensor([0.1j], dtype=torch.complex128), "complex64", "largest rounding error 1.5e-9 (1.5e-8 relative)"),
        (torch.ones(3), "float64", None),
    ],
)
def test_the_receipt_says_how_much_was_rounded(tensor, to, note):
    op = parse_op({"cast": to})
    assert op.note((tensor,), op.apply((tensor,))) == note


def test_rounding_is_looked_for_in_all_of_a_large_tensor():
    tensor = torch.ones(2**20 + 5)
    tensor[-1] += 2**-12
    op = parse_op({"cast": "bfloat16"})
    assert op.note((tensor,), op.apply((tensor,))) == "largest rounding error 2.4e-4 (2.4e-4 relative)"
