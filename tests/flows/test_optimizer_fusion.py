"""q, k and v become qkv in the middle of a training, and back: the moments are fused and split with the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ckptdoctor
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.keymap import parse_map
from ckptdoctor.receipt import Receipt

WIDTH = 8
FUSE = """ckptdoctor: 1
rules:
  - {from: "blocks.{i}.attn.{q,k,v}.{p}", to: "blocks.{i}.attention.qkv.{p}", op: {concat: {dim: 0}}}
  - {from: "blocks.{i}.attn.out.{p}", to: "blocks.{i}.attention.out.{p}"}
"""
SPLIT = """ckptdoctor: 1
rules:
  - from: "blocks.{i}.attention.qkv.{p}"
    to: "blocks.{i}.attn.{q,k,v}.{p}"
    op: {split: {dim: 0, sizes: [8, 8, 8]}}
  - {from: "blocks.{i}.attention.out.{p}", to: "blocks.{i}.attn.out.{p}"}
"""


class Separate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return attend(self.q(inputs), self.k(inputs), self.v(inputs), self.out)


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return attend(*self.qkv(inputs).split(WIDTH, -1), self.out)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: nn.Module) -> torch.Tensor:
    made: torch.Tensor = out(torch.softmax(q @ k.transpose(-1, -2) / WIDTH**0.5, -1) @ v)
    return made


class Net(nn.Module):
    def __init__(self, name: str, kind: type[nn.Module]) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.norm = nn.LayerNorm(WIDTH)
        self.blocks = nn.ModuleList()
        for _ in range(2):
            block = nn.Module()
            block.add_module(name, kind())
            self.blocks.append(block)
        self.name = name

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            inputs = inputs + block.get_submodule(self.name)(self.norm(inputs))
        return inputs


def separate() -> Net:
    return Net("attn", Separate)


def fused() -> Net:
    return Net("attention", Fused)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=0.01)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    every = list(model.parameters())
    decayed, rest = [each for each in every if each.ndim > 1], [each for each in every if each.ndim <= 1]
    return torch.optim.AdamW([{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}], lr=0.01)


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def losses(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    made = []
    for step in steps:
        inputs = torch.randn(4, 5, WIDTH, generator=torch.Generator().manual_seed(step))
        loss = (model(inputs) - inputs.roll(1, 1)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        made.append(loss.item())
    return made


def remapped(old: nn.Module, optimizer: torch.optim.Optimizer, new: nn.Module, rules: str, path: Path) -> Receipt:
    torch.save({"state_dict": old.state_dict(), "optimizer_states": [optimizer.state_dict()]}, path)
    torch.save(new.state_dict(), path.with_name("target.pt"))
    source, target = (ckptdoctor.read_manifest(each) for each in (path, path.with_name("target.pt")))
    plan = ckptdoctor.make_plan(source, target, [parse_map(rules)])
    return ckptdoctor.execute(plan, path.with_name("new.ckpt"), options=WriteOptions(follow_optimizer=True))


@pytest.mark.parametrize("make", [adam, adamw, sgd])
@pytest.mark.parametrize(("first", "second", "rules"), [(separate, fused, FUSE), (fused, separate, SPLIT)])
def test_training_goes_on(make: Any, first: Any, second: Any, rules: str, tmp_path: Path) -> None:
    old, new = first(), second()
    optimizer, new_optimizer = make(old), make(new)
    losses(old, optimizer, range(6))
    receipt = remapped(old, optimizer, new, rules, tmp_path / "old.ckpt")
    loaded = torch.load(tmp_path / "new.ckpt", weights_only=True)
    new.load_state_dict(loaded["state_dict"])
    new_optimizer.load_state_dict(loaded["optimizer_states"][0])
    expected = losses(old, optimizer, range(6, 16))
    assert losses(new, new_optimizer, range(6, 16)) == pytest.approx(expected, rel=1e-4)
    assert "0 reset; 0 parameters start without state" in receipt.notes[0]
    fresh = second()
    fresh.load_state_dict(loaded["state_dict"])
    assert losses(fresh, make(fresh), range(6, 16)) != pytest.approx(expected, rel=1e-4), "the moments do matter"


def test_there_and_back_is_bit_identical(tmp_path: Path) -> None:
    old = separate()
    optimizer = adamw(old)
    losses(old, optimizer, range(4))
    remapped(old, optimizer, fused(), FUSE, tmp_path / "old.ckpt")
    source = ckptdoctor.read_manifest(tmp_path / "new.ckpt")
    plan = ckptdoctor.make_plan(source, ckptdoctor.read_manifest(tmp_path / "old.ckpt"), [parse_map(SPLIT)])
    ckptdoctor.execute(plan, tmp_path / "back.ckpt", options=WriteOptions(follow_optimizer=True))
    before, after = (torch.load(tmp_path / name, weights_only=True) for name in ("old.ckpt", "back.ckpt"))
    assert list(before["state_dict"]) == list(after["state_dict"])
    assert before["optimizer_states"][0]["param_groups"] == after["optimizer_states"][0]["param_groups"]
    ours, theirs = before["optimizer_states"][0]["state"], after["optimizer_states"][0]["state"]
    assert ours.keys() == theirs.keys()
    for number, state in ours.items():
        assert all(torch.equal(value, theirs[number][name]) for name, value in state.items())
