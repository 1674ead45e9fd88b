"""Mistakes that other tools make (DESIGN section 8), each with a test that they would fail.

Where it is short, the mistake itself stands beside the test as a function called `naive_...`, and the test shows that it does
go wrong on the same input. `--reverse` inverts plans and not patterns: tests/unit/test_inverse.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from itertools import permutations
from pathlib import Path

import pytest

from ckptdoctor.errors import IncompleteGroup, KeyCollision, PlanError, ShapeError, UnknownTargetKey, UnusedRule
from ckptdoctor.execution import execute
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan import make_plan
from ckptdoctor.policy import evaluate, make_policy
from ckptdoctor.reports import render
from ckptdoctor.reports.comparison import Comparison, comparison_page
from ckptdoctor.source import read_manifest
from ckptdoctor.targets import resolve_target
from ckptdoctor.verification import verify
from ckptdoctor.wrappers import align

Shapes = Mapping[str, tuple[int, ...]]


def manifest(keys: str | Shapes) -> Manifest:
    shapes = keys if isinstance(keys, Mapping) else dict.fromkeys(keys.split(), (4, 4))
    return Manifest(TensorSpec(key, shape, DTYPES["float32"], "parameter") for key, shape in shapes.items())


def key_map(*rules: tuple[object, object]) -> KeyMap:
    entries = [{"from": source, "to": target} for source, target in rules]
    return parse_map(json.dumps({"ckptdoctor": 1, "rules": entries}))


def planned(source: str, target: str | None, *rules: tuple[object, object]) -> dict[str, str]:
    """`{source key: target key}` of what is loaded."""
    plan = make_plan(manifest(source), None if target is None else manifest(target), key_map(*rules))
    return {key: step.target.key for step in plan.steps if step.filled for key in step.sources}


def naive_replace(keys: Iterable[str], rules: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Most conversion scripts: one replacement after the other over the name, then into a dict."""
    renamed = {}
    for key in keys:
        new = key
        for old, replacement in rules:
            new = re.sub(old, replacement, new)
        renamed[key] = new
    return renamed


# --- rules


def test_a_rule_that_matches_nothing_is_no_error_elsewhere() -> None:
    assert naive_replace(["encoder.w"], [("encodr", "enc")]) == {"encoder.w": "encoder.w"}, "and nobody hears of it"
    with pytest.raises(UnusedRule, match=r"names no key: encodr\.\{p\}"):
        planned("encoder.w", "encoder.w", ("encodr.{p}", "enc.{p}"))


def test_two_sources_on_one_target() -> None:
    lost = {new: key for key, new in naive_replace(["a.w", "b.w"], [("^[ab]", "c")]).items()}
    assert lost == {"c.w": "b.w"}, "a.w is gone"
    with pytest.raises(KeyCollision) as caught:
        planned("a.w b.w", "c.w", ("a.{p}", "c.{p}"), ("b.{p}", "c.{p}"))
    assert all(name in caught.value.message for name in ("a.w", "b.w", "c.w"))


def test_a_rule_and_a_tensor_that_has_the_name_already() -> None:
    plan = make_plan(manifest("old.w new.w"), manifest("new.w"), key_map(("old.w", "new.w")))
    assert [step.sources for step in plan.steps] == [("old.w",)]
    assert [rest.source.key for rest in plan.unused("unexpected")] == ["new.w"], (
        "the one that lost is not lost sight of"
    )


def test_a_list_of_two_on_a_list_of_two() -> None:
    def naive(sources: list[str], targets: list[str]) -> dict[str, str]:
        return dict.fromkeys(sources, targets[0])

    assert naive(["a", "b"], ["c", "d"]) == {"a": "c", "b": "c"}
    with pytest.raises(PlanError, match="no op that says how"):
        planned("a b", "c d", (["a", "b"], ["c", "d"]))
    assert planned("a b", "c d", ("{a,b}", "{c,d}")) == {"a": "c", "b": "d"}


