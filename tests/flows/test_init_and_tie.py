"""Maps that initialise and tie, in memory (`apply`, `load_into`, the hook for Lightning) and where files share memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.errors import KeyCollision, TargetError
from ckptdoctor.execution.outputs import Fill
from ckptdoctor.integrations.lightning import remap_checkpoint
from ckptdoctor.keymap import KeyMap, parse_map
from ckptdoctor.targets.building.contents import manifest_of_module

TIE = "tie: [{keys: [embedding.weight, head.weight], why: shared}]"
FRESH = """\
fresh:
  - {keys: alpha, why: new, init: {normal: {std: 0.1, seed: 3}}}
  - {keys: beta, why: new, init: {copy: layer.bias}}
  - {keys: gamma, why: new, init: model}
"""


def key_map(text: str) -> KeyMap:
    return parse_map(f"ckptdoctor: 1\n{text}\n")


class Old(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.embedding = nn.Linear(3, 4), nn.Embedding(5, 3)


class New(Old):
    """With a head, tied to the embedding only if it is asked for, and three new parameters."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.head = nn.Linear(3, 5, bias=False)
        self.alpha, self.beta = nn.Parameter(torch.full((4,), 7.0)), nn.Parameter(torch.full((4,), 7.0))
        self.gamma = nn.Parameter(torch.full((4,), 7.0))
        if tied:
            self.head.weight = self.embedding.weight


@pytest.fixture
def old() -> Old:
    torch.manual_seed(1)
    return Old()


