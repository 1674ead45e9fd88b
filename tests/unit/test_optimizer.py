"""Which weight an optimizer's state belongs to, and what becomes of it: orders, names, groups, ops. Nothing here is read."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.keymap import parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec, packed
from ckptdoctor.ops import Op, OutSpec
from ckptdoctor.ops.arguments import WHOLE, argument
from ckptdoctor.optimizer import Followed, Member, OptimizerProblem, OptimizerState, assign, follow
from ckptdoctor.optimizer.naming import match_names
from ckptdoctor.optimizer.orders import NoOrder, SeveralOrders, only_order
from ckptdoctor.optimizer.states import Entry
from ckptdoctor.pickles.tensors import StorageNode, TensorView
from ckptdoctor.plan import Apply, Expression, Plan, Step, Take, make_plan

FLOAT = DTYPES["float32"]
Shape = tuple[int, ...]
A, B, C = (2, 3), (3,), (4, 4)


class TestOrders:
    @pytest.mark.parametrize(
        ("weights", "groups", "order"),
        [
            ([A, B, C], [[A, B, C]], [[0, 1, 2]]),
            ([A, B, C], [[A, C], [B]], [[0, 2], [1]]),
            ([A, B, A, B], [[A, A], [B, B]], [[0, 2], [1, 3]]),
            ([A, B, C], [[None, None, None]], [[0, 1, 2]]),
            ([A, B, C, A], [[A, C, A]], [[0, 2, 3]]),
            ([A, B, C], [[A, None], [C]], [[0, 1], [2]]),
            ([A], [[], [A]], [[], [0]]),
            ([], [], []),
            ([A, B], [], []),
        ],
    )
    def test_the_only_one(self, weights: list[Shape], groups: list[list[Shape | None]], order: list[list[int]]) -> None:
        assert only_order(weights, groups) == order

    @pytest.mark.parametrize(
        ("weights", "groups", "weight"),
        [
            ([A, A], [[A], [A]], 0),
            ([A, A, B], [[A, B]], 0),
            ([B, A, B, A, B], [[B, A, B]], 0),
            ([A, B, A, B], [[A, B], [A, B]], 0),
            ([A, B, C], [[A, None]], 1),
        ],
    )
    def test_several(self, weights: list[Shape], groups: list[list[Shape | None]], weight: int) -> None:
        with pytest.raises(SeveralOrders) as error:
            only_order(weights, groups)
        assert error.value.weight == weight

    @pytest.mark.parametrize(
        ("weights", "groups", "weight", "due"),
        [
            ([A, B, C], [[A, C, B]], 1, [(0, 1)]),
            ([A, B, C], [[C], [A, A]], 1, [(0, 0), (1, 1)]),
            ([A, B, C, A], [[C, C]], 3, [(0, 1)]),
        ],
    )
    def test_none(
        self, weights: list[Shape], groups: list[list[Shape | None]], weight: int, due: list[tuple[int, int]]
    ) -> None:
        with pytest.raises(NoOrder) as error:
            only_order(weights, groups)
        assert (error.value.weight, list(error.value.due)) == (weight, due)

    @given(st.lists(st.tuples(st.sampled_from([A, B, C]), st.sampled_from([None, 0, 1])), max_size=9))
    def test_against_trying_all(self, drawn: list[tuple[Shape, int | None]]) -> None:
        weights = [shape for shape, _ in drawn]
        groups = [[shape for shape, group in drawn if group == number] for number in (0, 1)]
        found = {tuple(map(tuple, order)) for order in every_order(weights, groups)}
        if len(found) > 1:
            with pytest.raises(SeveralOrders):
                only_order(weights, groups)
        else:
            assert {tuple(map(tuple, only_order(weights, groups)))} == found

    @pytest.mark.parametrize("groups", [1, 2, 24])
    def test_thousands_of_weights_take_no_time(self, groups: int) -> None:
        weights = [(number % 12 + 1, number % 7) for number in range(6_000)]
        parted = [weights[number * 250 : (number + 1) * 250] for number in range(24)]
        started = time.perf_counter()
        try:
            only_order(weights, [weights] if groups == 1 else [weights[::2], weights[1::2]] if groups == 2 else parted)
        except SeveralOrders:
            assert groups > 1
        assert time.perf_counter() - started < 10


def every_order(weights: Sequence[Shape], groups: Sequence[Sequence[Shape]]) -> Iterable[list[list[int]]]:
    from itertools import product

    for choice in product((None, 0, 1), repeat=len(weights)):
        order = [[number for number, group in enumerate(choice) if group == wanted] for wanted in (0, 1)]
        if [[weights[number] for number in each] for each in order] == [list(group) for group in groups]:
            yield order


def spec(key: str, shape: Shape, kind: str = "parameter", tied_to: str | None = None) -> TensorSpec:
    return TensorSpec(key, shape, FLOAT, kind, tied_to)  # type: ignore[arg-type]


def manifest(tensors: Mapping[str, Shape], kind: str = "parameter") -> Manifest:
    return Manifest(spec(key, shape, kind) for key, shape in tensors.items())


def tensor(name: str, shape: Shape) -> Entry:
    layout = packed(FLOAT, shape)
    return Entry(name, None, TensorView(StorageNode(f"{name}{shape}", FLOAT, 1), layout))


def member(
    number: int | str,
    shape: Shape | None,
    *,
    name: str | None = None,
    moments: str = "exp_avg exp_avg_sq",
    step: int = 3,
) -> Member:
    entries = None
    if shape is not None:
        entries = (Entry("step", step), *(tensor(each, shape) for each in moments.split()))
    return Member(f"parameter {number}", number, name, entries)


def optimizer(*groups: Sequence[Shape | None], way: str = "optimizer", **options: object) -> OptimizerState:
    numbers = iter(range(1000))
    return OptimizerState(
        (way,),
        tuple(tuple(member(next(numbers), shape, **options) for shape in group) for group in groups),  # type: ignore[arg-type]
    )


def plan_of(source: Manifest, target: Manifest | None = None, rules: str = "") -> Plan:
    return make_plan(source, target, [parse_map("ckptdoctor: 1\n" + rules)] if rules else [])


def keys(optimizers: Sequence[OptimizerState], plan: Plan, model: Manifest | None = None) -> list[str]:
    found = assign(optimizers, plan, model)
    return [found[each] for optimizer in optimizers for each in optimizer.members]


class TestWhoseStateItIs:
    def test_in_the_order_of_the_weights(self) -> None:
        plan = plan_of(manifest({"a": A, "b": B, "c": C}))
        assert keys([optimizer([A, B, C])], plan) == ["a", "b", "c"]
        assert keys([optimizer([A, C], [B])], plan) == ["a", "c", "b"]
        assert keys([optimizer([C], way="x"), optimizer([B, A][::-1], way="y")], plan) == ["c", "a", "b"]

    def test_tied_parameters_count_once_and_buffers_never(self) -> None:
        source = Manifest(
            [spec("a", A), spec("mean", B, "buffer"), spec("b", B), spec("same", A, tied_to="a"), spec("c", C)]
        )
        assert keys([optimizer([A, B, C])], plan_of(source)) == ["a", "b", "c"]

    def test_what_the_target_says_of_kinds_holds_for_the_source(self) -> None:
        source = manifest({"a": B, "mask": B, "b": B}, "unknown")
        with pytest.raises(OptimizerProblem, match="several parameter orders fit"):
            keys([optimizer([B, B])], plan_of(source))
        target = Manifest([spec("a", B), spec("mask", B, "buffer"), spec("b", B)])
        assert keys([optimizer([B, B])], plan_of(source, target)) == ["a", "b"]

    def test_counters_and_running_statistics_are_known_to_be_buffers(self) -> None:
        names = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        source = Manifest(
            TensorSpec(f"norm.{name}", () if "num" in name else B, DTYPES["int64"] if "num" in name else FLOAT)
            for name in names
        )
        assert keys([optimizer([B, B])], plan_of(source)) == ["norm.weight", "norm.bias"]

    def test_a_source_model_says_order_and_kinds(self) -> None:
        source = manifest({"net.b": B, "net.a": B, "net.mask": B}, "unknown")
        model = Manifest([spec("a", B), spec("mask", B, "buffer"), spec("b", B)])
        assert keys([optimizer([B, B])], plan_of(source), model) == ["net.a", "net.b"]
        for other, message in (
            (manifest({"a": B, "x": B}), "parameters that the checkpoint has not: x"),
            (manifest({"a": A, "b": B}), "a is 2x3 in the source model and 3 in the checkpoint"),
        ):
            with pytest.raises(OptimizerProblem, match=message):
                keys([optimizer([B, B])], plan_of(source), other)

    def test_groups_that_even_a_model_cannot_tell_apart(self) -> None:
        source = manifest({"a": B, "b": B})
        with pytest.raises(OptimizerProblem, match="several parameter orders") as error:
            keys([optimizer([B], [B])], plan_of(source))
        assert "--source-model" in error.value.hint
        with pytest.raises(OptimizerProblem, match="several parameter orders") as error:
            keys([optimizer([B], [B])], plan_of(source), source)
        assert "param_names" in error.value.hint

    def test_the_first_that_does_not_fit_is_named(self) -> None:
        with pytest.raises(OptimizerProblem) as error:
            keys([optimizer([A, C, B])], plan_of(manifest({"a": A, "b": B, "c": C})))
        assert str(error.value) == (
            "moments fit no parameter order: parameter 1 has moments of 4x4, and the weight in its place (b) is 3"
        )

    def test_by_name(self) -> None:
        source = manifest({"a": B, "b": B})
        by_name = OptimizerState(("o",), ((member(0, B, name="b"), member(1, B, name="a")),))
        assert keys([by_name], plan_of(source)) == ["b", "a"]
        wrong = OptimizerState(("o",), ((member(0, A, name="b"),),))
        with pytest.raises(OptimizerProblem, match="parameter 0 has moments of 2x3, the weight b is 3"):
            keys([wrong], plan_of(source))

    def test_named_ones_leave_the_rest_to_the_numbered(self) -> None:
        by_name = OptimizerState(("o",), ((member(0, B, name="b"),),))
        assert keys([by_name, optimizer([B])], plan_of(manifest({"a": B, "b": B}))) == ["b", "a"]


class TestNames:
    @pytest.mark.parametrize(
        ("stored", "names", "target", "written"),
        [
            ("a.w b.w", "a.w b.w", "c.w", "c.w"),
            ("a.w b.w", "module.a.w module.b.w", "c.w", "module.c.w"),
            ("a.w b.w", "module._orig_mod.a.w module._orig_mod.b.w", "c.w", "module._orig_mod.c.w"),
            ("a.w a.x", "a._fsdp_wrapped_module.w a._fsdp_wrapped_module.x", "a.y", "a._fsdp_wrapped_module.y"),
            ("net.a.w net.b.w", "a.w b.w", "net.c.w", "c.w"),
        ],
    )
    def test_other_parts_of_a_file_may_have_other_wrappers(
        self, stored: str, names: str, target: str, written: str
    ) -> None:
        naming = match_names(names.split(), manifest(dict.fromkeys(stored.split(), A)))
        assert naming is not None
        assert list(naming.keys.values()) == stored.split()
        assert naming.names_for([target]) == {target: written}

    @pytest.mark.parametrize("names", ["a.w c.w", "a.w module.a.w", "x.a.w x.b.w"])
    def test_what_is_not_the_weights(self, names: str) -> None:
        assert match_names(names.split(), manifest({"a.w": A, "b.w": A})) is None


@dataclass(frozen=True, slots=True)
class Join(Op):
    """Along dimension 0, as `concat` will do it."""

    name: ClassVar[str] = "join"
    fan_in: ClassVar[bool] = True
    moves: ClassVar[bool] = True

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        return (((sum(each.shape[0] for each in inputs), *inputs[0].shape[1:]), inputs[0].dtype),)

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (torch.cat(inputs),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        return "a test"


@dataclass(frozen=True, slots=True)
class Halve(Join):
    """In two halves, each times two: the moments are divided."""

    name: ClassVar[str] = "halve"
    fan_out: ClassVar[bool] = True
    moves: ClassVar[bool] = False

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        shape = (inputs[0].shape[0] // 2, *inputs[0].shape[1:])
        return ((shape, inputs[0].dtype),) * 2

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        return (self, Mark(order))


@dataclass(frozen=True, slots=True)
class Mark(Join):
    """Stands for a scaling by the order."""

    name: ClassVar[str] = "mark"
    order: int = field(default=0, metadata=argument(WHOLE, "1 or 2"))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        return ((inputs[0].shape, inputs[0].dtype),)


@dataclass(frozen=True, slots=True)
class Blur(Mark):
    """Whose moments are unknown."""

    name: ClassVar[str] = "blur"
    moves: ClassVar[bool] = False


def by_hand(source: Manifest, target: Manifest, expressions: Mapping[str, Expression | None]) -> Plan:
    """A plan with these expressions (None: fresh), whatever a map could say."""
    steps = []
    for each in target.values():
        expression = expressions.get(each.key, Take(each.key))
        kind = "fresh" if expression is None else "computed" if isinstance(expression, Apply) else "renamed"
        steps.append(Step(each, kind, expression, each))  # type: ignore[arg-type]
    return Plan(source, target, (), tuple(steps), (), has_target=True)


def followed(optimizer: OptimizerState, plan: Plan, model: Manifest | None = None) -> Followed:
    return follow(
        [optimizer], assign([optimizer], plan, model), plan, lambda view: view.storage.key.encode(), model=model
    )


def shown(result: Followed) -> list[list[str]]:
    """For each group of the first optimizer: `target key < number of the state`, with + where something is computed."""
    return [
        [
            f"{state.key}" + ("" if state.origin is None else f" < {state.origin.id}") + "+" * bool(state.moments)
            for state in group
        ]
        for group in result.groups[0]
    ]


JOIN, Q, K = Join(), Take("q"), Take("k")
QK = manifest({"q": A, "k": A, "b": B})


class TestWhatBecomesOfIt:
    def test_the_order_of_the_target(self) -> None:
        plan = by_hand(
            manifest({"a": A, "b": B, "c": C}),
            manifest({"z": C, "x": A, "y": B}),
            {
                "x": Take("a"),
                "y": Take("b"),
                "z": Take("c"),
            },
        )
        assert shown(followed(optimizer([A, B, C]), plan)) == [["z < 2", "x < 0", "y < 1"]]
        assert shown(followed(optimizer([A, C], [B]), plan)) == [["z < 1", "x < 0"], ["y < 2"]]
        assert [state.id for group in followed(optimizer([A, C], [B]), plan).groups[0] for state in group] == [0, 1, 2]

    def test_a_join_takes_all_moments_and_one_step(self) -> None:
        plan = by_hand(QK, manifest({"qk": (4, 3), "b": B}), {"qk": Apply(JOIN, (Q, K))})
        result = followed(optimizer([A, A, B]), plan)
        assert shown(result) == [["qk < 0+", "b < 2"]]
        moments = result.groups[0][0][0].moments
        assert [(each.name, each.expression, each.spec.shape) for each in moments] == [
            ("exp_avg", Apply(JOIN, (Q, K)), (4, 3)),
            ("exp_avg_sq", Apply(JOIN, (Q, K)), (4, 3)),
        ]
        assert result.notes == (
            "optimizer: 4 moments of 2 parameters followed, 0 reset; 0 parameters start without state",
        )

    @pytest.mark.parametrize(
        ("other", "why"),
        [
            (member(1, A, step=4), "its sources differ in step"),
            (member(1, A, moments="exp_avg"), "its sources have states of different kinds"),
            (member(1, None), "a part of its sources has no state"),
        ],
    )
    def test_a_join_of_different_states_starts_anew(self, other: Member, why: str) -> None:
        plan = by_hand(QK, manifest({"qk": (4, 3), "b": B}), {"qk": Apply(JOIN, (Q, K))})
        result = followed(OptimizerState(("o",), ((member(0, A), other, member(2, B)),)), plan)
        assert shown(result) == [["qk", "b < 2"]]
        assert "1 reset; 1 parameter starts without state" in result.notes[0]
        assert result.notes[1] == f"optimizer: qk starts anew: {why}"

    def test_each_order_has_its_ops_and_each_output_its_own(self) -> None:
        wide = Take("wide")
        plan = by_hand(
            manifest({"wide": C}),
            manifest({"x": (2, 4), "y": (2, 4)}),
            {key: Apply(Halve(), (wide,), output) for output, key in enumerate("xy")},
        )
        result = followed(optimizer([C]), plan)
        assert shown(result) == [["x < 0+", "y < 0+"]]
        assert [state.copied for state in result.groups[0][0]] == [False, True], (
            "a tensor for two would be stepped twice"
        )
        second = result.groups[0][0][1]
        for order, moment in enumerate(second.moments, 1):
            assert moment.expression == Apply(Mark(order), (Apply(Halve(), (wide,), 1),))

    def test_ops_that_moments_do_not_survive(self) -> None:
        plan = by_hand(manifest({"a": A, "b": B}), manifest({"a": A, "b": B}), {"a": Apply(Blur(2), (Take("a"),))})
        result = followed(optimizer([A, B]), plan)
        assert shown(result) == [["a", "b < 1"]]
        assert result.notes[1] == "optimizer: a starts anew: moments do not go through blur(2)"

    def test_a_cast_leaves_moments_alone(self) -> None:
        rules = "rules: [{from: a, to: a, op: {cast: bfloat16}}, {from: b, to: b, op: [{cast: float64}, {reshape: [1, 3]}]}]"
        result = followed(optimizer([A, B]), plan_of(manifest({"a": A, "b": B}), None, rules))
        assert shown(result) == [["a < 0", "b < 1+"]]
        assert [each.spec.dtype.name for each in result.groups[0][0][1].moments] == ["float32", "float32"]

    def test_copies_of_one_parameter_start_anew(self) -> None:
        plan = by_hand(manifest({"a": A}), manifest({"x": A, "y": A}), {"x": Take("a"), "y": Take("a")})
        result = followed(optimizer([A]), plan)
        assert shown(result) == [["x", "y"]]
        assert "it is one of several copies of a" in result.notes[1]

    def test_a_target_that_ties_two_has_one_parameter(self) -> None:
        target = Manifest([spec("x", A), spec("y", A, tied_to="x")])
        plan = by_hand(manifest({"a": A}), target, {"x": Take("a"), "y": Take("a")})
        assert shown(followed(optimizer([A]), plan)) == [["x < 0"]]

    def test_an_entry_that_nobody_knows(self) -> None:
        odd = optimizer([A, B], moments="exp_inf")
        source = manifest({"a": A, "b": B})
        assert shown(followed(odd, plan_of(source, None, "rules: [{from: a, to: x, op: {transpose: [0, 1]}}]"))) == [
            ["x < 0+", "b < 1"]
        ]
        half = by_hand(
            manifest({"w": C}),
            manifest({"x": (2, 4), "y": (2, 4)}),
            {key: Apply(Halve(), (Take("w"),), output) for output, key in enumerate("xy")},
        )
        with pytest.raises(OptimizerProblem, match=r"nobody knows what halve\(\) does to exp_inf"):
            followed(optimizer([C], moments="exp_inf"), half)

    def test_what_was_not_trained_is_not(self) -> None:
        """`c` stands in no group: it was frozen."""
        source = manifest({"a": A, "b": B, "c": C})
        result = followed(optimizer([A, B]), by_hand(source, manifest({"z": C, "b": B, "a": A}), {"z": Take("c")}))
        assert shown(result) == [["b < 1", "a < 0"]]

    def test_what_is_dropped_is_said(self) -> None:
        result = followed(optimizer([A, B]), by_hand(manifest({"a": A, "b": B}), manifest({"b": B}), {}))
        assert shown(result) == [["b < 1"]]
        assert result.notes[1] == "optimizer: with their parameters the states of a were left out"

    def test_a_parameter_made_of_two_groups(self) -> None:
        plan = by_hand(manifest({"q": A, "k": C}), manifest({"qk": (6, 4)}), {"qk": Apply(JOIN, (Q, K))})
        with pytest.raises(
            OptimizerProblem, match="qk is made of parameters of optimizer, group 0 and optimizer, group 1"
        ):
            followed(optimizer([A], [C]), plan)

    @pytest.mark.parametrize(("shape", "group"), [(C, 0), (B, 1), ((), 1)])
    def test_a_new_parameter_goes_with_its_like(self, shape: Shape, group: int) -> None:
        source = manifest({"a": A, "b": B})
        plan = by_hand(source, manifest({"a": A, "new": shape, "b": B}), {"new": None})
        assert "new" in shown(followed(optimizer([A], [B]), plan))[group]
        assert shown(followed(optimizer([A, B]), plan)) == [["a < 0", "new", "b < 1"]]
        wider = by_hand(manifest({"a": A, "b": B, "c": C}), manifest({"new": shape}), {"new": None})
        with pytest.raises(OptimizerProblem, match="nothing says to which of 2 parameter groups"):
            followed(optimizer([A, B], [C]), wider)

    def test_new_buffers_are_no_parameters(self) -> None:
        target = Manifest([spec("a", A), spec("mask", B, "buffer"), TensorSpec("count", (), DTYPES["int64"])])
        plan = by_hand(manifest({"a": A}), target, {"mask": None, "count": None})
        assert shown(followed(optimizer([A]), plan)) == [["a < 0"]]

    def test_a_buffer_that_becomes_a_parameter_is_new(self) -> None:
        source = manifest({"a": A, "b": B}, "unknown")
        plan = by_hand(source, manifest({"b": B, "a": A}), {})
        model = Manifest([spec("a", A), spec("b", B, "buffer")])
        assert shown(followed(optimizer([A]), plan, model)) == [["b", "a < 0"]]

    def test_names_are_rewritten(self) -> None:
        by_name = OptimizerState(
            ("o",), ((member("module.a", A, name="module.a"), member("module.b", B, name="module.b")),)
        )
        plan = by_hand(manifest({"a": A, "b": B}), manifest({"y": B, "x": A}), {"x": Take("a"), "y": Take("b")})
        ((group,),) = followed(by_name, plan).groups
        assert [(state.id, state.name) for state in group] == [("module.y", "module.y"), ("module.x", "module.x")]