@pytest.mark.parametrize(
    ("rule", "pattern", "keys", "hit"),
    [
        (("fc1", "dense"), ("{m}.fc1.{p}", "{m}.dense.{p}"), ["m.fc1.w", "m.fc10.w"], "m.fc1.w"),
        (("head", "top"), ("head.{p}", "top.{p}"), ["head.w", "aux_heads.w", "x.head.w"], "head.w"),
    ],
)
def test_patterns_that_are_not_anchored(
    rule: tuple[str, str], pattern: tuple[str, str], keys: list[str], hit: str
) -> None:
    touched = [key for key, new in naive_replace(keys, [rule]).items() if key != new]
    assert len(touched) > 1
    plan = make_plan(manifest(" ".join(keys)), None, key_map(pattern))
    assert [step.sources for step in plan.steps if step.status == "renamed"] == [(hit,)]


def test_dots_that_are_wildcards() -> None:
    keys = ["a.b.w", "axb.w"]
    assert len({new for new in naive_replace(keys, [("a.b", "c")]).values() if new.startswith("c")}) == 1, (
        "both, into one"
    )
    assert planned("a.b.w axb.w", "c.w axb.w", ("a.b.w", "c.w")) == {"a.b.w": "c.w", "axb.w": "axb.w"}


def test_renames_that_chain() -> None:
    rules = [("norm0", "norm1"), ("norm1", "norm2")]
    assert set(naive_replace(["norm0.w", "norm1.w"], rules).values()) == {"norm2.w"}, "both became one"
    ours = [(f"{old}.{{p}}", f"{new}.{{p}}") for old, new in rules]
    assert planned("norm0.w norm1.w", "norm1.w norm2.w", *ours) == {"norm0.w": "norm1.w", "norm1.w": "norm2.w"}


def test_a_swap() -> None:
    assert naive_replace(["a.w", "b.w"], [("^a", "b"), ("^b", "a")]) == {"a.w": "a.w", "b.w": "a.w"}
    assert planned("a.w b.w", "a.w b.w", ("a.{p}", "b.{p}"), ("b.{p}", "a.{p}")) == {"a.w": "b.w", "b.w": "a.w"}
    assert planned("a.w b.w", "a.w b.w", ("{a,b}.{p}", "{b,a}.{p}")) == {"a.w": "b.w", "b.w": "a.w"}


def test_the_order_in_the_file() -> None:
    rules = [
        ("norm0.{p}", "norm1.{p}"),
        ("norm1.{p}", "norm2.{p}"),
        ("{x}.b", "y.{x}.b"),
        ("c.w", "d.w"),
        ("c.w", "a.w"),
    ]
    source = "norm0.w norm1.w c.w z.b kept"
    naive = {str(naive_replace(["norm0.w"], each)) for each in permutations([("norm0", "norm1"), ("norm1", "norm2")])}
    assert len(naive) == 2
    for target in (None, "norm1.w norm2.w y.z.b a.w d.w kept"):
        plans = [
            make_plan(manifest(source), None if target is None else manifest(target), key_map(*each))
            for each in permutations(rules)
        ]
        decided = {
            tuple((step.target.key, step.status, step.expression, step.target.tied_to) for step in plan.steps)
            for plan in plans
        }
        assert len(decided) == 1


def test_a_conversion_applied_twice() -> None:
    twice = naive_replace(naive_replace(["norm.w"], [("norm", "norm1")]).values(), [("norm", "norm1")])
    assert list(twice.values()) == ["norm11.w"]
    rename, prefix = ("norm.{p}", "norm1.{p}"), ("{*key}", "model.{*key}")
    assert planned("norm.w", "norm1.w", rename) == {"norm.w": "norm1.w"}
    with pytest.raises(UnusedRule):
        planned("norm1.w", "norm1.w", rename)
    assert planned("a.w", "model.a.w", prefix) == {"a.w": "model.a.w"}
    with pytest.raises(UnknownTargetKey):
        planned("model.a.w", "model.a.w", prefix)


