"""The values that ops make, against torch, einops, and the formulas they are named after."""

import einops
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ckptdoctor.ops import Op, OpError, parse_op

torch = pytest.importorskip("torch")

from tests.contracts.op_cases import bits, rearrange, spec_of  # noqa: E402 - needs torch


def one(value, *tensors):
    (made,) = parse_op(value).apply(tensors)
    return made


def same(made, expected) -> bool:
    return (made.shape, made.dtype, bits(made)) == (expected.shape, expected.dtype, bits(expected))


X = torch.arange(24.0).reshape(2, 3, 4)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"permute": [2, 0, -2]}, X.permute(2, 0, 1)),
        ({"slice": {"dim": -1, "start": -3, "stop": 4, "step": 2}}, X[..., 1:4:2]),
        ({"slice": {"dim": 1, "stop": -1}}, X[:, :2]),
        ({"index": {"dim": 1, "indices": [2, 0]}}, X[:, [2, 0]]),
        ({"index": {"dim": 1, "from": ["u", "v", "t"], "to": ["t", "u"]}}, X[:, [2, 0]]),
        (
            {"index": {"dim": 1, "from": ["u", "v", "t"], "to": ["rh", "t", "q"], "fill": 7}},
            torch.stack([torch.full((2, 4), 7.0), X[:, 2], torch.full((2, 4), 7.0)], 1),
        ),
        ({"pad": {"dim": 1, "to": 4, "fill": "mean"}}, torch.cat([X, X.mean(1, keepdim=True)], 1)),
        ({"pad": {"dim": -1, "to": 6, "fill": 0, "at": "start"}}, torch.nn.functional.pad(X, (2, 0))),
        ({"resize_vocab": {"to": 3, "fill": "mean"}}, torch.cat([X, X.mean(0, keepdim=True)])),
        ({"resize_vocab": {"to": 1, "shrink": True}}, X[:1]),
        ({"repeat": {"dim": 1, "times": 2}}, X.repeat(1, 2, 1)),
        ({"repeat": {"dim": 1, "times": 2, "interleave": True}}, X.repeat_interleave(2, 1)),
        ({"repeat": {"dim": -1, "times": 3}}, X.repeat(1, 1, 3)),
        ({"scale": 0.1}, X * 0.1),
        ({"scale": 10**30}, X * 1e30),
        ({"pad": {"dim": 0, "to": 3, "fill": 10**30}}, torch.cat([X, torch.full((1, 3, 4), 1e30)])),
    ],
)
def test_one_tensor(value, expected):
    assert same(one(value, X), expected)


def test_several_tensors():
    y = X + 100
    assert same(one({"concat": -1}, X, y), torch.cat([X, y], -1))
    assert same(one({"stack": 1}, X, y), torch.stack([X, y], 1))
    assert same(one({"stack": -1}, X, y), torch.stack([X, y], -1))
    assert same(one("mean", X, y), X + 50)
    pieces = parse_op({"split": {"dim": 2, "sizes": [1, 3]}}).apply((X,))
    assert all(map(same, pieces, X.split([1, 3], 2)))
    pieces = parse_op({"unstack": 1}).apply((X,))
    assert all(map(same, pieces, X.unbind(1)))