@pytest.fixture(autouse=True)
def folder(old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    torch.save(old.state_dict(), "old.pt")
    return tmp_path


def plan_for(target: Any, text: str) -> ckptdoctor.Plan:
    Path("map.yaml").write_text(f"ckptdoctor: 1\n{text}\n")
    return ckptdoctor.make_plan(ckptdoctor.read_manifest("old.pt"), target, ckptdoctor.load_map("map.yaml"))


class TestApply:
    def test_what_is_initialised_is_there_but_for_the_constructors(self, old: Old) -> None:
        weights = old.state_dict()
        made = ckptdoctor.apply(plan_for(manifest_of_module(New()), f"{FRESH}\n{TIE}"), weights)
        assert list(made) == ["alpha", "beta", "layer.weight", "layer.bias", "embedding.weight", "head.weight"]
        assert made["head.weight"] is made["embedding.weight"] is weights["embedding.weight"]
        assert torch.equal(made["beta"], old.layer.bias)
        assert made["beta"].data_ptr() != old.layer.bias.data_ptr()
        assert made["alpha"].dtype == torch.float32

    def test_files_and_memory_get_the_same_values(self, old: Old) -> None:
        plan = plan_for(manifest_of_module(New()), f"{FRESH}\n{TIE}")
        fill = Fill({"gamma": torch.zeros(4)}, "init(seed=0)", 0)
        ckptdoctor.execute(plan, "new.pt", fill=fill)
        written, made = torch.load("new.pt", weights_only=True), ckptdoctor.apply(plan, old.state_dict())
        assert all(torch.equal(written[key], value) for key, value in made.items())
        assert set(written) - set(made) == {"gamma"}
        assert ckptdoctor.verify("new.pt").passed

    def test_tied_and_initialised_together_is_one_object(self, old: Old) -> None:
        text = (
            'fresh: [{keys: [alpha, beta, gamma], why: new, init: {normal: {std: 1}}}, {keys: "{*m}.weight", why: n}]'
        )
        made = ckptdoctor.apply(
            plan_for(manifest_of_module(New()), f"{text}\ntie: [{{keys: [alpha, gamma], why: x}}]"), old.state_dict()
        )
        assert made["alpha"] is made["gamma"]
        assert not torch.equal(made["alpha"], made["beta"])


class TestLoadInto:
    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_a_live_module(self, old: Old, device: str) -> None:
        with torch.device(device):
            model = New()
        verdict = ckptdoctor.load_into(model, "old.pt", key_map(f"{FRESH}\n{TIE}"))
        assert verdict.passed
        assert model.head.weight is model.embedding.weight, "one parameter from now on"
        assert len(list(model.parameters())) == 6
        assert torch.equal(model.embedding.weight, old.embedding.weight)
        assert torch.equal(model.beta, old.layer.bias)
        expected = ckptdoctor.apply(verdict.plan, old.state_dict())["alpha"]
        assert torch.equal(model.alpha, expected)
        assert isinstance(model.head.weight, nn.Parameter)
        assert model.gamma.is_meta if device == "meta" else model.gamma.tolist() == [7.0] * 4

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_what_is_tied_already_stays_as_it_is(self, old: Old, device: str) -> None:
        with torch.device(device):
            model = New(tied=True)
        before = model.embedding.weight
        ckptdoctor.load_into(model, "old.pt", key_map(f"{FRESH}\n{TIE}"))
        assert model.head.weight is model.embedding.weight
        assert device == "meta" or model.head.weight is before
        assert torch.equal(model.head.weight, old.embedding.weight)

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_tied_tensors_that_are_drawn_get_one_draw(self, device: str) -> None:
        text = 'fresh: [{keys: "{embedding,head}.weight", why: n, init: {normal: {std: 1}}}, {keys: "{p}", why: new}]\n'
        text += 'drop: [{keys: embedding.weight, why: "drawn anew"}]'
        with torch.device(device):
            model = New(tied=True)
        verdict = ckptdoctor.load_into(model, "old.pt", key_map(text))
        made = ckptdoctor.apply(verdict.plan, torch.load("old.pt", weights_only=True))
        assert made["head.weight"] is made["embedding.weight"]
        assert torch.equal(model.head.weight, made["head.weight"])
        assert model.head.weight is model.embedding.weight

    def test_what_stands_nowhere_in_the_module_cannot_be_tied(self) -> None:
        class Detached(New):
            def state_dict(self, **_: Any) -> dict[str, Any]:  # type: ignore[override]
                return {key: value.detach() for key, value in super().state_dict().items()}

        model = Detached()
        before = model.embedding.weight.clone()
        with pytest.raises(TargetError, match=r"head\.weight cannot be tied"):
            ckptdoctor.load_into(model, "old.pt", key_map(f"{FRESH}\n{TIE}"))
        assert torch.equal(model.embedding.weight, before)


def test_the_hook_for_lightning_keeps_what_was_initialised(old: Old) -> None:
    checkpoint: dict[str, Any] = {"state_dict": old.state_dict()}
    model = New()
    remap_checkpoint(checkpoint, model, key_map(f"{FRESH}\n{TIE}"))
    model.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(model.beta, old.layer.bias)
    assert float(model.alpha.detach().abs().max()) < 1
    assert model.gamma.tolist() == [7.0] * 4


class TestFiles:
    """Where the target shares memory, and where a receipt has to say which of several was made."""

    BOTH = 'drop: [{keys: embedding.weight, why: "drawn anew"}]\n'

    @pytest.mark.parametrize("name", ["new.pt", "new.safetensors"])
    @pytest.mark.parametrize("declared", ["embedding.weight", "head.weight", "{embedding,head}.weight"])
    def test_one_draw_for_a_tied_pair(self, name: str, declared: str) -> None:
        text = f'fresh: [{{keys: "{declared}", why: n, init: {{normal: {{std: 1}}}}}}, {{keys: "{{p}}", why: new}}]\n'
        plan = plan_for(manifest_of_module(New(tied=True)), self.BOTH + text)
        receipt = ckptdoctor.execute(plan, name)
        rows = {row.target: row for row in receipt.tensors}
        assert rows["embedding.weight"].ops == ("init(normal(std=1.0, seed=0))",)
        assert (rows["head.weight"].ops, rows["head.weight"].tied_to) == ((), "embedding.weight")
        proof = ckptdoctor.verify(name)
        assert proof.passed
        assert "1 computed again" in proof["source"].text

    def test_a_tie_that_the_target_does_not_have(self) -> None:
        ckptdoctor.execute(plan_for(manifest_of_module(New()), f"{FRESH.replace('model', 'ones')}\n{TIE}"), "new.pt")
        weights = torch.load("new.pt", weights_only=True)
        assert weights["head.weight"].data_ptr() == weights["embedding.weight"].data_ptr()
        assert weights["gamma"].tolist() == [1.0] * 4
        New().load_state_dict(weights)
        proof = ckptdoctor.verify("new.pt")
        assert proof.passed
        assert proof["ties"].text.startswith("2 tensors share memory")

    def test_another_dtype_fills_both(self) -> None:
        target = manifest_of_module(New(tied=True).bfloat16())
        receipt = ckptdoctor.execute(plan_for(target, 'fresh: [{keys: "{p}", why: new, init: zeros}]'), "new.pt")
        assert {row.target: row.dtype for row in receipt.tensors if "weight" in row.target} == {
            "layer.weight": "float32",
            "embedding.weight": "float32",
            "head.weight": "float32",
        }
        assert {row.dtype for row in receipt.tensors if row.ops} == {"bfloat16"}

    def test_two_sources_for_what_the_target_shares(self, old: Old) -> None:
        torch.save(old.state_dict() | {"head.weight": torch.ones(5, 3)}, "old.pt")
        text = 'fresh: [{keys: "{p}", why: new}]'
        assert plan_for(manifest_of_module(New(tied=True)), text).counts["loaded"] == 4, "a matter of --fail-on tied"
        with pytest.raises(KeyCollision):
            plan_for(manifest_of_module(New()), f"{text}\n{TIE}")