def test_matching_by_order_or_by_shape() -> None:
    source, target = "attn.query.w attn.key.w", "attn.key.w attn.query.w"
    assert dict(zip(source.split(), target.split(), strict=True))["attn.query.w"] == "attn.key.w"
    assert planned(source, target) == {"attn.query.w": "attn.query.w", "attn.key.w": "attn.key.w"}
    assert planned("q.w", "k.w") == {}, "one shape is no reason"


# --- the gate and the report


BASE: Shapes = {"trunk.0.w": (8, 8), "trunk.1.w": (8, 8), "trunk.1.b": (8,), "head.w": (10, 8), "head.b": (10,)}


def naive_load(source: Shapes, target: Shapes) -> list[str]:
    """`load_state_dict(strict=False)` after a filter on shapes, as in many training scripts: what it loads, and no word."""
    return [key for key in source if key in target and source[key] == target[key]]


def judged(source: Shapes, target: Shapes, **policy: object) -> bool:
    plan = make_plan(manifest(source), manifest(target))
    return evaluate(plan, make_policy(**policy)).passed  # type: ignore[arg-type]


def test_everything_random_and_nobody_minds() -> None:
    target = {f"model.{key}": shape for key, shape in BASE.items()}
    assert naive_load(BASE, target) == [], "raises nothing, loads nothing"
    assert not judged(BASE, target)
    assert judged(BASE, BASE)


def test_not_strict_for_the_whole_model_because_one_head_changed() -> None:
    target = {**BASE, "head.w": (3, 8), "head.b": (3,)}
    broken = {key.replace("trunk.1", "trunk.one"): shape for key, shape in target.items()}
    assert len(naive_load(BASE, broken)) == 1, "the trunk is gone too"
    assert judged(BASE, target, allow_random=["head.{p}"])
    assert not judged(BASE, broken, allow_random=["head.{p}"])
    verdict = evaluate(make_plan(manifest(BASE), manifest(broken)), make_policy(allow_random=["head.{p}"]))
    assert verdict.findings[0].keys == ("trunk.one.w", "trunk.one.b")


def test_unexpected_keys_that_are_never_mentioned() -> None:
    target = {key: shape for key, shape in BASE.items() if "trunk.1" not in key}
    plan = make_plan(manifest(BASE), manifest(target))
    assert plan.random_parameters == 0, "the target is full, and two trained layers are gone"
    table = render(Comparison("diff", plan))
    assert "trunk.1.w" in table
    assert "2 tensors of the checkpoint (72 parameters) would not be used" in table.splitlines()[-1]
    report = json.loads(render(Comparison("diff", plan), "json"))
    assert (report["summary"]["unexpected"], report["summary"]["parameters_unexpected"]) == (2, 72)
    assert not evaluate(plan, make_policy(fail_on=["unexpected"])).passed


def test_a_report_that_folds_unlike_tensors_into_one_row() -> None:
    target: Shapes = {"m.0.w": (8, 8), "m.1.w": (8, 8), "m.2.w": (8, 9), "m.3.w": (8, 8), "m.4.w": (64,)}
    folded = {re.sub(r"\d+", "*", key): shape for key, shape in target.items()}
    assert folded == {"m.*.w": (64,)}, "one row with the last one's shape"
    page = comparison_page(Comparison("diff", make_plan(manifest(""), manifest(target))))
    rows = {row.cells[1]: (row.cells[3], row.cells[4]) for row in page.tables[0].rows}
    assert rows == {"m.{0,1,3}.w": ("8x8", "192"), "m.2.w": ("8x9", "72"), "m.4.w": ("64", "64")}


