"""The judgement: limits, each check, what may be allowed, and what holds if nothing is said."""

from __future__ import annotations

import json
from fractions import Fraction
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.errors import UsageError
from ckptdoctor.keymap import parse_map
from ckptdoctor.model import DTYPES, Manifest, Origin, TensorSpec
from ckptdoctor.plan import Plan, make_plan
from ckptdoctor.policy import FAIL_ON, Finding, Limit, evaluate, make_policy, matches_any, parse_pattern


def manifest(*rows: str) -> Manifest:
    """Tensors written as `key numel`, with `buffer`, `float16` or `=first` (tied to it) behind where wanted."""
    specs = []
    for row in rows:
        key, numel, *more = row.split()
        tied = next((word[1:] for word in more if word.startswith("=")), None)
        dtype = DTYPES[next((word for word in more if word in DTYPES), "float32")]
        specs.append(TensorSpec(key, (int(numel),), dtype, "buffer" if "buffer" in more else "parameter", tied))
    return Manifest(specs)


def plan_of(source: list[str], target: list[str], dangerous: tuple[str, ...] | None = (), **declared: str) -> Plan:
    entries = {name: [{"keys": keys, "why": "w"}] for name, keys in declared.items()}
    given = manifest(*source).said_of(Origin("file", "torch", dangerous=dangerous))
    return make_plan(given, manifest(*target), parse_map(json.dumps({"ckptdoctor": 1, **entries})))


def findings(plan: Plan, **policy: object) -> dict[str, Finding]:
    return {finding.id: finding for finding in evaluate(plan, make_policy(**policy)).findings}  # type: ignore[arg-type]


