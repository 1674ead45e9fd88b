"""The good files that mutants are made of: small, of every layout that a format knows, the same in every run."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ckptdoctor import execute, make_plan, read_manifest
from ckptdoctor.formats.manifest import manifest_json
from ckptdoctor.formats.sharded.index import index_json
from tests import builders as b
from tests.security.fuzzing.opcodes import split

Files = Mapping[str, bytes]
"""A checkpoint as its files by name; most are one file."""


def _weights() -> OrderedDict[str, Any]:
    """As `state_dict()` gives them: with `_metadata`, and a tie."""
    import torch

    model = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2, bias=False)})
    model["head"].weight = model["a"].weight
    for number, value in enumerate(model.parameters()):
        value.data = torch.arange(value.numel()).reshape(value.shape) / 4 + number
    return model.state_dict()


def _views() -> dict[str, Any]:
    import torch

    base, waves = torch.arange(12.0).reshape(3, 4), torch.complex(torch.arange(4.0), torch.ones(4))
    views = {"base": base, "t": base.T, "rows": base[1:], "one": base[1, 2], "wide": base[:1, :2].expand(3, 2)}
    return views | {"waves": waves, "conj": waves.conj(), "empty": torch.zeros(2, 0)}


def _kinds() -> dict[str, Any]:
    import torch

    weight = torch.nn.Parameter(torch.arange(4.0).reshape(2, 2))
    small = {name: b.patterned(name, 2) for name in ("bfloat16", "int64", "bool", "float8_e5m2", "uint16")}
    return {"p": weight, "same": weight, "buffer": torch.nn.Buffer(torch.ones(2)), "frozen": weight.detach(), **small}


def _old_kinds() -> dict[str, Any]:
    """Those that the format from before 1.6 can hold, of one storage each."""
    kinds = _kinds()
    return {key: kinds[key] for key in ("p", "same", "buffer", "bfloat16", "int64", "bool")}


def _lightning() -> dict[str, Any]:
    import torch

    return b.lightning_like(OrderedDict(w=torch.arange(4.0).reshape(2, 2), n=torch.tensor(3)))


def _nested() -> dict[Any, Any]:
    import torch

    inner = {"w": torch.ones(2), "deeper": [{"w": torch.arange(3)}, ({"x": torch.zeros(2, 2)},)]}
    return {"models": [OrderedDict(inner)], 7: {"w": torch.ones(6)}, "sparse": torch.eye(2).to_sparse(), "epoch": 3}


def _saved(obj: Any, **how: Any) -> bytes:
    import torch

    file = io.BytesIO()
    torch.save(obj, file, **how)
    return file.getvalue()


@cache
def torch_zips() -> tuple[Files, ...]:
    """What torch.save writes, and what it could have written: unaligned, packed, big-endian, without checksums."""
    saved = [_saved(make()) for make in (_weights, _views, _kinds, _lightning, _nested)]
    two = {"0": struct.pack("<4f", 1, 2, 3, 4), "1": struct.pack("<3i", 7, 8, 9)}
    wide = b.tensor(b.storage("1", "torch.IntStorage", 3), shape=(3,))
    turned = b.tensor(shape=(2, 2), stride=(1, 2), metadata=b.dict_({"neg": b"\x88"}))
    stream = b.pickled(b.dict_({"state_dict": b.dict_({"w": b.tensor(), "t": turned, "i": wide}), "epoch": b"K\1"}))
    records = b.torch_records(stream, two)
    saved += [b.torch_file(stream, two), b.torch_file(stream, two, byteorder=b"big")]
    saved += [b.zip_bytes([replace(record, deflate=record.name.endswith("data.pkl")) for record in records])]
    saved += [b.zip_bytes([replace(record, crc=0, local_crc=0) for record in records])]
    return tuple({"f.pt": data} for data in saved)


def _tensors_in(obj: Any) -> list[Any]:
    import torch

    if isinstance(obj, torch.Tensor):
        return [obj]
    parts = obj.values() if isinstance(obj, dict) else obj if isinstance(obj, list | tuple) else ()
    return [tensor for part in parts for tensor in _tensors_in(part)]


def _row(obj: Any) -> bytes:
    """A file as torch.save wrote it before 1.6, whose storages are counted and not called by their addresses."""
    import torch

    tensors = {str(tensor.untyped_storage()._cdata): tensor for tensor in _tensors_in(obj)}
    pickles, rest = [], _saved(obj, _use_new_zipfile_serialization=False)
    for _ in range(4):
        length = sum(map(len, split(rest)[:-1])) + 1  # the last opcode is STOP, and all that follows
        pickles, rest = [*pickles, rest[:length]], rest[length:]
    ops, keys = split(pickles[3]), dict[str, str]()
    for at, op in enumerate(ops):
        if op[0] == ord("X") and (key := op[5:].decode()) in tensors:
            ops[at] = b.text(keys.setdefault(key, str(len(keys))))
    row = b"".join([*pickles[:3], *ops, b.pickled(b.list_(*map(b.text, keys.values())))])
    for key in keys:
        storage, width = tensors[key].untyped_storage(), tensors[key].dtype.itemsize
        values = torch.tensor([], dtype=torch.uint8).set_(storage)
        row += struct.pack("<Q", len(values) // width) + values.numpy().tobytes()
    return row


@cache
def torch_rows() -> tuple[Files, ...]:
    """What torch.save wrote before 1.6."""
    made = (dict(_weights()), _weights(), _views(), _old_kinds(), _lightning(), {"models": [_weights()], "epoch": 3})
    return tuple({"f.pth": _row(obj)} for obj in made)


@cache
def safetensors() -> tuple[Files, ...]:
    """What save_file writes, ties of save_model, every dtype, and what only other writers make."""
    from safetensors.torch import save

    kinds = {
        name: b.patterned(name, 2, 2) for name in ("float32", "int64", "bfloat16", "bool", "float8_e4m3fn", "complex64")
    }
    named = {"metadata": {"format": "pt", "note": "é"}}
    views = {key: value.contiguous().clone() for key, value in _views().items() if value.dtype.itemsize == 4}
    first = {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}
    both = first | {"v": {"dtype": "I16", "shape": [3], "data_offsets": [16, 22]}}
    packed = {
        "f": {"dtype": "F4", "shape": [2, 4], "data_offsets": [0, 4]},
        "e": {"dtype": "U8", "shape": [0], "data_offsets": [4, 4]},
    }
    made = [
        save(kinds, **named),
        save(views),
        b.safetensors_bytes({"__metadata__": {"tied": "w"}} | both, bytes(range(22))),
    ]
    made += [b.safetensors_bytes(json.dumps(both) + " " * 8, bytes(range(22))), b.safetensors_bytes(packed, bytes(4))]
    return tuple({"f.safetensors": data} for data in made)


def _folder(stem: str, suffix: str, make: Any) -> Files:
    import torch

    parts = {
        "00001": {"a": torch.arange(4.0).reshape(2, 2), "b": torch.arange(3)},
        "00002": {"c": torch.ones(2), "d": torch.zeros(1)},
    }
    names = {number: f"{stem}-{number}-of-00002{suffix}" for number in parts}
    weight_map = {key: names[number] for number, part in parts.items() for key in part}
    total = sum(value.nbytes for part in parts.values() for value in part.values())
    shards = {names[number]: make(part) for number, part in parts.items()}
    return {f"{stem}{suffix}.index.json": index_json(weight_map, {"total_size": total}).encode()} | shards


@cache
def folders() -> tuple[Files, ...]:
    """Shards with an index, of safetensors and of torch files, and shards without one."""
    from safetensors.torch import save

    whole = _folder("model", ".safetensors", save)
    without = {name: data for name, data in whole.items() if not name.endswith(".json")}
    return whole, _folder("pytorch_model", ".bin", _saved), without


@cache
def manifests() -> tuple[Files, ...]:
    """What `inspect --manifest` writes of the other files."""
    texts = []
    with tempfile.TemporaryDirectory() as folder:
        for number, files in enumerate((torch_zips()[0], torch_zips()[2], safetensors()[0])):
            for name, data in files.items():
                path = b.written(Path(folder) / f"{number}-{name}", data)
                texts.append(manifest_json(read_manifest(path)))
    models = {"key": "m.w", "shape": [2, 3], "dtype": "float32", "kind": "parameter", "tied_to": None}
    rows = [models, models | {"key": "m.b", "kind": "buffer", "shape": []}, {"key": "x", "shape": [0], "dtype": "int8"}]
    texts.append(json.dumps({"schema": "ckptdoctor/manifest/1", "tensors": rows}))
    return tuple({"m.json": text.encode()} for text in texts)


MAP = """\
ckptdoctor: 1
description: a map for receipts
rules:
  - {from: "a.{p}", to: "b.{p}"}