def test_a_report_that_folds_unlike_dtypes_into_one_row() -> None:
    half = DTYPES["float16"]
    source = Manifest([*manifest("a.0").values(), TensorSpec("a.1", (4, 4), half)])
    plan = make_plan(source, manifest("b.0 b.1"), key_map(("a.{i}", "b.{i}")))
    rows = comparison_page(Comparison("diff", plan)).tables[0].rows
    assert [row.cells[1:4] for row in rows] == [
        ("b.0 <- a.0", "4x4", "4x4"),
        ("b.1 <- a.1", "4x4 float16", "4x4 float32"),
    ]


# --- ops


def with_op(source: str, target: str, op: object) -> KeyMap:
    rule = {"from": source, "to": target, "op": op}
    return parse_map(json.dumps({"ckptdoctor": 1, "rules": [rule]}))


def test_chunk_where_sizes_were_meant() -> None:
    torch = pytest.importorskip("torch")
    assert [len(part) for part in torch.arange(7).chunk(3)] == [3, 3, 1], "nobody meant that"
    source = manifest({"qkv": (7, 4)})
    with pytest.raises(ShapeError, match="7 along dim 0 do not divide by 3"):
        make_plan(source, None, with_op("qkv", "{q,k,v}", {"split": {"dim": 0, "parts": 3}}))
    with pytest.raises(ShapeError, match="add up to 6, and dim 0 has 7"):
        make_plan(source, None, with_op("qkv", "{q,k,v}", {"split": {"dim": 0, "sizes": [2, 2, 2]}}))
    plan = make_plan(source, None, with_op("qkv", "{q,k,v}", {"split": {"dim": 0, "sizes": [5, 1, 1]}}))
    assert [step.target.shape for step in plan.steps] == [(5, 4), (1, 4), (1, 4)]


@pytest.mark.parametrize(
    ("source", "pattern", "op", "missing"),
    [
        ("experts.0.w experts.2.w experts.3.w", "experts.{e:int}.w", "stack", "experts.1.w"),
        ("attn.q attn.v", "attn.{q,k,v}", {"concat": 0}, "attn.k"),
    ],
)
def test_half_a_group_fused(source: str, pattern: str, op: object, missing: str) -> None:
    with pytest.raises(IncompleteGroup) as caught:
        make_plan(manifest(source), None, with_op(pattern, "fused", op))
    assert missing in caught.value.keys
    assert missing in caught.value.message


def test_broadcast_that_nobody_asked_for() -> None:
    torch = pytest.importorskip("torch")
    into = torch.zeros(4, 4)
    into.copy_(torch.ones(4))
    assert into.sum() == 16, "copy_ broadcasts without a word"
    plan = make_plan(manifest({"w": (4,)}), manifest({"w": (4, 4)}))
    assert plan.counts == {"mismatched": 1}


def test_identical_is_said_of_shapes_alone_and_never_of_values(tmp_path: Path) -> None:
    """`verify` reads the values: a file with the right keys and shapes and one other number does not pass."""
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(4, 4)}, tmp_path / "old.pt")
    execute(make_plan(read_manifest(tmp_path / "old.pt")), tmp_path / "new.pt")
    receipt = (tmp_path / "new.pt.receipt.json").read_text()
    assert verify(tmp_path / "new.pt", against=tmp_path / "old.pt").passed
    changed = torch.ones(4, 4)
    changed[2, 3] += 1e-6
    torch.save({"a": changed}, tmp_path / "new.pt")
    (tmp_path / "new.pt.receipt.json").write_text(receipt)
    assert not verify(tmp_path / "new.pt", against=tmp_path / "old.pt").passed


# --- prefixes


@pytest.mark.parametrize(
    ("source", "naive_prefix"),
    [
        ("module.a.w module.b.w extra.w", "module."),
        ("model._orig_mod.a.w model._orig_mod.b.w model._orig_mod.extra.w", "_orig_mod."),
        ("_orig_mod.module.a.w _orig_mod.module.b.w _orig_mod.module.extra.w", "module."),
        ("a._orig_mod.w b._fsdp_wrapped_module._orig_mod.w extra.w", "_orig_mod."),
    ],
)
def test_prefixes_only_if_all_keys_have_them_or_only_in_front(source: str, naive_prefix: str) -> None:
    keys = source.split()
    stripped = (
        [key.removeprefix(naive_prefix) for key in keys] if all(key.startswith(naive_prefix) for key in keys) else keys
    )
    assert set(stripped) != {"a.w", "b.w", "extra.w"}
    aligned = align(manifest(source), manifest("a.w b.w extra.w"))
    assert list(aligned.source) == ["a.w", "b.w", "extra.w"]
    assert [spec.stored_key for spec in aligned.source.values()] == keys


