"""Mass balance of plans: what each element of both sides becomes, and that the sums are the manifests'."""

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ckptdoctor
from ckptdoctor import make_plan
from ckptdoctor.errors import PlanError
from ckptdoctor.keymap import parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan import balance_of


def manifest(**shapes: tuple[int, ...]) -> Manifest:
    return Manifest([TensorSpec(key, shape, DTYPES["float32"]) for key, shape in shapes.items()])


def elements(source: Manifest, target: Manifest | None, *rules: str, more: str = "") -> tuple[dict, dict]:
    text = "ckptdoctor: 1\nrules:\n" + "".join(f"  - {{{rule}}}\n" for rule in rules) + more
    balance = balance_of(make_plan(source, target, parse_map(text)))
    for side, whole in ((balance.source, source), (balance.target, target)):
        if whole is not None:
            assert sum(amount.tensors for amount in side.values()) == len(whole)
            assert sum(amount.bytes for amount in side.values()) == whole.nbytes
    return tuple({name: amount.elements for name, amount in side.items()} for side in balance)


def test_every_class_of_both_sides():
    source = manifest(a=(2, 3), b=(4,), c=(5,), d=(6,), same=(7,))
    target = manifest(x=(2, 3), c=(1,), same=(7,), new=(8,), more=(9,))
    more = 'drop: [{keys: b, why: gone}]\nfresh: [{keys: new, why: "is new"}]\n'
    assert elements(source, target, "from: a, to: x", more=more) == (
        {"used": 13, "dropped": 4, "unexpected": 6, "mismatched": 5},
        {"loaded": 7, "renamed": 6, "fresh": 8, "missing": 9, "mismatched": 1},
    )


def test_what_a_slice_leaves_out_and_what_a_pad_adds():
    source, target = manifest(a=(10, 3), e=(5, 2)), manifest(a=(4, 3), e=(7, 2))
    rules = ("from: a, to: a, op: {slice: {dim: 0, stop: 4}}", "from: e, to: e, op: {pad: {to: 7, dim: 0, fill: 0}}")
    assert elements(source, target, *rules) == ({"used": 22, "left_out": 18}, {"computed": 22, "new": 4})


def test_what_one_rule_leaves_out_another_may_use():
    rules = [
        f"from: a, to: {name}, op: {{slice: {{dim: 0, start: {start}, stop: {start + 4}}}}}"
        for name, start in (("x", 0), ("y", 2))
    ]
    assert elements(manifest(a=(10, 3)), None, *rules)[0] == {"used": 18, "left_out": 12}
    assert elements(manifest(a=(10, 3)), None, *rules, "from: a, to: z")[0] == {"used": 30}


def test_slices_along_two_dimensions_leave_out_what_neither_takes():
    rules = ("from: a, to: x, op: {slice: {dim: 0, stop: 4}}", "from: a, to: y, op: {slice: {dim: 1, stop: 1}}")
    assert elements(manifest(a=(10, 3)), None, *rules)[0] == {"used": 18, "left_out": 12}


def test_what_is_cut_off_after_a_join_is_shared_among_the_joined():
    rule = 'from: "shard.{0,1}", to: emb, op: [{concat: 0}, {slice: {dim: 0, stop: 9}}]'
    source = Manifest([TensorSpec(f"shard.{i}", (6, 2), DTYPES["float32"]) for i in (0, 1)])
    assert elements(source, None, rule)[0] == {"used": 18, "left_out": 6}


@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 9)), min_size=1, max_size=4),
)
def test_it_is_what_counting_gives(rows: int, columns: int, cuts: list[tuple[int, int]]):
    cuts = [(start, min(start + length, rows)) for start, length in cuts if start < rows]
    rules = [f"from: a, to: t{n}, op: {{slice: {{dim: 0, start: {a}, stop: {b}}}}}" for n, (a, b) in enumerate(cuts)]
    if not rules:
        return
    used = {row for a, b in cuts for row in range(a, b)}
    source, _ = elements(manifest(a=(rows, columns)), None, *rules)
    assert source.get("left_out", 0) == (rows - len(used)) * columns


def test_elements_that_an_op_adds_are_random_parameters_and_declared():
    source, target = manifest(e=(5, 2)), manifest(e=(7, 2))
    text = "ckptdoctor: 1\nrules: [{from: e, to: e, op: {pad: {dim: 0, like: target, fill: 0}}}]"
    plan = make_plan(source, target, parse_map(text))
    assert (plan.random_parameters, plan.fresh_parameters) == (4, 4)
    assert plan.random_share == pytest.approx(4 / 14)


