"""Maps: what they become, and every way to get one wrong, each with its exact place."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ckptdoctor.errors import KeyMapError, Location
from ckptdoctor.keymap import KeyMap, load_map, map_schema, parse_map
from ckptdoctor.keymap.document import compose
from ckptdoctor.ops import OPS, parse_op
from ckptdoctor.patterns import Axis, Pattern

MAPPINGS = Path(__file__).parents[2] / "mappings"

GOOD = """\
ckptdoctor: 1
description: Sequential MLP of the early TopoFlow block -> fc1/fc2
source:
  select: model/state_dict
  strip: [module, _orig_mod]
rules:
  - from: "blocks.{i}.mlp.{0,2}.{p}"
    to:   "blocks.{i}.mlp.{fc1,fc2}.{p}"
    expect: 4
  - from: "blocks.{i}.attn.{q,k,v}.{p}"
    to:   "blocks.{i}.attn.qkv.{p}"
    optional: only before March
    except: "blocks.0.attn.{*p}"
  - from: {weight: a.w, scale: a.s}
    to: [b.w]
    op: [transpose: [0, 1], {cast: {to: float16}}]
  - from: [c, d]
    to: [e, f]
    except: [g, h]
fresh:
  - {keys: "blocks.0.attn.{elevation_alpha,H_scale}", why: "new in TopoFlow"}
drop:
  - {keys: ["{*m}.num_batches_tracked", x], why: "a counter", optional: "not in all"}