class TestLimits:
    @pytest.mark.parametrize(
        ("text", "total", "most"),
        [
            ("0", 100, 0),
            ("2", 100, 2),
            (" 7 ", 100, 7),
            ("10_000", 10**6, 10_000),
            ("1,234,567", 10**7, 1_234_567),
            ("0%", 100, 0),
            ("0%", 0, 0),
            ("100%", 100, 100),
            ("7%", 100, 7),
            ("0.1%", 1_000, 1),
            ("0.1%", 999, 0),
            ("33.3%", 1_000, 333),
            ("9.0 %", 100, 9),
            ("9%", 99, 8),
            ("29%", 10**17, 29 * 10**15),
            ("0.000001%", 10**8, 1),
        ],
    )
    def test_are_exact_at_the_boundary(self, text: str, total: int, most: int) -> None:
        limit = Limit.parse(text)
        assert limit.text == text.strip()
        assert limit.allows(most, total)
        assert not limit.allows(most + 1, total)

    @given(st.integers(0, 10**6), st.integers(0, 10**18))
    def test_a_percentage_is_a_fraction_and_no_float(self, millionths: int, total: int) -> None:
        whole, rest = divmod(millionths, 10**4)
        limit, most = Limit.parse(f"{whole}.{rest:04d}%"), floor(Fraction(millionths, 10**6) * total)
        assert limit.allows(most, total)
        assert not limit.allows(most + 1, total)

    @pytest.mark.parametrize(
        "text",
        [
            *["", " ", "1 2", "% 5", "\u0663", "\u0663%", "9" * 5000, "9" * 5000 + "%"],
            *["-1", "+1", "1.5", "0.1", "1e3", "0x10", "five", "%", "1%%", "-1%", "101%", "100.1%", "nan%"],
            *["0,1", "0,1%", "1,5", "1,00,000", "1_", "_1", "1__0", "1_0"],
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        with pytest.raises(UsageError, match="is no limit") as caught:
            Limit.parse(text)
        assert "2" in caught.value.hint
        with pytest.raises(UsageError):
            make_policy(max_random=text)
        with pytest.raises(UsageError):
            make_policy(max_unexpected=text)


class TestTheDefault:
    def test_all_loaded_passes(self) -> None:
        verdict = evaluate(plan_of(["a 2"], ["a 2"]), make_policy())
        assert verdict.passed
        assert verdict.findings == (Finding("random", 0, "0", True, "parameters"),)

    def test_what_is_declared_fresh_may_be_random(self) -> None:
        assert evaluate(plan_of([], ["a 2"], fresh="a"), make_policy()).passed

    @pytest.mark.parametrize("source", [[], ["a 3"]], ids=["missing", "mismatched"])
    def test_nothing_else_may(self, source: list[str]) -> None:
        verdict = evaluate(plan_of(source, ["a 2", "b 5"], fresh="b"), make_policy())
        assert not verdict.passed
        assert verdict.findings == (Finding("random", 2, "0", False, "parameters", ("a",)),)

    def test_everything_random_fails(self) -> None:
        assert not evaluate(plan_of(["x 2"], ["a 2"]), make_policy()).passed

    def test_allow_random_names_what_may(self) -> None:
        plan = plan_of(["m 1"], ["a.x 2", "a.y 2", "m 2", "b 5"])
        verdict = evaluate(plan, make_policy(allow_random=["a.{p}", "m"]))
        assert [finding.keys for finding in verdict.findings] == [("b",)]
        assert verdict.allowed == {"a.x", "a.y", "m"}
        assert evaluate(plan, make_policy(allow_random=["{*every}"])).passed

    def test_a_pattern_allows_whole_keys_only(self) -> None:
        assert not evaluate(plan_of([], ["aux_head.w 2"]), make_policy(allow_random=["head.w"])).passed
        assert not evaluate(plan_of([], ["head.w 2"]), make_policy(allow_random=["head"])).passed

    def test_buffers_are_counted_as_tensors_not_as_parameters(self) -> None:
        found = findings(plan_of([], ["b 3 buffer", "c 3 buffer"]))["random"]
        assert found == Finding("random", 2, "0", False, "tensors", ("b", "c"))
        both = findings(plan_of([], ["a 5", "b 3 buffer"]))["random"]
        assert (both.found, both.unit, both.keys) == (5, "parameters", ("a", "b"))

    def test_unexpected_and_other_dtypes_are_no_matter_unless_asked(self) -> None:
        assert set(findings(plan_of(["a 2 float16", "x 9"], ["a 2"]))) == {"random"}


class TestMaxRandom:
    PLAN = plan_of(["kept 90", "small 1"], ["kept 90", "small 2", "new 3", "lost 5", "stats 70 buffer"], fresh="new")

    @pytest.mark.parametrize(("limit", "passed"), [("10", True), ("9", False), ("10%", True), ("9.99%", False)])
    def test_counts_missing_mismatched_and_fresh_but_no_buffers(self, limit: str, passed: bool) -> None:
        found = findings(self.PLAN, max_random=limit)["max-random"]
        assert (found.found, found.limit, found.unit, found.passed) == (10, limit, "parameters", passed)
        assert found.keys == (() if passed else ("small", "new", "lost"))

    def test_counts_what_is_allowed_too(self) -> None:
        assert findings(self.PLAN, max_random="9", allow_random=["{*k}"])["max-random"].found == 10

    def test_takes_the_place_of_the_default(self) -> None:
        assert set(findings(self.PLAN, max_random="10")) == {"max-random"}


class TestUnexpected:
    PLAN = plan_of(["a 90", "x.w 6", "x.b 4", "gone 50", "y 2 buffer"], ["a 90"], drop="gone")

    def test_fail_on_counts_tensors(self) -> None:
        found = findings(self.PLAN, fail_on=["unexpected"])["unexpected"]
        assert found == Finding("unexpected", 3, "0", False, "tensors", ("x.w", "x.b", "y"))

    def test_what_is_dropped_or_allowed_is_none(self) -> None:
        verdict = evaluate(self.PLAN, make_policy(fail_on=["unexpected"], allow_unexpected=["x.{p}", "y", "gone"]))
        assert verdict.passed
        assert verdict.allowed == {"x.w", "x.b", "y"}

    @pytest.mark.parametrize(("limit", "passed"), [("10", True), ("9", False), ("6.6%", False), ("6.7%", True)])
    def test_a_limit_counts_parameters_of_the_source(self, limit: str, passed: bool) -> None:
        found = findings(self.PLAN, max_unexpected=limit)["max-unexpected"]
        assert (found.found, found.passed, found.unit) == (10, passed, "parameters")
        assert found.keys == (() if passed else ("x.w", "x.b", "y"))

    def test_the_limit_is_about_what_is_not_allowed(self) -> None:
        assert findings(self.PLAN, max_unexpected="4", allow_unexpected=["x.w"])["max-unexpected"].found == 4

    def test_one_of_both_is_judged(self) -> None:
        assert set(findings(self.PLAN, max_unexpected="10", fail_on=["unexpected"])) == {"random", "max-unexpected"}


TIED = ["a 2", "b 2 =a"]
CHECKS = {
    "mismatched": (plan_of(["a 3"], ["a 2"]), plan_of(["a 2"], ["a 2", "b 2"]), ("a",)),
    "dtype": (plan_of(["a 2 float16"], ["a 2"]), plan_of(["a 3 float16"], ["a 2"]), ("a",)),
    "tied": (plan_of(["a 2", "b 2"], TIED), plan_of(TIED, TIED), ("a", "b")),
    "unexpected": (plan_of(["a 2", "b 2"], ["a 2"]), plan_of(["a 2", "b 2"], ["a 2"], drop="b"), ("b",)),
    "buffers": (plan_of([], ["a 2 buffer"]), plan_of([], ["a 2 buffer"], fresh="a"), ("a",)),
    "unsafe": (plan_of(["a 2"], ["a 2"], ("os.system",)), plan_of(["a 2"], ["a 2"]), ("os.system",)),
}


class TestFailOn:
    def test_every_check_is_covered(self) -> None:
        assert set(CHECKS) == set(FAIL_ON)

    @pytest.mark.parametrize("name", FAIL_ON)
    def test_fails_with_its_keys_and_passes_without_cause(self, name: str) -> None:
        bad, good, keys = CHECKS[name]
        found = findings(bad, fail_on=[name], max_random="100%")[name]
        unit = "globals" if name == "unsafe" else "tensors"
        assert found == Finding(name, len(keys), "0", False, unit, keys)
        found = findings(good, fail_on=[name], max_random="100%")[name]
        assert found == Finding(name, 0, "0", True, unit)

    def test_unsafe_cannot_be_judged_where_nothing_is_known(self) -> None:
        with pytest.raises(UsageError, match="does not say what the checkpoint would run"):
            evaluate(plan_of(["a 2"], ["a 2"], None), make_policy(fail_on=["unsafe"]))

    @pytest.mark.parametrize("name", FAIL_ON)
    def test_is_not_judged_unasked(self, name: str) -> None:
        assert evaluate(CHECKS[name][0], make_policy(max_random="100%")).passed

    def test_several_are_all_judged(self) -> None:
        names = set(findings(CHECKS["dtype"][0], fail_on=FAIL_ON))
        assert names == {"random", *FAIL_ON}

    def test_tied_is_about_values_that_differ(self) -> None:
        assert findings(plan_of(["b 2"], TIED), fail_on=["tied"])["tied"].passed, "one that fills both"
        assert findings(plan_of(["a 2", "b 2"], ["a 2", "b 2"]), fail_on=["tied"])["tied"].passed, "no tie to tear"

    def test_blanks_are_nothing(self) -> None:
        assert make_policy(fail_on=[" dtype ", "", " "]).fail_on == {"dtype"}

    @pytest.mark.parametrize(("name", "hint"), [("dtypes", "did you mean dtype?"), ("zzz", "choose from mismatched, ")])
    def test_an_unknown_name(self, name: str, hint: str) -> None:
        with pytest.raises(UsageError, match=f"there is no check '{name}'") as caught:
            make_policy(fail_on=[name])
        assert hint in caught.value.hint


class TestPatterns:
    def test_a_bad_one_says_where(self) -> None:
        with pytest.raises(UsageError, match=r"pattern 'a\.\{b', character 3: a \{ that is never closed") as caught:
            parse_pattern("a.{b")
        assert caught.value.hint
        with pytest.raises(UsageError):
            make_policy(allow_random=["a..b"])
        with pytest.raises(UsageError):
            make_policy(allow_unexpected=["{}"])

    def test_a_key_that_is_named_in_two_ways_is_named(self) -> None:
        assert matches_any([parse_pattern("{a}{b}")], "xyz")
        assert not matches_any([], "xyz")


ROW = st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.sampled_from(["", "buffer", "float16"])).map(
    lambda row: " ".join(map(str, row)).strip()
)
ROWS = st.lists(ROW, max_size=4, unique_by=lambda row: row[0])


@given(ROWS, ROWS, st.sets(st.sampled_from(FAIL_ON)), st.sampled_from([None, "0", "2", "50%"]))
def test_a_verdict_is_its_findings(source: list[str], target: list[str], fail_on: set[str], limit: str | None) -> None:
    plan = plan_of(source, target)
    verdict = evaluate(plan, make_policy(fail_on=fail_on, max_random=limit, max_unexpected=limit))
    assert verdict.passed == all(finding.passed for finding in verdict.findings)
    assert len({finding.id for finding in verdict.findings}) == len(verdict.findings)
    for finding in verdict.findings:
        total = plan.source.parameters if "unexpected" in finding.id else plan.parameters
        assert finding.passed == Limit.parse(finding.limit).allows(finding.found, total), (
            "a failure shows in its figures"
        )
        assert bool(finding.keys) == (not finding.passed)
