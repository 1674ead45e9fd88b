"""What every kind of report promises, over the tables: a new kind, or a new result, is covered by being in them."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptdoctor.errors import UsageError
from ckptdoctor.health import Health, Loss, Specials, TensorHealth
from ckptdoctor.keymap import parse_map
from ckptdoctor.model import DTYPES, Manifest, Origin, TensorSpec
from ckptdoctor.plan import make_plan
from ckptdoctor.policy import evaluate, make_policy
from ckptdoctor.receipt import Receipt, TensorReceipt
from ckptdoctor.reports import PAGES, RENDERERS, page_of, render
from ckptdoctor.reports.base import Page, Style
from ckptdoctor.reports.comparison import Comparison
from ckptdoctor.reports.inspection import Inspection
from ckptdoctor.reports.schema import report_schema
from ckptdoctor.triaging.types import Expectation, Failure, Observation, Thresholds, Triage
from ckptdoctor.verification import Verification
from ckptdoctor.verification.types import Check, Problem

NASTY = [
    "\x1b[31mred",
    "a\nb",
    "a\r\nb",
    "tab\tb",
    "nul\0",
    "\u202egpj",
    "\u2028line",
    "\x9bK",
    "\u200bzero",
    "\ud800",
    "\x7f",
]
PLAIN = [
    "blocks.0.w",
    "a|b",
    "`c`",
    "**d**",
    "<b>e</b>",
    "[f](g)",
    "~~h~~",
    "&lt;",
    "_i_",
    "\\j",
    "größe",
    "层.w",
    "k l",
]


def manifest(keys: list[str], numel: int = 6, reference: str = "some.ckpt", **fields: Any) -> Manifest:
    dtype = DTYPES[fields.pop("dtype", "float32")]
    specs = [TensorSpec(key, (numel,), dtype, **fields) for key in keys]
    return Manifest(
        specs, Origin(reference, "torch", 1_234_567, "state_dict", ("module",), (f"a note on {reference}",))
    )


def comparison(
    names: list[str], *, judged: dict[str, Any] | None = None, target: bool = True, **shown: Any
) -> Comparison:
    """One tensor of every name for every status a plan knows."""
    of = {status: [f"{status}.{name}" for name in names] for status in ("same", "dtype", "old", "more", "drop", "new")}
    source = [*manifest(of["same"] + of["old"] + of["more"] + of["drop"] + ["turn"]).values()]
    source += [*manifest(of["dtype"], dtype="bfloat16").values(), *manifest(["odd"], 7).values()]
    wanted = [*manifest(of["same"] + of["dtype"] + ["odd", "lost"], kind="parameter").values()]
    wanted += [*manifest([f"moved.{name}" for name in names] + of["new"] + ["turned"], kind="parameter").values()]
    wanted += [*manifest(["stats", "tie"], 11, kind="buffer").values()]
    wanted[-1] = TensorSpec("tie", (6,), DTYPES["float32"], "parameter", "turned")
    rules: list[dict[str, Any]] = [
        {"from": "old.{*k}", "to": "moved.{*k}"},
        {"from": "turn", "to": "turned", "op": {"reshape": [6]}},
    ]
    fresh = [{"keys": ["new.{*k}", "stats"], "why": f"new {names[0]}"}] if target else []
    drop = [{"keys": "drop.{*k}", "why": f"old {names[0]}"}]
    text = json.dumps({"ckptdoctor": 1, "rules": rules, "fresh": fresh, "drop": drop})
    origin = manifest([], reference=f"{names[0]}.ckpt").origin
    plan = make_plan(
        Manifest(source, origin), Manifest(wanted, origin) if target else None, parse_map(text, f"{names[0]}.yaml")
    )
    verdict = None if judged is None else evaluate(plan, make_policy(**judged))
    status = 0 if verdict is None or verdict.passed else 1
    return Comparison("diff" if verdict is None else "gate", plan, verdict, status, **shown)


def receipt(names: list[str]) -> Receipt:
    tensors = tuple(TensorReceipt(key, key, "renamed", (key,), (), (6,), "float32", "0" * 64) for key in names)
    source, output = {"reference": f"{names[0]}.ckpt"}, {"format": "torch", "bytes": 1234}
    return Receipt(
        f"{names[0]}.out", {}, ("remap",), source, output, None, (), tensors, (names[0],), (f"note {names[0]}",)
    )


def verification(names: list[str], *, good: bool) -> Verification:
    problems = tuple(Problem(name, f"differs from {names[0]}") for name in names)
    wrong = Check("digests", "failed", f"{len(names)} differ", problems, len(names), notes=(f"a note {names[0]}",))
    right = Check("digests", "passed", "all agree", checked=len(names), notes=("a note",))
    others = (Check("source", "skipped", f"{names[0]} is gone"), Check("load", "skipped", "no target was given"))
    side = manifest(names, reference=f"{names[0]}.ckpt")
    return Verification(side, receipt(names), None, side, (right if good else wrong, *others), health(names))


def health(names: list[str]) -> Health:
    losses = {DTYPES["float16"]: Loss(3, 4), DTYPES["float8_e5m2"]: Loss(1, 6, vanishes=True)}
    found = [TensorHealth("0" * 64, Specials(2, 1), losses=losses), TensorHealth("1" * 64, constant="0", zero=True)]
    tensors = {key: found[number % 2] for number, key in enumerate(names)}
    return Health(tensors, (tuple(names),), (f"{names[0]} is odd",))


def triage(names: list[str], *, failed: bool = False) -> Triage:
    first = Observation(0.9, "0.9", 12, f"val_loss={names[0]}")
    expected = Expectation(0.3557, f"{names[0]}.ckpt")
    failure = Failure("NCCL", 1_234, f"NCCL error {names[0]}")
    common: dict[str, Any] = {"notes": (f"a note {names[0]}",), "next_step": f"look at {names[0]}"}
    if failed:
        return Triage(f"{names[0]}.log", "val_loss", "infrastructure", Thresholds(), failure=failure, **common)
    judged = {"first": first, "expectation": expected, "ratio": 2.53, "failure": failure}
    return Triage(f"{names[0]}.log", "val_loss", "loading problem", Thresholds(), **judged, **common)


def results(names: list[str]) -> dict[str, Any]:
    strict = {"fail_on": ["mismatched", "dtype", "tied", "unexpected", "buffers"], "max_random": "1%"}
    return {
        "diff": comparison(names),
        "diff --all": comparison(names, every_key=True),
        "diff --match": comparison(names, only=frozenset({"odd", "turned"})),
        "diff without a target": comparison(names, target=False),
        "gate, failed": comparison(names, judged=strict),
        "gate, passed": comparison(names, judged={"max_random": "100%"}),
        "a plan": comparison(names).plan,
        "a verdict": comparison(names, judged=strict).verdict,
        "inspect": Inspection(manifest(names), facts=(f"a fact {names[0]}",)),
        "inspect --stats": Inspection(manifest(names), health=health(names)),
        "inspect a target": Inspection(manifest(names, kind="buffer"), is_target=True, every_key=True),
        "written": receipt(names),
        "verify, failed": verification(names, good=False),
        "verify, passed": verification(names, good=True),
        "triage": triage(names),
        "triage of a crash": triage(names, failed=True),
    }


RESULTS = results(PLAIN)
COMPARISONS = {name: result for name, result in RESULTS.items() if isinstance(result, Comparison)}
every_kind = pytest.mark.parametrize("kind", RENDERERS)
every_result = pytest.mark.parametrize("name", RESULTS)
every_comparison = pytest.mark.parametrize("name", COMPARISONS)


def test_every_result_and_every_status_is_covered() -> None:
    assert {type(result).__name__ for result in RESULTS.values()} == set(PAGES)
    plan = RESULTS["diff"].plan
    assert set(plan.counts) == {"loaded", "renamed", "computed", "tied", "fresh", "missing", "mismatched"}
    assert {rest.status for rest in plan.remainders} == {"unexpected", "dropped", "mismatched"}


class TestEveryKind:
    @every_kind
    def test_is_named_as_in_the_table_and_described(self, kind: str) -> None:
        assert RENDERERS[kind].name == kind
        assert inspect.getdoc(type(RENDERERS[kind]))

    @every_kind
    @every_result
    def test_renders_every_result(self, kind: str, name: str) -> None:
        text = render(RESULTS[name], kind)
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert render(page_of(RESULTS[name]), kind) == text, "a page is a result, too"

    @every_kind
    @every_result
    def test_makes_names_from_files_harmless(self, kind: str, name: str) -> None:
        text = render(results(NASTY)[name], kind)
        assert all(line.isprintable() for line in text.split("\n"))
        coloured = re.sub(r"\x1b\[[0-9;]*m", "", render(results(NASTY)[name], kind, width=80, color=True))
        assert all(line.isprintable() for line in coloured.split("\n"))

    @pytest.mark.parametrize("kind", sorted({*RENDERERS} - {"json"}))
    @every_result
    def test_has_the_sentence_once_and_last(self, kind: str, name: str) -> None:
        sentence = re.escape(page_of(RESULTS[name]).sentence)
        plain = re.sub(r"\\([^a-zA-Z0-9\s])", r"\1", render(RESULTS[name], kind))
        assert re.search(rf"\n(\*\*)?{sentence}(\*\*)?\n\Z", plain)

    @every_kind
    def test_takes_plain_pages(self, kind: str) -> None:
        text = render(Page("title", "All is said.", lambda: {"said": "All is said."}), kind, width=40)
        assert "All is said." in text


@every_kind
def test_plans_and_verdicts_are_shown_as_by_diff_and_gate(kind: str) -> None:
    assert render(RESULTS["a plan"], kind) == render(RESULTS["diff"], kind)
    assert render(RESULTS["a verdict"], kind) == render(RESULTS["gate, failed"], kind)


def test_an_unknown_kind_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no report of the kind 'tabel'") as caught:
        render(RESULTS["diff"], "tabel")
    assert caught.value.hint == "did you mean table?"
    with pytest.raises(TypeError, match="int is no result"):
        render(3)


# --- tables


def rows_of(text: str) -> Iterator[list[str]]:
    """The rows of the first table in a text, folded lines joined, cut at the columns of its head."""
    lines = iter(text.split("\n"))
    head = next(line for line in lines if line.startswith(("STATUS ", "KEY ")))
    starts = [found.start() for found in re.finditer(r"\S+", head)]
    spans = [slice(start, end) for start, end in pairwise([*starts[:3], None])]
    row: list[str] = []
    for line in lines:
        first, key, rest = (line[span].strip() for span in spans)
        if not line:
            break
        if first and row:
            yield row
        row = [first, key, rest] if first else [row[0], row[1] + key, row[2]]
    yield row


class TestTables:
    @every_result
    def test_a_narrow_one_says_the_same_words(self, name: str) -> None:
        wide = "".join(render(RESULTS[name]).split())
        for width in (40, 60, 80, 100):
            narrow = render(RESULTS[name], width=width)
            assert sorted("".join(narrow.split())) == sorted(wide), "nothing is cut off, nothing is added"

    @every_result
    def test_eighty_columns_are_enough_for_what_is_usual(self, name: str) -> None:
        assert max(map(len, render(RESULTS[name], width=80).split("\n"))) <= 80

    @pytest.mark.parametrize("width", [None, *range(40, 100, 7)])
    def test_no_line_begins_with_words_of_a_file(self, width: int | None) -> None:
        word = "error: all is lost "
        keys = [f"{word}{number} {word * 9}" for number in range(3)]
        notes = tuple(f"{number} {word * 20}" for number in range(3))
        lines = render(Inspection(manifest(keys), facts=notes, every_key=True), width=width).split("\n")
        assert sum("error:" in line for line in lines) >= 6
        assert not [line for line in lines if line.startswith(("error", "all", "is", "lost"))]
        assert width is None or max(map(len, lines)) <= max(width, 60), "the columns beside the key need their room"

    def test_shapes_that_need_more_than_the_line_are_not_cut(self) -> None:
        spec = TensorSpec("a.long.key.of.a.tensor", (123_456, 789, 12, 34, 56, 78), DTYPES["float8_e4m3fnuz"])
        target = Manifest([TensorSpec(spec.key, spec.shape, DTYPES["float32"])])
        text = render(Comparison("diff", make_plan(Manifest([spec]), target), every_key=True), width=40)
        ((_, key, rest),) = rows_of(text)
        assert (key, rest.split()[:2]) == (spec.key, ["123456x789x12x34x56x78", "float8_e4m3fnuz"])

    @settings(max_examples=50)
    @given(
        st.lists(st.text("abc.0_", min_size=1, max_size=120), min_size=1, max_size=6, unique=True), st.integers(40, 120)
    )
    def test_every_key_can_be_put_together_again(self, keys: list[str], width: int) -> None:
        plan = make_plan(manifest([]), manifest(keys))
        shown = list(rows_of(render(Comparison("diff", plan, every_key=True), width=width)))
        assert [row[1] for row in shown] == keys
        assert {row[0] for row in shown} == {"+ missing"}

    def test_without_a_width_a_key_has_its_line(self) -> None:
        keys = ["x" * 500, "y" * 2000]
        lines = render(Comparison("diff", make_plan(manifest([]), manifest(keys)), every_key=True)).split("\n")
        assert [line.split()[2] for line in lines if line.startswith("+ ")] == keys

    def test_a_key_that_stands_on_both_sides_has_two_rows(self) -> None:
        rename = parse_map("ckptdoctor: 1\nrules: [{from: a, to: b}]")
        plan = make_plan(manifest(["a", "b"]), manifest(["b"]), rename)
        for every_key in (False, True):
            shown = [row[:2] for row in rows_of(render(Comparison("diff", plan, every_key=every_key)))]
            assert shown == [["~ renamed", "b <- a"], ["- unexpected", "b"]]

    @pytest.mark.parametrize("key", ["a", "b"])
    def test_what_is_renamed_is_shown_for_either_name(self, key: str) -> None:
        rename = parse_map("ckptdoctor: 1\nrules: [{from: a, to: b}]")
        plan = make_plan(manifest(["a", "c"]), manifest(["b", "c"]), rename)
        shown = [row[1] for row in rows_of(render(Comparison("diff", plan, only=frozenset({key}))))]
        assert shown == ["b <- a"]

    def test_swaps_are_not_shown_as_if_the_order_were_kept(self) -> None:
        swap = parse_map("ckptdoctor: 1\nrules: [{from: 'n{0,1,2}', to: 'n{1,2,0}'}]")
        keys = ["n0", "n1", "n2"]
        shown = {row[1] for row in rows_of(render(Comparison("diff", make_plan(manifest(keys), manifest(keys), swap))))}
        assert shown == {"n1 <- n0", "n2 <- n1", "n0 <- n2"}
        along = parse_map("ckptdoctor: 1\nrules: [{from: 'm.{i}', to: 'n.{i}'}]")
        plan = make_plan(manifest(["m.0", "m.1"]), manifest(["n.0", "n.1"]), along)
        assert [row[1] for row in rows_of(render(Comparison("diff", plan)))] == ["n.{0,1} <- m.{0,1}"]

    def test_numbers_are_grouped_on_the_screen_and_exact_in_json(self) -> None:
        result = Comparison("diff", make_plan(manifest([]), manifest(["a"], 1_234_567)))
        assert "1,234,567" in render(result)
        assert "1234567" in render(result, "json")

    def test_colour_only_repeats(self) -> None:
        result = RESULTS["gate, failed"]
        coloured = render(result, color=True)
        assert "\x1b[" in coloured
        assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == render(result)

    @every_result
    def test_warnings_are_left_to_stderr(self, name: str) -> None:
        page = page_of(RESULTS[name])
        assert page.warnings
        assert all(warning not in render(page) for warning in page.warnings)
        assert all("**warning:**" in line for line in render(page, "markdown").split("\n") if line.startswith("> "))


def test_markdown_rows_have_one_cell_a_column() -> None:
    for result in RESULTS.values():
        for table in re.findall(r"(?:^\|.*\n)+", render(result, "markdown"), re.MULTILINE):
            widths = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines()}
            assert len(widths) == 1


# --- JSON


def data_of(name: str) -> Any:
    return json.loads(render(RESULTS[name], "json"))


def check(value: Any, schema: Mapping[str, Any], at: str = "report") -> None:
    """JSON Schema, as much of it as the report's schema uses."""
    known = {"$schema", "title", "type", "properties", "required", "items", "enum", "const", "minimum", "maximum"}
    assert set(schema) <= known, f"{at}: this test does not know {set(schema) - known}"
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}
    types |= {"integer": int, "number": (int, float)}  # type: ignore[dict-item]
    if "type" in schema:
        wanted = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
        fits = [isinstance(value, types[name]) and (name == "boolean") == isinstance(value, bool) for name in wanted]
        assert any(fits), f"{at}: {value!r} is not {wanted}"
    assert value in schema.get("enum", [value]), at
    assert value == schema.get("const", value), at
    if isinstance(value, int | float):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), at
    if isinstance(value, dict):
        assert set(schema.get("required", ())) <= set(value), at
        for name, inner in schema.get("properties", {}).items():
            check(value[name], inner, f"{at}.{name}")
    for number, item in enumerate(value if isinstance(value, list) else ()):
        check(item, schema["items"], f"{at}[{number}]")


