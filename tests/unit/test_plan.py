"""Plans: section 4 of the design, rule by rule, for renames and for ops inside a rule. Nothing here reads a tensor."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.errors import (
    AmbiguousMatch,
    CountMismatch,
    KeyCollision,
    PlanError,
    ShapeError,
    UnknownTargetKey,
    UnusedRule,
)
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan import Apply, Plan, Take, check_alone, make_plan, ops_of

STATUSES = {"loaded", "renamed", "computed", "tied", "fresh", "missing", "mismatched"}


def manifest(keys: str | Mapping[str, tuple[int, ...]], *, tied: Mapping[str, str] = {}, **fields: str) -> Manifest:
    """Tensors by key and shape, or the keys alone in one text, all 2x3; `fields` hold a `kind` or a `dtype` for all."""
    shapes = keys if isinstance(keys, Mapping) else dict.fromkeys(keys.split(), (2, 3))
    dtype, kind = DTYPES[fields.get("dtype", "float32")], fields.get("kind", "parameter")
    return Manifest(TensorSpec(key, shape, dtype, kind, tied.get(key)) for key, shape in shapes.items())  # type: ignore[arg-type]


def key_map(*rules: object, file: str = "<map>", **declared: object) -> KeyMap:
    """A map of rules, each a pair of patterns or a whole mapping, and of `fresh` and `drop`, each a pattern or a list."""
    entries = [dict(zip(("from", "to"), rule, strict=True)) if isinstance(rule, tuple) else rule for rule in rules]
    for name, keys in declared.items():
        declared[name] = [{"keys": keys, "why": "a reason"}]
    return parse_map(json.dumps({"ckptdoctor": 1, "rules": entries, **declared}), file)


def outcome(plan: Plan) -> dict[str, str]:
    """`{target key: "status source"}`."""
    return {step.target.key: " ".join((step.status, *step.sources)) for step in plan.steps}


def left(plan: Plan) -> dict[str, str]:
    return {rest.source.key: rest.status for rest in plan.remainders}


def error(kind: type[PlanError], *arguments: object) -> PlanError:
    """The only problem of a plan that cannot be made."""
    with pytest.raises(kind) as caught:
        make_plan(*arguments)  # type: ignore[arg-type]
    assert caught.value.problems == (caught.value,)
    assert caught.value.hint
    return caught.value


class TestIdentity:
    def test_equal_keys_are_loaded(self) -> None:
        plan = make_plan(manifest("a b"), manifest("b a"))
        assert outcome(plan) == {"b": "loaded b", "a": "loaded a"}
        assert (plan.counts["loaded"], plan.parameters, plan.random_parameters, plan.random_share) == (2, 12, 0, 0)
        assert (plan.remainders, plan.warnings, plan.has_target) == ((), (), True)

    def test_what_has_no_partner_is_missing_or_unexpected(self) -> None:
        plan = make_plan(manifest("a b"), manifest("b c"))
        assert outcome(plan) == {"b": "loaded b", "c": "missing"}
        assert left(plan) == {"a": "unexpected"}
        assert (plan.random_parameters, plan.random_share, plan.unused("unexpected")) == (6, 0.5, list(plan.remainders))

    @pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 2, 3), (2, 4), ()])
    def test_another_shape_is_mismatched_whatever_the_number_of_elements(self, shape: tuple[int, ...]) -> None:
        plan = make_plan(manifest({"a": (2, 3)}), manifest({"a": shape}))
        (step,) = plan.steps
        assert outcome(plan) == {"a": "mismatched a"}
        assert (step.filled, step.given.shape, step.random_parameters) == (False, (2, 3), step.target.numel)
        assert left(plan) == {"a": "mismatched"}

    def test_nothing_at_all(self) -> None:
        plan = make_plan(manifest(""), manifest(""))
        assert (plan.steps, plan.remainders, plan.parameters, plan.random_share) == ((), (), 0, 0.0)

    def test_one_map_need_not_stand_in_a_list(self) -> None:
        rename = key_map(("a", "b"))
        assert make_plan(manifest("a"), manifest("b"), rename) == make_plan(manifest("a"), manifest("b"), [rename])


RENAMES = [
    ("a", "b", {"a": "b"}),
    ("a.{p}", "b.{p}", {"a.w": "b.w", "a.b": "b.b"}),
    ("{x}.{y}", "{y}.{x}", {"a.b": "b.a", "b.c": "c.b"}),
    ("l{i}.{p}", "layers.{i}.{p}", {"l0.w": "layers.0.w", "l10.w": "layers.10.w"}),
    ("h.{i:int}.w", "b{i:int}.w", {"h.0.w": "b0.w", "h.12.w": "b12.w"}),
    ("net.{*m}.w", "{*m}.weight", {"net.a.w": "a.weight", "net.a.b.c.w": "a.b.c.weight"}),
    ("{*m}.gamma", "{*m}.weight", {"a.gamma": "a.weight", "a.b.gamma": "a.b.weight"}),
    ("mlp.{0,2}.{p}", "mlp.{fc1,fc2}.{p}", {"mlp.0.w": "mlp.fc1.w", "mlp.2.w": "mlp.fc2.w", "mlp.2.b": "mlp.fc2.b"}),
    ("mlp.{0..2}.w", "mlp.{a,b,c}.w", {"mlp.0.w": "mlp.a.w", "mlp.1.w": "mlp.b.w", "mlp.2.w": "mlp.c.w"}),
    ("mlp.{0..2}.w", "mlp.{a,b,c}.w", {"mlp.1.w": "mlp.b.w"}),
    ("{q,k}.{w,b}", "x.{w,b}.{q,k}", {"q.w": "x.w.q", "k.b": "x.b.k", "q.b": "x.b.q"}),
    ("norm{1,2}", "norm{2,1}", {"norm1": "norm2", "norm2": "norm1"}),
    ("{w,b}.{q,k}.{w,b}", "{k,q}.{w,b}.{w,b}", {"w.q.b": "k.w.b", "b.k.w": "q.b.w"}),
]


class TestRenames:
    @pytest.mark.parametrize(("source", "target", "keys"), RENAMES)
    def test_patterns(self, source: str, target: str, keys: dict[str, str]) -> None:
        plan = make_plan(manifest(" ".join(keys)), manifest(" ".join(keys.values())), key_map((source, target)))
        assert {step.expression.key: step.target.key for step in plan.steps} == keys
        assert {step.status for step in plan.steps} == {"renamed"}
        assert plan.remainders == ()

    def test_a_step_names_its_rule(self) -> None:
        text = 'ckptdoctor: 1\nrules:\n  - {from: z, to: y, optional: "x"}\n  - from: a\n    to: b\n'
        (step,) = make_plan(manifest("a"), manifest("b"), parse_map(text, "m.yaml")).steps
        assert str(step.rule) == "m.yaml:4:5"

    def test_what_a_rule_takes_does_not_stay_under_its_name(self) -> None:
        plan = make_plan(manifest("a"), manifest("a b"), key_map(("a", "b")))
        assert outcome(plan) == {"a": "missing", "b": "renamed a"}

    def test_a_rule_wins_over_the_tensor_that_has_the_name(self) -> None:
        plan = make_plan(manifest("a b"), manifest("b"), key_map(("a", "b")))
        assert (outcome(plan), left(plan)) == ({"b": "renamed a"}, {"b": "unexpected"})

    def test_one_source_may_serve_two_rules(self) -> None:
        plan = make_plan(manifest("a"), manifest("b c"), key_map(("a", "b"), ("a", "c")))
        assert outcome(plan) == {"b": "renamed a", "c": "renamed a"}
        assert plan.remainders == ()

    def test_a_rule_onto_the_own_name_loads(self) -> None:
        assert outcome(make_plan(manifest("a"), manifest("a"), key_map(("{k}", "{k}")))) == {"a": "loaded a"}

    def test_the_target_keeps_its_own_view_of_a_tensor(self) -> None:
        target = manifest("b", kind="buffer", dtype="float16")
        (step,) = make_plan(manifest("a"), target, key_map(("a", "b"))).steps
        assert step.target == target["b"]
        assert (step.given.key, step.given.dtype.name) == ("b", "float32")


class TestExpectOptionalExcept:
    def test_expect_counts_target_keys(self) -> None:
        rule = {"from": "a.{p}", "to": "b.{p}", "expect": 2}
        assert len(make_plan(manifest("a.w a.b"), manifest("b.w b.b"), key_map(rule)).steps) == 2

    @pytest.mark.parametrize("expect", [1, 3])
    def test_another_number_is_an_error(self, expect: int) -> None:
        rule = {"from": "a.{p}", "to": "b.{p}", "expect": expect}
        caught = error(CountMismatch, manifest("a.w a.b"), manifest("b.w b.b"), key_map(rule))
        assert f"made 2 keys and expects {expect}" in caught.message
        assert caught.keys == ("a.w", "a.b")

    def test_optional_lifts_that_a_rule_must_fire(self) -> None:
        rule = {"from": "a.{p}", "to": "b.{p}", "optional": "old files", "expect": 2}
        assert outcome(make_plan(manifest("c"), manifest("c"), key_map(rule))) == {"c": "loaded c"}
        declared = [{"keys": "z", "why": "w", "optional": "o"}]
        text = json.dumps({"ckptdoctor": 1, "fresh": declared, "drop": declared})
        assert outcome(make_plan(manifest("c"), manifest("c"), parse_map(text))) == {"c": "loaded c"}

    def test_except_leaves_source_keys_alone(self) -> None:
        rule = {"from": "a.{i}.w", "to": "b.{i}.w", "except": ["a.0.{p}", "a.2.w"]}
        plan = make_plan(manifest("a.0.w a.1.w a.2.w"), manifest("a.0.w b.1.w a.2.w"), key_map(rule))
        assert outcome(plan) == {"a.0.w": "loaded a.0.w", "b.1.w": "renamed a.1.w", "a.2.w": "loaded a.2.w"}

    def test_except_may_leave_nothing_which_is_an_error_again(self) -> None:
        error(UnusedRule, manifest("a"), manifest("a"), key_map({"from": "{k}", "to": "b", "except": "a"}))


class TestDropAndFresh:
    def test_drop_comes_before_rules_and_identity(self) -> None:
        plan = make_plan(manifest("a.w a.b c"), manifest("b.w c"), key_map(("a.{p}", "b.{p}"), drop=["a.b", "c"]))
        assert outcome(plan) == {"b.w": "renamed a.w", "c": "missing"}
        assert left(plan) == {"a.b": "dropped", "c": "dropped"}
        assert [(rest.why, rest.rule.line) for rest in plan.remainders] == [("a reason", 1)] * 2

    def test_a_rule_for_dropped_keys_only_says_so(self) -> None:
        caught = error(UnusedRule, manifest("a c"), manifest("c"), key_map(("a", "b"), drop="a"))
        assert "drop comes first" in caught.hint

    def test_fresh_stays_random_whatever_the_source_has(self) -> None:
        plan = make_plan(manifest("a b"), manifest("a b c"), key_map(fresh="{x}", drop="a"))
        assert {step.status for step in plan.steps} == {"fresh"}
        assert left(plan) == {"a": "dropped", "b": "unexpected"}
        assert (plan.random_parameters, plan.fresh_parameters) == (18, 18)
        assert {step.why for step in plan.steps} == {"a reason"}

    def test_fresh_may_have_a_mismatched_partner(self) -> None:
        plan = make_plan(manifest({"head": (2,)}), manifest({"head": (3,)}), key_map(fresh="head"))
        assert (outcome(plan), left(plan)) == ({"head": "fresh"}, {"head": "unexpected"})

    @pytest.mark.parametrize("name", ["fresh", "drop"])
    def test_each_must_name_something(self, name: str) -> None:
        caught = error(UnusedRule, manifest("alpha"), manifest("alpha"), key_map(**{name: "alpah"}))
        assert (caught.message, caught.hint) == (f"the {name} names no key: alpah", "did you mean alpha?")

    def test_a_rule_onto_a_fresh_key_names_both_places(self) -> None:
        text = 'ckptdoctor: 1\nrules:\n  - {from: a, to: b}\nfresh:\n  - {keys: "{k}", why: new}\n'
        caught = error(KeyCollision, manifest("a"), manifest("b"), parse_map(text, "m.yaml"))
        assert str(caught) == "m.yaml:3:5: b is made by this rule, and declared fresh at m.yaml:5:5"
        assert caught.keys == ("b",)

    def test_fresh_needs_a_target(self) -> None:
        caught = error(PlanError, manifest("a"), None, key_map(fresh="a"))
        assert "there is no target" in caught.message


class TestOneProducer:
    def test_two_rules_name_both_places(self) -> None:
        text = "ckptdoctor: 1\nrules:\n  - {from: a, to: c}\n  - {from: b, to: c}\n"
        caught = error(KeyCollision, manifest("a b"), manifest("c"), parse_map(text, "m.yaml"))
        assert str(caught) == "m.yaml:4:5: b would become c, which is made of a already, by the rule at m.yaml:3:5"
        assert caught.keys == ("c", "b")

    @pytest.mark.parametrize(("source", "keys"), [("{w,b}.x", "w.x b.x"), ("{i}.{j}", "a.b c.d")])
    def test_one_rule_that_meets_itself(self, source: str, keys: str) -> None:
        with pytest.raises(PlanError):  # what stands on the left only would be the axis of a fan-in
            make_plan(manifest(keys), manifest("c"), key_map((source, "c")))

    def test_several_sources_onto_one_target_in_one_rule(self) -> None:
        rule = {"from": ["a", "b"], "to": "c"}
        caught = error(PlanError, manifest("a b"), manifest("c"), key_map(rule))
        assert "no op that says how" in caught.message


class TestWhatDoesNotFitTheTarget:
    def test_an_unknown_key_with_the_nearest(self) -> None:
        target = manifest("blocks.0.mlp.fc1.weight blocks.0.mlp.fc2.weight head.weight")
        caught = error(UnknownTargetKey, manifest("w"), target, key_map(("w", "blocks.0.mlp.fc3.weight")))
        assert caught.message == "the target has no blocks.0.mlp.fc3.weight (made of w)"
        assert "blocks.0.mlp.fc1.weight" in caught.hint

    def test_an_unknown_key_with_nothing_near(self) -> None:
        assert "inspect" in error(UnknownTargetKey, manifest("w"), manifest("x"), key_map(("w", "zzz"))).hint

    def test_many_unknown_keys_of_a_rule_are_one_problem_and_take_no_time(self) -> None:
        source = manifest(" ".join(f"blocks.{i}.attention.w{j}" for i in range(300) for j in range(10)))
        target = manifest(" ".join(f"layers.{i}.attn.w{j}" for i in range(300) for j in range(10)))
        start = time.process_time()
        caught = error(UnknownTargetKey, source, target, key_map(("blocks.{i}.{*p}", "layers.{i}.{*p}")))
        assert time.process_time() - start < 5, "a near key for each of them took minutes"
        assert caught.message.endswith("w0 (made of blocks.0.attention.w0), nor 2,999 other keys that the rule makes")
        assert len(caught.keys) == 3000

    def test_another_shape_than_the_target_wants(self) -> None:
        source, target = manifest({"a": (4, 2)}), manifest({"b": (2, 4)})
        caught = error(ShapeError, source, target, key_map(("a", "b")))
        assert caught.message == "b would be 4x2 (from a), the target wants 2x4"
        assert caught.keys == ("b", "a")


class TestRulesThatMatchNothing:
    def test_the_nearest_key(self) -> None:
        caught = error(UnusedRule, manifest("head.weight"), manifest("x"), key_map(("heads.weight", "x")))
        assert (caught.message, caught.hint) == ("the rule names no key: heads.weight", "did you mean head.weight?")

    def test_a_module_where_whole_keys_are_meant(self) -> None:
        caught = error(UnusedRule, manifest("mlp.w mlp.a.b"), manifest("mlp.fc1.w"), key_map(("mlp", "mlp.fc1")))
        assert caught.hint == 'patterns name whole keys: write "mlp.{*p}"'

    def test_nothing_near(self) -> None:
        caught = error(UnusedRule, manifest("a"), manifest("a"), key_map(("zzz", "y")))
        assert 'optional: "why"' in caught.hint


HEAD = manifest({"head.weight": (60, 768), "head.bias": (60,)})
SEQUENTIAL = {f"head.{i}.{p}": (60, 768)[: 2 - (p == "bias")] for i in (0, 2, 4) for p in ("weight", "bias")}
SEQUENTIAL |= {f"head.{i}.{p}": (768, 768)[: 2 - (p == "bias")] for i in (0, 2) for p in ("weight", "bias")}


class TestFansWithoutAnOp:
    def test_the_hint_says_what_fits_and_what_would_be_fresh(self) -> None:
        caught = error(PlanError, HEAD, manifest(SEQUENTIAL), key_map(("head.{p}", "head.{0..4}.{p}")))
        assert caught.message == (
            "head.{p} -> head.{0..4}.{p}: {0..4} stands on the right only, so one tensor would make several, "
            "and no op says how"
        )
        assert caught.hint == ('"head.{p}" -> "head.4.{p}" is what fits in shape, with fresh: "head.{0,2}.{p}"')

    def test_what_the_hint_says_is_right(self) -> None:
        plan = make_plan(HEAD, manifest(SEQUENTIAL), key_map(("head.{p}", "head.4.{p}"), fresh="head.{0,2}.{p}"))
        assert plan.counts == {"renamed": 2, "fresh": 4}

    def test_one_other_needs_no_braces_and_none_no_fresh(self) -> None:
        two = manifest({key: shape for key, shape in SEQUENTIAL.items() if ".0." not in key})
        rule = key_map(("head.{p}", "head.{0..4}.{p}"))
        assert error(PlanError, HEAD, two, rule).hint.endswith('with fresh: "head.2.{p}"')
        one = manifest({key: shape for key, shape in SEQUENTIAL.items() if ".4." in key})
        assert error(PlanError, HEAD, one, rule).hint == '"head.{p}" -> "head.4.{p}" is what fits in shape'

    def test_two_that_fit_are_no_hint(self) -> None:
        alike = manifest({f"head.{i}.{p}": HEAD[f"head.{p}"].shape for i in (0, 4) for p in ("weight", "bias")})
        caught = error(PlanError, HEAD, alike, key_map(("head.{p}", "head.{0..4}.{p}")))
        assert caught.hint == "choose one member, or add the op that makes several of one (split, unstack, broadcast)"

    def test_a_group_that_is_written_alike_stays(self) -> None:
        source = manifest({"a.0.w": (2,), "a.1.w": (2,)})
        target = manifest({f"b.{i}.c.{j}.w": (2 + j,) for i in (0, 1) for j in (0, 1)})
        caught = error(PlanError, source, target, key_map(("a.{0,1}.w", "b.{0,1}.c.{0,1}.w")))
        assert caught.hint == '"a.{0,1}.w" -> "b.{0,1}.c.0.w" is what fits in shape, with fresh: "b.{0,1}.c.1.w"'

    def test_a_capture_on_the_right_only(self) -> None:
        caught = error(PlanError, manifest("mlp"), manifest("mlp.w"), key_map(("mlp", "mlp.{*p}")))
        assert "{*p} stands on the right only" in caught.message

    def test_a_fan_in(self) -> None:
        keys = "attn.q.w attn.k.w attn.v.w"
        caught = error(PlanError, manifest(keys), manifest("attn.qkv.w"), key_map(("attn.{q,k,v}.{p}", "attn.qkv.{p}")))
        assert "{q,k,v} stands on the left only" in caught.message

    @pytest.mark.parametrize("rule", [("a.{p}", "b.{0,1}.{p}"), ("a.{q,k}", "b"), {"from": ["a", "b"], "to": "c"}])
    def test_is_known_without_manifests(self, rule: object) -> None:
        with pytest.raises(PlanError, match=r"no op (that )?says how"):
            check_alone(key_map(rule))

    def test_a_rename_is_right_by_itself(self) -> None:
        check_alone(key_map(("a.{0,1}.{p}", "b.{x,y}.{p}")))


class TestAmbiguity:
    def test_a_key_that_a_pattern_matches_in_two_ways(self) -> None:
        rule = {"from": "{a}{b}", "to": "{b}.{a}", "optional": "so that there is no other problem"}
        caught = error(AmbiguousMatch, manifest("xyz"), manifest("z.xy"), key_map(rule))
        assert caught.keys == ("xyz",)


class TestManyProblems:
    TEXT = """ckptdoctor: 1
