"""Maps that are wrong: what is said of each, word for word. One error with its place and a hint, status 2.

First what the map alone shows, then what it shows with a checkpoint and a target, then what only the values show.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.helpers import Done, manifest_file, run, torch_checkpoint

SOURCE = {
    "embed": (1, 6, 8),
    **{f"h.{layer}.{name}.w": (8, 8) for layer in (0, 1) for name in ("q", "k", "v")},
    "qkv.w": (24, 8),
    "head.w": (4, 8),
}
TARGET = {
    "embed": (1, 7, 8),
    **{f"h.{layer}.qkv.w": (24, 8) for layer in (0, 1)},
    **{f"{name}.w": (8, 8) for name in ("q", "k", "v")},
    **{f"x.{layer}.w": (8, 8) for layer in (0, 1)},
    "head.w": (4, 8),
}

ALONE = {
    "an index name twice": (
        "{from: embed, to: embed, op: {index: {dim: 1, from: [u, v, u], to: [u, v], fill: 0}}}",
        "m.yaml:3:51: rules[0].op: index: from names u twice; each index has a name of its own",
    ),
    "an index name twice on the other side": (
        "{from: embed, to: embed, op: {index: {dim: 1, from: [u, v], to: [u, u]}}}",
        "m.yaml:3:65: rules[0].op: index: to names u twice; each index has a name of its own",
    ),
    "a new name without a fill": (
        "{from: embed, to: embed, op: {index: {dim: 1, from: [u, v], to: [u, w]}}}",
        "m.yaml:3:35: rules[0].op: index: w is not in from, and there is no fill; "
        "say of what: fill: mean, fill: 0 or fill: {normal: {std: 0.02, seed: 0}}",
    ),
    "an unknown argument": (
        '{from: "h.{i}.{q,k,v}.w", to: "h.{i}.qkv.w", op: {concat: {dimm: 0}}}',
        "m.yaml:3:64: rules[0].op: concat: unknown argument dimm; did you mean dim?",
    ),
    "an unknown op": (
        "{from: a, to: b, op: {trnspose: [0, 1]}}",
        "m.yaml:3:27: rules[0].op: unknown op trnspose; did you mean transpose?",
    ),
    "two ops in one mapping": (
        "{from: a, to: b, op: {transpose: [0, 1], cast: float16}}",
        "m.yaml:3:26: rules[0].op: an op has one name, not 2; write several ops as a list: [{...}, {...}]",
    ),
    "a text for a number": (
        "{from: a, to: b, op: {slice: {dim: '0', stop: 2}}}",
        "m.yaml:3:35: rules[0].op: slice: dim is not a whole number; write a number such as 0 or -1",
    ),
    "an unquoted group": (
        "{from: {q,k}, to: b, op: concat}",
        "m.yaml:3:12: rules[0].from: expected a pattern, found a mapping; "
        "quote the pattern: unquoted, { begins a mapping and * an alias in YAML",
    ),
    "a list in which patterns have axes of their own": (
        '{from: ["a.{q,k}", "b.{q,k}"], to: c, op: concat}',
        "m.yaml:3:12: rules[0].from: {q,k} stands on one side only, in a list; write the list as a group, {a,b}, instead",
    ),
    "groups of unequal length": (
        '{from: "a.{q,k,v}", to: "b.{x,y}"}',
        "m.yaml:3:32: rules[0].to: {q,k,v} has 3 members against 2 in {x,y}; groups pair member by member",
    ),
    "several patterns on both sides": (
        '{from: ["a.{p}", "b.{p}"], to: ["c.{p}", "d.{p}"], op: concat}',
        "m.yaml:3:36: rules[0].to: several patterns on both sides; write one rule for each pattern of to",
    ),
    "arithmetic that is none": (
        '{from: "h.{i:int}.w", to: "x.{j:int}.w", where: {i: "j / 2"}}',
        "m.yaml:3:57: rules[0].where.i: j / 2 has no meaning in where; "
        "whole numbers, captures of the target, + - * // % and parentheses",
    ),
    "arithmetic over another name": (
        '{from: "h.{i:int}.w", to: "x.{j:int}.w", where: {i: "J // 2"}}',
        "m.yaml:3:53: rules[0].where: i: J is no number of to; the numbers of to are j",
    ),
    "an unknown init": (
        "{from: a, to: b}\nfresh:\n  - {keys: c, why: new, init: zero}",
        "m.yaml:5:31: fresh[0].init: unknown init zero; did you mean zeros?",
    ),
}

SIDES = {
    "captures that differ only in case": (
        '{from: "h.{I}.q.w", to: "x.{i}.w"}',
        "h.{I}.q.w -> x.{i}.w: {I} and {i} differ only in case, and captures belong together by their names",
        "write {I} on both sides",
    ),
    "a fan-in without an op": (
        '{from: "h.{i}.{q,k,v}.w", to: "h.{i}.qkv.w"}',
        "h.{i}.{q,k,v}.w -> h.{i}.qkv.w: {q,k,v} stands on the left only, so several tensors would meet in one, and no op "
        "says how",
        "choose one member, or add the op that joins them (concat, stack, mean)",
    ),
    "a fan-out without an op": (
        '{from: "qkv.w", to: "{q,k,v}.w"}',
        "qkv.w -> {q,k,v}.w: {q,k,v} stands on the right only, so one tensor would make several, and no op says how",
        "choose one member, or add the op that makes several of one (split, unstack, broadcast)",
    ),
    "an op that joins and nothing to join": (
        "{from: qkv.w, to: head.w, op: {concat: {dim: 0}}}",
        "qkv.w -> head.w: concat(0) takes several tensors, and one comes",
        "say on the left which: a group such as {q,k,v}, a number such as {e:int}, or a list",
    ),
    "names in the order of the alphabet": (
        '{from: "h.{i}.{p}.w", to: "h.{i}.w", op: stack}',
        "h.{i}.{p}.w -> h.{i}.w: {p} stands on one side only, and only numbers have an order",
        "write {p:int}, or a group with the names in their order",
    ),
}

FITTING = {
    "too few index names": (
        "{from: embed, to: embed, op: {index: {dim: 1, from: [u, v], to: [u, v, w], fill: 0}}}",
        "index(dim=1, from=[u, v], to=[u, v, w], fill=0) cannot take embed (1x6x8): from has 2 names, and dim 1 has size 6",
        "name every index of the checkpoint's tensor, in order",
    ),
    "sizes that miss by one": (
        '{from: qkv.w, to: "{q,k,v}.w", op: {split: {sizes: [8, 8, 7]}}}',
        "split(dim=0, sizes=[8, 8, 7]) cannot take qkv.w (24x8): the sizes add up to 23, and dim 0 has 24",
        "every element needs a place; leave some out with slice",
    ),
    "a size too many": (
        '{from: qkv.w, to: "{q,k,v}.w", op: {split: {sizes: [8, 8, 7, 1]}}}',
        "split(dim=0, sizes=[8, 8, 7, 1]) cannot take qkv.w (24x8): makes 4 tensors, and there are 3 keys for them",
        "let the rule name one key for each",
    ),
    "parts that leave a rest": (
        '{from: qkv.w, to: "{q,k,v}.w", op: {split: {parts: 5}}}',
        "split(dim=0, parts=5) cannot take qkv.w (24x8): 24 along dim 0 do not divide by 5",
        "write the sizes: sizes: [..]",
    ),
    "half a group": (
        '{from: "h.{i}.{q,k,vv}.w", to: "h.{i}.qkv.w", op: {concat: {dim: 0}}}',
        "h.{i}.{q,k,vv}.w -> h.{i}.qkv.w: 2 of 3 along {q,k,vv} are there; no h.0.vv.w; the like holds for 1 other key",
        "did you mean h.0.v.w or h.1.v.w or h.0.q.w?",
    ),
    "arithmetic that divides by zero": (
        '{from: "h.{i:int}.q.w", to: "x.{j:int}.w", where: {i: "12 // j"}}',
        "h.{i:int}.q.w -> x.{j:int}.w: 12 // j divides by zero where j = 0, for x.0.w",
        "divide by another number",
    ),
    "a shape that an op cannot take": (
        "{from: head.w, to: head.w, op: {reshape: [4, 4]}}",
        "reshape(4, 4) cannot take head.w (4x8): does not fit the 32 elements of 4x8",
        "correct the op, or let the rule match other keys",
    ),
    "a shape that the target does not want": (
        "{from: head.w, to: head.w, op: {transpose: [0, 1]}}",
        "head.w would be 8x4 (from head.w), the target wants 4x8",
        "map another tensor, add an op that changes the shape, or declare the key fresh",
    ),
    "shapes that do not go together": (
        "{from: [head.w, qkv.w], to: q.w, op: stack}",
        "stack(0) cannot take head.w (4x8), qkv.w (24x8): head.w is 4x8 and qkv.w is 24x8",
        "the shapes must be equal",
    ),
    "a key that the target does not have": (
        "{from: head.w, to: heads.w}",
        "the target has no heads.w (made of head.w)",
        "did you mean head.w?",
    ),
    "another number than expected": (
        '{from: "h.{i}.{q,k,v}.w", to: "h.{i}.qkv.w", op: concat, expect: 6}',
        "the rule made 2 keys and expects 6",
        "correct the patterns, or the number",
    ),
}


def check(folder: Path, *rules: str, command: str = "map check m.yaml src.json tgt.json") -> Done:
    (folder / "m.yaml").write_text("ckptdoctor: 1\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules))
    manifest_file(folder / "src.json", SOURCE)
    manifest_file(folder / "tgt.json", TARGET)
    return run(*command.split(), cwd=folder)


def lines(done: Done) -> list[str]:
    assert (done.status, done.stdout) == (2, "")
    return done.stderr.splitlines()


@pytest.mark.parametrize("name", ALONE)
def test_of_the_language(tmp_path: Path, name: str) -> None:
    rule, said = ALONE[name]
    assert lines(check(tmp_path, rule, command="map check m.yaml")) == [f"error: {said}"]


@pytest.mark.parametrize("name", SIDES)
def test_of_the_two_sides(tmp_path: Path, name: str) -> None:
    rule, said, hint = SIDES[name]
    assert lines(check(tmp_path, rule, command="map check m.yaml")) == [f"error: m.yaml:3:5: {said}", f"hint: {hint}"]


@pytest.mark.parametrize("name", FITTING)
def test_of_these_files(tmp_path: Path, name: str) -> None:
    rule, said, hint = FITTING[name]
    assert lines(check(tmp_path, rule)) == [f"error: m.yaml:3:5: {said}", f"hint: {hint}"]


def test_all_of_the_language_at_once(tmp_path: Path) -> None:
    """Every wrong rule has its line, in the order of the file."""
    rules = [rule for rule, _ in ALONE.values() if "\n" not in rule]
    found = lines(check(tmp_path, *rules, command="map check m.yaml"))
    assert [line.split(":")[2] for line in found] == [str(number + 3) for number in range(len(rules))]


def test_all_of_these_files_at_once(tmp_path: Path) -> None:
    rules = [rule for rule, _, _ in (*SIDES.values(), *FITTING.values())]
    rules += ["{from: nothing, to: head.w}\nfresh: [{keys: nowhere, why: x}]\ndrop: [{keys: nothing, why: x}]"]
    found = [line for line in lines(check(tmp_path, *rules)) if line.startswith("error: ")]
    numbers = [int(line.split(":")[2]) for line in found]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(3, 3 + len(rules) + 2))


def test_in_json(tmp_path: Path) -> None:
    rules = [rule for rule, _, _ in list(FITTING.values())[:2]]
    (line,) = lines(check(tmp_path, *rules, command="map check m.yaml src.json tgt.json -f json"))
    error = json.loads(line)["error"]
    assert [problem.split(" ")[0] for problem in error["problems"]] == ["m.yaml:3:5:", "m.yaml:4:5:"]
    assert "Traceback" not in line


@pytest.mark.parametrize("wrong", ['{from: "lyr{}.w", to: "x{}.w"}', '{from: "a{}.w", op: concta, to: "b"}'])
def test_ten_thousand_rules_are_told_in_seconds(tmp_path: Path, wrong: str) -> None:
    done = check(tmp_path, *(wrong.replace("{}", str(number)) for number in range(10_000)))
    assert len([line for line in lines(done) if line.startswith("error: m.yaml:")]) == 10_000


def test_ten_thousand_rules_work(tmp_path: Path) -> None:
    shapes = {f"a{number}.w": (1,) for number in range(10_000)}
    manifest_file(tmp_path / "many.json", shapes)
    rules = (f'{{from: "a{number}.{{p}}", to: "b{number}.{{p}}"}}' for number in range(10_000))
    done = check(tmp_path, *rules, command="diff many.json --no-target -m m.yaml")
    assert done.status == 0, done.stderr


class TestValues:
    def test_a_cast_that_overflows(self, tmp_path: Path) -> None:
        pytest.importorskip("torch")
        torch_checkpoint(tmp_path / "a.ckpt", {"small": (4,), "large": (512, 512)})  # counts up to 262,147
        command = "remap a.ckpt --no-target -m m.yaml -o out.ckpt"
        found = lines(check(tmp_path, '{from: "{*k}", to: "{*k}", op: {cast: float16}}', command=command))
        assert found == [
            "error: m.yaml:3:5: large: cast(float16): some numbers are too large for float16",
            "hint: cast to a wider dtype",
        ]
        assert not list(tmp_path.glob("out*"))
