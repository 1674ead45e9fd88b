"""What a user would otherwise run: each a program for `python -c`, with the source and the output as its arguments."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import Process

Rival = Callable[[Path, Path], Process]

RENAME = '  - {from: "model.layers.{*p}", to: "model.blocks.{*p}"}\n'
"""The rule whose work all of them do, but for transformers, which renames nothing."""
_NEW = 'new = lambda key: key.replace("model.layers.", "model.blocks.", 1)\n'
_START = "import sys\nsource, out = sys.argv[1:]\n" + _NEW

_TORCH = """
import torch
whole = torch.load(source, map_location="cpu", weights_only=True, mmap={mmap})
weights = whole.get("state_dict", whole)
for key in list(weights):
    weights[new(key)] = weights.pop(key)
torch.save(whole, out)
"""
_LOAD_FILE = """
from safetensors.torch import load_file, save_file
save_file({new(key): value for key, value in load_file(source).items()}, out, {"format": "pt"})
"""
_SAFE_OPEN = """
import json, os
from safetensors import safe_open
from safetensors.torch import save_file
os.mkdir(out)
index = json.load(open(f"{source}/model.safetensors.index.json"))
for name in sorted(set(index["weight_map"].values())):
    with safe_open(f"{source}/{name}", "pt") as file:
        save_file({new(key): file.get_tensor(key) for key in file.keys()}, f"{out}/{name}", {"format": "pt"})
index["weight_map"] = {new(key): name for key, name in index["weight_map"].items()}
json.dump(index, open(f"{out}/model.safetensors.index.json", "w"), indent=2)
"""
_TRANSFORMERS = """
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(source, dtype="bfloat16").save_pretrained(out, max_shard_size=SHARD)
"""
_MERGEKIT = """
from mergekit.io import LazyTensorLoader, TensorWriter
loader = LazyTensorLoader.from_disk(source, lazy_unpickle=False)
with TensorWriter(out, max_shard_size=SHARD) as writer:
    for key in loader.index.tensor_paths:
        writer.save_tensor(new(key), loader.get_tensor(key))
"""
_TO_SAFETENSORS = """
import torch
from safetensors.torch import save_file
state = torch.load(source, map_location="cpu", weights_only=True, mmap=True)
save_file({new(key): value for key, value in state.items()}, out, {"format": "pt"})
"""
_TO_TORCH = """
import torch
from safetensors.torch import load_file
torch.save({new(key): value for key, value in load_file(source).items()}, out)
"""
COMPUTE = """\
  - {from: "model.layers.{i}.self_attn.{q,k,v}_proj.{p}", to: "model.layers.{i}.self_attn.qkv_proj.{p}", op: {concat: 0}}
  - {from: "model.layers.{i}.self_attn.o_proj.{p}", to: "model.layers.{i}.self_attn.o_proj.{p}", op: {transpose: [0, 1]}}
  - {from: "model.layers.{i}.mlp.up_proj.{p}", to: "model.layers.{i}.mlp.up_proj.{p}", op: {transpose: [0, 1]}}
"""
"""Of the 16 squares of the model's width that a layer has, 3 are joined and 5 transposed: half of the bytes."""
_COMPUTE = """
import torch
from safetensors.torch import load_file, save_file
state = load_file(source)
for key in [key for key in state if key.endswith("q_proj.weight")]:
    stem = key.removesuffix("q_proj.weight")
    state[stem + "qkv_proj.weight"] = torch.cat([state.pop(f"{stem}{name}_proj.weight") for name in "qkv"])
for key in [key for key in state if key.endswith(("up_proj.weight", "o_proj.weight"))]:
    state[key] = state[key].t().contiguous()
save_file(state, out, {"format": "pt"})
"""


def copy(source: Path, out: Path) -> Process:
    return Process("cp -r", ["cp", "-r", source, out]) if source.is_dir() else Process("cp", ["cp", source, out])


def torch_load(source: Path, out: Path) -> Process:
    return _python("torch.load + torch.save", _TORCH.format(mmap=False), source, out)


def torch_load_mmap(source: Path, out: Path) -> Process:
    return _python("torch.load(mmap) + torch.save", _TORCH.format(mmap=True), source, out)


def load_file(source: Path, out: Path) -> Process:
    return _python("load_file + save_file", _LOAD_FILE, source, out)


def safe_open(source: Path, out: Path) -> Process:
    """Shard by shard."""
    return _python("safe_open + save_file", _SAFE_OPEN, source, out)


def transformers(source: Path, out: Path, shard: int) -> Process:
    return _python("from_pretrained + save_pretrained", _TRANSFORMERS.replace("SHARD", str(shard)), source, out)


def mergekit(source: Path, out: Path, shard: int, python: Path) -> Process:
    return _python("mergekit", _MERGEKIT.replace("SHARD", str(shard)), source, out, python)


def to_safetensors(source: Path, out: Path) -> Process:
    return _python("torch.load(mmap) + save_file", _TO_SAFETENSORS, source, out)


def to_torch(source: Path, out: Path) -> Process:
    return _python("load_file + torch.save", _TO_TORCH, source, out)


def compute(source: Path, out: Path) -> Process:
    return _python("load_file + cat, t + save_file", _COMPUTE, source, out)


def _python(name: str, program: str, source: Path, out: Path, python: str | Path = sys.executable) -> Process:
    return Process(name, [python, "-c", _START + program, source, out])