@given(st.data(), st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_rearrange_is_einops(data, shape):
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
    arguments = data.draw(rearrange(tuple(shape)))
    try:
        expected = einops.rearrange(tensor, arguments["pattern"], **arguments["sizes"])
    except einops.EinopsError:
        expected = None
    op = parse_op({"rearrange": arguments})
    if expected is None:
        with pytest.raises(OpError):
            op.out_specs((spec_of(tensor),))
        return
    assert same(one({"rearrange": arguments}, tensor), expected)


@pytest.mark.parametrize(
    ("pattern", "sizes", "shape"),
    [
        ("(h two d) c -> (h d two) c", {"two": 2, "h": 8}, (64, 5)),
        ("(three h d) c -> three h d c", {"three": 3, "h": 2}, (24, 5)),
        ("1 n c -> n c", {}, (1, 4, 3)),
        ("n c -> 1 n 1 c", {}, (4, 3)),
        ("b (h w) c -> b c h w", {"h": 2}, (1, 6, 3)),
        ("o i kh kw -> o (kh kw i)", {}, (4, 3, 2, 2)),
        ("a () b -> (a b)", {}, (4, 1, 2)),
        ("(a 1) b -> b a", {}, (4, 2)),
        ("(a b) -> a b", {"a": 3, "b": 2}, (6,)),
        (" -> 1 1", {}, ()),
        ("a b->b a", {}, (2, 3)),
    ],
)
def test_rearrange_patterns_of_einops(pattern, sizes, shape):
    tensor = torch.arange(torch.Size(shape).numel()).reshape(shape)
    op = parse_op({"rearrange": {"pattern": pattern, "sizes": sizes}})
    assert same(
        one({"rearrange": {"pattern": pattern, "sizes": sizes}}, tensor), einops.rearrange(tensor, pattern, **sizes)
    )
    back = op.inverse((spec_of(tensor),))
    assert isinstance(back, Op)
    assert same(back.apply(op.apply((tensor,)))[0], tensor)


BAD_PATTERNS = [
    ("a b", "one arrow"),
    ("a -> b -> a", "one arrow"),
    ("a b -> a", "has b on one side only"),
    ("a -> a b", "has b on one side only"),
    ("a a -> a", "has a twice on one side"),
    ("((a b)) -> a b", "do not pair"),
    ("(a b -> a b", "do not pair"),
    ("a b) -> a b", "do not pair"),
    ("a ... -> ... a", "has an ellipsis"),
    ("a 2 -> 2 a", "has 2, which is no axis"),
    ("a _b -> _b a", "has _b, which is no axis"),
    ("a b_ -> b_ a", "has b_, which is no axis"),
    ("a + b -> a b", "has +, which is no axis"),
]


@pytest.mark.parametrize(("pattern", "message"), BAD_PATTERNS)
def test_rearrange_refuses(pattern, message):
    with pytest.raises(OpError) as caught:
        parse_op({"rearrange": {"pattern": pattern}})
    assert message in caught.value.message
    assert caught.value.hint
    assert caught.value.at == ("rearrange", "pattern")


def timm_resample(posemb, new_size, old_size, prefix, mode, antialias):
    """`resample_abs_pos_embed` of timm 1.0.31 (timm/layers/pos_embed.py), Apache License 2.0, less what logs and skips.

    timm itself is no dependency of the tests; 288 cases were compared with it when this was written.
    """
    posemb_prefix, posemb = posemb[:, :prefix], posemb[:, prefix:]
    embed_dim, orig_dtype = posemb.shape[-1], posemb.dtype
    posemb = posemb.float().reshape(1, old_size[0], old_size[1], -1).permute(0, 3, 1, 2)
    posemb = torch.nn.functional.interpolate(posemb, size=new_size, mode=mode, align_corners=None, antialias=antialias)
    posemb = posemb.permute(0, 2, 3, 1).reshape(1, -1, embed_dim).to(orig_dtype)
    return torch.cat([posemb_prefix, posemb], dim=1)


@given(
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(0, 2),
    st.sampled_from(["bicubic", "bilinear"]),
    st.booleans(),
    st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64]),
)
def test_interpolate_is_timm(old, new, prefix, mode, antialias, dtype):
    assume(old != new)
    seeded = torch.Generator().manual_seed(0)
    tensor = torch.randn(1, prefix + old[0] * old[1], 3, generator=seeded).to(dtype)
    arguments = {"to": list(new), "from": list(old), "prefix_tokens": prefix, "mode": mode, "antialias": antialias}
    made = one({"interpolate": arguments}, tensor)
    assert same(made, timm_resample(tensor, new, old, prefix, mode, antialias))
    assert same(one({"interpolate": arguments}, tensor[0]), made[0])
    assert same(made[:, :prefix], tensor[:, :prefix])


def test_interpolate_to_the_same_grid_changes_no_bit():
    tensor = torch.randn(1, 17, 3)
    assert same(one({"interpolate": {"to": [4, 4], "prefix_tokens": 1}}, tensor), tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_weight_norm_is_that_of_torch(dim, dtype):
    torch.manual_seed(0)
    v = torch.randn(8, 4, 3).to(dtype)
    g = torch.rand([size if place == dim % 3 else 1 for place, size in enumerate(v.shape)]).to(dtype)
    assert same(one({"weight_norm": dim}, g, v), torch._weight_norm(v, g, dim % 3))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weight_norm_undoes_and_redoes_the_modules_of_torch():
    torch.manual_seed(0)
    plain = torch.nn.Conv1d(4, 8, 3)
    weight = plain.weight.detach().clone()
    old = torch.nn.utils.weight_norm(plain)
    g, v = parse_op("weight_norm_parts").apply((weight,))
    assert same(g, old.weight_g.detach())
    assert same(v, old.weight_v.detach())
    old(torch.zeros(1, 4, 5))
    assert same(one("weight_norm", g, v), old.weight.detach())
    new = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(4, 8, 3))
    parts = new.parametrizations.weight
    assert same(one("weight_norm", parts.original0.detach(), parts.original1.detach()), new.weight.detach())


