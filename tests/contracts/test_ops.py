"""What every op of the table keeps: `out_specs` foretells `apply`, `inverse` undoes it, YAML comes back as it went."""

import json
from dataclasses import fields

import pytest
import yaml
from hypothesis import given

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OPS, OpError, ops_schema, parse_op

torch = pytest.importorskip("torch")

from tests.contracts.op_cases import ARGUMENTS, bits, cases, ops, refusal, spec_of  # noqa: E402 - needs torch

each_op = pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)


def test_every_op_is_covered():
    assert set(ARGUMENTS) == set(OPS)
    assert list(OPS) == sorted(OPS) == [op.name for op in OPS.values()]


@given(cases())
def test_out_specs_is_what_apply_does(case):
    if not case.fits():
        return
    before = [bits(tensor) for tensor in case.tensors]
    error = refusal(case.op.apply, case.tensors)
    if error is not None:
        assert case.op.describe() in error.message
        return
    made = case.op.apply(case.tensors)
    assert [(tuple(each.shape), spec_of(each).dtype) for each in made] == list(case.op.out_specs(case.specs))
    assert all(each.is_contiguous() for each in made)
    assert [bits(tensor) for tensor in case.tensors] == before
    assert case.op.fan_out or len(made) == 1
    note = case.op.note(case.tensors, made)
    assert note is None or note.isprintable()


@given(cases())
def test_inverse_is_bit_for_bit_or_gives_its_reason(case):
    if not case.fits():
        return
    back = case.op.inverse(case.specs)
    if isinstance(back, str):
        assert back
        return
    assert type(back).parse(back.arguments()) == back
    if refusal(case.op.apply, case.tensors):
        return
    made = case.op.apply(case.tensors)
    again = back.apply(made)
    assert back.out_specs(tuple(map(spec_of, made)))
    assert [spec_of(each) for each in again] == list(case.specs)
    assert [bits(each) for each in again] == [bits(each) for each in case.tensors]


@given(cases())
def test_runs_in_a_row_are_what_apply_makes(case):
    if not case.fits() or (runs := case.op.runs(case.specs)) is None or refusal(case.op.apply, case.tensors):
        return
    whole, widths = [bits(tensor) for tensor in case.tensors], {tensor.itemsize for tensor in case.tensors}
    (width,) = widths
    made = [b"".join(whole[run.input][run.begin * width : run.end * width] for run in output) for output in runs]
    assert made == [bits(each) for each in case.op.apply(case.tensors)]


def test_ops_along_the_outermost_dimension_need_no_memory():
    inputs = (TensorSpec("a", (1, 6, 4), DTYPES["float32"]),)
    outermost = {"concat": 1, "stack": 0, "unstack": 1, "slice": {"dim": 1, "stop": 2}, "reshape": [24], "broadcast": 2}
    outermost |= {
        "split": {"dim": 1, "parts": 3},
        "index": {"dim": 1, "indices": [5, 0]},
        "repeat": {"dim": 1, "times": 2},
    }
    assert [name for name, value in outermost.items() if parse_op({name: value}).runs(inputs) is None] == []
    inner = {"concat": 2, "unstack": 2, "slice": {"dim": 1, "step": 2}, "transpose": [0, 1], "cast": "float16"}
    assert [name for name, value in inner.items() if parse_op({name: value}).runs(inputs) is not None] == []


@given(cases())
def test_what_does_not_fit_is_said_in_a_sentence(case):
    error = refusal(case.op.out_specs, case.specs)
    if error is not None:
        assert case.op.describe() in error.message
        assert error.message.isprintable()
        assert error.hint is None or (error.hint and "\n" not in error.hint)


@given(ops())
def test_yaml_comes_back_as_it_went(op):
    assert type(op).parse(op.arguments()) == op
    assert parse_op({op.name: json.loads(json.dumps(op.arguments()))}) == op
    assert parse_op(yaml.safe_load(yaml.safe_dump({op.name: op.arguments()}))) == op
    assert hash(op) == hash(type(op).parse(op.arguments()))


@given(ops())
def test_what_parses_is_valid_by_the_schema(op):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate({op.name: op.arguments()}, op_schema())


def op_schema():
    return {"$schema": "http://json-schema.org/draft-07/schema#", **ops_schema()}


@given(ops())
def test_describe_is_short_text(op):
    assert op.describe().startswith(f"{op.name}(")
    assert op.describe().isprintable()
    assert "None" not in op.describe()


@each_op
def test_of_each_op(op):
    assert op.__doc__
    assert op.schema()
    assert not op.fan_in or not op.fan_out
    assert all(each.metadata["about"] for each in fields(op))
    with pytest.raises(OpError, match=f"{op.name}: unknown argument nonsense") as caught:
        op.parse({"nonsense": 1})
    assert caught.value.at == ("nonsense",)
    assert caught.value.hint


@given(cases())
def test_an_op_for_one_tensor_takes_one(case):
    spec = case.specs[0]
    if case.op.fan_in or case.op.input_names:
        with pytest.raises(OpError, match=r"takes .*, not 0 tensors"):
            case.op.out_specs(())
        return
    with pytest.raises(OpError, match="takes one tensor, not 2 tensors"):
        case.op.out_specs((spec, spec))
    with pytest.raises(OpError, match="takes one tensor, not 0 tensors"):
        case.op.inverse(())


@each_op
def test_the_example_does_what_it_says(op):
    rule = yaml.safe_load(op.example.rule)
    assert {"from", "to", "op"} == set(rule)
    read = parse_op(rule["op"])
    assert isinstance(read, op)
    inputs = tuple(TensorSpec(key, shape, DTYPES["float32"]) for key, shape in op.example.before.items())
    targets = tuple(TensorSpec(key, shape, DTYPES["float32"]) for key, shape in op.example.after.items())
    if not op.fan_in and not op.input_names:
        assert len(inputs) == 1
    assert op.fan_out or len(targets) == 1
    made = read.fitted(inputs, targets).out_specs(inputs)
    assert [shape for shape, _ in made] == list(op.example.after.values())


def test_schema_is_json_and_names_every_op():
    schema = json.loads(json.dumps(ops_schema()))
    assert [list(each["properties"]) for each in schema["anyOf"][:-1]] == [[name] for name in OPS]
    assert schema["anyOf"][-1]["enum"] == [name for name in OPS if OPS[name].stands_alone()]


def test_schema_is_draft_7_and_as_strict_as_parse():
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft7Validator.check_schema(op_schema())
    validator = jsonschema.Draft7Validator(op_schema())
    for name, op in OPS.items():
        assert validator.is_valid(name) == op.stands_alone()
        assert validator.is_valid({name: None}) == op.stands_alone()
        if op.stands_alone():
            assert parse_op(name) == parse_op({name: None}) == parse_op({name: {}})
        else:
            with pytest.raises(OpError):
                parse_op(name)
    assert not validator.is_valid({"split": {"dim": 0, "parts": 2, "like": "target"}})
