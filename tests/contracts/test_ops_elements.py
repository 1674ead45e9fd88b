"""What ops say of single elements, against counting them: new ones, selected ones, and the moments that go with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OPS, OpError, parse_op

torch = pytest.importorskip("torch")

from tests.contracts.op_cases import Case, bits, cases, refusal  # noqa: E402 - needs torch

NEW = 1000
BY_HAND = {"interpolate", "mean", "scale", "weight_norm", "weight_norm_parts"}  # these make other numbers
COUNTED = sorted(set(OPS) - BY_HAND - {"cast", "same"})


@st.composite
def numbered(draw):
    """Cases in which every element is a number of its own, and some numbers are marked as new by being large."""
    case = draw(cases(COUNTED, ["int64"]))
    total, tensors, new = 0, [], []
    for tensor in case.tensors:
        values = torch.arange(total + 1, total + tensor.numel() + 1)
        marked = draw(st.integers(0, tensor.numel())) if draw(st.booleans()) else 0
        values[:marked] += NEW
        tensors.append(values.reshape(tensor.shape))
        new.append(marked)
        total += tensor.numel()
    return Case(case.op, tuple(tensors)), tuple(new)


@given(numbered())
def test_new_elements_are_those_that_are_counted(case_and_new):
    case, new = case_and_new
    if not case.fits() or refusal(case.op.new_elements, case.specs, new):
        return
    made = case.op.apply(case.tensors)
    counted = [int(((each <= 0) | (each > NEW)).sum()) for each in made]
    assert list(case.op.new_elements(case.specs, new)) == counted


@given(numbered())
def test_new_elements_can_be_told_of_inputs_without_any(case_and_new):
    case, new = case_and_new
    if not case.fits():
        return
    none = (0,) * len(new)
    assert len(case.op.new_elements(case.specs, none)) == len(case.op.out_specs(case.specs))
    error = refusal(case.op.new_elements, case.specs, new)
    if error is not None:
        assert any(new)
        assert case.op.fan_out or case.op.selected(case.specs[0]) is not None
        assert "be the last one" in error.hint


@given(numbered())
def test_selected_elements_are_those_that_are_found(case_and_new):
    case, _ = case_and_new
    if not case.fits():
        return
    before = set(torch.cat([each.flatten() for each in case.tensors]).tolist())
    found = before & set(torch.cat([each.flatten() for each in case.op.apply(case.tensors)]).tolist())
    chosen = None if case.op.fan_in else case.op.selected(case.specs[0])
    if chosen is None:
        assert found == before
        return
    dim, indices = chosen
    assert 0 <= dim < case.tensors[0].dim()
    assert list(indices) != list(range(case.tensors[0].shape[dim]))
    assert found == set(case.tensors[0].index_select(dim, torch.tensor(indices)).flatten().tolist())


@given(numbered())
def test_moves_means_every_element_once(case_and_new):
    case, _ = case_and_new
    if not case.fits() or not case.op.moves:
        return
    before = sorted(torch.cat([each.flatten() for each in case.tensors]).tolist())
    assert sorted(torch.cat([each.flatten() for each in case.op.apply(case.tensors)]).tolist()) == before


@given(numbered(), st.sampled_from([1, 2]))
def test_moments_stay_with_their_elements_and_new_ones_have_none(case_and_new, order):
    """Moments of ten times the number: so they are afterwards, and zero where an element is new."""
    case, _ = case_and_new
    moments = case.op.for_moments(order)
    if not case.fits() or moments is None:
        return
    values = case.op.apply(case.tensors)
    carried = tuple(tensor * 10 for tensor in case.tensors)
    for op in moments:
        assert [shape for shape, _ in op.out_specs(Case(op, carried).specs)] == [tuple(each.shape) for each in values]
        carried = op.apply(carried)
    for value, moment in zip(values, carried, strict=True):
        assert torch.equal(moment, torch.where(value > 0, value * 10, 0))


@pytest.mark.parametrize("op", OPS.values(), ids=lambda op: op.name)
def test_which_moments_go_along(op):
    made = parse_op({op.name: EXAMPLES[op.name]})
    none = {"broadcast", "interpolate", "mean", "repeat", "same", "weight_norm", "weight_norm_parts"}
    assert (made.for_moments(1) is None) == (made.for_moments(2) is None) == (op.name in none)
    assert (made.for_moments(1) == (made,)) == (op.moves or op.name == "slice")


EXAMPLES = {
    "broadcast": 2,
    "cast": "float16",
    "concat": 0,
    "index": {"dim": 0, "from": ["a"], "to": ["a", "b"], "fill": 1},
    "interpolate": {"to": [2, 2]},
    "mean": None,
    "pad": {"dim": 0, "to": 4, "fill": 1},
    "permute": [1, 0],
    "rearrange": {"pattern": "a b -> b a"},
    "repeat": {"dim": 0, "times": 2},
    "reshape": [-1],
    "resize_vocab": {"to": 4, "fill": "mean"},
    "same": None,
    "scale": 2,
    "slice": {"dim": 0, "stop": 1},
    "split": {"parts": 2},
    "stack": 0,
    "transpose": [0, 1],
    "unstack": 0,
    "weight_norm": None,
    "weight_norm_parts": 0,
}


def test_moments_of_a_scaled_weight_are_those_that_training_gives():
    """A model that multiplies by 1/s what it gets multiplied by s learns the same; so do its gradients."""
    torch.manual_seed(0)
    by, weight, x = 0.125, torch.randn(4, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    plain = weight.clone().requires_grad_()
    (x @ plain.T).tanh().sum().backward()
    op = parse_op({"scale": by})
    (scaled,) = op.apply((weight,))
    scaled.requires_grad_()
    (x @ (scaled / by).T).tanh().sum().backward()
    for order in (1, 2):
        (moments,) = op.for_moments(order)
        assert torch.allclose(moments.apply((plain.grad**order,))[0], scaled.grad**order, rtol=1e-12)


def test_moments_of_a_cast_keep_their_dtype():
    assert parse_op({"cast": "float16"}).for_moments(1) == ()


def test_a_scale_whose_moments_would_leave_float32_lets_them_start_anew():
    assert parse_op({"scale": 1e30}).for_moments(1) is not None
    assert parse_op({"scale": 1e30}).for_moments(2) is None


@pytest.mark.parametrize("value", [{"scale": 2}, {"cast": "float16"}, {"permute": [1, 0]}])
def test_ops_on_each_element_keep_the_count_of_new_ones(value):
    assert parse_op(value).new_elements((TensorSpec("k", (2, 3), DTYPES["float32"]),), (4,)) == (4,)


@pytest.mark.parametrize("value", ["mean", "weight_norm_parts", {"interpolate": {"to": [2, 2]}}])
def test_ops_that_mix_elements_refuse_new_ones(value):
    spec = TensorSpec("k", (1, 3), DTYPES["float32"])
    with pytest.raises(OpError, match="adds elements") as caught:
        parse_op(value).new_elements((spec,), (1,))
    assert caught.value.hint


def test_copies_share_no_memory():
    copies = parse_op({"broadcast": 3}).apply((torch.arange(4.0),))
    assert len({each.data_ptr() for each in copies}) == 3
    assert len({bits(each) for each in copies}) == 1
