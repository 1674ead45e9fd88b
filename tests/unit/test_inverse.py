"""The inverse of a plan, case by case: what comes back, and what is said of the rest. Nothing here reads a tensor."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptdoctor.errors import PlanError, UsageError
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.ops import parse_op
from ckptdoctor.plan import Apply, Plan, Take, make_plan, ops_of
from ckptdoctor.plan.inverse import Inversion, invert
from ckptdoctor.plan.inverse_map import inverse_map
from ckptdoctor.policy import evaluate, make_policy
from tests.unit.test_plan import key_map, left, manifest, outcome

SPLIT = {"concat": {"dim": 0}}


def there_and_back(source: Manifest, target: Manifest | None, *maps: KeyMap) -> Inversion:
    return invert(make_plan(source, target, maps))


def whys(plan: Plan) -> dict[str, str | None]:
    return {step.target.key: step.why for step in plan.steps if step.why} | {
        rest.source.key: rest.why for rest in plan.remainders if rest.why
    }


class TestWhatComesBack:
    def test_names(self) -> None:
        inversion = there_and_back(manifest("a b c"), manifest("b a d"), key_map(("a", "b"), ("b", "a"), ("c", "d")))
        assert outcome(inversion.plan) == {"a": "renamed b", "b": "renamed a", "c": "renamed d"}
        assert (inversion.bijective, inversion.total, inversion.lost) == (3, 3, ())
        assert inversion.plan.reverse
        assert inversion.plan.remainders == ()

    def test_the_inverse_of_the_inverse_is_the_plan(self) -> None:
        source, target = manifest({"q": (4, 2), "k": (2, 2), "x": (2, 3)}), manifest({"qk": (6, 2), "y": (3, 2)})
        plan = make_plan(
            source,
            target,
            key_map({"from": "{q,k}", "to": "qk", "op": SPLIT}, {"from": "x", "to": "y", "op": {"transpose": [0, 1]}}),
        )
        again = invert(invert(plan).plan).plan
        assert [step.expression for step in again.steps] == [step.expression for step in plan.steps]
        assert (again.reverse, again.source, again.target) == (False, plan.source, plan.target)

    def test_what_an_op_joined_is_parted_with_the_rule_named(self) -> None:
        rule = {"from": "{q,k,v}", "to": "qkv", "op": SPLIT}
        source = manifest({"q": (4, 2), "k": (1, 2), "v": (2, 2)})
        plan = there_and_back(source, manifest({"qkv": (7, 2)}), key_map(rule)).plan
        split = parse_op({"split": {"dim": 0, "sizes": [4, 1, 2]}})
        assert [step.expression for step in plan.steps] == [Apply(split, (Take("qkv"),), place) for place in range(3)]
        assert {step.rule for step in plan.steps} == {plan.maps[0].rules[0].location}
        assert [step.given.shape for step in plan.steps if step.given] == [spec.shape for spec in source.values()]

    def test_what_an_op_parted_is_joined(self) -> None:
        rule = {"from": "w", "to": "w.{e:int}", "op": {"unstack": {"dim": 1}}}
        plan = there_and_back(
            manifest({"w": (2, 3)}), manifest({"w.0": (2,), "w.1": (2,), "w.2": (2,)}), key_map(rule)
        ).plan
        assert outcome(plan) == {"w": "computed w.0 w.1 w.2"}
        assert [op.describe() for op in ops_of(plan.steps[0].expression)] == ["stack(1)"]

    def test_a_row_of_ops_is_undone_from_its_end(self) -> None:
        rule = {"from": "w", "to": "w", "op": [{"reshape": [2, 3, 4]}, {"permute": [2, 0, 1]}, {"cast": "float64"}]}
        plan = there_and_back(manifest({"w": (6, 4)}), None, key_map(rule)).plan
        assert [op.describe() for op in ops_of(plan.steps[0].expression)] == [
            "cast(float32)",
            "permute(1, 2, 0)",
            "reshape(6, 4)",
        ]

    def test_several_maps_one_after_the_other(self) -> None:
        one, two = key_map(("a", "b")), key_map({"from": "b", "to": "c", "op": {"transpose": [0, 1]}})
        inversion = there_and_back(manifest("a"), manifest({"c": (3, 2)}), one, two)
        assert outcome(inversion.plan) == {"a": "computed c"}
        assert inversion.plan.maps == (one, two)

    def test_of_several_copies_the_simplest_and_the_others_are_dropped(self) -> None:
        rules = [{"from": "a", "to": to, "op": op} for to, op in (("t", {"transpose": [0, 1]}), ("c", []), ("d", []))]
        rules = [{name: value for name, value in rule.items() if value} for rule in rules]
        plan = there_and_back(manifest("a"), manifest({"t": (3, 2), "c": (2, 3), "d": (2, 3)}), key_map(*rules)).plan
        assert outcome(plan) == {"a": "renamed c"}
        assert left(plan) == {"t": "dropped", "d": "dropped"}
        assert whys(plan)["d"] == "a comes back from another tensor"

    def test_a_copy_of_the_same_name_comes_first(self) -> None:
        rules = [("a", "0"), ("a", "a")]
        assert outcome(there_and_back(manifest("a"), manifest("0 a"), key_map(*rules)).plan) == {"a": "loaded a"}

    def test_a_part_alone_where_another_way_is_simpler(self) -> None:
        rules = [{"from": "{a,b}", "to": "ab", "op": SPLIT}, ("a", "a")]
        inversion = there_and_back(manifest("a b"), manifest({"ab": (4, 3), "a": (2, 3)}), key_map(*rules))
        assert outcome(inversion.plan) == {"a": "loaded a", "b": "computed ab"}
        written = inverse_map(inversion, inversion.plan.maps[0])
        assert "slice" in written.text, "a rule cannot leave out a part of a split"
        back = make_plan(inversion.plan.source, inversion.plan.target, parse_map(written.text))
        assert outcome(back) == outcome(inversion.plan)


class TestTies:
    def test_one_brings_the_other_back(self) -> None:
        source = manifest("emb head", tied={"head": "emb"})
        for dropped, used in (("emb", "head"), ("head", "emb")):
            inversion = there_and_back(source, manifest("w"), key_map((used, "w"), drop=dropped))
            assert outcome(inversion.plan) == {used: "renamed w", dropped: "tied"}
            assert inversion.bijective == 2

    def test_what_the_target_ties_is_not_needed(self) -> None:
        target = manifest("w v", tied={"v": "w"})
        plan = there_and_back(manifest("a"), target, key_map(("a", "w"))).plan
        assert (outcome(plan), left(plan)) == ({"a": "renamed w"}, {"v": "dropped"})
        assert whys(plan)["v"] == "tied on the way there: shares memory with w"


class TestWhatDoesNot:
    def test_dropped_is_fresh_and_fresh_is_dropped(self) -> None:
        plan = there_and_back(manifest("a b"), manifest("a new"), key_map(drop="b", fresh="new")).plan
        assert outcome(plan) == {"a": "loaded a", "b": "fresh"}
        assert left(plan) == {"new": "dropped"}
        assert whys(plan) == {
            "b": "dropped on the way there: a reason",
            "new": "fresh on the way there: a reason",
        }

    def test_what_was_not_declared_there_is_not_here(self) -> None:
        source, target = manifest({"a": (2,), "u": (1,), "x": (2,)}), manifest({"a": (2,), "m": (1,), "x": (3,)})
        plan = there_and_back(source, target, key_map()).plan
        assert outcome(plan) == {"a": "loaded a", "u": "missing", "x": "mismatched x"}
        assert left(plan) == {"m": "unexpected", "x": "mismatched"}
        assert not evaluate(plan, make_policy(fail_on=["mismatched"])).passed

    def test_an_op_without_inverse_is_said_with_its_rule(self) -> None:
        rule = {"from": "p.{i}", "to": "p.{i}", "op": {"scale": 0.3}}
        inversion = there_and_back(manifest("p.0 p.1 q"), manifest("p.0 p.1 q"), key_map(rule, file="x.yaml"))
        (lost,) = inversion.lost
        assert (lost.keys, lost.op, lost.place) == (("p.0", "p.1"), "scale", "x.yaml:1 (scale)")
        assert (inversion.bijective, inversion.total) == (1, 3)
        assert left(inversion.plan) == {"p.0": "dropped", "p.1": "dropped"}
        with pytest.raises(
            PlanError, match=r"x\.yaml:1:\d+: scale cannot be undone: .*; p\.0, p\.1 would not"
        ) as caught:
            inversion.check()
        assert (caught.value.rule, caught.value.keys) == (lost.rule, lost.keys)
        assert caught.value.hint

    def test_all_that_is_lost_is_said_at_once(self) -> None:
        rules = [
            {"from": "a", "to": "a", "op": {"scale": 0.3}},
            {"from": "b", "to": "b", "op": {"slice": {"dim": 1, "stop": 2}}},
        ]
        inversion = there_and_back(manifest("a b"), manifest({"a": (2, 3), "b": (2, 2)}), key_map(*rules))
        with pytest.raises(PlanError) as caught:
            inversion.check()
        assert [problem.keys for problem in caught.value.problems] == [("a",), ("b",)]

    def test_the_op_in_the_middle_is_the_one_that_is_named(self) -> None:
        rule = {"from": "{a,b}", "to": "ab", "op": [{"scale": 0.3}, SPLIT, {"transpose": [0, 1]}]}
        inversion = there_and_back(manifest("a b"), None, key_map(rule))
        assert [(lost.op, lost.keys) for lost in inversion.lost] == [("scale", ("a", "b"))]

    def test_a_part_that_a_later_map_drops(self) -> None:
        one = key_map({"from": "ab", "to": "{a,b}", "op": {"split": {"parts": 2}}})
        inversion = there_and_back(manifest({"ab": (4, 3)}), manifest("a"), one, key_map(drop="b"))
        assert [(lost.op, lost.reason) for lost in inversion.lost] == [
            ("split", "only 1 of the 2 tensors that it makes are there")
        ]

    def test_a_cast_that_rounds(self) -> None:
        inversion = there_and_back(manifest("a"), None, key_map({"from": "a", "to": "a", "op": {"cast": "float16"}}))
        assert [lost.op for lost in inversion.lost] == ["cast"]

    def test_an_exact_cast_of_what_is_there_in_a_wider_type(self) -> None:
        source, rule = manifest("a", dtype="bfloat16"), {"from": "a", "to": "a", "op": {"cast": "float32"}}
        assert there_and_back(source, manifest("a", dtype="float32"), key_map(rule)).lost == ()
        (lost,) = there_and_back(source, manifest("a", dtype="float64"), key_map(rule)).lost
        assert lost.reason == "a is float64, and float32 is what it makes"

    def test_another_dtype_alone_is_kept_and_noted(self) -> None:
        plan = there_and_back(manifest("a", dtype="bfloat16"), manifest("a"), key_map()).plan
        assert [step.other_dtype for step in plan.steps] == [True]
        assert not evaluate(plan, make_policy(fail_on=["dtype"])).passed

    def test_a_copy_that_fills_a_fresh_tensor_is_a_way_only_where_there_is_no_other(self) -> None:
        fresh = [{"keys": "b", "why": "new", "init": {"copy": "a"}}]
        copied = parse_map(str({"ckptdoctor": 1, "fresh": fresh}))
        assert outcome(there_and_back(manifest("a"), manifest("a b"), copied).plan) == {"a": "loaded a"}
        assert outcome(there_and_back(manifest("a"), manifest("b"), copied).plan) == {"a": "renamed b"}

    def test_edits_around_the_weights(self) -> None:
        document = {"ckptdoctor": 1, "envelope": {"add": {"hyper_parameters/new": 1}, "set": {"epoch": 0}}}
        inversion = there_and_back(manifest("a"), manifest("a"), parse_map(str(document), "x.yaml"))
        (edit,) = inversion.plan.maps[0].envelope
        assert (edit.action, edit.path) == ("drop", ("hyper_parameters", "new"))
        assert [(lost.op, lost.keys) for lost in inversion.lost] == [("envelope set", ())]


class TestTheMap:
    def test_patterns_where_they_say_the_same(self) -> None:
        rules = [("a.{i}.{n}", "b.{n}.{i}"), {"from": "c.{i}.{q,k}", "to": "c.{i}.qk", "op": SPLIT}]
        source = manifest("a.0.w a.1.w c.0.q c.0.k c.1.q c.1.k")
        text = written(there_and_back(source, None, key_map(*rules)))
        assert "{from: 'b.{n}.{i}', to: 'a.{i}.{n}'}" in text
        assert "{from: 'c.{i}.qk', to: 'c.{i}.{q,k}', op: {split: {dim: 0, sizes: [2, 2]}}}" in text

    def test_literal_keys_where_they_do_not(self) -> None:
        text = written(
            there_and_back(manifest("a.0 a.1"), manifest("b.0 b.1 b.2"), key_map(("a.{i}", "b.{i}"), fresh="b.2"))
        )
        assert "{from: b.0, to: a.0}" in text
        assert "{from: b.1, to: a.1}" in text

    def test_two_axes(self) -> None:
        rule = {"from": "{e:int}.{gate,up}", "to": "both", "op": [SPLIT, {"stack": {"dim": 0}}]}
        keys = [f"{e}.{name}" for e in range(3) for name in ("gate", "up")]
        text = written(there_and_back(manifest(dict.fromkeys(keys, (2, 3))), None, key_map(rule)))
        assert (
            "{from: both, to: '{e:int}.{gate,up}', op: [{unstack: {dim: 0}}, {split: {dim: 0, sizes: [2, 2]}}]}" in text
        )

    @pytest.mark.parametrize(
        "key",
        [
            "a{x}",
            "}",
            "{{",
            "a: b",
            "- a",
            "true",
            "1.2",
            "'\"",
            "é 层",
            "\u2028",
            "\x85",
            "#",
            "a\n b",
            "\x00",
            "\ufeff",
        ],
    )
    def test_awkward_keys(self, key: str) -> None:
        plan = make_plan(Manifest([spec(key), spec("n"), spec("d")]), Manifest([spec("z"), spec(f"{key}2")]))
        steps = (plan.steps[0]._replace(status="renamed", expression=Take(key), given=plan.source[key]), plan.steps[1])
        rest = tuple(rest for rest in plan.remainders if rest.source.key != key)
        inversion = invert(replace(plan, steps=steps, remainders=rest, maps=(key_map(),)))
        back = make_plan(plan.target, plan.source, parse_map(inverse_map(inversion, key_map()).text))
        assert outcome(back)[key] == "renamed z"

    @pytest.mark.parametrize("key", ["a*", "a..b", ".", "\ud800"])
    def test_keys_that_no_pattern_names(self, key: str) -> None:
        plan = make_plan(Manifest([spec(key)]), Manifest([spec("z")]))
        step = plan.steps[0]._replace(status="renamed", expression=Take(key), given=plan.source[key])
        inversion = invert(replace(plan, steps=(step,), remainders=(), maps=(key_map(),)))
        text, lost = inverse_map(inversion, key_map())
        assert [(each.keys, each.op) for each in lost] == [((key,), "rename")]
        assert parse_map(text).rules == ()

    def test_what_is_lost_is_fresh_and_dropped(self) -> None:
        rule = {"from": "p", "to": "p", "op": {"scale": 0.3}}
        inversion = there_and_back(manifest("p"), manifest("p"), key_map(rule, file="x.yaml"))
        back = make_plan(inversion.plan.source, inversion.plan.target, parse_map(written(inversion)))
        assert outcome(back) == {"p": "fresh"}, "a tensor of the same name is another one"
        assert left(back) == {"p": "dropped"}
        assert "x.yaml:1 (scale)" in str(back.steps[0].why)

    def test_joining_what_was_reshaped_each_in_its_way_cannot_be_said(self) -> None:
        rule = {"from": "w", "to": "{a,b}", "op": [{"split": {"sizes": [1, 2]}}, {"reshape": [-1]}]}
        inversion = there_and_back(manifest({"w": (3, 2)}), None, key_map(rule))
        text, lost = inverse_map(inversion, key_map(rule))
        assert [each.keys for each in lost] == [("w",)]
        back = make_plan(inversion.plan.source, inversion.plan.target, parse_map(text))
        assert (outcome(back), left(back)) == ({"w": "fresh"}, {"a": "dropped", "b": "dropped"})

    def test_one_that_is_too_long(self) -> None:
        keys = [f"{'long.' * 400}{number}" for number in range(300)]
        source, target = manifest(" ".join(keys)), manifest(" ".join([*(f"n.{key}" for key in keys), "n.x"]))
        inversion = there_and_back(source, target, key_map(("{*k}", "n.{*k}"), fresh="n.x"))
        with pytest.raises(UsageError, match="at most 1 MiB") as caught:
            inverse_map(inversion, inversion.plan.maps[0])
        assert "--reverse" in str(caught.value.hint)


def written(inversion: Inversion) -> str:
    """The map, which is first shown to make the very expressions of the inverse."""
    text = inverse_map(inversion, inversion.plan.maps[0]).text
    back = make_plan(inversion.plan.source, inversion.plan.target, parse_map(text))
    assert [step.expression for step in back.steps] == [step.expression for step in inversion.plan.steps]
    return text


def spec(key: str) -> TensorSpec:
    return TensorSpec(key, (2, 3), DTYPES["float32"])


def test_a_large_plan_is_inverted_in_a_second() -> None:
    import time

    layers = range(4000)
    source = manifest(dict.fromkeys((f"{i}.{n}" for i in layers for n in "qkv"), (1, 1)))
    rule = {"from": "{i}.{q,k,v}", "to": "{i}.qkv", "op": SPLIT}
    stacked = {"from": "{i:int}.{n}", "to": "{n}", "op": {"stack": {"dim": 0}}}
    for rules in ([rule], [stacked]):
        plan = make_plan(source, None, key_map(*rules))
        start = time.perf_counter()
        inversion = invert(plan)
        assert time.perf_counter() - start < 5
        assert inversion.bijective == len(source)


def test_copies_of_which_one_comes_back_are_said() -> None:
    back = there_and_back(manifest("k a"), None, key_map(("k", "k1"), ("k", "k2"), ("a", "b")))
    (warning,) = back.plan.warnings
    assert warning.startswith("of several copies one is taken: k from k1; whether the others are still equal")
    repeated = key_map({"from": "k", "to": "kk", "op": {"repeat": {"dim": 0, "times": 2}}})
    assert "k from kk" in there_and_back(manifest("k"), None, repeated).plan.warnings[0]
    both = key_map({"from": "k", "to": "k.{0,1}", "op": "broadcast"})
    assert there_and_back(manifest("k"), None, both).plan.warnings == (), "same() looks"
    tied = manifest("k1 k2", tied={"k2": "k1"})
    assert there_and_back(manifest("k"), tied, key_map(("k", "k1"), ("k", "k2"))).plan.warnings == ()
