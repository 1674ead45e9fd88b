"""The health of one tensor, with torch as the judge: every dtype, bit patterns of all sorts, chunks of all sizes."""

from __future__ import annotations

import hashlib
import itertools
import random
import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest

from ckptdoctor.health import Loss, Specials, TensorHealth, health_of, narrower
from ckptdoctor.health.counting import Order, counter
from ckptdoctor.health.numbers import FLOATS, ONE, limits
from ckptdoctor.model import DTYPES
from tests import builders as b

torch = pytest.importorskip("torch")

REAL = [name for name in FLOATS if not name.startswith("complex")]


def width_of(name: str) -> int:
    """Bytes of a number: a complex one is two."""
    return FLOATS[name].order.width


PAIRS = [(name, to) for name in FLOATS for to in REAL if to != name and width_of(to) <= width_of(name)]


def tensor_of(name: str, raw: bytes) -> Any:
    """The numbers as torch reads them, the parts of complex ones one by one."""
    part = {"complex128": "float64", "complex64": "float32", "complex32": "float16"}.get(name, name)
    return torch.frombuffer(bytearray(raw), dtype=getattr(torch, part))


def patterns(name: str, count: int = 20_000) -> bytes:
    """All bit patterns of 8 and 16 bits; of wider types, random ones and the neighbours of every limit there is."""
    width, generator = width_of(name), random.Random(name)
    if width <= 2:
        numbers = list(range(1 << 8 * width))
        generator.shuffle(numbers)
        return b"".join(number.to_bytes(width, "little") for number in numbers)
    code = "<f" if width == 4 else "<d"
    values = [
        0.0,
        1e-45,
        6e-8,
        65504,
        65519.99,
        65520,
        65536,
        448,
        464,
        464.0001,
        57344,
        61439.99,
        61440,
        3.3895e38,
        3.4e38,
    ]
    near = {int.from_bytes(struct.pack(code, value), "little") for value in values}
    if width == 8:
        doubles = (3.4028235677973366e38, 2**-150, 1e300)  # around the ends of float32
        near |= {int.from_bytes(struct.pack("<d", value), "little") for value in doubles}
    for to in (to for to in REAL if (name, to) in PAIRS):
        near |= {limits(DTYPES[name], DTYPES[to]).overflow.first, limits(DTYPES[name], DTYPES[to]).kept}
    near |= {FLOATS[name].beyond}
    edges = [max(rank + step, 0) | sign << 8 * width - 1 for rank in near for step in (-1, 0, 1) for sign in (0, 1)]
    odd = [generator.randrange(1 << 8 * width) for _ in range(count)]
    together = [number.to_bytes(width, "little") for number in (*edges, *edges, *odd)]
    generator.shuffle(together)
    return b"".join(together[: len(together) // 2 * 2])


def chunked(raw: bytes, size: int) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


def lost(before: Any, to: str) -> Loss:
    """What torch loses in a cast. To float8_e4m3fn it saturates (before torch 2.13 it made NaN), also infinities."""
    dtype = getattr(torch, to)
    after = before.to(dtype).double()
    before = before.double()
    overflow = ~before.isnan() & (after.isnan() | after.isinf() & ~before.isinf())
    if to == "float8_e4m3fn":
        overflow |= before.float().abs() > 464  # half a step beyond the largest, 448, to which it is rounded
    gone = (before != 0) & (after == 0)
    return Loss(int(overflow.sum()), int(gone.sum()), bool(gone.any() and not after.any()))


@pytest.mark.parametrize("name", FLOATS)
def test_nan_and_infinities_are_counted_as_torch_counts_them(name: str) -> None:
    raw = patterns(name)
    numbers = tensor_of(name, raw).double()
    found = health_of(DTYPES[name], chunked(raw, 1 << 20))
    assert found.specials == Specials(int(numbers.isnan().sum()), int(numbers.isinf().sum()))
    assert found.specials.nan
    assert found.sha256 == hashlib.sha256(raw).hexdigest()
    assert (found.constant, found.zero, found.losses) == (None, False, {})


@pytest.mark.parametrize(("name", "to"), PAIRS)
def test_what_a_cast_loses_is_counted_as_torch_loses_it(name: str, to: str) -> None:
    raw = patterns(name)
    found = health_of(DTYPES[name], [raw], [DTYPES[to]], every_zero=True)
    assert found.losses == {DTYPES[to]: lost(tensor_of(name, raw), to)}


def test_the_limits_are_those_that_the_formats_are_known_for() -> None:
    def overflows(name: str, to: str) -> Fraction:
        return Fraction(FLOATS[name].value(limits(DTYPES[name], DTYPES[to]).overflow.first), ONE)

    def kept(name: str, to: str) -> Fraction:
        return Fraction(FLOATS[name].value(limits(DTYPES[name], DTYPES[to]).kept), ONE)

    ulp = Fraction(2) ** (8 - 23)
    assert overflows("float32", "float16") == 65520
    assert overflows("float32", "float8_e4m3fn") == 464 + ulp, "464 itself is rounded to 448"
    assert overflows("float32", "float8_e5m2") == 61440
    assert overflows("bfloat16", "float16") == 65536
    assert overflows("float32", "bfloat16") == Fraction(struct.unpack("<f", b"\x00\x80\x7f\x7f")[0])
    assert overflows("float64", "float16") == 65520 - Fraction(2) ** (15 - 24), "which float32 rounds up to 65520"
    assert kept("float32", "float16") == Fraction(2) ** -25 * (1 + Fraction(2) ** -23)
    assert kept("float32", "float8_e5m2") == Fraction(2) ** -17 * (1 + Fraction(2) ** -23)


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float64", "complex64", "float8_e5m2"])
@pytest.mark.parametrize("size", [16, 4096, 65536 + 16, 1 << 20])
def test_chunks_may_be_cut_anywhere_between_numbers(name: str, size: int) -> None:
    raw = patterns(name, 5_000)[: 1 << 17]
    dtype, into = DTYPES[name], [to for to in map(DTYPES.__getitem__, REAL) if to.bits < DTYPES[name].bits]
    whole = health_of(dtype, [raw], into, every_zero=True)
    assert health_of(dtype, chunked(raw, size), into, every_zero=True) == whole
    quiet = bytes(struct.pack("<e", 1.0)) * 2**17 if name == "bfloat16" else bytes(len(raw))
    assert health_of(dtype, chunked(quiet + raw, size), into, every_zero=True).specials == whole.specials


def weights(kind: str) -> Any:
    torch.manual_seed(0)
    values = torch.randn(100_000) * 0.02
    return {
        "as usual": values,
        "tiny": values**8,
        "large": values * 1e6,
        "sparse": values * (torch.rand(100_000) > 0.7),
        "powers": torch.ldexp(torch.ones(100_000), torch.randint(-40, 20, (100_000,))),
        "zeros and one other": torch.cat([torch.zeros(99_999), torch.tensor([1e-10])]),
    }[kind]


@pytest.mark.parametrize("name", ["float32", "float64", "bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["as usual", "tiny", "large", "sparse", "powers", "zeros and one other"])
def test_weights_as_they_are_found(kind: str, name: str) -> None:
    values = weights(kind).to(getattr(torch, name))
    raw = values.view(torch.uint8).numpy().tobytes()
    dtype = DTYPES[name]
    found = health_of(dtype, chunked(raw, 1 << 20), narrower(dtype))
    assert set(found.losses) == set(narrower(dtype)), "every usual one"
    for to, loss in found.losses.items():
        expected = lost(values, to.name)
        assert loss.overflow == expected.overflow, to
        counted = to.bits > 8 or expected.vanishes or not values.any()
        assert loss[1:] == (expected.to_zero if counted else None, expected.vanishes), to


def test_what_is_asked_of_each_dtype() -> None:
    assert [to.name for to in narrower(DTYPES["float32"])] == ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
    assert [to.name for to in narrower(DTYPES["bfloat16"])] == ["float16", "float8_e4m3fn", "float8_e5m2"]
    assert [to.name for to in narrower(DTYPES["complex128"])] == ["complex64"]
    assert narrower(DTYPES["float64"])[0] == DTYPES["float32"]
    assert [name for name in DTYPES if not narrower(DTYPES[name])] == [
        *(name for name in DTYPES if DTYPES[name].bits <= 8 and DTYPES[name].family == "float"),
        *("complex64", "complex32"),
        *(name for name in DTYPES if DTYPES[name].family in ("integer", "bool")),
    ]


# ---- one value ------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", [name for name in b.DTYPE_NAMES if not name.startswith("float4")])
def test_constants_of_every_dtype(name: str) -> None:
    dtype = DTYPES[name]
    for value, text in ((0, "0"), (1, "True" if name == "bool" else "1+0j" if name.startswith("complex") else "1")):
        if name == "float8_e8m0fnu" and not value:
            continue  # it has no zero
        tensor = torch.full((3, 5), value, dtype=torch.float32).to(getattr(torch, name))
        raw = bytes(tensor.contiguous().view(torch.uint8).reshape(-1).tolist())
        for size in (dtype.itemsize, len(raw)):
            found = health_of(dtype, chunked(raw, size))
            assert (found.constant, found.zero) == (text, not value)
        for other in (0, len(raw) // 2 // dtype.itemsize * dtype.itemsize, len(raw) - dtype.itemsize):
            changed = bytearray(raw)
            changed[other] ^= 1
            assert health_of(dtype, [bytes(changed)])[2:4] == (None, False), other


@pytest.mark.parametrize("name", [name for name in FLOATS if "fnuz" not in name])
def test_minus_zero_is_zero(name: str) -> None:
    width, dtype = width_of(name), DTYPES[name]
    both = [bytes(width), bytes(width - 1) + b"\x80"]
    raw = b"".join(random.Random(1).choices(both, k=20_000))
    assert health_of(dtype, chunked(raw, 1 << 12), narrower(dtype)).constant == "0"
    assert health_of(dtype, [both[1] * 64]).zero
    least = raw + bytes([1, *bytes(2 * width - 1)])
    assert not health_of(dtype, chunked(least, 1 << 12)).zero
    assert not health_of(dtype, [both[1] * 200_000, least]).zero


@pytest.mark.parametrize(
    ("name", "element", "text"),
    [
        ("float32", struct.pack("<f", 0.02), "0.02"),
        ("float32", struct.pack("<f", -1 / 3), "-0.33333334"),
        ("float64", struct.pack("<d", 0.1), "0.1"),
        ("float64", struct.pack("<d", 5e-324), "4.94066e-324"),
        ("float16", struct.pack("<e", -65504), "-65504"),
        ("bfloat16", b"\xa3\x3c", "0.0198975"),
        ("float32", struct.pack("<f", float("-inf")), "-inf"),
        ("float32", struct.pack("<I", 0xFFC00001), "nan"),
        ("float8_e4m3fn", b"\x7e", "448"),
        ("float8_e4m3fn", b"\xff", "nan"),
        ("float8_e4m3fnuz", b"\x80", "nan"),
        ("float8_e5m2", b"\xfc", "-inf"),
        ("float8_e8m0fnu", b"\x80", "2"),
        ("float8_e8m0fnu", b"\x00", "5.87747e-39"),
        ("float8_e8m0fnu", b"\xff", "nan"),
        ("complex64", struct.pack("<ff", 1, -2), "1-2j"),
        ("int64", b"\xfe" + b"\xff" * 7, "-2"),
        ("uint8", b"\xff", "255"),
        ("bool", b"\x01", "True"),
        ("float4_e2m1fn_x2", b"\xdd", "-3"),
        ("float4_e2m1fn_x2", b"\x12", None),
        ("float6_e2m3fn", b"\0", "0"),
        ("float6_e2m3fn", b"\x11", None),
    ],
)
def test_the_value_as_text(name: str, element: bytes, text: str | None) -> None:
    assert health_of(DTYPES[name], [element * 12]).constant == text


def test_a_short_text_is_that_of_no_other_number() -> None:
    generator = random.Random(3)
    for name in ("float32", "float16"):
        code, width = {"float32": ("<f", 4), "float16": ("<e", 2)}[name]
        for _ in range(300):
            raw = generator.randbytes(width)
            text = health_of(DTYPES[name], [raw * 2]).constant
            assert text is not None
            value = struct.unpack(code, raw)[0]
            assert text == "nan" if value != value else struct.unpack(code, struct.pack(code, float(text)))[0] == value


@pytest.mark.parametrize("name", DTYPES)
def test_nothing_and_one_element(name: str) -> None:
    dtype, empty = DTYPES[name], hashlib.sha256().hexdigest()
    for chunks in ([], [b""]):
        found = health_of(dtype, chunks, narrower(dtype))
        assert found[:4] == TensorHealth(empty)[:4]
        assert set(found.losses.values()) <= {Loss(0)}
    element = bytes(max(dtype.itemsize, 1))
    assert health_of(dtype, [element]).constant is None


def test_pairs_of_four_bits_are_zero_with_any_sign() -> None:
    assert health_of(DTYPES["float4_e2m1fn_x2"], [b"\x80\x08\x88\x00" * 9]).zero
    assert not health_of(DTYPES["float4_e2m1fn_x2"], [b"\x80\x08\x88\x01" * 9]).zero


# ---- the counter itself ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_thresholds_of_all_sorts(width: int) -> None:
    generator = random.Random(width)
    order = Order(width, bytes(byte ^ 0x80 for byte in range(256)))
    for few, equal in itertools.product((True, False), repeat=2):
        near = [generator.randrange(1 << 8 * width) for _ in range(3)]
        near += [near[0] ^ 1 << generator.randrange(8 * width) for _ in range(4)]
        ranks = generator.choices(near, k=900) if equal else [generator.randrange(1 << 8 * width) for _ in range(900)]
        ranks += [] if few else generator.choices(near, k=900)
        flipped = [rank ^ 0x80 << 8 * (width - 1) for rank in ranks]
        thresholds = tuple(sorted({*near, 0, 1, near[0] & ~0xFF, (1 << 8 * width) - 1}))
        found = counter(order, thresholds)(b"".join(rank.to_bytes(width, "little") for rank in flipped))
        assert found == [sum(rank >= each for rank in ranks) for each in thresholds]
    assert counter(order, (1,))(b"") == [0]