rules:
  - {from: nothing, to: x}
  - {from: a, to: x}
  - {from: b, to: x}
  - {from: c, to: unknown}
  - {from: d, to: small}
  - {from: e, to: y, expect: 2}
  - {from: e, to: f, op: {transpose: [0, 5]}}
fresh: [{keys: none, why: w}]
drop: [{keys: gone, why: w}]
"""

    def test_are_reported_at_once(self) -> None:
        target = manifest({"x": (2, 3), "y": (2, 3), "small": (1,), "f": (2, 3)})
        with pytest.raises(PlanError) as caught:
            make_plan(manifest("a b c d e"), target, parse_map(self.TEXT, "m.yaml"))
        problems = caught.value.problems
        kinds = {(type(problem), problem.rule.line) for problem in problems}
        assert kinds == {
            (UnusedRule, 3),
            (KeyCollision, 5),
            (UnknownTargetKey, 6),
            (ShapeError, 7),
            (CountMismatch, 8),
            (ShapeError, 9),
            (UnusedRule, 10),
            (UnusedRule, 11),
        }
        assert len(problems) == len(kinds)
        assert all(str(problem) in str(caught.value) and problem.hint for problem in problems)


class TestSeveralMaps:
    def test_each_sees_what_the_one_before_made(self) -> None:
        maps = [key_map(("a", "b")), key_map(("b", "c")), key_map(("c", "d"), ("x", "y"))]
        plan = make_plan(manifest("a x"), manifest("d y"), maps)
        assert outcome(plan) == {"d": "renamed a", "y": "renamed x"}
        assert [step.expression for step in plan.steps] == [Take("a"), Take("x")]

    def test_there_and_back_is_loaded(self) -> None:
        swap = key_map(("a", "b"), ("b", "a"))
        assert outcome(make_plan(manifest("a b"), manifest("a b"), [swap])) == {"a": "renamed b", "b": "renamed a"}
        assert outcome(make_plan(manifest("a b"), manifest("a b"), [swap, swap])) == {"a": "loaded a", "b": "loaded b"}

    def test_only_the_last_one_has_to_reach_the_target(self) -> None:
        maps = [key_map(("a", "nowhere")), key_map(("nowhere", "b"))]
        assert outcome(make_plan(manifest("a"), manifest("b"), maps)) == {"b": "renamed a"}
        error(UnknownTargetKey, manifest("a"), manifest("b"), maps[0])

    def test_a_rule_for_a_key_that_is_gone_by_then(self) -> None:
        caught = error(UnusedRule, manifest("a"), manifest("b"), [key_map(("a", "b")), key_map(("a", "c"), file="2")])
        assert caught.rule.file == "2"

    def test_drop_in_a_later_map_is_about_the_source_all_the_same(self) -> None:
        plan = make_plan(manifest("a b"), manifest("b"), [key_map(("a", "c")), key_map(drop="c")])
        assert (outcome(plan), left(plan)) == ({"b": "loaded b"}, {"a": "dropped"})

    def test_fresh_of_any_map_is_judged_at_the_end(self) -> None:
        maps = [key_map(("a", "b"), fresh="new"), key_map(("b", "c"))]
        assert outcome(make_plan(manifest("a"), manifest("c new"), maps)) == {"c": "renamed a", "new": "fresh"}
        late = [key_map(("a", "b"), fresh="b"), key_map(("b", "c"))]
        assert "names no key" in error(UnusedRule, manifest("a"), manifest("c"), late).message

    def test_a_collision_between_the_maps_is_one(self) -> None:
        maps = [key_map(("a", "x")), key_map(("x", "c"), ("b", "c"))]
        error(KeyCollision, manifest("a b"), manifest("c"), maps)

    def test_ops_are_applied_in_the_order_of_the_maps(self) -> None:
        turn = {"from": "a", "to": "b", "op": {"transpose": [0, 1]}}
        flat = {"from": "b", "to": "c", "op": {"reshape": [-1]}}
        (step,) = make_plan(
            manifest("a"), manifest({"c": (6,)}), [key_map(turn, file="1"), key_map(flat, file="2")]
        ).steps
        assert [op.describe() for op in ops_of(step.expression)] == ["transpose(0, 1)", "reshape(-1)"]
        assert (step.status, step.sources, step.rule.file) == ("computed", ("a",), "2")


class TestWithoutATarget:
    def test_the_image_of_the_map_is_the_target(self) -> None:
        plan = make_plan(manifest("a b c"), None, key_map(("a", "x"), drop="c"))
        assert list(outcome(plan).items()) == [("x", "renamed a"), ("b", "loaded b")], "in the order of the source"
        assert (plan.has_target, plan.random_parameters, left(plan)) == (False, 0, {"c": "dropped"})

    def test_the_image_has_the_shapes_that_ops_make(self) -> None:
        rule = {"from": "a", "to": "b", "op": [{"transpose": [0, 1]}, {"cast": "float16"}]}
        plan = make_plan(manifest("a"), None, key_map(rule))
        assert (plan.target["b"].shape, plan.target["b"].dtype.name) == ((3, 2), "float16")

    def test_ties_are_kept_and_moved(self) -> None:
        source = manifest("a b c", tied={"b": "a", "c": "a"})
        assert make_plan(source).target["c"].tied_to == "a"
        moved = make_plan(source, None, key_map(("a", "z"), drop="b")).target
        assert {key: spec.tied_to for key, spec in moved.items()} == {"z": None, "c": "z"}
        assert moved.parameters == source.parameters == 6

    def test_what_is_made_in_one_way_of_tied_tensors_is_tied(self) -> None:
        rule = {"from": "{k}", "to": "{k}2", "op": {"transpose": [0, 1]}}
        image = make_plan(manifest("a b", tied={"b": "a"}), None, key_map(rule)).target
        assert {key: spec.tied_to for key, spec in image.items()} == {"a2": None, "b2": "a2"}
        assert image.parameters == 6

    def test_two_copies_of_one_tensor_are_two_tensors(self) -> None:
        key_maps = key_map(("a", "x"), ("a", "y"), ("b", "z"))
        image = make_plan(manifest("a b", tied={"b": "a"}), None, key_maps).target
        assert {key: spec.tied_to for key, spec in image.items()} == {"x": None, "y": None, "z": "x"}
        assert make_plan(manifest("a"), None, key_map(("a", "x"), ("a", "y"))).target.parameters == 12

    def test_what_has_an_untied_tensor_in_common_is_two_tensors(self) -> None:
        rules = [{"from": [key, "c"], "to": f"{key}c", "op": "concat"} for key in "ab"]
        image = make_plan(manifest("a b c", tied={"b": "a"}), None, key_map(*rules)).target
        assert [spec.tied_to for spec in image.values()] == [None, None]


class TestTies:
    TARGET = manifest("embed head", tied={"head": "embed"})

    @pytest.mark.parametrize(("there", "other"), [("embed", "head"), ("head", "embed")])
    def test_either_of_two_fills_both(self, there: str, other: str) -> None:
        plan = make_plan(manifest(there), self.TARGET)
        assert outcome(plan) == {there: f"loaded {there}", other: "tied"}
        (tied,) = [step for step in plan.steps if step.status == "tied"]
        assert (tied.filled, tied.why, plan.random_parameters) == (True, f"shares memory with {there}", 0)

    def test_neither_counts_once(self) -> None:
        plan = make_plan(manifest(""), self.TARGET)
        assert (plan.counts["missing"], plan.parameters, plan.random_parameters) == (2, 6, 6)

    @pytest.mark.parametrize("declared", ["embed", "head"])
    def test_fresh_is_both_if_either_is(self, declared: str) -> None:
        plan = make_plan(manifest(""), self.TARGET, key_map(fresh=declared))
        assert [(step.status, step.why) for step in plan.steps] == [("fresh", "a reason")] * 2
        assert (plan.random_parameters, plan.fresh_parameters) == (6, 6)

    def test_a_rule_may_fill_the_second(self) -> None:
        plan = make_plan(manifest("w"), self.TARGET, key_map(("w", "head")))
        assert outcome(plan) == {"embed": "tied", "head": "renamed w"}


class TestKindsAndDtypes:
    def test_another_dtype_is_loaded_and_noted(self) -> None:
        (step,) = make_plan(manifest("a", dtype="bfloat16"), manifest("a")).steps
        assert (step.status, step.other_dtype, step.given.dtype.name) == ("loaded", True, "bfloat16")
        (step,) = make_plan(manifest("a"), manifest("a")).steps
        assert not step.other_dtype
        (step,) = make_plan(manifest({"a": (1,)}, dtype="bfloat16"), manifest("a")).steps
        assert not step.other_dtype, "nothing of it is loaded"

    def test_buffers_are_counted_apart(self) -> None:
        target = Manifest([*manifest("w").values(), *manifest("mean var", kind="buffer").values()])
        plan = make_plan(manifest("mean"), target)
        assert (plan.parameters, plan.random_parameters, plan.random_share, plan.random_buffers) == (6, 6, 1.0, 6)
        assert [step.random for step in plan.steps] == [6, 0, 6]


OPS = [
    ({"cast": "float16"}, (2, 3), "float16", "cast(float16)"),
    ({"transpose": [0, 1]}, (3, 2), "float32", "transpose(0, 1)"),
    ({"reshape": [3, -1]}, (3, 2), "float32", "reshape(3, -1)"),
    ([{"reshape": [6, 1]}, {"transpose": [0, 1]}, {"cast": "float64"}], (1, 6), "float64", "cast(float64)"),
]


class TestOps:
    @pytest.mark.parametrize(("op", "shape", "dtype", "last"), OPS)
    def test_inside_a_rule_make_a_computed_tensor(
        self, op: object, shape: tuple[int, ...], dtype: str, last: str
    ) -> None:
        rule = {"from": "{k}.w", "to": "{k}.v", "op": op}
        plan = make_plan(manifest("a.w b.w"), manifest({"a.v": shape, "b.v": shape}, dtype=dtype), key_map(rule))
        assert outcome(plan) == {"a.v": "computed a.w", "b.v": "computed b.w"}
        for step in plan.steps:
            assert isinstance(step.expression, Apply)
            assert [each.describe() for each in ops_of(step.expression)][-1] == last
            assert (step.given.shape, step.given.dtype.name, step.other_dtype) == (shape, dtype, False)

    def test_onto_the_own_name_is_computed_too(self) -> None:
        rule = {"from": "a", "to": "a", "op": {"cast": "float16"}}
        assert outcome(make_plan(manifest("a"), manifest("a"), key_map(rule))) == {"a": "computed a"}

    def test_one_that_does_not_fit_the_source(self) -> None:
        rule = {"from": "a", "to": "b", "op": {"reshape": [4, -1]}}
        caught = error(ShapeError, manifest("a"), manifest("b"), key_map(rule))
        assert caught.message.startswith("reshape(4, -1) cannot take a (2x3): ")

    def test_one_whose_result_does_not_fit_the_target(self) -> None:
        rule = {"from": "a", "to": "b", "op": {"transpose": [0, 1]}}
        caught = error(ShapeError, manifest("a"), manifest("b"), key_map(rule))
        assert caught.message == "b would be 3x2 (from a), the target wants 2x3"


FAN_OUTS = {"from": "w", "to": "{e:int}.{a,b}", "op": [{"unstack": {"dim": 0}}, {"split": {"parts": 2}}]}
FAN_KEYS = {f"{e}.{name}": (2, 3) for e in range(3) for name in "ab"}


class TestSeveralFanOuts:
    """A number along a fan-out ends where the target's keys do, with a group beside it too."""

    def test_as_far_as_the_target_goes(self) -> None:
        plan = make_plan(manifest({"w": (3, 4, 3)}), manifest(FAN_KEYS), key_map(FAN_OUTS))
        assert outcome(plan) == dict.fromkeys(FAN_KEYS, "computed w")
        assert [step.expression.output for step in plan.steps if isinstance(step.expression, Apply)] == [0, 1] * 3

    def test_a_gap(self) -> None:
        keys = {key: shape for key, shape in FAN_KEYS.items() if key != "1.b"}
        caught = error(UnknownTargetKey, manifest({"w": (3, 4, 3)}), manifest(keys), key_map(FAN_OUTS))
        assert "the target has no 1.b" in caught.message

    def test_without_a_target_the_op_says_how_far(self) -> None:
        plan = make_plan(manifest({"w": (3, 4, 3)}), None, key_map(FAN_OUTS))
        assert [step.target.key for step in plan.steps] == sorted(FAN_KEYS)

    def test_a_target_without_any_of_the_keys(self) -> None:
        caught = error(UnknownTargetKey, manifest({"w": (3, 4, 3)}), manifest("other"), key_map(FAN_OUTS))
        assert "nor 5 other keys" in caught.message


