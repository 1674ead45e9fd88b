"""The files that are measured with: weights shaped like Llama's, in every layout, made as fast as the disk takes them.

The bytes of a tensor are a slice of one random block, from another place for each; making a file of any size takes the memory
of the block.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count, islice
from math import prod
from pathlib import Path
from typing import Any

Shapes = Mapping[str, tuple[int, ...]]

VOCABULARY = 1024
HEADS = 16
BLOCK = 1 << 26
SHIFTS = 1 << 24


@contextmanager
def made(path: Path, kind: str, *sizes: int) -> Iterator[Path]:
    """A file or a folder of a kind in KINDS, for as long as it is needed: two at once would not fit on the disk.

    It is made by a process of its own: a process that measures keeps small.
    """
    try:
        subprocess.run([sys.executable, "-m", "benchmarks.data", kind, path, *map(str, sizes)], check=True)
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def width(size: int) -> int:
    """Of the model: large tensors in large files."""
    return 2048 if size >= 500_000_000 else 512


def llama(size: int, itemsize: int = 2) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of about `size` bytes, as transformers names them."""
    w = width(size)
    layer = {
        "input_layernorm": (w,),
        "mlp.down_proj": (w, 4 * w),
        "mlp.gate_proj": (4 * w, w),
        "mlp.up_proj": (4 * w, w),
        "post_attention_layernorm": (w,),
        **{f"self_attn.{name}_proj": (w, w) for name in "koqv"},
    }
    layers = max(1, round((size / itemsize - 2 * VOCABULARY * w) / sum(map(prod, layer.values()))))
    inner = {f"model.layers.{n}.{name}.weight": shape for n in range(layers) for name, shape in layer.items()}
    return {
        "model.embed_tokens.weight": (VOCABULARY, w),
        **inner,
        "model.norm.weight": (w,),
        "lm_head.weight": (VOCABULARY, w),
    }


def llama_config(shapes: Shapes) -> dict[str, Any]:
    """The config.json that goes with them."""
    w = shapes["model.norm.weight"][0]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "bfloat16",
        "hidden_size": w,
        "intermediate_size": 4 * w,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "num_hidden_layers": sum(key.endswith("up_proj.weight") for key in shapes),
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
    }


def safetensors_file(path: Path, size: int) -> None:
    """bfloat16 tensors; the header as the library writes it."""
    _write_safetensors(path, llama(size), os.urandom(BLOCK))


def safetensors_folder(folder: Path, size: int, shards: int) -> None:
    """As transformers saves a model: shards of about the same size, their index, and config.json."""
    shapes = llama(size)
    total, gone = sum(map(prod, shapes.values())), 0
    parts: list[dict[str, tuple[int, ...]]] = [{} for _ in range(shards)]
    for key, shape in shapes.items():
        parts[gone * shards // total][key] = shape
        gone += prod(shape)
    _write_folder(folder, parts, os.urandom(BLOCK))
    (folder / "config.json").write_text(json.dumps(llama_config(shapes), indent=2))


def torch_file(path: Path, size: int) -> None:
    """A bfloat16 state dict, by torch.save."""
    import torch

    make = _maker(torch.bfloat16)
    torch.save({key: make(shape) for key, shape in llama(size).items()}, path)


def lightning_file(path: Path, size: int) -> None:
    """As Lightning saves a float32 model with AdamW: weights, and two moments of each."""
    import torch

    make, shapes = _maker(torch.float32), llama(size // 3, itemsize=4)
    state = {
        number: {"step": torch.tensor(1000.0), "exp_avg": make(shape), "exp_avg_sq": make(shape)}
        for number, shape in enumerate(shapes.values())
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "params": list(state)}
    checkpoint = {
        "epoch": 3,
        "global_step": 1000,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {key: make(shape) for key, shape in shapes.items()},
        "loops": {"fit_loop": {"state_dict": {}}},
        "callbacks": {},
        "optimizer_states": [{"state": state, "param_groups": [group]}],
        "lr_schedulers": [],
        "hyper_parameters": {"width": 512},
    }
    torch.save(checkpoint, path)


def small_checkpoint(path: Path) -> None:
    """120 tensors, and AdamW's states of them."""
    import torch
    from torch import nn

    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(60)))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(1, 64)).sum().backward()
    optimizer.step()
    torch.save({"state_dict": model.state_dict(), "optimizer_states": [optimizer.state_dict()]}, path)


def many_tensors(path: Path, number: int, renamed: int) -> None:
    """Small tensors of a mixture of experts, a third of them called otherwise; the data are holes and take no disk."""
    _write_safetensors(path, dict(islice(_experts("w1" if renamed else "gate_proj"), number)))


def many_shards(folder: Path, number: int, shards: int) -> None:
    """The same tensors, in shards of as many each."""
    keys = list(islice(_experts("gate_proj"), number))
    _write_folder(folder, [dict(keys[number * n // shards : number * (n + 1) // shards]) for n in range(shards)])


def _experts(gate: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for layer in count():
        stem = f"model.layers.{layer}"
        for expert in range(64):
            yield from (
                (f"{stem}.mlp.experts.{expert}.{name}.weight", (64, 32)) for name in (gate, "up_proj", "down_proj")
            )
        yield from ((f"{stem}.self_attn.{name}_proj.weight", (32, 32)) for name in "qkvo")
        yield f"{stem}.input_layernorm.weight", (32,)


def _write_folder(folder: Path, parts: Sequence[Shapes], block: bytes | None = None) -> None:
    """Shards as transformers names them, and their index."""
    folder.mkdir()
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    total = sum(_write_safetensors(folder / name, part, block) for name, part in zip(names, parts, strict=True))
    weight_map = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _write_safetensors(path: Path, shapes: Shapes, block: bytes | None = None) -> int:
    """The header as the library writes it, and slices of the block, or holes; returns the bytes of the tensors."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + 2 * prod(shape)
        header[key] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb", buffering=0) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if block is None:
            file.truncate(8 + len(text) + end)
            return end
        for shape, shift in zip(shapes.values(), _shifts(), strict=False):
            file.write(memoryview(block)[shift : shift + 2 * prod(shape)])
    return end


def _shifts() -> Iterator[int]:
    """Where in the block each tensor begins."""
    return (number * 262_208 % SHIFTS for number in count())


def _maker(dtype: Any) -> Callable[[tuple[int, ...]], Any]:
    """Makes tensors of a shape whose storages are slices of the block: torch.save writes each as its own."""
    import torch

    block, shifts = bytearray(os.urandom(BLOCK)), _shifts()
    return lambda shape: torch.frombuffer(block, dtype=dtype, count=prod(shape), offset=next(shifts)).view(shape)


KINDS = (safetensors_file, safetensors_folder, torch_file, lightning_file, small_checkpoint, many_tensors, many_shards)

if __name__ == "__main__":
    wanted, place, *numbers = sys.argv[1:]
    {kind.__name__: kind for kind in KINDS}[wanted](Path(place), *map(int, numbers))