"""


def problems(text: str) -> list[str]:
    """The problems of a map as `line:column: what; hint`."""
    with pytest.raises(KeyMapError) as caught:
        parse_map(text, "f")
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def problems_after_version(text: str) -> list[str]:
    return problems("ckptdoctor: 1\n" + text)


# --- what a map becomes


def test_a_whole_map():
    keymap = parse_map(GOOD, "good.yaml")
    assert keymap.path == "good.yaml"
    assert keymap.sha256 == hashlib.sha256(GOOD.encode()).hexdigest()
    assert keymap.description == "Sequential MLP of the early TopoFlow block -> fc1/fc2"
    assert keymap.select == ("model", "state_dict")
    assert keymap.strip == ("module", "_orig_mod")
    assert [rule.location for rule in keymap.rules] == [Location("good.yaml", line, 5) for line in (7, 10, 14, 17)]
    assert [len(part) for part in (keymap.rules, keymap.fresh, keymap.drop)] == [4, 1, 1]


def test_a_rename():
    rule = parse_map(GOOD).rules[0]
    assert rule.sources == (Pattern.parse("blocks.{i}.mlp.{0,2}.{p}"),)
    assert rule.targets == (Pattern.parse("blocks.{i}.mlp.{fc1,fc2}.{p}"),)
    assert (rule.input_names, rule.ops, rule.expect, rule.optional, rule.excepts) == ((), (), 4, None, ())
    assert rule.pairings[0].fill(rule.sources[0].match("blocks.1.mlp.2.bias")) == "blocks.1.mlp.fc2.bias"
    assert rule.text == "blocks.{i}.mlp.{0,2}.{p} -> blocks.{i}.mlp.{fc1,fc2}.{p}"


def test_a_fan_axis_without_an_op_is_no_problem_here():
    rule = parse_map(GOOD).rules[1]
    assert rule.fan_in == (Axis(0, ("q", "k", "v")),)
    assert (rule.optional, rule.excepts) == ("only before March", (Pattern.parse("blocks.0.attn.{*p}"),))
    (rule,) = parse_map('ckptdoctor: 1\nrules: [{from: mlp, to: "mlp.{*p}"}]').rules
    assert rule.fan_out == (Axis("p"),)


def test_named_inputs_and_several_ops():
    rule = parse_map(GOOD).rules[2]
    assert rule.input_names == ("weight", "scale")
    assert [pattern.text for pattern in rule.sources] == ["a.w", "a.s"]
    assert rule.ops == (parse_op({"transpose": [0, 1]}), parse_op({"cast": "float16"}))
    assert len(rule.pairings) == 2
    assert rule.text == "[a.w, a.s] -> b.w"


def test_several_sources_and_targets():
    rule = parse_map(GOOD).rules[3]
    assert (rule.text, rule.pairings) == ("[c, d] -> [e, f]", ())
    assert [pattern.text for pattern in rule.excepts] == ["g", "h"]


def test_declarations():
    keymap = parse_map(GOOD)
    assert (keymap.fresh[0].why, keymap.fresh[0].optional) == ("new in TopoFlow", None)
    assert [pattern.text for pattern in keymap.drop[0].patterns] == ["{*m}.num_batches_tracked", "x"]
    assert (keymap.drop[0].optional, keymap.drop[0].location.line) == ("not in all", 23)


def test_the_least_map():
    keymap = parse_map("ckptdoctor: 1")
    assert keymap == KeyMap("<map>", keymap.sha256, "", None, None, (), (), ())


def test_left_out_and_empty_are_not_the_same():
    keymap = parse_map("ckptdoctor: 1\nsource: {select: ., strip: []}")
    assert (keymap.select, keymap.strip) == ((), ())


def test_an_unquoted_pattern_that_yaml_takes_for_text():
    (rule,) = parse_map("ckptdoctor: 1\nrules:\n- from: a.{p}\n  to: b.{p}").rules
    assert rule.text == "a.{p} -> b.{p}"


def test_a_byte_order_mark_is_no_problem(tmp_path):
    (tmp_path / "m.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_map(tmp_path / "m.yaml").rules[0].location.line == 7


def test_the_path_is_what_the_user_wrote(tmp_path, monkeypatch):
    (tmp_path / "m.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    assert load_map("./m.yaml").path == "./m.yaml"
    assert load_map(Path("m.yaml")).fresh[0].location == Location("m.yaml", 21, 5)


# --- YAML that maps do not use


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rules: &a []", ["2:8: an anchor, &a; a map has no anchors and no aliases: write it out"]),
        ("rules: *a", ["2:8: an alias, *a; quote the pattern"]),
        ("rules: !foo []", ["2:8: a tag, !foo; a map is plain YAML"]),
        ("description: !!str 3", ["2:14: a tag, tag:yaml.org,2002:str; a map is plain YAML"]),
        ("rules: !!python/object:os.system []", ["2:8: a tag, tag:yaml.org,2002:python/object:os.system"]),
        ("rules:\n- <<: {from: a}\n  from: a\n  to: b", ["3:3: a merge key, <<; a map has no anchors"]),
        ("rules: []\nfresh: []\nrules: []", ["4:1: rules stands here twice; it is on line 2 already"]),
        ("rules:\n- {from: a, to: b, from: c}", ["3:20: from stands here twice; it is on line 3 already"]),
        ("---\nckptdoctor: 1", ["2:1: a second document; a map is one document: take the --- out"]),
        ("? [a]\n: b", ["2:3: a field name that is no text; quote the pattern"]),
        ("rules: [", ["3:1: not valid YAML"]),
        ("\trules: []", ["2:1: not valid YAML"]),
        ('description: "\\q"', ["2:15: not valid YAML"]),
        ("rules: " + "[" * 30 + "]" * 30, ["2:28: nested more than 20 deep"]),
        ("description: \x07", ["2:14: a character that YAML does not allow: \\x07"]),
    ],
)
def test_yaml_that_maps_do_not_use(text, expected):
    found = problems_after_version(text)
    assert len(found) == len(expected)
    assert all(problem.startswith(start) for problem, start in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("line", "place"),
    [
        ("- from: {p}.w", "3:12"),
        ("- from: {fc1,fc2}.w", "3:18"),
        ("- {from: a.{p}, to: b}", "3:12"),
        ("- from: [a.{p}, b]", "3:12"),
        ("- from: *.w", "3:10"),
    ],
)
def test_a_pattern_that_breaks_the_yaml_is_to_be_quoted(line, place):
    (problem,) = problems_after_version(f"rules:\n{line}\n")
    assert problem.startswith(f"{place}: not valid YAML")
    assert "; quote the pattern" in problem


def test_what_was_refused_is_not_reported_again():
    (problem,) = problems_after_version("rules:\n- {from: {*m}, to: b}")
    assert problem.startswith("3:11: an alias, *m; quote the pattern")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: the map is empty; begin with ckptdoctor: 1"),
        ("# nothing yet\n", "1:1: the map is empty; begin with ckptdoctor: 1"),
        (
            "- a\n",
            "1:1: expected a map, found a list; its fields are ckptdoctor, description, source, rules, fresh, drop",
        ),
        ("rules", "1:1: expected a map, found the text rules; its fields are"),
        ("rules: []", "1:1: ckptdoctor is missing; add ckptdoctor (the version of the map language: 1)"),
        (
            "ckptdoctor: 2\nnew: 1",
            "1:13: ckptdoctor: the number 2 is no known version of the map language; this ckptdoctor",
        ),
        ('ckptdoctor: "1"', "1:13: ckptdoctor: the text 1 is no known version"),
        ("ckptdoctor:", "1:12: ckptdoctor: nothing is no known version"),
        ("ckptdoctor: 1.0", "1:13: ckptdoctor: the number 1.0 is no known version"),
    ],
)
def test_the_map_as_a_whole(text, expected):
    (problem,) = problems(text)
    assert problem.startswith(expected)


# --- fields that are wrong


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rulse: []", "2:1: unknown field rulse; did you mean rules?"),
        ("x: []", "2:1: unknown field x; the fields here are ckptdoctor, description"),
        ("rules:", "2:7: rules: expected a list of rules, found nothing"),
        ("rules: {}", "2:8: rules: expected a list of rules, found a mapping"),
        ("fresh: a", "2:8: fresh: expected a list of keys and whys, found the text a"),
        ("description: 3", '2:14: description: expected a text, found the number 3; quote it: "3"'),
        ("description: 2024-01-01", '2:14: description: expected a text, found the date 2024-01-01; quote it: "2024'),
        ("description: ' '", "2:14: description: expected a text, found an empty text"),
        ("source: []", "2:9: source: expected a mapping, found an empty list; its fields are select, strip"),
        ("source: {selekt: a}", "2:10: source: unknown field selekt; did you mean select?"),
        ("source: {select: [a]}", "2:18: source.select: expected a path with slashes, found a list"),
        ("source: {strip: module}", "2:17: source.strip: expected a list of segments, found the text module"),
        ("source: {strip: [a.b]}", "2:18: source.strip[0]: a.b is more than one segment; write [a, b]"),
        ("source: {strip: [1]}", "2:18: source.strip[0]: expected a segment of a key, found the number 1"),
        ("rules: [a]", "2:9: rules[0]: expected a rule, found the text a; its fields are from, to, op, expect"),
        ("rules: [{to: a}]", "2:9: rules[0]: from is missing; add from (the source keys"),
        ("rules: [{from: a}]", "2:9: rules[0]: to is missing; add to (the target keys"),
        ("rules: [{form: a, to: a}]", "2:10: rules[0]: unknown field form; did you mean from?"),
        ("rules: [{from: 3, to: a}]", '2:16: rules[0].from: expected a pattern, found the number 3; quote it: "3"'),
        ("rules: [{from: on, to: a}]", "2:16: rules[0].from: expected a pattern, found the truth value on; quote it"),
        ("rules: [{from: , to: a}]", "2:16: rules[0].from: expected a pattern, found nothing"),
        ("rules: [{from: {p}, to: a}]", "2:16: rules[0].from: expected a pattern, found a mapping; quote the pattern"),
        (
            "rules: [{from: {q,k}, to: a}]",
            "2:16: rules[0].from: expected a pattern, found a mapping; quote the pattern",
        ),
        ("rules: [{from: {}, to: a}]", "2:16: rules[0].from: expected a pattern, found a mapping; quote the pattern"),
        ("rules: [{from: {n: {p}}, to: a}]", "2:20: rules[0].from.n: expected a pattern, found a mapping; quote"),
        ("rules: [{from: {n: [a]}, to: a}]", "2:20: rules[0].from.n: expected a pattern, found a list"),
        (
            "rules: [{from: [], to: a}]",
            "2:16: rules[0].from: expected a pattern or a list of them, found an empty list",
        ),
        ("rules: [{from: [[a]], to: a}]", "2:17: rules[0].from[0]: expected a pattern, found a list"),
        ("rules: [{from: a, to: {p}}]", "2:23: rules[0].to: expected a pattern, found a mapping; quote the pattern"),
        ('rules: [{from: a, to: "a..b"}]', "2:26: rules[0].to: an empty segment; a key has one dot"),
        ("rules: [{from: a, to: a.*}]", "2:25: rules[0].to: * stands for nothing outside braces; write {name}"),
        ("rules: [{from: a, to: 'é.{0}'}]", "2:26: rules[0].to: {0} is neither a name nor a group; write 0 without"),
        ('rules: [{from: a, to: "\\x61.{0}"}]', "2:23: rules[0].to: {0} is neither a name nor a group"),
        (
            "rules: [{from: a, to: b, expect: 0}]",
            "2:34: rules[0].expect: expected a whole number of 1 or more, found the",
        ),
        ("rules: [{from: a, to: b, expect: 0x1}]", "2:34: rules[0].expect: expected a whole number"),
        ("rules: [{from: a, to: b, expect: yes}]", "2:34: rules[0].expect: expected a whole number"),
        ("rules: [{from: a, to: b, optional: yes}]", "2:36: rules[0].optional: expected a text that says why, found"),
        ("rules: [{from: a, to: b, optional: ''}]", "2:36: rules[0].optional: expected a text that says why, found an"),
        ("rules: [{from: a, to: b, except: []}]", "2:34: rules[0].except: expected a pattern or a list of them, found"),
        ("rules: [{from: a, to: b, op: flipp}]", "2:30: rules[0].op: unknown op flipp; there are broadcast, cast"),
        ("rules: [{from: a, to: b, op: {casts: 1}}]", "2:31: rules[0].op: unknown op casts; did you mean cast"),
        ("rules: [{from: a, to: b, op: {cast: int}}]", "2:31: rules[0].op: cast: to is no dtype to cast to: int"),
        (
            "rules: [{from: a, to: b, op: {cast: {too: int8}}}]",
            "2:38: rules[0].op: cast: unknown argument too; did you",
        ),
        ("rules: [{from: a, to: b, op: {cast: {to: int}}}]", "2:38: rules[0].op: cast: to is no dtype to cast to: int"),
        ("rules: [{from: a, to: b, op: [{reshape: [1.5]}]}]", "2:32: rules[0].op[0]: reshape: shape is not a list of"),
        ("rules: [{from: a, to: b, op: []}]", "2:30: rules[0].op: expected an op or a list of them, found an empty"),
        ("rules: [{from: a, to: b, op: 3}]", "2:30: rules[0].op: an op is a name with its arguments; write {cast"),
        ("fresh: [{keys: a}]", "2:9: fresh[0]: why is missing; add why (why they may)"),
        ("fresh: [{why: a}]", "2:9: fresh[0]: keys is missing; add keys (the target keys"),
        ("fresh: [{keys: a, why: ''}]", "2:24: fresh[0].why: expected a text that says why, found an empty text; say"),
        ("drop: [{keys: [a, 1], why: b}]", "2:19: drop[0].keys[1]: expected a pattern, found the number 1; quote it"),
        ("drop: [{keys: a, why: b, expect: 1}]", "2:26: drop[0]: unknown field expect; the fields here are keys, why"),
        (
            "drop: [{keys: a, why: b, optional: ~}]",
            "2:36: drop[0].optional: expected a text that says why, found nothing",
        ),
    ],
)
def test_fields(text, expected):
    (problem,) = problems_after_version(text)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (
            '"a.{q,k,v}"',
            '"b.{x,y}"',
            "4:10: rules[0].to: {q,k,v} has 3 members against 2 in {x,y}; groups pair member by",
        ),
        ('["a.{q,k,v}"]', '["b.{x,y}"]', "4:11: rules[0].to: {q,k,v} has 3 members against 2 in {x,y}"),
        ('{n: "a.{q,k,v}"}', '"b.{x,y}"', "4:10: rules[0].to: {q,k,v} has 3 members against 2 in {x,y}"),
        ("a.{p}", "b.{*p}", "4:9: rules[0].to: {*p} is {p} in a.{p}; write {p} on both sides"),
    ],
)
def test_sides_that_do_not_pair(source, target, expected):
    (problem,) = problems_after_version(f"rules:\n- from: {source}\n  to: {target}")
    assert problem.startswith(expected)


def test_all_problems_come_at_once_and_in_order():
    text = """\