def test_weight_norm_refuses_what_has_no_direction():
    weight = torch.ones(3, 2)
    weight[1] = 0
    with pytest.raises(OpError, match="no finite numbers"):
        parse_op("weight_norm").apply((torch.ones(3, 1), weight))
    with pytest.raises(OpError, match="the norm of some indices of dim 0 is 0"):
        parse_op("weight_norm_parts").apply((weight,))


def test_noise_is_the_same_for_the_same_seed_and_another_for_another():
    tensor = torch.zeros(2, 500, dtype=torch.float16)

    def made(seed):
        return one({"pad": {"dim": 0, "to": 100, "fill": {"normal": {"std": 0.02, "seed": seed}}}}, tensor)[2:]

    state = torch.get_rng_state()
    assert same(made(1), made(1))
    assert not same(made(1), made(2))
    assert torch.equal(torch.get_rng_state(), state), "the generator of the process is left alone"
    assert abs(made(1).float().std() - 0.02) < 1e-3
    assert abs(made(1).float().mean()) < 1e-3


@pytest.mark.parametrize(
    ("value", "tensors"),
    [
        ({"scale": 2}, [torch.tensor([4e4], dtype=torch.float16)]),
        ({"scale": 1e30}, [torch.tensor([1e30])]),
        ({"scale": -2}, [torch.tensor([400.0]).to(torch.float8_e4m3fn)]),
        ({"scale": 1e30}, [torch.tensor([1e30j])]),
        ({"scale": 2}, [torch.tensor([float("inf"), 4e4], dtype=torch.float16)]),
        ("mean", [torch.tensor([1.5e308], dtype=torch.float64)] * 2),
        ({"pad": {"dim": 0, "to": 9, "fill": {"normal": {"std": 1e9, "seed": 0}}}}, [torch.zeros(1).half()]),
        ("weight_norm_parts", [torch.full((1, 9), 6e4).half()]),
    ],
)
def test_no_number_becomes_infinite(value, tensors):
    op = parse_op(value)
    assert op.out_specs(tuple(map(spec_of, tensors)))
    with pytest.raises(OpError, match="no finite numbers") as caught:
        op.apply(tuple(tensors))
    assert op.describe() in caught.value.message
    assert caught.value.hint


def test_what_was_not_finite_may_stay_so():
    tensor = torch.tensor([float("inf"), float("nan"), 1.0])
    assert same(one({"scale": 2}, tensor), tensor * 2)
    assert one("mean", tensor, tensor)[2] == 1


@pytest.mark.parametrize("by", [1, 2, -4.0, 2**20])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn"])
def test_a_scale_with_an_inverse_loses_no_bit_of_any_number(dtype, by):
    kind = getattr(torch, dtype)
    whole = torch.uint8 if kind.itemsize == 1 else torch.int16
    every = torch.arange(2 ** (8 * kind.itemsize)).to(whole).view(kind)
    op = parse_op({"scale": by})
    fits = (every.float() * by).abs() <= torch.finfo(kind).max
    numbers = every[fits]
    back = op.inverse((spec_of(numbers),))
    assert isinstance(back, Op)
    assert same(back.apply(op.apply((numbers,)))[0], numbers)


@pytest.mark.parametrize("by", [0.5, 3, 0.1, 2.0**127])
def test_a_scale_that_rounds_has_none(by):
    assert "rounded" in parse_op({"scale": by}).inverse((spec_of(X),))


def test_same_is_bit_for_bit():
    zero = torch.zeros(2)
    assert same(one("same", zero, zero.clone()), zero)
    with pytest.raises(OpError, match="the tensors are not equal"):
        parse_op("same").apply((zero, -zero))
    column = torch.zeros(3, 2)[:, :1].T[:, :1]
    assert same(one("same", column, torch.zeros(1, 1), column.conj()), torch.zeros(1, 1))
    empty = torch.zeros(0, 2)
    assert same(one("same", empty, empty.clone()), empty)
    turned = torch.tensor([1 + 2j]).conj()
    assert same(one("same", turned, torch.tensor([1 - 2j])).resolve_conj(), torch.tensor([1 - 2j]))