class TestWarnings:
    def test_the_last_layer_of_a_head_taken_alone(self) -> None:
        plan = make_plan(manifest(SEQUENTIAL), HEAD, key_map(("head.4.{p}", "head.{p}")))
        assert plan.warnings == (
            "head.4 -> head fits in shape, but head.0 and head.2 of the checkpoint would stay unused "
            "(1,181,184 parameters): the model computes another function",
        )

    def test_the_other_way_round(self) -> None:
        plan = make_plan(HEAD, manifest(SEQUENTIAL), key_map(("head.{p}", "head.4.{p}"), fresh="head.{0,2}.{p}"))
        assert plan.warnings == (
            "head -> head.4 fits in shape, but head.0 and head.2 of the target would stay random "
            "(1,181,184 parameters): the model computes another function",
        )

    @pytest.mark.parametrize(
        ("source", "target", "rules"),
        [
            ("mlp.0.w mlp.2.w", "fc1.w fc2.w", [("mlp.{0,2}.{p}", "fc{1,2}.{p}")]),
            ("mlp.0.w mlp.2.w", "mlp.1.w", [("mlp.0.{p}", "mlp.1.{p}")]),
            ("a.w b.w", "c.w", [("a.{p}", "c.{p}")]),
            ("head.4.w other.0.w", "head.w", [("head.4.{p}", "head.{p}")]),
            ("mlp.0.w mlp.1.w", "mlp.0.w", []),
        ],
    )
    def test_what_is_no_cause_for_one(self, source: str, target: str, rules: list[tuple[str, str]]) -> None:
        assert make_plan(manifest(source), manifest(target), key_map(*rules)).warnings == ()

    def test_many_neighbours_are_not_all_named(self) -> None:
        source = manifest(" ".join(f"s.{i}.w" for i in range(100)))
        (warning,) = make_plan(source, manifest("y.w"), key_map(("s.50.w", "y.w"))).warnings
        assert "but s.0, s.1, s.2, s.3, s.4 and 94 more of the checkpoint would stay unused (594 parameters)" in warning

    def test_braces_in_a_name_are_only_text(self) -> None:
        plan = make_plan(manifest("{x}.0.w {x}.1.w"), manifest("{}.w"), key_map(("{{x}}.0.w", "{{}}.w")))
        assert plan.warnings[0].startswith("{x}.0 -> {} fits in shape, but {x}.1 of")