fresh: []
"""


@cache
def receipts() -> tuple[Files, ...]:
    """What `execute` writes beside an output."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for files in (torch_zips()[0], safetensors()[1]):
            for name, data in files.items():
                path, out = b.written(Path(folder) / name, data), Path(folder) / f"out-{name}"
                execute(make_plan(read_manifest(path)), out)
                text = (out.parent / f"{out.name}.receipt.json").read_bytes()
                found.append(text.replace(folder.encode(), b"/folder"))
    rules = [{"path": "m.yaml", "sha256": "0" * 64}]
    more = json.loads(found[0]) | {"maps": rules, "reverse": True, "random": ["x"], "target": {"reference": "m:M"}}
    return tuple({"out.receipt.json": text} for text in (*found, json.dumps(more, indent=1).encode()))


MAPS = (
    """\
ckptdoctor: 1
description: Sequential MLP -> fc1/fc2
source:
  select: state_dict
  strip: [module, _orig_mod]
rules:
  - from: "blocks.{i}.mlp.{0,2}.{p}"
    to:   "blocks.{i}.mlp.{fc1,fc2}.{p}"
    expect: 4
  - from: "blocks.{i}.attn.{q,k,v}.{p}"
    to:   "blocks.{i}.attn.qkv.{p}"
    op:   {concat: {dim: 0}}
fresh:
  - {keys: "blocks.0.attn.{alpha,scale}", why: "new"}
drop:
  - {keys: "{*m}.num_batches_tracked", why: "a counter"}
""",
    """\
# a comment
ckptdoctor: 1
rules:
  - from: ["a.w", 'b.w']
    to: c.w
    op: [{stack: {dim: 0}}, {transpose: {dims: [0, 1]}}]
    optional: "not in all"
  - from: {x: "d.{i:int}.x", y: "d.{i:int}.y"}
    to: "e.{i}"
    op: {rearrange: {pattern: "a b -> b a"}}
  - {from: "h.{n:int}.w", to: "k.{m:int}.w", where: {n: m + 1}}
envelope:
  set: {epoch: 0}
tie:
  - {keys: ["head.w", "emb.w"], why: tied}
fresh:
  - {keys: "new.{*p}", why: "added", init: {normal: {std: 0.02, seed: 1}}}
""",
    """\
ckptdoctor: 1
description: >-
  folded
  text
rules:
  - from: "{*m}.{gamma,beta}"
    to: "{*m}.{weight,bias}"
""",
)  # fmt: skip


@cache
def maps() -> tuple[Files, ...]:
    """Maps that use most of the language, and that are read without a complaint."""
    return tuple({"map.yaml": text.encode()} for text in MAPS)