SEPARABLE = (
    "{slice: {dim: %d, start: 1}}",
    "{slice: {dim: %d, stop: 2, step: 2}}",
    "{transpose: [0, 1]}",
    "{permute: [-1, 0]}",
    "{index: {dim: %d, indices: [1, 0]}}",
    "{index: {dim: %d, indices: [-1]}}",
    "{pad: {dim: %d, to: 7, fill: 0, at: start}}",
    "{cast: float64}",
)
OTHERS = (
    "{reshape: [-1]}",
    "{reshape: [1, -1]}",
    "{repeat: {dim: %d, times: 2}}",
    '{rearrange: {pattern: "a b -> b a"}}',
)


def counted(tensors: dict[str, tuple[int, ...]], *maps: str) -> tuple[int, int]:
    """How many elements of the source stand in an output, by their values; and how many the balance says are used."""
    torch = pytest.importorskip("torch")
    shapes = Manifest([TensorSpec(key, shape, DTYPES["float64"]) for key, shape in tensors.items()])
    plan = make_plan(shapes, None, [parse_map("ckptdoctor: 1\n" + text) for text in maps])
    numbers, weights = iter(range(1, 10**6)), {}
    for key, spec in shapes.items():
        weights[key] = torch.tensor([float(next(numbers)) for _ in range(spec.numel)], dtype=torch.float64).reshape(
            spec.shape
        )
    seen = {int(each) for value in ckptdoctor.apply(plan, weights).values() for each in value.flatten().tolist()} - {0}
    amounts = balance_of(plan).source
    assert all(amount.elements >= 0 for amount in amounts.values())
    return len(seen), amounts["used"].elements if "used" in amounts else 0


def drawn(random: Random, ops: Sequence[str]) -> str:
    """A map of one or two rules over `a`, `b` and `c`."""
    rules = []
    for number in range(random.randint(1, 2)):
        source, steps = random.choice([("a", []), ("[b, c]", [f"{{concat: {random.randint(0, 1)}}}"])])
        steps = steps + [
            op % random.randint(0, 1) if "%" in op else op for op in random.choices(ops, k=random.randint(1, 3))
        ]
        rules.append(f"{{from: {source}, to: o{number}, op: [{', '.join(steps)}]}}")
    return f"rules: [{', '.join(rules)}]"


@pytest.mark.parametrize("exact", [True, False])
def test_random_plans_against_counting(exact: bool):
    tried = 0
    for seed in range(600):
        random = Random(seed)
        text = drawn(random, SEPARABLE if exact else SEPARABLE + OTHERS)
        try:
            found, said = counted({"a": (random.randint(2, 4), random.randint(2, 4)), "b": (2, 3), "c": (2, 3)}, text)
        except PlanError:
            continue
        tried += 1
        assert found == said if exact else found <= said, text
    assert tried > 150


def rule(ops: str, to: str = "y") -> str:
    return f'{{from: x, to: "{to}", op: [{ops}]}}'


UNSTACKED = f"rules: [{rule('{unstack: 0}', 'u.{0..9}')}]"
RESTACKED = 'rules: [{from: "u.{0..9}", to: s, op: [stack, {slice: {dim: 1, stop: 1}}]}]'


@pytest.mark.parametrize(
    ("maps", "used"),
    [
        ([f"rules: [{rule('{slice: {dim: 0, stop: 5}}, {slice: {dim: 0, stop: 2}}')}]"], 6),
        ([f"rules: [{rule('{reshape: [-1]}, {slice: {dim: 0, stop: 7}}')}]"], 7),
        ([f"rules: [{rule('{slice: {dim: 0, stop: 3}}, {reshape: [-1]}, {slice: {dim: 0, stop: 4}}')}]"], 4),
        ([f"rules: [{rule('{split: {sizes: [4, 6]}}', '{a,b}')}]", "drop: [{keys: b, why: gone}]"], 12),
        ([UNSTACKED, 'drop: [{keys: "u.{2..9}", why: gone}]'], 6),
        ([UNSTACKED, RESTACKED], 10),
        (
            [
                f"rules: [{rule('{slice: {dim: 0, stop: 5}}')}, {rule('{reshape: [-1]}, {slice: {dim: 0, stop: 3}}', 'z')}]"
            ],
            30,
        ),
    ],
)
def test_what_is_used_in_the_end(maps: list[str], used: int):
    assert counted({"x": (10, 3)}, *maps)[1] == used


def test_huge_tensors_are_balanced_at_once():
    source = manifest(x=(10**11, 4))
    rules = [f"from: x, to: y{n}, op: {{slice: {{dim: 0, start: {n}, step: {n + 2}}}}}" for n in range(3)]
    rules += [
        f"from: x, to: z{n}, op: {{slice: {{dim: 0, start: {n * 10**9}, stop: {n * 10**9 + 5}}}}}" for n in range(4)
    ]
    assert elements(source, None, *rules)[0] == {"used": 4 * 10**11}
    assert elements(source, None, *rules[3:])[0] == {"used": 80, "left_out": 4 * 10**11 - 80}