SEGMENT = st.sampled_from(["a", "b", "ab", "0", "1"])
KEY = st.lists(SEGMENT, min_size=1, max_size=3).map(".".join)
SHAPE = st.sampled_from([(2, 3), (2, 3), (3, 2), (2,), ()])
SHAPES = st.dictionaries(KEY, SHAPE, min_size=2, max_size=8)
SOURCE = st.sampled_from(
    [
        "a",
        "b",
        "a.{p}",
        "{p}.a",
        "{x}.{y}",
        "{*m}.0",
        "a.{*m}",
        "{a,b}.{p}",
        "{*k}.{0,1}",
        "{0,1}",
        "a{r}.{p}",
        "b.{n:int}",
    ]
)


@st.composite
def maps(draw: st.DrawFn) -> KeyMap:
    """Rules that mostly go together, since each writes under a stem of its own; some swap, some flatten."""
    rules: list[dict[str, object]] = []
    for number, source in enumerate(draw(st.lists(SOURCE, min_size=1, max_size=4))):
        stem = draw(st.sampled_from([f"r{number}.", f"r{number}.", ""]))
        target = stem + source.replace("{a,b}", "{b,a}").replace("{0,1}", "{x,y}")
        more = draw(st.sampled_from([{}, {}, {"except": draw(SOURCE)}, {"op": {"reshape": [-1]}}]))
        rules.append({"from": source, "to": target, "optional": "may be", **more})
    drop = [{"keys": keys, "why": "w", "optional": "o"} for keys in draw(st.lists(SOURCE, max_size=1))]
    return parse_map(json.dumps({"ckptdoctor": 1, "rules": rules, "drop": drop}))