def test_a_prefix_that_is_a_real_name_stays() -> None:
    aligned = align(manifest("model.a.w head.w"), manifest("model.a.w head.w"))
    assert list(aligned.source) == ["model.a.w", "head.w"]


# --- with torch


def test_tied_weights_are_neither_lost_nor_doubled(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    weight = torch.arange(64.0).reshape(8, 8)
    torch.save({"old.embed": weight, "old.head": weight, "b": torch.ones(3)}, tmp_path / "tied.ckpt")
    copied = {key.removeprefix("old."): value.clone() for key, value in torch.load(tmp_path / "tied.ckpt").items()}
    assert len({value.data_ptr() for value in copied.values()}) == 3, "a copy for each name doubles them"

    source = read_manifest(tmp_path / "tied.ckpt")
    assert source.parameters == 67
    plan = make_plan(source, None, key_map(("old.{k}", "{k}")))
    assert plan.parameters == 67
    execute(plan, tmp_path / "new.ckpt")
    written = torch.load(tmp_path / "new.ckpt", weights_only=True)
    assert set(written) == {"embed", "head", "b"}
    assert written["embed"].data_ptr() == written["head"].data_ptr()
    assert torch.equal(written["head"], weight)
    assert read_manifest(tmp_path / "new.ckpt").parameters == 67


def test_one_of_two_tied_weights_in_the_file_is_enough(tmp_path: Path) -> None:
    """A file that names a tied weight once (safetensors drops the second name) fills both, and loads strictly."""
    torch = pytest.importorskip("torch")
    from torch import nn

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 2), nn.Linear(2, 5, bias=False)
            self.head.weight = self.embed.weight

    weight = torch.arange(10.0).reshape(5, 2)
    torch.save({"embed.weight": weight}, tmp_path / "once.ckpt")
    target = Manifest(
        [
            TensorSpec("embed.weight", (5, 2), DTYPES["float32"], "parameter"),
            TensorSpec("head.weight", (5, 2), DTYPES["float32"], "parameter", "embed.weight"),
        ]
    )
    plan = make_plan(read_manifest(tmp_path / "once.ckpt"), target)
    assert [step.status for step in plan.steps] == ["loaded", "tied"]
    assert evaluate(plan, make_policy()).passed
    execute(plan, tmp_path / "both.ckpt")
    model = Tied()
    model.load_state_dict(torch.load(tmp_path / "both.ckpt"), strict=True)
    assert torch.equal(model.head.weight, weight)


def test_a_constructor_that_calls_item(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    text = (
        "import torch\nfrom torch import nn\n\n\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, depth=3, rate=0.1):\n"
        "        super().__init__()\n"
        "        self.rates = [x.item() for x in torch.linspace(0, rate, depth)]\n"
        "        self.layers = nn.ModuleList(nn.Linear(2, 1 + round(20 * rate)) for rate in self.rates)\n"
    )
    (tmp_path / "net.py").write_text(text)
    namespace: dict[str, type] = {}
    exec(text, namespace)
    with pytest.raises(RuntimeError, match="meta"), torch.device("meta"):
        namespace["Net"]()
    target = resolve_target(f"{tmp_path / 'net.py'}:Net")
    assert {key: spec.shape for key, spec in target.items() if "weight" in key} == {
        "layers.0.weight": (1, 2),
        "layers.1.weight": (2, 2),
        "layers.2.weight": (3, 2),
    }