rules:
  - from: a.{p
    to: {p}
    expect: no
  - from: "a.{q,k,v}"
    to: "b.{x,y}"
    expect: 0
  - {to: 1, op: [{cast: int}, {cast: {}}]}
fresh: [1, 2]
x: 1
"""
    places = [problem.split(" ")[0] for problem in problems_after_version(text)]
    assert places == [
        "3:13:",
        "4:9:",
        "5:13:",
        "7:12:",
        "8:13:",
        "9:5:",
        "9:10:",
        "9:19:",
        "9:32:",
        "10:9:",
        "10:12:",
        "11:1:",
    ]


def test_the_error_is_one_text_with_a_line_for_each():
    with pytest.raises(KeyMapError) as caught:
        parse_map("ckptdoctor: 1\nx: 1\ny: 1", "maps/m.yaml")
    assert str(caught.value).splitlines()[1].startswith("maps/m.yaml:3:1: unknown field y")
    assert caught.value.where == Location("maps/m.yaml", 2, 1)


# --- files that are no maps


def test_no_file(tmp_path):
    with pytest.raises(KeyMapError, match=r"m\.yaml:1:1: cannot be read: No such file"):
        load_map(tmp_path / "m.yaml")
    with pytest.raises(KeyMapError, match="cannot be read: Is a directory"):
        load_map(tmp_path)


def test_too_large(tmp_path):
    (tmp_path / "m.yaml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(KeyMapError, match=r"larger than 1\.0 MB; .*the right file"):
        load_map(tmp_path / "m.yaml")
    (tmp_path / "m.yaml").write_bytes(b"ckptdoctor: 1\n" + b"#" * ((1 << 20) - 14))
    load_map(tmp_path / "m.yaml")


def test_not_utf_8(tmp_path):
    (tmp_path / "m.yaml").write_bytes("ckptdoctor: 1\ndescription: größer".encode("latin-1"))
    with pytest.raises(KeyMapError, match=r"m\.yaml:2:16: not UTF-8: the byte 0xf6; save the file as UTF-8"):
        load_map(tmp_path / "m.yaml")


@given(st.text(alphabet="ab:{}[]-*&!\"'\n #1,.<?|>%@\t", max_size=30))
def test_any_text_is_a_map_or_its_problems(text):
    try:
        parse_map("ckptdoctor: 1\n" + text)
    except KeyMapError as error:
        found = error.problems
    else:
        found = ()
    assert all(problem.location.line >= 1 and problem.location.column >= 1 for problem in found)


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="there is only one parser")
@given(st.text(alphabet="ab:{}[]-\"'\n #1é,", max_size=30))
def test_both_parsers_give_the_same_tree(text):
    with pytest.MonkeyPatch.context() as patch:
        fast, fast_problems = compose(f"a: 1\n{text}", "f")
        patch.delattr(yaml, "CSafeLoader")
        slow, slow_problems = compose(f"a: 1\n{text}", "f")
    assert fast_problems or slow_problems or fast == slow


@pytest.mark.skipif(not yaml.__with_libyaml__, reason="there is only one parser")
def test_both_parsers_give_the_same_map(monkeypatch):
    fast = parse_map(GOOD)
    monkeypatch.delattr(yaml, "CSafeLoader")
    assert parse_map(GOOD) == fast


# --- the schema


def test_the_schema_describes_the_language():
    schema = json.loads(json.dumps(map_schema()))
    assert schema["$schema"] == "http://json-schema.org/draft-07/schema#"
    assert list(schema["properties"]) == [
        "ckptdoctor",
        "description",
        "source",
        "rules",
        "fresh",
        "drop",
        "tie",
        "envelope",
    ]
    assert schema["required"] == ["ckptdoctor"]
    rule = schema["properties"]["rules"]["items"]
    assert list(rule["properties"]) == ["from", "to", "op", "expect", "optional", "except", "where"]
    assert rule["required"] == ["from", "to"]
    ops = schema["definitions"]["op"]["anyOf"]
    assert [op["required"] for op in ops[:-1]] == [[name] for name in OPS]
    assert set(ops[-1]["enum"]) < set(OPS), "those that need no arguments"


def test_envelope_edits_know_their_place_and_their_plain_value():
    lines = [
        "envelope:",
        "  set: {hyper_parameters/kind: new}",
        "  add: {a/b: [1, 2.5, true, null]}",
        "  drop: [callbacks]",
    ]
    text = "\n".join(["ckptdoctor: 1", *lines])
    edits = parse_map(text).envelope
    assert [(edit.action, edit.path, edit.value) for edit in edits] == [
        ("set", ("hyper_parameters", "kind"), "new"),
        ("add", ("a", "b"), [1, 2.5, True, None]),
        ("drop", ("callbacks",), None),
    ]
    assert [(edit.location.line, edit.location.column) for edit in edits] == [(3, 9), (4, 9), (5, 10)]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("ckptdoctor: 1\nenvelope: {set: [a]}\n", ":2:17:"),
        ("ckptdoctor: 1\nenvelope: {drop: [.]}\n", ":2:19:"),
        ("ckptdoctor: 1\nenvelope: {sett: {a: 1}}\n", ":2:12:"),
    ],
)
def test_a_wrong_envelope_is_placed(text, place):
    with pytest.raises(KeyMapError) as raised:
        parse_map(text)
    assert place in str(raised.value)


def objects(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        schema = list(schema.values())
    if isinstance(schema, list):
        for each in schema:
            yield from objects(each)


def test_the_schema_allows_nothing_else_and_explains_every_field():
    for each in objects(map_schema()):
        assert "additionalProperties" in each
        for field in each.get("properties", {}).values():
            assert "description" in field or "anyOf" in field
            assert "$ref" not in field  # whatever stands beside a $ref is ignored in draft 7


def test_schema_and_maps_agree():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft7Validator(map_schema())
    validator.check_schema(map_schema())
    for path in MAPPINGS.glob("*.yaml"):
        validator.validate(yaml.safe_load(path.read_text()))
    validator.validate(yaml.safe_load(GOOD))
    assert not validator.is_valid(
        {"ckptdoctor": 1, "rules": [{"from": "a", "to": "b", "op": {"cast": {"too": "int8"}}}]}
    )


# --- the maps that ship


def test_every_map_that_ships_says_what_it_is_for():
    keymaps = [load_map(path) for path in sorted(MAPPINGS.glob("*.yaml"))]
    assert len(keymaps) >= 4
    for keymap in keymaps:
        assert len(keymap.description) > 40
        of_the_example = Path(keymap.path).name.startswith("topoflow-")  # the others serve any depth
        assert all(rule.expect for rule in keymap.rules) or not of_the_example


ENDS = ("weight", "bias")
TRUNK = {"norm.weight", "blocks.1.mlp.fc1.weight", "blocks.1.mlp.fc2.bias"}
BASELINE = (
    TRUNK
    | {f"blocks.0.mlp.{layer}.{p}" for layer in ("fc1", "fc2") for p in ENDS}
    | {f"head.{layer}.{p}" for layer in (0, 2, 4) for p in ENDS}
)
FIXED = BASELINE | {"blocks.0.attn.elevation_alpha", "blocks.0.attn.H_scale"}
SEQUENTIAL = {
    key.replace("blocks.0.mlp.fc1", "blocks.0.mlp.0").replace("blocks.0.mlp.fc2", "blocks.0.mlp.2") for key in FIXED
}
FIRST = {key for key in SEQUENTIAL if not key.startswith("head.")} | {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("name", "source", "target"),
    [
        ("topoflow-elevation", BASELINE, FIXED),
        ("topoflow-to-sequential", BASELINE, SEQUENTIAL),
        ("topoflow-sequential", SEQUENTIAL, FIXED),
        ("topoflow-first", FIRST, FIXED),
    ],
)
def test_the_maps_that_ship_leave_no_key_out(name, source, target):
    keymap = load_map(MAPPINGS / f"{name}.yaml")
    made, taken = set(), set()
    for rule in keymap.rules:
        matches = {key: match for key in source if (match := rule.sources[0].match(key))}
        assert len(matches) == rule.expect
        taken |= set(matches)
        made |= {rule.pairings[0].fill(match) for match in matches.values()}
    fresh = {key for entry in keymap.fresh for pattern in entry.patterns for key in target if pattern.match(key)}
    assert not made & fresh
    assert made | fresh | (source - taken) == target


# --- what importing costs


def test_importing_reads_no_yaml_and_no_torch():
    code = "import sys, ckptdoctor.keymap; print([m for m in ('yaml', 'torch', 'pydantic') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