def shuffled(chain: list[KeyMap], data: st.DataObject) -> list[KeyMap]:
    """The same maps with the entries of each in another order."""
    return [
        replace(
            each,
            **{name: tuple(data.draw(st.permutations(getattr(each, name)))) for name in ("rules", "fresh", "drop")},
        )
        for each in chain
    ]


def decided(plan: Plan) -> object:
    """Everything a plan decides, without the places in the file."""
    steps = [(step.target, step.status, step.expression, step.given, step.why) for step in plan.steps]
    return steps, [(rest.source, rest.status, rest.why) for rest in plan.remainders], plan.warnings


class TestEveryPlan:
    @settings(max_examples=300)
    @given(st.data(), SHAPES, st.lists(maps(), max_size=2))
    def test_adds_up_and_does_not_depend_on_the_order_in_the_file(
        self, data: st.DataObject, shapes: dict[str, tuple[int, ...]], chain: list[KeyMap]
    ) -> None:
        source = manifest(shapes)
        try:
            image = make_plan(source, None, chain)
        except PlanError as problem:
            kinds = sorted(type(each).__name__ for each in problem.problems)
            with pytest.raises(PlanError) as again:
                make_plan(source, None, shuffled(chain, data))
            assert sorted(type(each).__name__ for each in again.value.problems) == kinds
            return
        assert decided(make_plan(source, None, shuffled(chain, data))) == decided(image)
        made = {step.target.key: step.target.shape for step in image.steps if step.rule}
        others = data.draw(SHAPES)
        target = manifest({**{key: shapes[key] for key in list(shapes)[::2]}, **others, **made})
        fresh = [{"keys": key, "why": "w"} for key in list(others)[::3] if key not in made]
        chain = [*chain, parse_map(json.dumps({"ckptdoctor": 1, "fresh": fresh}))]
        plan = make_plan(source, target, chain)
        adds_up(plan, source, target)
        assert decided(make_plan(source, target, shuffled(chain, data))) == decided(plan)