STATUSES = "loaded renamed computed tied fresh missing mismatched"
DESIGN = {  # section 5, name by name
    "": "schema tool command source target maps summary keys checks passed exit_status",
    "source": "path format tensors parameters bytes fingerprint selected stripped",
    "target": "reference kind tensors parameters fingerprint",
    "maps": "path sha256",
    "summary": "parameters_total parameters_loaded parameters_random random_share parameters_fresh "
    f"{STATUSES} unexpected dropped parameters_unexpected buffers_random",
    "keys": "status target sources shape source_shape dtype parameters rule allowed why",
    "checks": "id limit found passed keys where",
}


class TestJson:
    @every_comparison
    def test_conforms_to_its_schema(self, name: str) -> None:
        check(data_of(name), report_schema())

    def test_the_check_of_this_test_finds_what_is_wrong(self) -> None:
        good = data_of("gate, failed")
        for spoilt in (
            {**good, "passed": 1},
            {**good, "exit_status": 2},
            {**good, "summary": {**good["summary"], "loaded": -1}},
            {**good, "keys": [{**good["keys"][0], "status": "gone"}]},
            {**good, "source": None},
            {key: value for key, value in good.items() if key != "maps"},
        ):
            with pytest.raises((AssertionError, KeyError)):
                check(spoilt, report_schema())

    @pytest.mark.parametrize("place", DESIGN)
    @every_comparison
    def test_has_the_fields_of_the_design(self, name: str, place: str) -> None:
        found = data_of(name)[place] if place else data_of(name)
        schema: Any = report_schema()
        schema = schema["properties"][place] if place else schema
        names = set(DESIGN[place].split())
        assert names <= set(schema.get("items", schema)["required"])
        for each in found if isinstance(found, list) else [found]:
            assert each is None or names <= set(each)

    @every_comparison
    def test_lists_are_sorted(self, name: str) -> None:
        report = data_of(name)
        order = [(row["target"] or "", row["sources"]) for row in report["keys"]]
        assert order == sorted(order)
        assert len(order) == len({(target, *sources) for target, sources in order})
        assert report["source"]["stripped"] == sorted(report["source"]["stripped"])
        assert [each["id"] for each in report["checks"]] == sorted(each["id"] for each in report["checks"])
        assert all(each["keys"] == sorted(each["keys"]) for each in report["checks"])

    @every_comparison
    def test_adds_up(self, name: str) -> None:
        report, plan = data_of(name), COMPARISONS[name].plan
        summary, rows = report["summary"], report["keys"]
        for status in (*STATUSES.split(), "unexpected", "dropped"):
            assert summary[status] == sum(row["status"] == status for row in rows)
        assert sum(summary[status] for status in STATUSES.split()) == len(plan.target)
        assert summary["parameters_total"] == summary["parameters_loaded"] + summary["parameters_random"]
        assert summary["parameters_total"] == sum(row["parameters"] for row in rows if row["target"] is not None)
        assert summary["random_share"] == summary["parameters_random"] / summary["parameters_total"]
        assert {key for row in rows for key in row["sources"]} == set(plan.source)
        assert {row["target"] for row in rows if row["target"]} == set(plan.target)

    def test_of_one_row_of_each_sort(self) -> None:
        rows = {row["target"] or row["sources"][0]: row for row in data_of("gate, failed")["keys"]}
        moved, drop = rows["moved.a|b"], rows["drop.a|b"]
        assert (moved["status"], moved["sources"], moved["shape"], moved["source_shape"]) == (
            "renamed",
            ["old.a|b"],
            [6],
            [6],
        )
        assert moved["rule"] == {"file": "blocks.0.w.yaml", "line": 1}
        assert (drop["target"], drop["shape"], drop["source_shape"], drop["why"]) == (None, None, [6], "old blocks.0.w")
        assert (rows["odd"]["shape"], rows["odd"]["source_shape"]) == ([6], [7])
        assert (rows["lost"]["sources"], rows["lost"]["source_shape"], rows["lost"]["rule"]) == ([], None, None)
        assert (rows["tie"]["parameters"], rows["tie"]["source_shape"]) == (0, None)
        assert (rows["dtype.a|b"]["dtype"], rows["dtype.a|b"]["source_dtype"]) == ("float32", "bfloat16")

    def test_allowed_keys_are_marked(self) -> None:
        result = comparison(PLAIN, judged={"allow_random": ["lost"], "allow_unexpected": ["more.{*k}"]})
        rows = json.loads(render(result, "json"))["keys"]
        allowed = {row["target"] or row["sources"][0] for row in rows if row["allowed"]}
        assert allowed == {"lost", *(f"more.{name}" for name in PLAIN)}

    def test_a_verdict_is_there_or_null(self) -> None:
        assert [data_of(name)["passed"] for name in ("diff", "gate, failed", "gate, passed")] == [None, False, True]
        assert [data_of(name)["exit_status"] for name in ("diff", "gate, failed", "gate, passed")] == [0, 1, 0]
        assert data_of("diff")["checks"] == []
        assert data_of("diff without a target")["target"] is None

    def test_keys_are_exact_whatever_they_are(self) -> None:
        rows = json.loads(render(results(NASTY)["diff"], "json"))["keys"]
        assert {row["target"] for row in rows} >= {f"same.{name}" for name in NASTY}

    @pytest.mark.parametrize("name", sorted({*RESULTS} - {*COMPARISONS}))
    def test_other_results_name_their_schema(self, name: str) -> None:
        assert re.fullmatch(r"ckptdoctor/[a-z]+/1", data_of(name)["schema"])


def test_a_style_is_only_a_wish() -> None:
    for renderer in RENDERERS.values():
        assert "lost" in renderer.render(page_of(RESULTS["diff"]), Style())
