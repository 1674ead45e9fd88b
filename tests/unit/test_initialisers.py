"""Initialisers: what a map may write, what suits which tensor, and the values, which are the same wherever they are made."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import pytest

from ckptdoctor.errors import KeyMapError
from ckptdoctor.initialisers import INITIALISERS, init_schema, parse_init
from ckptdoctor.keymap import map_schema, parse_map
from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OpError

WRITTEN = [
    ("model", "model"),
    ("zeros", "zeros"),
    ("ones", "ones"),
    ("identity", "identity"),
    ({"constant": 0.5}, "constant(0.5)"),
    ({"constant": True}, "constant(True)"),
    ({"normal": {"std": 0.02, "seed": 1}}, "normal(std=0.02, seed=1)"),
    ({"normal": {"std": 1}}, "normal(std=1.0, seed=0)"),
    ({"copy": "blocks.{i}.old"}, "copy(blocks.{i}.old)"),
]


def spec(shape: tuple[int, ...] = (3, 3), dtype: str = "float32", key: str = "a.b") -> TensorSpec:
    return TensorSpec(key, shape, DTYPES[dtype])


@pytest.mark.parametrize(("value", "text"), WRITTEN)
def test_each_is_read_and_described(value: object, text: str) -> None:
    assert parse_init(value).describe() == text


def test_the_table_is_covered() -> None:
    assert {parse_init(value).name for value, _ in WRITTEN} == set(INITIALISERS)


@pytest.mark.parametrize(
    ("value", "message", "hint"),
    [
        ("zeroes", "unknown init zeroes", "did you mean zeros or ones?"),
        ("constant", "constant is not a number", "1.0e-3"),
        ({"constant": "1e-3"}, "constant is not a number", "1.0e-3"),
        ({"constant": float("nan")}, "constant is not a number", "1.0e-3"),
        ("normal", "normal: arguments need names", "std, seed"),
        ({"normal": {"seed": 1}}, "normal: std is missing", "standard deviation"),
        ({"normal": {"std": 0}}, "normal: std is not a number above 0", "0.02"),
        ({"normal": {"std": 0.1, "seed": -1}}, "normal: seed is not a whole number", "seed"),
        ({"normal": {"std": 0.1, "sed": 1}}, "normal: unknown argument sed", "did you mean seed or std?"),
        ({"zeros": 1}, "zeros takes no arguments", "init: zeros"),
        ({"copy": {"i": None}}, "copy: key is not a key", "quote it"),
        ({"copy": "a.{"}, "copy: key is no pattern", None),
        ({"zeros": None, "ones": None}, "an init is a name", "zeros"),
        (3, "an init is a name", "zeros"),
    ],
)
def test_what_is_wrong_is_said(value: object, message: str, hint: str | None) -> None:
    with pytest.raises(OpError) as caught:
        parse_init(value)
    assert caught.value.message.startswith(message)
    assert hint is None or hint in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("value", "target", "reason"),
    [
        ("identity", spec((3,)), "identity needs a square matrix, this is 3"),
        ("identity", spec((60, 768)), "identity needs a square matrix, this is 60x768"),
        ("identity", spec(dtype="int64"), "identity makes no int64 numbers"),
        ({"normal": {"std": 1}}, spec(dtype="int8"), "normal makes no int8 numbers"),
        ({"normal": {"std": 1}}, spec(dtype="complex64"), "normal makes no complex64 numbers"),
        ({"normal": {"std": 9000}}, spec(dtype="float16"), "std 9000.0 is too large for float16"),
        ({"constant": 0.5}, spec(dtype="int32"), "int32 does not hold 0.5"),
        ({"constant": 128}, spec(dtype="int8"), "int8 does not hold 128"),
        ({"constant": -1}, spec(dtype="uint8"), "uint8 does not hold -1"),
        ({"constant": 1e6}, spec(dtype="float16"), "float16 does not hold 1000000.0"),
        ({"constant": 1}, spec(dtype="bool"), "bool does not hold 1"),
        ({"constant": True}, spec(), "float32 does not hold True"),
        ("zeros", spec(dtype="float4_e2m1fn_x2"), "zeros makes no float4_e2m1fn_x2 numbers"),
    ],
)
def test_what_does_not_suit_a_tensor_is_refused(value: object, target: TensorSpec, reason: str) -> None:
    with pytest.raises(OpError) as caught:
        parse_init(value).check(target)
    assert caught.value.message == reason


def test_none_of_that_needs_torch() -> None:
    code = (
        "import sys; from ckptdoctor.initialisers import *; from ckptdoctor.model import *;"
        "parse_init({'normal': {'std': 1}}).check(TensorSpec('a', (2,), DTYPES['float32']));"
        "print([name for name in ('torch', 'numpy', 'yaml') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


# --- the values


FILLABLE = [name for name in DTYPES if not name.startswith(("float4", "float6", "float8_e8m0", "complex32"))]


@pytest.mark.parametrize("dtype", FILLABLE)
@pytest.mark.parametrize("shape", [(3, 3), (), (0, 2)])
def test_zeros_and_ones_in_every_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    pytest.importorskip("torch")
    for value, number in (("zeros", 0), ("ones", 1)):
        init, target = parse_init(value), spec(shape, dtype)
        init.check(target)
        made = init.make(target)
        assert (str(made.dtype), tuple(made.shape), made.is_contiguous()) == (f"torch.{dtype}", shape, True)
        flat = made.flatten().tolist() if "float8" not in dtype else made.float().flatten().tolist()
        assert flat == [number] * target.numel


def test_the_other_values() -> None:
    torch = pytest.importorskip("torch")
    assert torch.equal(parse_init("identity").make(spec(dtype="bfloat16")), torch.eye(3, dtype=torch.bfloat16))
    assert parse_init({"constant": 0.1}).make(spec((2,), "float64")).tolist() == [0.1, 0.1]
    assert parse_init({"constant": 2**64 - 1}).make(spec((1,), "uint64")).tolist() == [2**64 - 1]
    assert parse_init({"constant": 3.0}).make(spec((1,), "int64")).tolist() == [3]
    assert parse_init({"constant": True}).make(spec((1,), "bool")).tolist() == [True]


class TestNormal:
    INIT = parse_init({"normal": {"std": 0.02, "seed": 1}})

    def test_is_drawn_from_seed_and_key_alone(self) -> None:
        torch = pytest.importorskip("torch")
        torch.manual_seed(3)
        first = self.INIT.make(spec((50, 40)))
        torch.manual_seed(4)
        assert torch.equal(first, self.INIT.make(spec((50, 40))))
        assert not torch.equal(first, self.INIT.make(spec((50, 40), key="a.c")))
        assert not torch.equal(first, parse_init({"normal": {"std": 0.02, "seed": 2}}).make(spec((50, 40))))

    def test_is_normal(self) -> None:
        pytest.importorskip("torch")
        made = self.INIT.make(spec((400, 500)))
        assert abs(float(made.mean())) < 2e-4
        assert float(made.std()) == pytest.approx(0.02, rel=0.01)
        assert float((made.abs() < 0.02).float().mean()) == pytest.approx(0.6827, abs=0.005)

    def test_has_the_same_bits_everywhere(self) -> None:
        """Change this digest, and every receipt that was written before fails `verify`."""
        pytest.importorskip("torch")
        digest = hashlib.sha256(self.INIT.make(spec((1000,))).numpy().tobytes()).hexdigest()
        assert digest == "844e6761ff56d5b2aa2b2bda1cf729c901616de2fd69c3d82553591d92c864ec"

    @pytest.mark.parametrize("dtype", ["float64", "bfloat16", "float8_e4m3fn"])
    def test_other_floats(self, dtype: str) -> None:
        pytest.importorskip("torch")
        made = self.INIT.make(spec((), dtype))
        assert (str(made.dtype), made.shape) == (f"torch.{dtype}", ())


# --- in a map


def problems(entry: str) -> list[str]:
    with pytest.raises(KeyMapError) as caught:
        parse_map(f"ckptdoctor: 1\n{entry}\n", "f")
    return [str(problem) for problem in caught.value.problems]


def test_a_map_takes_them() -> None:
    text = "ckptdoctor: 1\nfresh: [{keys: a, why: new, init: {normal: {std: 0.02, seed: 7}}}, {keys: b, why: new}]\n"
    first, second = parse_map(text).fresh
    assert (first.init.describe(), second.init) == ("normal(std=0.02, seed=7)", None)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        (
            "fresh: [{keys: a, why: b, init: zeroes}]",
            "f:2:33: fresh[0].init: unknown init zeroes; did you mean zeros or ones?",
        ),
        ("fresh: [{keys: a, why: b, init: {normal: {std: x}}}]", "f:2:43: fresh[0].init: normal: std is not a number"),
        ('fresh: [{keys: "a.{j}", why: b, init: {copy: "b.{i}"}}]', "f:2:39: fresh[0].init: {i} stands in copy"),
        ('fresh: [{keys: [a, "{i}"], why: b, init: {copy: "b.{i}"}}]', "f:2:42: fresh[0].init: b.{i} captures, and"),
        ('fresh: [{keys: "{a,b}", why: b, init: {copy: "{c,d,e}"}}]', "f:2:39: fresh[0].init: {a,b} has 2 members"),
        ("drop: [{keys: a, why: b, init: zeros}]", "f:2:26: drop[0]: unknown field init"),
        ("tie: [{keys: a, why: b}]", "f:2:14: tie[0].keys: a names one key at a time"),
        ('tie: [{keys: ["{m}.a", "b"], why: b}]', "f:2:14: tie[0].keys: {m}.a and b do not capture the same"),
        ('tie: [{keys: ["a", "b"]}]', "f:2:7: tie[0]: why is missing"),
    ],
)
def test_a_wrong_one_is_placed(entry: str, problem: str) -> None:
    (found,) = problems(entry)
    assert found.startswith(problem)


def test_the_schema_has_them() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(json.loads(json.dumps(map_schema())))
    for value, _ in WRITTEN:
        fresh = [{"keys": "a", "why": "new", "init": value}]
        assert validator.is_valid({"ckptdoctor": 1, "fresh": fresh}), value
    for value in ("zeroes", {"constant": "x"}, {"normal": {"seed": 1}}, {"zeros": None}, {"copy": 3}):
        assert not validator.is_valid({"ckptdoctor": 1, "fresh": [{"keys": "a", "why": "new", "init": value}]}), value
    assert validator.is_valid({"ckptdoctor": 1, "tie": [{"keys": ["a", "b"], "why": "shared"}]})
    assert not validator.is_valid({"ckptdoctor": 1, "tie": [{"keys": ["a", "b"]}]})
    assert len(init_schema()["anyOf"]) == 4