def adds_up(plan: Plan, source: Manifest, target: Manifest) -> None:
    assert [step.target for step in plan.steps] == list(target.values())
    assert {step.status for step in plan.steps} <= STATUSES
    used = {key for step in plan.steps if step.filled for key in step.sources}
    rest = [remainder.source.key for remainder in plan.remainders]
    assert len(rest) == len(set(rest))
    assert used.isdisjoint(rest)
    assert used.union(rest) == set(source)
    loaded = sum(step.target.numel for step in plan.steps if step.filled)
    assert loaded + plan.random_parameters == plan.parameters
    assert sum(plan.counts.values()) == len(target)
    for step in plan.steps:
        assert (step.given is None) == (step.expression is None)
        if step.filled:
            assert step.given.shape == step.target.shape
            assert [source[key].numel for key in step.sources] == [step.target.numel]


class TestTornTies:
    def test_two_values_for_a_tensor_that_the_target_ties_are_warned_of(self) -> None:
        target = manifest("embed head", tied={"head": "embed"})
        (warning,) = make_plan(manifest("embed head"), target).warnings
        assert warning.startswith(
            "the target has one tensor for these, and they get values of their own: embed (embed)"
        )
        rules = [
            {"from": key, "to": key, "op": {"pad": {"dim": 0, "to": 3, "fill": fill}}} for key, fill in PADDED.items()
        ]
        source = manifest("embed head", tied={"head": "embed"})
        taller = manifest({"embed": (3, 3), "head": (3, 3)}, tied={"head": "embed"})
        assert "fill=1" in make_plan(source, taller, key_map(*rules)).warnings[0]

    def test_one_value_for_both_is_none(self) -> None:
        target = manifest("embed head", tied={"head": "embed"})
        assert make_plan(manifest("embed head", tied={"head": "embed"}), target).warnings == ()
        assert make_plan(manifest("embed"), target).warnings == ()


PADDED = {"embed": 0, "head": 1}
