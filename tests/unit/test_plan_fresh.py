"""Plans of maps that initialise what is fresh, and that tie tensors together. Nothing here reads a tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from ckptdoctor.errors import IncompleteGroup, KeyCollision, PlanError, ShapeError, UnusedRule
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan import Plan, make_plan
from ckptdoctor.policy import evaluate, make_policy
from ckptdoctor.reports import render


def manifest(keys: str | Mapping[str, tuple[int, ...]], *, tied: Mapping[str, str] = {}, **fields: str) -> Manifest:
    shapes = keys if isinstance(keys, Mapping) else dict.fromkeys(keys.split(), (2, 3))
    dtype = DTYPES[fields.get("dtype", "float32")]
    return Manifest(TensorSpec(key, shape, dtype, "parameter", tied.get(key)) for key, shape in shapes.items())


def key_map(*rules: tuple[str, str], **declared: object) -> KeyMap:
    entries = [{"from": source, "to": target} for source, target in rules]
    return parse_map(json.dumps({"ckptdoctor": 1, "rules": entries, **declared}), "m.yaml")


def fresh(keys: object, init: object = None, **more: object) -> dict[str, object]:
    return {"keys": keys, "why": "new", **({"init": init} if init is not None else {}), **more}


def tie(*keys: str, **more: object) -> dict[str, object]:
    return {"keys": list(keys), "why": "shared", **more}


def outcome(plan: Plan) -> dict[str, str]:
    return {step.target.key: " ".join((step.status, *step.ops, *step.sources)) for step in plan.steps}


def error(kind: type[PlanError], *arguments: object) -> PlanError:
    with pytest.raises(kind) as caught:
        make_plan(*arguments)  # type: ignore[arg-type]
    assert caught.value.problems == (caught.value,)
    assert (caught.value.hint, caught.value.rule is not None) != (None, True)
    return caught.value


class TestInit:
    def test_what_is_initialised_stays_fresh_and_random(self) -> None:
        plan = make_plan(manifest("a"), manifest("a new other"), key_map(fresh=[fresh("new", "zeros"), fresh("other")]))
        assert outcome(plan) == {"a": "loaded a", "new": "fresh init(zeros)", "other": "fresh"}
        assert (plan.random_parameters, plan.fresh_parameters, plan.counts["fresh"]) == (12, 12, 2)
        assert [step.has_values for step in plan.steps] == [True, True, False]
        assert [step.filled for step in plan.steps] == [True, False, False]

    def test_the_constructors_values_are_no_values_of_the_plan(self) -> None:
        (step,) = make_plan(manifest(""), manifest("new"), key_map(fresh=[fresh("new", "model")])).steps
        assert (step.has_values, step.of_model, step.ops) == (False, True, ("init(model)",))

    def test_reports_say_it(self) -> None:
        plan = make_plan(manifest(""), manifest("new"), key_map(fresh=[fresh("new", {"constant": 0.5})]))
        verdict = evaluate(plan, make_policy())
        assert verdict.passed
        assert "new  (new; init constant(0.5))" in render(plan, "table")
        (row,) = json.loads(render(plan, "json"))["keys"]
        assert (row["status"], row["init"], row["why"]) == ("fresh", "constant(0.5)", "new")

    def test_what_does_not_suit_is_one_error_an_entry(self) -> None:
        target = manifest({"a": (60, 768), "b": (3,), "c": (2, 2)})
        found = error(ShapeError, manifest(""), target, key_map(fresh=[fresh("{k}", "identity")]))
        assert str(found) == (
            "m.yaml:1:42: a (60x768 float32) cannot be initialised: identity needs a square matrix, this is 60x768; "
            "the like holds for 1 other key"
        )
        assert found.keys == ("a", "b")

    def test_integers(self) -> None:
        counter = manifest("n", dtype="int64")
        for init in ("zeros", "ones", {"constant": 7}):
            assert make_plan(manifest(""), counter, key_map(fresh=[fresh("n", init)])).counts["fresh"] == 1
        for init in ({"constant": 0.5}, {"normal": {"std": 1}}, "identity"):
            error(ShapeError, manifest(""), counter, key_map(fresh=[fresh("n", init)]))

    def test_a_key_is_initialised_in_one_way(self) -> None:
        both = [fresh("{k}", "ones"), fresh("new", "zeros")]
        found = error(KeyCollision, manifest(""), manifest("new"), key_map(fresh=both))
        assert "initialised by zeros here, and in another way at m.yaml:1" in str(found)

    @pytest.mark.parametrize("turned", [False, True])
    def test_an_init_says_more_than_none(self, turned: bool) -> None:
        both = [fresh("{k}"), fresh("new", "zeros")]
        plan = make_plan(manifest(""), manifest("new b"), key_map(fresh=both[::-1] if turned else both))
        assert outcome(plan) == {"new": "fresh init(zeros)", "b": "fresh"}

    def test_a_rule_onto_it_is_still_an_error(self) -> None:
        error(KeyCollision, manifest("a"), manifest("b"), key_map(("a", "b"), fresh=[fresh("b", "zeros")]))


class TestCopy:
    def test_with_captures(self) -> None:
        source, target = manifest("blocks.0.old blocks.1.old"), manifest("blocks.0.new blocks.1.new")
        plan = make_plan(source, target, key_map(fresh=[fresh("blocks.{i}.new", {"copy": "blocks.{i}.old"})]))
        assert outcome(plan) == {
            f"blocks.{i}.new": f"fresh init(copy(blocks.{{i}}.old)) blocks.{i}.old" for i in (0, 1)
        }
        assert plan.remainders == (), "what is copied is used"
        assert plan.random_parameters == 12

    def test_with_alternatives_and_from_one_for_all(self) -> None:
        source, target = manifest("q k w"), manifest("q2 k2 x y w")
        copies = [fresh("{q2,k2}", {"copy": "{q,k}"}), fresh(["x", "y"], {"copy": "w"})]
        steps = make_plan(source, target, key_map(fresh=copies)).steps
        assert {step.target.key: step.sources for step in steps if step.status == "fresh"} == {
            "q2": ("q",),
            "k2": ("k",),
            "x": ("w",),
            "y": ("w",),
        }

    def test_in_the_targets_dtype(self) -> None:
        copies = key_map(fresh=[fresh("b", {"copy": "a"})])
        (step,) = make_plan(manifest("a"), manifest("b", dtype="bfloat16"), copies).steps
        assert step.ops == ("cast(bfloat16)", "init(copy(a))")
        error(ShapeError, manifest("a"), manifest("b", dtype="int64"), copies)

    def test_of_the_map_before(self) -> None:
        maps = [key_map(("a", "b")), key_map(fresh=[fresh("c", {"copy": "b"})])]
        (step, _) = make_plan(manifest("a"), manifest("c b"), maps).steps
        assert (step.status, step.sources) == ("fresh", ("a",))

    def test_of_nothing_of_another_shape_or_of_what_is_dropped(self) -> None:
        def plan_of(source: Manifest, **more: object) -> tuple[object, ...]:
            return source, manifest("b"), key_map(fresh=[fresh("b", {"copy": "layer.old"})], **more)

        found = error(UnusedRule, *plan_of(manifest("layer.odd")))
        assert (found.keys, found.hint) == (("b", "layer.old"), "did you mean layer.odd?")
        assert "b is 2x3, and layer.old, of which it is to be a copy, is 3x2" in str(
            error(ShapeError, *plan_of(manifest({"layer.old": (3, 2)})))
        )
        dropped = [{"keys": "layer.old", "why": "old"}]
        assert "is dropped at m.yaml" in str(error(PlanError, *plan_of(manifest("layer.old"), drop=dropped)))


TIED = key_map(tie=[tie("embed", "head")])


class TestTie:
    @pytest.mark.parametrize(("there", "other"), [("embed", "head"), ("head", "embed")])
    def test_one_fills_the_other(self, there: str, other: str) -> None:
        plan = make_plan(manifest(there), manifest("embed head"), TIED)
        steps = {step.target.key: step for step in plan.steps}
        assert outcome(plan) == {there: f"loaded {there}", other: "tied"}
        assert (steps[other].why, steps[other].rule) == ("shared", TIED.tie[0].location)
        assert {step.memory for step in plan.steps} == {"embed"}
        assert plan.random_parameters == 0
        assert plan.target.fingerprint == manifest("embed head").fingerprint, "the target is what it was"

    def test_by_a_rule(self) -> None:
        plan = make_plan(manifest("w"), manifest("embed head"), key_map(("w", "head"), tie=[tie("embed", "head")]))
        assert outcome(plan) == {"embed": "tied", "head": "renamed w"}

    def test_nothing_fills_either(self) -> None:
        assert make_plan(manifest(""), manifest("embed head"), TIED).counts == {"missing": 2}
        plan = make_plan(
            manifest(""), manifest("embed head"), key_map(fresh=[fresh("head")], tie=[tie("embed", "head")])
        )
        assert plan.counts == {"fresh": 2}

    def test_an_init_is_for_all_of_them(self) -> None:
        declared = {"fresh": [fresh("head", {"normal": {"std": 1}})], "tie": [tie("embed", "head")]}
        plan = make_plan(manifest(""), manifest("embed head"), key_map(**declared))
        assert outcome(plan) == dict.fromkeys(("embed", "head"), "fresh init(normal(std=1.0, seed=0))")
        found = error(KeyCollision, manifest("embed"), manifest("embed head"), key_map(**declared))
        assert found.keys == ("embed", "head")

    def test_two_producers(self) -> None:
        found = error(KeyCollision, manifest("embed head"), manifest("embed head"), TIED)
        assert found.keys == ("embed", "head")
        assert "embed of embed by its name, and head of head by its name" in str(found)
        both = manifest("embed head", tied={"head": "embed"})
        assert make_plan(both, manifest("embed head"), TIED).counts == {"loaded": 2}
        dropped = key_map(tie=[tie("embed", "head")], drop=[{"keys": "head", "why": "equal"}])
        assert make_plan(manifest("embed head"), manifest("embed head"), dropped).counts == {"loaded": 1, "tied": 1}

    def test_frames_of_captures(self) -> None:
        keys = "enc.embed.w enc.head.w dec.embed.w dec.head.w"
        ties = key_map(tie=[tie("{*m}.embed.w", "{*m}.head.w")])
        plan = make_plan(manifest("enc.embed.w dec.head.w"), manifest(keys), ties)
        assert {step.target.key: step.memory for step in plan.steps} == {
            "enc.embed.w": "enc.embed.w",
            "enc.head.w": "enc.embed.w",
            "dec.embed.w": "dec.embed.w",
            "dec.head.w": "dec.embed.w",
        }
        assert plan.counts == {"loaded": 2, "tied": 2}
        one = key_map(tie=[{"keys": "{m}.{embed,head}.w", "why": "shared"}])
        assert make_plan(manifest("enc.embed.w dec.head.w"), manifest(keys), one).counts == {"loaded": 2, "tied": 2}

    def test_a_gap_in_a_frame(self) -> None:
        ties = key_map(tie=[tie("{m}.embed", "{m}.head")])
        found = error(IncompleteGroup, manifest(""), manifest("enc.embed dec.embed dec.head"), ties)
        assert found.keys == ("enc.embed", "enc.head")
        assert "enc.embed is to share memory with enc.head, which the target does not have" in str(found)

    def test_unknown_keys(self) -> None:
        found = error(UnusedRule, manifest(""), manifest("embed lm_head"), key_map(tie=[tie("embed", "ln_head")]))
        assert found.hint == "did you mean lm_head?"
        optional = key_map(tie=[tie("embed", "ln_head", optional="not in all")])
        assert make_plan(manifest(""), manifest("embed lm_head"), optional).counts == {"missing": 2}

    def test_shapes_and_dtypes(self) -> None:
        found = error(ShapeError, manifest(""), manifest({"embed": (5, 2), "head": (2, 5)}), TIED)
        assert "embed is 5x2 float32, head is 2x5 float32" in str(found)
        mixed = Manifest([*manifest("embed").values(), *manifest("head", dtype="bfloat16").values()])
        error(ShapeError, manifest(""), mixed, TIED)
        twice = key_map(tie=[tie("embed", "embed")])
        assert "names embed alone" in str(error(ShapeError, manifest(""), manifest("embed"), twice))

    def test_ties_of_the_target_and_of_several_entries_join(self) -> None:
        target = manifest("a b c d", tied={"b": "a"})
        ties = key_map(tie=[tie("b", "c"), tie("c", "d")])
        plan = make_plan(manifest("d"), target, ties)
        assert outcome(plan) == {"a": "tied", "b": "tied", "c": "tied", "d": "loaded d"}
        assert {step.memory for step in plan.steps} == {"a"}

    def test_without_a_target(self) -> None:
        rules = (("w", "embed"), ("v", "head"))
        source = manifest("w v", tied={"v": "w"})
        assert make_plan(source, None, key_map(*rules, tie=[tie("embed", "head")])).counts == {"renamed": 2}
        error(KeyCollision, manifest("w v"), None, key_map(*rules, tie=[tie("embed", "head")]))
        error(UnusedRule, manifest("embed"), None, TIED)

    def test_the_other_has_the_dtype_of_what_fills_it(self) -> None:
        plan = make_plan(manifest("embed", dtype="bfloat16"), manifest("embed head"), TIED)
        assert [step.given.dtype.name for step in plan.steps] == ["bfloat16", "bfloat16"]
