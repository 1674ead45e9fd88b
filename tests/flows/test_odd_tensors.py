"""Tensors and maps at the edge: odd strides, sizes without bound, copies of other dtypes, what a file was made without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import ckptdoctor
from ckptdoctor.errors import ShapeError
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.plan import Plan
from tests.cli.helpers import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    return tmp_path


def key_map(text: str) -> KeyMap:
    return parse_map(f"ckptdoctor: 1\n{text}\n")


def planned(weights: Any, *maps: str, target: Manifest | None = None) -> Plan:
    torch.save(weights, "old.pt")
    return ckptdoctor.make_plan(ckptdoctor.read_manifest("old.pt"), target, list(map(key_map, maps)))


def test_one_element_with_an_odd_stride() -> None:
    """What `unstack` leaves of a column has one element, and the stride of the whole."""
    whole = torch.randn(1, 3)
    plan = planned({"g": whole}, 'rules: [{from: g, to: "g.{0..2}", op: {unstack: 1}}]')
    ckptdoctor.execute(plan, "new.pt")
    new = torch.load("new.pt")
    assert [float(new[f"g.{place}"]) for place in range(3)] == whole[0].tolist()
    assert list(ckptdoctor.apply(plan, {"g": whole})) == list(new)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mean_is_the_same_in_memory_and_in_a_file(dtype: torch.dtype) -> None:
    weights = {"w": torch.randn(33, 1000).T.to(dtype)}
    rules = "rules: [{from: w, to: w, op: {pad: {dim: 0, to: 1001, fill: mean}}}]"
    plan = planned({"w": weights["w"].contiguous()}, rules)
    ckptdoctor.execute(plan, "new.pt")
    assert torch.equal(torch.load("new.pt")["w"], ckptdoctor.apply(plan, weights)["w"])


def test_a_copy_of_the_weights_in_other_dtypes_is_left_and_said() -> None:
    weights = {"a": torch.ones(2), "b": torch.ones(2)}
    contents = {"model": weights, "ema": {"a": torch.ones(2).half(), "b": torch.ones(2)}}
    plan = planned(contents, 'rules: [{from: "{a,b}", to: c, op: concat}]')
    (note,) = ckptdoctor.execute(plan, "new.pt").notes
    assert note.startswith("ema was left as it is: concat(0): a is float16 and b is float32")
    assert list(torch.load("new.pt")["ema"]) == ["a", "b"]


HUGE = 10**21


@pytest.mark.parametrize(
    "op",
    [
        f"repeat: {{dim: 0, times: {HUGE}}}",
        f"pad: {{dim: 0, to: {HUGE}, fill: 0}}",
        f"resize_vocab: {{to: {HUGE}, fill: mean}}",
        f"interpolate: {{to: [{HUGE}, {HUGE}], from: [3, 1]}}",
        f"broadcast: {HUGE}",
        f"split: {{parts: {HUGE}}}",
        f"reshape: {[3, 4, *[1] * 70]}",
    ],
)
def test_sizes_without_bound_are_refused_with_the_line(op: str) -> None:
    to = '"{b,c}"' if op.startswith(("broadcast", "split")) else "b"
    with pytest.raises(ShapeError, match="<map>:2:9"):
        planned({"a": torch.ones(3, 4)}, f"rules: [{{from: a, to: {to}, op: {{{op}}}}}]")


def test_what_does_not_fit_into_memory_is_said() -> None:
    plan = planned({"a": torch.ones(3, 4)}, f"rules: [{{from: a, to: b, op: {{repeat: {{dim: 0, times: {10**15}}}}}}}]")
    with pytest.raises(ShapeError, match="b: there is not enough memory for"):
        ckptdoctor.apply(plan, {"a": torch.ones(3, 4)})


def test_a_number_that_is_divided_by_is_named_once() -> None:
    target = Manifest([TensorSpec("blocks.2.w", (2,), DTYPES["float32"])])
    rules = 'rules: [{from: "blocks.{i:int}.w", to: "blocks.{j:int}.w", where: {i: "j // (j - j)"}}]'
    with pytest.raises(ckptdoctor.errors.PlanError, match=r"divides by zero where j = 2, for"):
        planned({"blocks.0.w": torch.ones(2)}, rules, target=target)


def test_a_model_whose_only_normalised_modules_are_recurrent() -> None:
    torch.save({"lstm.weight_hh_l0_g": torch.ones(8, 1), "lstm.weight_hh_l0_v": torch.ones(8, 4)}, "old.pt")
    shipped = Path(__file__).parents[2] / "mappings" / "weight-norm-to-parametrizations.yaml"
    done = run("remap", "old.pt", "-m", shipped, "-o", "new.pt", cwd=Path.cwd())
    assert done.status == 0, done.stderr
    assert list(torch.load("new.pt")) == [f"lstm.parametrizations.weight_hh_l0.original{i}" for i in (0, 1)]


class TestThereAndBackWithFresh:
    """What is fresh without an `init` is not in the file that the map makes."""

    MAP = "rules: [{from: a, to: aa, op: {transpose: [0, 1]}}]\nfresh: [{keys: new, why: it is new}]"

    def there(self) -> dict[str, torch.Tensor]:
        old = {"a": torch.randn(3, 4), "b": torch.randn(2)}
        torch.save(old, "old.pt")
        torch.save({"aa": torch.ones(4, 3), "b": torch.ones(2), "new": torch.ones(5)}, "target.pt")
        Path("map.yaml").write_text(f"ckptdoctor: 1\n{self.MAP}\n")
        done = run("remap", "old.pt", "target.pt", "-m", "map.yaml", "-o", "new.pt", cwd=Path.cwd())
        assert done.status == 0, done.stderr
        assert list(torch.load("new.pt")) == ["aa", "b"]
        return old

    def back(self, *options: str) -> dict[str, torch.Tensor]:
        done = run("remap", "new.pt", "old.pt", *options, "-o", "back.pt", cwd=Path.cwd())
        assert done.status == 0, done.stderr
        loaded: dict[str, torch.Tensor] = torch.load("back.pt")
        return loaded

    def test_by_reverse(self) -> None:
        old, back = self.there(), self.back("-m", "map.yaml", "--reverse")
        assert all(torch.equal(old[key], back[key]) for key in old)

    def test_by_an_inverse_map(self) -> None:
        old = self.there()
        run("map", "invert", "old.pt", "target.pt", "-m", "map.yaml", "-o", "inverse.yaml", cwd=Path.cwd())
        back = self.back("-m", "inverse.yaml")
        assert all(torch.equal(old[key], back[key]) for key in old)


def test_buffers_that_an_op_makes_longer_keep_no_values_of_the_constructor() -> None:
    source = Manifest([TensorSpec("mask", (4,), DTYPES["float32"], "buffer")])
    target = Manifest(
        [TensorSpec(key, (size,), DTYPES["float32"], "buffer") for key, size in (("mask", 6), ("other", 3))]
    )
    grown = "rules: [{from: mask, to: mask, op: {pad: {dim: 0, to: 6, fill: 0}}}]"
    plan = ckptdoctor.make_plan(source, target, [key_map(grown)])
    assert plan.random_buffers == 5
    text = ckptdoctor.render(plan, width=300)
    assert "2 buffer elements are added by ops; 3 buffer elements keep the constructor's values" in text
