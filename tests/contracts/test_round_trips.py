"""Random bijective maps over random models, gone there and back: every tensor comes back bit for bit.

A model is drawn in parts, each with a prefix of its own and the rules that change it; all parts of a case are one map. The way
back is gone twice: by the inverse of the plan, and by the map that says the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ckptdoctor import apply, execute, load_map, make_plan, read_manifest, verify
from ckptdoctor.keymap import parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan.inverse import invert
from ckptdoctor.plan.inverse_map import _alone, inverse_map
from ckptdoctor.plan.ways import Specs
from ckptdoctor.receipt import read_receipt

torch = pytest.importorskip("torch")

Shape = tuple[int, ...]
SIZE = st.integers(1, 4)
NAMES = ("w", "bias", "q{x}", "norm", "10")


class Part(NamedTuple):
    """Tensors, keys without the prefix, and rules, in which `P` stands for it."""

    tensors: dict[str, Shape]
    rules: list[dict[str, Any]]


@st.composite
def renames(draw: Any) -> Part:
    depth, names = draw(SIZE), draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    sides, rules = {
        "segment": (("a", "b"), [("P.{i}.a.{n}", "P.layer{i}.{n}.b"), ("P.{i}.b.{n}", "P.{n}.of.{i}")]),
        "many": (("a", "b"), [("P.{*all}", "P.deep.er.{*all}")]),
        "swap": (("a", "b"), [("P.{i:int}.{a,b}.{n}", "P.{i:int}.{b,a}.{n}")]),
        "pairs": (("a", "b"), [("P.{i}.{a,b}.{n}", "P.{i}.{b,c}.{n}")]),
        "chain": (("a", "b", "c"), [(f"P.{{i}}.{x}.{{n}}", f"P.{{i}}.{y}.{{n}}") for x, y in ("ab", "bc", "ca")]),
        "part": (("a1", "a2"), [("P.{i}.a{1,2}.{n}", "P.{i}.a{2,1}.{n}")]),
    }[draw(st.sampled_from(["segment", "many", "swap", "pairs", "chain", "part"]))]
    shape = tuple(draw(st.lists(SIZE, max_size=3)))
    tensors = {f"{i}.{side}.{name}": shape for i in range(depth) for side in sides for name in names}
    return Part(tensors, [{"from": source, "to": target} for source, target in rules])


@st.composite
def single_ops(draw: Any) -> Part:
    """One tensor to one, several ops in a row."""
    depth, h, d, c = (draw(SIZE) for _ in range(4))
    shape = (h * 2 * d, c)
    order = draw(st.permutations(range(shape[0])))
    moves: dict[str, list[Any]] = {
        "flat": [{"reshape": [-1]}, {"reshape": list(shape)}],
        "turned": [{"reshape": [h, 2 * d, c]}, {"permute": [2, 0, -2]}, {"rearrange": {"pattern": "c h d -> (h d) c"}}],
        "heads": [{"rearrange": {"pattern": "(h two d) c -> (h d two) c", "sizes": {"h": h, "two": 2}}}],
        "order": [{"index": {"dim": 0, "indices": order}}],
        "twice": [{"transpose": [0, 1]}, {"transpose": [0, -1]}],
    }
    ops = [op for name in draw(st.lists(st.sampled_from([*moves]), max_size=3)) for op in moves[name]]
    last = draw(st.sampled_from([[{"transpose": [0, 1]}], [{"reshape": [h, 2, d, 1, c]}]]))
    return Part({f"{i}.w": shape for i in range(depth)}, [{"from": "P.{i}.w", "to": "P.{i}.v", "op": [*ops, *last]}])


@st.composite
def joined(draw: Any) -> Part:
    """Several tensors to one, for each layer: unlike sizes along the axis, ops before and after."""
    depth, c, sizes = draw(SIZE), draw(SIZE), draw(st.lists(SIZE, min_size=2, max_size=4))
    names = "qkvx"[: len(sizes)]
    before = draw(
        st.sampled_from([[], [{"reshape": [-1, c]}], [{"rearrange": {"pattern": "a b -> b a"}}, {"transpose": [0, 1]}]])
    )
    after = draw(st.sampled_from([[], [{"transpose": [0, 1]}], [{"reshape": [-1]}]]))
    ops = [*before, {"concat": {"dim": draw(st.sampled_from([0, -2]))}}, *after]
    group = f"{{{','.join(names)}}}"
    tensors = {f"{i}.{name}.w": (size, c) for i in range(depth) for name, size in zip(names, sizes, strict=True)}
    if draw(st.booleans()):
        return Part(tensors, [{"from": f"P.{{i}}.{group}.w", "to": "P.{i}.all", "op": ops}])
    return Part(tensors, [{"from": [f"P.{{i}}.{name}.w" for name in names], "to": "P.{i}.{i}.all", "op": ops}])


@st.composite
def parted(draw: Any) -> Part:
    """One tensor to several, for each layer; where all are of one size, a reshape of each."""
    depth, c, sizes = draw(SIZE), draw(SIZE), draw(st.lists(SIZE, min_size=2, max_size=4))
    if draw(st.booleans()):
        sizes = sizes[:1] * len(sizes)
    after = draw(st.sampled_from([[], [{"transpose": [0, 1]}], [{"reshape": [-1]}], [{"reshape": [1, -1, c]}]]))
    group = f"{{{','.join('qkvx'[: len(sizes)])}}}"
    ops = [{"split": {"dim": 0, "sizes": sizes}}, *after]
    return Part(
        {f"{i}.all": (sum(sizes), c) for i in range(depth)},
        [{"from": "P.{i}.all", "to": f"P.{{i}}.{group}", "op": ops}],
    )


@st.composite
def experts(draw: Any) -> Part:
    """A mixture of experts, stacked or taken apart; with gate and up joined, that is two axes."""
    depth, number, size, c = (draw(SIZE) for _ in range(4))
    dim = draw(st.sampled_from([0, 1, -1]))
    how = draw(st.sampled_from(["stack", "unstack", "both", "apart", "regroup"]))
    if how == "stack":
        tensors = {f"{i}.{e}.w": (size, c) for i in range(depth) for e in range(number)}
        return Part(tensors, [{"from": "P.{i}.{e:int}.w", "to": "P.{i}.w", "op": {"stack": {"dim": dim}}}])
    if how == "unstack":
        tensors = {f"{i}.w": (number, number, number) for i in range(depth)}
        return Part(tensors, [{"from": "P.{i}.w", "to": "P.{i}.{e:int}.w", "op": {"unstack": {"dim": dim}}}])
    if how == "both":
        tensors = {f"{i}.{e}.{name}": (size, c) for i in range(depth) for e in range(number) for name in ("gate", "up")}
        ops = [{"concat": {"dim": 0}}, {"stack": {"dim": 0}}]
        return Part(tensors, [{"from": "P.{i}.{e:int}.{gate,up}", "to": "P.{i}.both", "op": ops}])
    if how == "apart":
        ops = [{"unstack": {"dim": 0}}, {"split": {"dim": 0, "parts": 2}}]
        tensors = {f"{i}.both": (number + 1, 2 * size, c) for i in range(depth)}
        return Part(tensors, [{"from": "P.{i}.both", "to": f"P.{{i}}.{{0..{number}}}.{{gate,up}}", "op": ops}])
    ops = [{"concat": {"dim": 0}}, {"split": {"dim": 0, "sizes": [1, 2 * size - 1 + c]}}]
    tensors = {f"{i}.{name}": (length, 2) for i in range(depth) for name, length in (("x", 2 * size), ("y", c))}
    sides = [([f"P.{i}.x", f"P.{i}.y"], [f"P.{i}.a", f"P.{i}.b"]) for i in range(depth)]
    return Part(tensors, [{"from": sources, "to": targets, "op": ops} for sources, targets in sides])


@st.composite
def cases(draw: Any) -> tuple[dict[str, Any], Manifest]:
    """A map and a manifest."""
    rules, specs = [], []
    for number, part in enumerate(draw(st.lists(st.one_of(*PARTS), min_size=1, max_size=4))):
        dtype = DTYPES[draw(st.sampled_from(["float32", "bfloat16", "float16", "int64", "bool"]))]
        specs += [TensorSpec(f"m{number}.{key}", shape, dtype) for key, shape in part.tensors.items()]
        rules += json.loads(json.dumps(part.rules).replace('"P.', f'"m{number}.'))
    specs += [TensorSpec("untouched", (2,), DTYPES["float32"])]
    return {"ckptdoctor": 1, "rules": draw(st.permutations(rules))}, Manifest(draw(st.permutations(specs)))


PARTS = (renames(), single_ops(), joined(), parted(), experts())


def tensors(manifest: Manifest) -> dict[str, Any]:
    """Random bits, NaNs among them."""
    generator = torch.Generator().manual_seed(len(manifest))
    made = {}
    for key, spec in manifest.items():
        raw = torch.randint(0, 256, (prod(spec.shape) * spec.dtype.itemsize,), dtype=torch.uint8, generator=generator)
        raw = raw % 2 if spec.dtype.name == "bool" else raw
        made[key] = raw.view(getattr(torch, spec.dtype.name)).reshape(spec.shape)
    return made


def bits(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: (value.dtype, tuple(value.shape), value.contiguous().reshape(-1).view(torch.uint8).tolist())
        for key, value in state.items()
    }


@settings(max_examples=300, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_there_and_back_is_bit_for_bit(case: tuple[dict[str, Any], Manifest]) -> None:
    document, source = case
    key_map = parse_map(json.dumps(document))
    plan = make_plan(source, None, key_map)
    inversion = invert(plan)
    assert (inversion.lost, inversion.bijective, inversion.plan.remainders) == ((), inversion.total, ())
    before = tensors(source)
    there = apply(plan, before)
    assert bits(apply(inversion.plan, there)) == bits(before)

    written = inverse_map(inversion, key_map)
    assert all("no rule for it" in lost.reason for lost in written.lost)
    unsaid = {key for lost in written.lost for key in lost.keys}
    back = make_plan(plan.target, plan.source, parse_map(written.text))
    after, specs = bits(apply(back, there)), Specs(plan.target)
    assert after == {key: value for key, value in bits(before).items() if key not in unsaid}
    for step, said in zip(inversion.plan.steps, back.steps, strict=True):
        assert step.expression is not None
        if step.target.key not in unsaid:
            assert said.expression in (step.expression, _alone(step.expression, specs))


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
@settings(max_examples=6, derandomize=True, suppress_health_check=list(HealthCheck))
@given(cases())
def test_through_files_too(tmp_path_factory: Any, suffix: str, case: tuple[dict[str, Any], Manifest]) -> None:
    document, drawn = case
    folder: Path = tmp_path_factory.mktemp("trip")
    before = tensors(drawn)
    torch.save({"epoch": 1, "state_dict": before}, folder / "old.ckpt")
    map_path = folder / "map.yaml"
    map_path.write_text(json.dumps(document))
    plan = make_plan(read_manifest(folder / "old.ckpt"), None, load_map(map_path))
    execute(plan, folder / f"new.{suffix}")
    new = read_manifest(folder / f"new.{suffix}")
    inversion = invert(make_plan(plan.source, new, load_map(map_path)))
    receipt = execute(inversion.plan, folder / f"back.{suffix}")
    assert (receipt.reverse, read_receipt(folder / f"back.{suffix}").reverse) == (True, True)
    verification = verify(folder / f"back.{suffix}")
    assert {check.id for check in verification.checks if check.passed is False} <= {"finite"}
    assert verification["source"].passed
    assert "computed ones" not in verification["source"].text
    assert bits(loaded(folder / f"back.{suffix}")) == bits(before)


def loaded(path: Path) -> dict[str, Any]:
    if path.suffix == ".safetensors":
        return dict(pytest.importorskip("safetensors.torch").load_file(path))
    return dict(torch.load(path)["state_dict"])
