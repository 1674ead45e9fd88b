"""Fan axes and `where`: which keys of a rule meet in one tensor, which are made of one, and what is wrong if one is not there.

Plans on manifests alone; that ops compute what they should is for the contract tests.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.errors import (
    AmbiguousMatch,
    CountMismatch,
    IncompleteGroup,
    KeyCollision,
    KeyMapError,
    PlanError,
    ShapeError,
    UnknownTargetKey,
    UnusedRule,
)
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan import Apply, Plan, check_alone, make_plan, ops_of

Shapes = Mapping[str, tuple[int, ...]]


def manifest(keys: str | Shapes, kind: str = "parameter") -> Manifest:
    shapes = keys if isinstance(keys, Mapping) else dict.fromkeys(keys.split(), (2, 3))
    return Manifest(TensorSpec(key, shape, DTYPES["float32"], kind) for key, shape in shapes.items())  # type: ignore[arg-type]


def rule(source: object, target: object, op: object = None, **more: object) -> dict[str, object]:
    return {"from": source, "to": target, **({} if op is None else {"op": op}), **more}


def key_map(*rules: object, **declared: object) -> KeyMap:
    declared = {name: [{"keys": keys, "why": "w"}] for name, keys in declared.items()}
    return parse_map(json.dumps({"ckptdoctor": 1, "rules": rules, **declared}))


def planned(source: str | Shapes, target: str | Shapes | None, *rules: object, **declared: object) -> Plan:
    return make_plan(manifest(source), None if target is None else manifest(target), key_map(*rules, **declared))


def made(plan: Plan) -> dict[str, str]:
    """`{target key: "source source ..."}` of what rules made."""
    return {step.target.key: " ".join(step.sources) for step in plan.steps if step.rule and step.filled}


def outputs(plan: Plan) -> dict[str, int]:
    """Which output of the last op each target key is."""
    return {step.target.key: step.expression.output for step in plan.steps if isinstance(step.expression, Apply)}


def error(
    kind: type[PlanError], source: str | Shapes, target: str | Shapes | None, *rules: object, **declared: object
) -> PlanError:
    """The only problem."""
    with pytest.raises(kind) as caught:
        planned(source, target, *rules, **declared)
    assert caught.value.problems == (caught.value,)
    assert caught.value.hint
    assert caught.value.rule
    return caught.value


QKV = "h.0.q.w h.0.k.w h.0.v.w h.1.q.w h.1.k.w h.1.v.w"
CONCAT = {"concat": {"dim": 0}}


class TestFanIn:
    def test_by_group_in_the_order_of_the_group(self) -> None:
        plan = planned(QKV, {"h.0.vqk.w": (6, 3), "h.1.vqk.w": (6, 3)}, rule("h.{i}.{v,q,k}.w", "h.{i}.vqk.w", CONCAT))
        assert made(plan) == {f"h.{i}.vqk.w": f"h.{i}.v.w h.{i}.q.w h.{i}.k.w" for i in "01"}
        assert {step.status for step in plan.steps} == {"computed"}
        assert plan.remainders == ()

    def test_by_number_in_numeric_order(self) -> None:
        keys = " ".join(f"e.{number}.w" for number in sorted(range(12), key=str))
        plan = planned(keys, {"e.w": (12, 2, 3)}, rule("e.{i:int}.w", "e.w", "stack"))
        assert made(plan) == {"e.w": " ".join(f"e.{number}.w" for number in range(12))}

    def test_by_list_in_the_order_of_the_list(self) -> None:
        plan = planned("a.w b.w a.b b.b", None, rule(["b.{p}", "a.{p}"], "c.{p}", CONCAT))
        assert made(plan) == {"c.w": "b.w a.w", "c.b": "b.b a.b"}

    def test_a_list_with_groups_that_stand_on_the_other_side(self) -> None:
        plan = planned("q.w k.w q.b k.b", None, rule(["q.{w,b}", "k.{w,b}"], "qk.{weight,bias}", CONCAT))
        assert made(plan) == {"qk.weight": "q.w k.w", "qk.bias": "q.b k.b"}

    def test_by_two_axes_the_first_op_takes_the_last(self) -> None:
        keys = "e.0.gate e.0.up e.1.gate e.1.up"
        plan = planned(keys, {"e.gate_up": (2, 4, 3)}, rule("e.{i:int}.{gate,up}", "e.gate_up", [CONCAT, "stack"]))
        assert made(plan) == {"e.gate_up": keys}
        assert [op.name for op in ops_of(plan.steps[0].expression)] == ["concat", "concat", "stack"]

    def test_ops_before_it_are_for_each_input(self) -> None:
        plan = planned("q k", {"qk": (6, 2)}, rule("{q,k}", "qk", [{"transpose": [0, 1]}, CONCAT]))
        assert [op.name for op in ops_of(plan.steps[0].expression)] == ["transpose", "transpose", "concat"]

    def test_named_inputs_come_by_name(self) -> None:
        shapes = {"c.g": (2, 1), "c.v": (2, 3)}
        for source in ({"g": "c.g", "v": "c.v"}, {"v": "c.v", "g": "c.g"}, "c.{g,v}", "c.{v,g}"):
            plan = planned(shapes, {"c.w": (2, 3)}, rule(source, "c.w", "weight_norm"))
            assert made(plan) == {"c.w": "c.g c.v"}

    def test_named_inputs_with_captures_make_a_frame_each(self) -> None:
        shapes = {f"c.{i}.{n}": (2, 1) if n == "g" else (2, 3) for i in "01" for n in "gv"}
        plan = planned(shapes, None, rule({"g": "c.{i}.g", "v": "c.{i}.v"}, "c.{i}.w", "weight_norm"))
        assert made(plan) == {"c.0.w": "c.0.g c.0.v", "c.1.w": "c.1.g c.1.v"}

    def test_named_inputs_after_an_op_that_joins(self) -> None:
        shapes = {"g.a": (1, 1), "g.b": (1, 1), "v.a": (1, 3), "v.b": (1, 3)}
        plan = planned(shapes, {"w": (2, 3)}, rule("{v,g}.{a,b}", "w", [CONCAT, "weight_norm"]))
        assert made(plan) == {"w": "g.a g.b v.a v.b"}

    def test_without_a_target(self) -> None:
        (step,) = planned("q k", None, rule("{q,k}", "qk", CONCAT)).steps
        assert (step.target.key, step.target.shape) == ("qk", (4, 3))


class TestFanOut:
    def test_by_group(self) -> None:
        plan = planned({"qkv": (6, 3)}, "q k v", rule("qkv", "{q,k,v}", {"split": {"parts": 3}}))
        assert outputs(plan) == {"q": 0, "k": 1, "v": 2}
        assert {step.sources for step in plan.steps} == {("qkv",)}

    def test_by_group_like_the_target(self) -> None:
        target = {"q": (4, 3), "k": (1, 3), "v": (1, 3)}
        plan = planned({"qkv": (6, 3)}, target, rule("qkv", "{q,k,v}", {"split": {"like": "target"}}))
        assert {op.describe() for op in ops_of(plan.steps[0].expression)} == {"split(dim=0, sizes=[4, 1, 1])"}

    def test_by_number_as_many_as_the_target_has(self) -> None:
        plan = planned("w", " ".join(f"e.{i}.w" for i in range(11)), rule("w", "e.{i:int}.w", "broadcast"))
        assert outputs(plan) == {f"e.{i}.w": i for i in range(11)}

    def test_by_number_where_the_op_tells_how_many(self) -> None:
        plan = planned({"h.0.e": (3, 2), "h.1.e": (2, 2)}, None, rule("h.{j}.e", "h.{j}.{i:int}.e", "unstack"))
        assert outputs(plan) == {"h.0.0.e": 0, "h.0.1.e": 1, "h.0.2.e": 2, "h.1.0.e": 0, "h.1.1.e": 1}

    def test_by_number_for_each_frame(self) -> None:
        target = "a.0.w a.1.w b.0.w b.1.w b.2.w"
        plan = planned("a.w b.w", target, rule("{m}.w", "{m}.{i:int}.w", "broadcast"))
        assert made(plan) == {key: f"{key[0]}.w" for key in target.split()}

    def test_by_list(self) -> None:
        plan = planned({"qk.w": (4, 3)}, "q.w k.w", rule("qk.{p}", ["k.{p}", "q.{p}"], {"split": {"parts": 2}}))
        assert outputs(plan) == {"q.w": 1, "k.w": 0}

    def test_from_list_to_list(self) -> None:
        plan = planned("a b", "c d", rule(["a", "b"], ["d", "c"], [CONCAT, {"split": {"parts": 2}}]))
        assert outputs(plan) == {"c": 1, "d": 0}
        assert made(plan) == {"c": "a b", "d": "a b"}

    @pytest.mark.parametrize("target", [True, False])
    def test_by_two_axes_the_first_op_makes_the_first(self, target: bool) -> None:
        """Experts in one tensor become gates and ups of each, with a target and without."""
        keys = dict.fromkeys((f"e.{i}.{name}" for i in range(2) for name in ("gate", "up")), (3, 4))
        op = ["unstack", {"split": {"parts": 2}}]
        plan = planned({"e": (2, 6, 4)}, keys if target else None, rule("e", "e.{i:int}.{gate,up}", op))
        assert {step.target.key: step.target.shape for step in plan.steps} == keys
        assert outputs(plan) == {"e.0.gate": 0, "e.0.up": 1, "e.1.gate": 0, "e.1.up": 1}
        assert [step.expression.inputs[0].output for step in plan.steps] == [0, 0, 1, 1]

    def test_both_sides(self) -> None:
        source = {"h.0.qkv": (6, 3), "h.1.qkv": (6, 3)}
        op = ["stack", {"split": {"dim": 1, "parts": 3}}]
        plan = planned(source, dict.fromkeys(("q", "k", "v"), (2, 2, 3)), rule("h.{i:int}.qkv", "{q,k,v}", op))
        assert made(plan) == dict.fromkeys(("q", "k", "v"), "h.0.qkv h.1.qkv")

    def test_ops_after_it_are_for_each_output(self) -> None:
        op = [{"split": {"parts": 2}}, {"transpose": [0, 1]}]
        plan = planned({"qk": (4, 3)}, {"q": (3, 2), "k": (3, 2)}, rule("qk", "{q,k}", op))
        assert {step.given.shape for step in plan.steps} == {(3, 2)}


class TestGaps:
    @pytest.mark.parametrize(
        ("source", "lacking"),
        [("h.0.q.w h.0.k.w h.0.v.w h.1.q.w h.1.v.w", ["h.1.k.w"]), ("h.0.k.w", ["h.0.q.w", "h.0.v.w"])],
    )
    def test_members_of_a_group_that_are_not_there_are_named(self, source: str, lacking: list[str]) -> None:
        caught = error(IncompleteGroup, source, None, rule("h.{i}.{q,k,v}.w", "h.{i}.qkv.w", CONCAT))
        assert f"{3 - len(lacking)} of 3 along {{q,k,v}} are there; no {', '.join(lacking)}" in caught.message
        assert list(caught.keys[: len(lacking)]) == lacking

    def test_the_nearest_key_is_the_hint(self) -> None:
        caught = error(IncompleteGroup, "h.0.q.w h.0.key.w h.0.v.w", None, rule("h.{i}.{q,k,v}.w", "h.{i}.x", CONCAT))
        assert "h.0.key.w" in caught.hint

    def test_numbers(self) -> None:
        caught = error(IncompleteGroup, "e.0.w e.1.w e.3.w", None, rule("e.{i:int}.w", "e.w", "stack"))
        assert "3 of 4 along {i:int} are there; no e.2.w" in caught.message

    def test_two_axes(self) -> None:
        caught = error(IncompleteGroup, "e.0.a e.1.b", None, rule("e.{i:int}.{a,b}", "e", ["stack", "stack"]))
        assert "2 of 4 along {i:int} and {a,b} are there; no e.0.b, e.1.a" in caught.message

    def test_a_list(self) -> None:
        caught = error(IncompleteGroup, "a.w a.b b.w", None, rule(["a.{p}", "b.{p}"], "c.{p}", CONCAT))
        assert "1 of 2 along [a.{p}, b.{p}] are there; no b.b" in caught.message

    @pytest.mark.parametrize("number", ["999999999", "4" * 50])
    def test_a_huge_number_costs_nothing(self, number: str) -> None:
        begun = time.perf_counter()
        caught = error(IncompleteGroup, f"e.0.w e.{number}.w", None, rule("e.{i:int}.w", "e.w", "stack"))
        assert "no e.1.w, e.2.w, e.3.w and 1 more" in caught.message
        caught = error(IncompleteGroup, "w", f"e.0.w e.{number}.w", rule("w", "e.{i:int}.w", "broadcast"))
        assert "has no e.1.w" in caught.message
        assert time.perf_counter() - begun < 1

    def test_what_is_dropped_is_said_to_be(self) -> None:
        caught = error(IncompleteGroup, "q k v", None, rule("{q,k,v}", "x", CONCAT), drop="k")
        assert "no k" in caught.message
        assert "k is dropped at <map>:1:" in caught.hint

    def test_what_is_excepted_is_said_to_be(self) -> None:
        caught = error(IncompleteGroup, "q k v", None, rule("{q,k,v}", "x", CONCAT, **{"except": "k"}))
        assert "k" in caught.hint
        assert "except" in caught.hint

    def test_a_whole_group_may_be_excepted_or_dropped(self) -> None:
        plan = planned(QKV, None, rule("h.{i}.{q,k,v}.w", "h.{i}.x", CONCAT, **{"except": "h.1.{q,k,v}.w"}))
        assert made(plan) == {"h.0.x": "h.0.q.w h.0.k.w h.0.v.w"}
        plan = planned(QKV, None, rule("h.{i}.{q,k,v}.w", "h.{i}.x", CONCAT), drop="h.0.{*p}")
        assert list(made(plan)) == ["h.1.x"]

    def test_optional_does_not_excuse_half_a_group(self) -> None:
        error(IncompleteGroup, "q v", None, rule("{q,k,v}", "x", CONCAT, optional="older"))
        assert made(planned("a", None, rule("{q,k,v}", "x", CONCAT, optional="older"))) == {}

    def test_of_the_target(self) -> None:
        caught = error(IncompleteGroup, {"e": (3, 2)}, "e.0.w e.2.w e.3.w", rule("e", "e.{i:int}.w", "unstack"))
        assert "along {i:int} the target goes to 3, and has no e.1.w" in caught.message
        assert caught.keys == ("e.1.w",)

    def test_layer_after_layer_is_told_once(self) -> None:
        keys = " ".join(f"h.{i}.{name}" for i in range(48) for name in ("q", "v"))
        caught = error(IncompleteGroup, keys, None, rule("h.{i}.{q,k,v}", "h.{i}.x", CONCAT))
        assert caught.message.endswith("no h.0.k; the like holds for 47 other keys")
        assert len([key for key in caught.keys if key.endswith(".k")]) == 48


class TestManyProblems:
    def test_of_one_rule_and_sort_three_at_most_are_told(self) -> None:
        shapes = {f"{name}.{i}": (2, 3) for name in ("a", "b", "c", "d", "e") for i in range(4)}
        with pytest.raises(PlanError) as caught:
            planned(shapes, None, rule("{m}.{i}", "x.{m}.{i}", {"reshape": [5]}))
        told = caught.value.problems
        assert [problem.message.split()[3] for problem in told] == ["a.0", "b.0", "c.0"]
        assert told[0].message.endswith("; the like holds for 3 other keys")
        assert told[2].message.endswith("; the like holds for 11 other keys")
        assert sorted(key for problem in told for key in problem.keys) == sorted(shapes)

    def test_stand_in_the_order_of_the_file(self) -> None:
        entries = [rule("a", "nowhere"), rule("nothing", "b"), rule("a", "b", {"reshape": [5]})]
        with pytest.raises(PlanError) as caught:
            planned("a", "b", *entries, drop="none")
        columns = [problem.rule.column for problem in caught.value.problems if problem.rule]
        assert columns == sorted(columns)
        assert len(columns) == 4


class TestNumbers:
    def test_more_made_than_the_target_has(self) -> None:
        caught = error(ShapeError, {"e": (3, 2)}, "e.0.w e.1.w", rule("e", "e.{i:int}.w", "unstack"))
        assert "makes 3 tensors, and there are 2 keys for them" in caught.message

    def test_more_keys_than_are_made_without_a_target(self) -> None:
        caught = error(ShapeError, {"w": (4, 3)}, None, rule("w", "{a,b,c}", "weight_norm_parts"))
        assert "weight_norm_parts(0) makes 2 tensors, and there are 3 keys for them" in caught.message

    def test_wrong_numbers_that_make_the_right_product(self) -> None:
        """2 parts of 3 where 3 of 2 were meant: six tensors for six keys, each under a wrong one."""
        keys = "{a,b,c}.{x,y}"
        caught = error(ShapeError, {"w": (3, 3)}, None, rule("w", keys, ["weight_norm_parts", {"split": {"parts": 3}}]))
        assert "makes 2 tensors, and there are 3 keys for them" in caught.message

    def test_copies_of_an_unknown_number(self) -> None:
        caught = error(ShapeError, "w", None, rule("w", "e.{i:int}.w", "broadcast"))
        assert "how many copies is not known" in caught.message

    def test_keys_that_the_target_does_not_have(self) -> None:
        like = rule("qkv", "{q,k,v}", {"split": {"like": "target"}})
        caught = error(UnknownTargetKey, {"qkv": (6, 3)}, "q k w", like)
        assert "the target has no v (made of qkv)" in caught.message

    def test_sizes_that_do_not_add_up(self) -> None:
        sizes = rule("qkv", "{q,k,v}", {"split": {"sizes": [2, 2, 1]}})
        caught = error(ShapeError, {"qkv": (6, 3)}, "q k v", sizes)
        assert "cannot take qkv (6x3): the sizes add up to 5, and dim 0 has 6" in caught.message

    def test_shapes_that_do_not_go_together(self) -> None:
        caught = error(ShapeError, {"q": (2, 3), "k": (2, 4)}, None, rule("{q,k}", "x", CONCAT))
        assert caught.message.startswith("concat(0) cannot take q (2x3), k (2x4): q is 2x3 and k is 2x4")
        assert caught.keys == ("q", "k")

    @pytest.mark.parametrize("expect", [2, 6])
    def test_expect_counts_target_keys(self, expect: int) -> None:
        """Two layers, six sources, two targets."""
        fused = rule("h.{i}.{q,k,v}.w", "h.{i}.x", CONCAT, expect=expect)
        if expect == 2:
            assert len(made(planned(QKV, None, fused))) == 2
        else:
            assert "made 2 keys and expects 6" in error(CountMismatch, QKV, None, fused).message

    def test_expect_of_a_fan_out(self) -> None:
        parted = rule("qkv.{p}", "{q,k,v}.{p}", {"split": {"parts": 3}}, expect=6)
        assert len(made(planned({"qkv.w": (6, 3), "qkv.b": (6,)}, None, parted))) == 6

    def test_expect_says_nothing_where_something_else_is_wrong(self) -> None:
        error(IncompleteGroup, "q v", None, rule("{q,k,v}", "x", CONCAT, expect=3))
        error(ShapeError, {"q": (2,), "k": (2, 3)}, None, rule("{q,k}", "x", CONCAT, expect=1))

    def test_two_producers(self) -> None:
        caught = error(KeyCollision, "q k x", None, rule("{q,k}", "y", CONCAT), rule("x", "y"))
        assert {"q", "x", "y"} <= set(caught.message.replace(",", "").split())


class TestWrongRules:
    @pytest.mark.parametrize(
        ("wrong", "said", "hint"),
        [
            (rule("{q,k}", "x"), "{q,k} stands on the left only", "add the op that joins them"),
            (rule("x", "{q,k}"), "{q,k} stands on the right only", "split, unstack, broadcast"),
            (rule(["a", "b"], "x"), "several sources or targets", "one rule for each"),
            (rule("x", "y", CONCAT), "takes several tensors, and one comes", "{q,k,v}"),
            (rule("x", "y", "weight_norm"), "takes several tensors, and one comes", "from: {g: ..., v: ...}"),
            (rule({"g": "x"}, "y", "weight_norm"), "takes several tensors, and one comes", "from: {g: ..., v: ...}"),
            (rule("x", "y", "unstack"), "makes several tensors, and one key is there", "{q,k,v}"),
            (rule("{a,b}", "x", "weight_norm"), "inputs that are named g, v", "from: {g: ..., v: ...}"),
            (rule({"g": "a", "w": "b"}, "x", "weight_norm"), "inputs that are named g, v", "from: {g: ..., v: ...}"),
            (rule({"a": "a", "b": "b"}, "x", CONCAT), "in their order, not by names", "as a list"),
            (rule("{i}.w", "x", "stack"), "only numbers have an order", "{i:int}"),
            (rule("x", "{i}.w", "unstack"), "only numbers have an order", "{i:int}"),
            (
                rule(["a", "b"], ["c", "d"], [{"split": {"parts": 2}}, CONCAT]),
                "comes after split",
                "first the ops that join",
            ),
            (rule("{e:int}.{q,k}", "{f:int}.x", [CONCAT, "unstack"]), "{e:int} stands on the left only", "joins them"),
            (rule("x.{e:int}", "{f:int}.{q,k}", ["stack", "unstack"]), "{q,k} stands on the right only", "split"),
            (rule("a.{I}.w", "b.{i}.w"), "{I} and {i} differ only in case", "write {I} on both sides"),
            (rule("a.{n}.w", "b.{m}.w"), "{n} and {m} stand on one side each", "write {n} on both sides"),
        ],
    )
    def test_are_known_without_manifests(self, wrong: object, said: str, hint: str) -> None:
        with pytest.raises(PlanError) as caught:
            check_alone(key_map(wrong))
        assert said in caught.value.message
        assert hint in caught.value.hint

    def test_a_key_of_the_target_that_a_pattern_matches_in_two_ways(self) -> None:
        caught = error(AmbiguousMatch, "w.a_b", "e.a_b_c.0", rule("w.{x}_{y}", "e.{x}_{y}.{i:int}", "broadcast"))
        assert caught.keys == ("e.a_b_c.0",)
        where = rule("w.{x}_{y}.{i:int}", "e.{x}_{y}.{j:int}", where={"i": "j // 2"})
        error(AmbiguousMatch, "w.a_b.0", "e.a_b_c.0 e.a_b.0", where)

    def test_a_dropped_key_that_a_pattern_matches_in_two_ways(self) -> None:
        error(UnusedRule, "a_b_c z", None, rule("{x}_{y}", "w.{x}.{y}"), drop="a_b_c")


GROW = rule("h.{i:int}.{*p}", "h.{j:int}.{*p}", where={"i": "j * 2 // 3"})


class TestWhere:
    def test_says_for_each_target_key_where_it_comes_from(self) -> None:
        plan = planned("h.0.w h.1.w h.0.b h.1.b", "h.0.w h.1.w h.2.w h.0.b h.1.b h.2.b", GROW)
        assert made(plan) == {f"h.{j}.{p}": f"h.{j * 2 // 3}.{p}" for j in range(3) for p in "wb"}
        assert [step.status for step in plan.steps] == [
            "loaded",
            "renamed",
            "renamed",
        ] * 2 or plan.random_parameters == 0

    def test_may_make_fewer(self) -> None:
        plan = planned("h.0 h.1 h.2 h.3", "h.0 h.1", rule("h.{i:int}", "h.{j:int}", where={"i": "j * 2"}))
        assert made(plan) == {"h.0": "h.0", "h.1": "h.2"}
        assert [rest.source.key for rest in plan.remainders] == ["h.1", "h.3"]

    def test_what_it_does_not_lead_to_does_not_stay_under_its_name(self) -> None:
        """Layer 2 is to be of layer 6, which is not there: then not of layer 2."""
        plan = planned("h.0 h.1 h.2 h.3", "h.0 h.1 h.2", rule("h.{i:int}", "h.{j:int}", where={"i": "j * 3"}))
        assert made(plan) == {"h.0": "h.0", "h.1": "h.3"}
        assert plan.steps[2].status == "missing"

    def test_with_groups_and_a_number_alone(self) -> None:
        plan = planned("h.3.w h.3.b", "x.0.W x.1.W x.0.B", rule("h.{i:int}.{w,b}", "x.{j:int}.{W,B}", where={"i": 3}))
        assert made(plan) == {"x.0.W": "h.3.w", "x.1.W": "h.3.w", "x.0.B": "h.3.b"}

    def test_with_two_numbers(self) -> None:
        pairs = rule("h.{i:int}", "s.{a:int}.{b:int}", where={"i": "a * 2 + b"})
        plan = planned("h.0 h.1 h.2 h.3", "s.0.0 s.0.1 s.1.0 s.1.1", pairs)
        assert made(plan) == {"s.0.0": "h.0", "s.0.1": "h.1", "s.1.0": "h.2", "s.1.1": "h.3"}

    def test_with_an_op(self) -> None:
        plan = planned(
            "h.0",
            {"h.0": (3, 2), "h.1": (3, 2)},
            rule("h.{i:int}", "h.{j:int}", {"transpose": [0, 1]}, where={"i": "0"}),
        )
        assert {step.status for step in plan.steps} == {"computed"}

    def test_leaves_excepted_and_dropped_keys_alone(self) -> None:
        grow = {**GROW, "except": "h.1.{*p}"}
        plan = planned("h.0.w h.1.w", "h.0.w h.1.w h.2.w", grow)
        assert made(plan) == {"h.0.w": "h.0.w", "h.1.w": "h.0.w"}
        plan = planned("h.0.w h.1.w", "h.0.w h.1.w h.2.w", GROW, drop="h.1.w")
        assert made(plan) == {"h.0.w": "h.0.w", "h.1.w": "h.0.w"}

    def test_expect(self) -> None:
        target = "h.0.w h.1.w h.2.w"
        assert len(made(planned("h.0.w h.1.w", target, {**GROW, "expect": 3}))) == 3
        error(CountMismatch, "h.0.w h.1.w", target, {**GROW, "expect": 2})

    def test_needs_a_target(self) -> None:
        assert "here is none" in error(PlanError, "h.0.w", None, GROW).message

    def test_needs_the_last_map(self) -> None:
        with pytest.raises(PlanError, match="here is none") as caught:
            make_plan(manifest("h.0.w"), manifest("x.0.w"), [key_map(GROW), key_map(rule("h.{*p}", "x.{*p}"))])
        assert "let this one be the last" in caught.value.hint
        assert caught.value.problems == (caught.value,), "what the next map makes of it is not judged"

    def test_that_leads_nowhere_is_an_error(self) -> None:
        caught = error(UnusedRule, "h.0.w", "x.0.w", GROW)
        assert "the target has no such key" in caught.message
        assert made(planned("h.0.w", "x.0.w", {**GROW, "optional": "o"})) == {}

    def test_without_sources_is_unused(self) -> None:
        assert "names no key" in error(UnusedRule, "x.0.w", "h.0.w", GROW).message
        assert made(planned("x.0.w", "h.0.w", {**GROW, "optional": "o", "expect": 3})) == {}

    @pytest.mark.parametrize(
        ("expression", "said"),
        [
            ("12 // j", "12 // j divides by zero where j = 0"),
            ("j % (j - j)", "divides by zero where j = 0"),
            ("1 // 0", "1 // 0 divides by zero"),
            ("j - 1", "j - 1 is -1 where j = 0"),
            ("(j + 999999999999) * 999999999999", "is too large"),
        ],
    )
    def test_arithmetic_without_a_value(self, expression: str, said: str) -> None:
        caught = error(PlanError, "h.0 h.1", "h.0 h.1", rule("h.{i:int}", "h.{j:int}", where={"i": expression}))
        assert said in caught.message
        assert caught.keys == ("h.0",)

    @pytest.mark.parametrize(
        ("where", "said"),
        [
            ({"i": "j / 2"}, "j / 2 has no meaning in where"),
            ({"i": "j ** 2"}, "has no meaning"),
            ({"i": "int('3')"}, "has no meaning"),
            ({"i": "j if j else 1"}, "has no meaning"),
            ({"i": "True"}, "has no meaning"),
            ({"i": "1.5"}, "has no meaning"),
            ({"i": "j +"}, "'j +' is no arithmetic"),
            ({"i": ""}, "is no arithmetic"),
            ({"i": "(" * 150 + "j" + ")" * 49}, "is no arithmetic"),
            ({"i": "-" * 199 + "j"}, None),
            ({"i": "+".join(["j"] * 200)}, "longer than 200 characters"),
            ({"i": "9999999999999"}, "has no meaning"),
            ({"i": "k"}, "i: k is no number of to"),
            ({"i": "I"}, "i: I is no number of to"),
            ({"k": "j"}, "k is no number that stands in from alone"),
            ({"j": "j"}, "j is no number that stands in from alone"),
            ({"i": [1]}, "expected arithmetic, found a list"),
            ({}, "expected captures with what they are"),
            ("j", "expected captures with what they are"),
        ],
    )
    def test_what_is_no_arithmetic_is_known_without_manifests(self, where: object, said: str | None) -> None:
        if said is None:
            key_map(rule("h.{i:int}", "h.{j:int}", where=where))
            return
        with pytest.raises(KeyMapError) as caught:
            key_map(rule("h.{i:int}", "h.{j:int}", where=where))
        assert said in caught.value.problems[0].message
        assert caught.value.problems[0].hint

    @pytest.mark.parametrize(
        ("source", "target"),
        [
            ("h.{i}", "h.{j:int}"),
            ("h.{i:int}", "h.{j}"),
            ("h.{i:int}.{q,k}", "h.{j:int}"),
            (["h.{i:int}", "g.{i:int}"], "h.{j:int}"),
        ],
    )
    def test_captures_are_numbers_and_stand_on_both_sides(self, source: object, target: object) -> None:
        with pytest.raises(KeyMapError) as caught:
            key_map(rule(source, target, where={"i": "j"}))
        assert all(problem.hint for problem in caught.value.problems)


class TestSeveralMaps:
    def test_the_last_one_sees_the_target(self) -> None:
        fuse = key_map(rule("{q,k}", "qk", CONCAT))
        part = key_map(rule("qk", "{a,b}", {"split": {"like": "target"}}))
        plan = make_plan(manifest("q k"), manifest({"a": (3, 3), "b": (1, 3)}), [fuse, part])
        assert [[op.name for op in ops_of(step.expression)] for step in plan.steps] == [["concat", "split"]] * 2
        assert made(plan) == {"a": "q k", "b": "q k"}

    def test_one_before_does_not(self) -> None:
        part = key_map(rule("qk", "{q,k}", {"split": {"like": "target"}}))
        with pytest.raises(ShapeError, match="the shape of the target is not known here"):
            make_plan(manifest({"qk": (4, 3)}), manifest("q k"), [part, key_map()])

    def test_numbers_of_one_before_are_told_by_its_op(self) -> None:
        first, second = key_map(rule("e", "e.{i:int}", "unstack")), key_map(rule("e.{i:int}", "x.{i:int}.w"))
        plan = make_plan(manifest({"e": (2, 3)}), manifest({"x.0.w": (3,), "x.1.w": (3,)}), [first, second])
        assert made(plan) == {"x.0.w": "e", "x.1.w": "e"}


class TestPartlyNew:
    def test_elements_are_counted_one_by_one(self) -> None:
        source, target = {"head.w": (4, 5), "head.b": (4,)}, {"head.w": (6, 5), "head.b": (6,)}
        plan = planned(source, target, rule("{*p}", "{*p}", {"pad": {"dim": 0, "to": 6, "fill": 0}}))
        assert [step.new for step in plan.steps] == [10, 2]
        assert (plan.random_parameters, plan.fresh_parameters, plan.parameters) == (12, 12, 36)
        assert plan.counts["computed"] == 2

    def test_through_fans(self) -> None:
        """Both halves get two rows of 3, and are joined."""
        op = [{"index": {"dim": 0, "from": ["u", "v"], "to": ["u", "x", "v", "y"], "fill": 0}}, CONCAT]
        plan = planned("q k", {"qk": (8, 3)}, rule("{q,k}", "qk", op))
        assert (plan.steps[0].new, plan.random_parameters) == (12, 12)

    def test_copies_count_each(self) -> None:
        op = [{"pad": {"dim": 0, "to": 3, "fill": 0}}, "broadcast"]
        plan = planned("w", dict.fromkeys(("a", "b"), (3, 3)), rule("w", "{a,b}", op))
        assert [step.new for step in plan.steps] == [3, 3]

    def test_buffers_are_counted_apart(self) -> None:
        padded = key_map(rule("w", "w", {"pad": {"dim": 0, "to": 4, "fill": 0}}))
        plan = make_plan(manifest("w"), manifest({"w": (4, 3)}, kind="buffer"), padded)
        assert (plan.random_parameters, plan.random_buffers) == (0, 6)

    def test_across_maps(self) -> None:
        padded, cast = (
            key_map(rule("w", "x", {"pad": {"dim": 0, "to": 4, "fill": 0}})),
            key_map(rule("x", "y", {"cast": "float16"})),
        )
        plan = make_plan(manifest("w"), manifest({"y": (4, 3)}), [padded, cast])
        assert (plan.steps[0].new, plan.fresh_parameters) == (6, 6)


FUSE = rule("h.{i:int}.{q,k}", "h.{i:int}.qk", CONCAT)
STACK = rule("e.{i:int}.w", "e.w", "stack")
PART = rule("p", "p.{i:int}", "unstack", optional="o")
RENAME = rule("r.{*p}", "s.{*p}", optional="o")
BOTH = rule(["s.{p}", "t.{p}"], "u.{p}", CONCAT, optional="o")


class TestEveryPlan:
    @settings(max_examples=150)
    @given(st.data(), st.permutations([FUSE, STACK, PART, RENAME, BOTH]))
    def test_does_not_depend_on_the_order_in_the_file(self, data: st.DataObject, rules: list[object]) -> None:
        layers, experts = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 12))
        source = {f"h.{i}.{name}": (2, 3) for i in range(layers) for name in "kq"}
        source |= {f"e.{i}.w": (2,) for i in sorted(range(experts), key=str)} | {"p": (3, 2)}
        source |= data.draw(st.sampled_from([{}, {"s.x": (1,), "t.x": (2,)}, {"r.x": (4,)}, {"other": (2,)}]))
        one, other = planned(source, None, *rules), planned(source, None, FUSE, STACK, PART, RENAME, BOTH)
        assert [(step.target, step.status, step.expression) for step in one.steps] == [
            (step.target, step.status, step.expression) for step in other.steps
        ]
        assert one.remainders == other.remainders
        used = {key for step in one.steps for key in step.sources}
        assert used | {rest.source.key for rest in one.remainders} == set(source)
        assert one.random_parameters == 0
        target = {step.target.key: step.target.shape for step in one.steps}
        again = planned(source, target, *rules)
        assert [step.expression for step in again.steps] == [step.expression for step in one.steps]
