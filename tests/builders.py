"""Awkward files, made by code: small functions that the tests share.

Three kinds: pickles written opcode by opcode (`text`, `call`, `tensor`, ...), containers written byte by byte (`zip_bytes`,
`torch_file`, `safetensors_bytes`), and objects for torch.save (`awkward_tensors`, `lightning_like`). The first two need no
torch, so that they can hold what torch would never write. Everything takes and returns plain values.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# ---- pickles, opcode by opcode -----------------------------------------------------------------------------------


def pickled(*opcodes: bytes, protocol: int = 2) -> bytes:
    """A whole stream of these opcodes."""
    return b"\x80" + bytes([protocol]) + b"".join(opcodes) + b"."


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8b" + struct.pack("<i", len(raw)) + raw


def global_(path: str) -> bytes:
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def tuple_(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def list_(*items: bytes) -> bytes:
    return b"](" + b"".join(items) + b"e"


def dict_(pairs: Mapping[str, bytes] | Iterable[tuple[bytes, bytes]]) -> bytes:
    if isinstance(pairs, Mapping):
        pairs = [(text(key), value) for key, value in pairs.items()]
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def call(path: str, *arguments: bytes) -> bytes:
    return global_(path) + tuple_(*arguments) + b"R"


def storage(key: str = "0", kind: str = "torch.FloatStorage", numel: int = 4) -> bytes:
    return tuple_(text("storage"), global_(kind), text(key), text("cpu"), number(numel)) + b"Q"


def tensor(
    stored: bytes = b"",
    *,
    offset: int = 0,
    shape: Sequence[int] = (4,),
    stride: Sequence[int] = (1,),
    metadata: bytes = b"",
    dtype: str = "",
    sizes: bytes = b"",
) -> bytes:
    """A call of torch's `_rebuild_tensor_v2` (with a dtype: `_v3`); by default four floats that fill storage 0."""
    sizes = sizes or tuple_(*map(number, shape)) + tuple_(*map(number, stride))
    arguments = [stored or storage(), number(offset), sizes, b"\x89", call("collections.OrderedDict")]
    arguments += [global_(dtype)] if dtype else []
    return call(f"torch._utils._rebuild_tensor_v{3 if dtype else 2}", *arguments, *([metadata] if metadata else []))


# ---- containers, byte by byte --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """An entry of a zip file. What is None is as it should be; anything else is what the file says instead."""

    name: str
    data: bytes = b""
    deflate: bool = False
    crc: int | None = None
    size: int | None = None
    packed: int | None = None
    flags: int = 0x0800
    method: int | None = None
    local_name: str | None = None
    local_size: int | None = None
    local_crc: int | None = None
    local_extra: int = 0
    attributes: int = 0
    at: int | None = None
    gap: bytes = b""


def zip_bytes(
    records: Iterable[Record], *, before: bytes = b"", comment: bytes = b"", count: int | None = None
) -> bytes:
    """A zip file with exactly these entries, honest or not."""
    out, directory, entries = bytearray(before), bytearray(), 0
    for record in records:
        entries += 1
        raw = _deflated(record.data) if record.deflate else record.data
        method = (8 if record.deflate else 0) if record.method is None else record.method
        crc = zlib.crc32(record.data) if record.crc is None else record.crc
        packed = len(raw) if record.packed is None else record.packed
        size = len(record.data) if record.size is None else record.size
        name = record.name.encode("utf-8", "surrogateescape")
        local = name if record.local_name is None else record.local_name.encode()
        local_size = size if record.local_size is None else record.local_size
        local_crc = crc if record.local_crc is None else record.local_crc
        out += record.gap
        at = len(out) if record.at is None else record.at
        if record.at is None:
            fields = (0, record.flags, method, 0, 0, local_crc, packed, local_size, len(local), record.local_extra)
            out += struct.pack("<4s5H3I2H", b"PK\x03\x04", *fields) + local + raw
        fields = (0, 0, record.flags, method, 0, 0, crc, packed, size, len(name), 0, 0, 0, 0, record.attributes, at)
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *fields) + name
    end = (0, 0, count or entries, count or entries, len(directory), len(out), len(comment))
    return bytes(out + directory) + struct.pack("<4s4H2IH", b"PK\x05\x06", *end) + comment


def _deflated(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


def torch_records(pickle: bytes, storages: Mapping[str, bytes] | None = None, **others: bytes) -> list[Record]:
    """The records of a torch file around a pickle; storage 0 holds four floats unless told otherwise."""
    storages = {"0": struct.pack("<4f", 1, 2, 3, 4)} if storages is None else storages
    small = {"byteorder": b"little", "version": b"3\n"} | others
    named = {"data.pkl": pickle} | {f"data/{key}": data for key, data in storages.items()} | small
    return [Record(f"archive/{name}", data) for name, data in named.items()]


def torch_file(pickle: bytes, storages: Mapping[str, bytes] | None = None, **others: bytes) -> bytes:
    """A file as torch.load reads it, unaligned and without zip64."""
    return zip_bytes(torch_records(pickle, storages, **others))


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file; the header is given as an object, as text, or as bytes."""
    raw = header if isinstance(header, bytes) else (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def written(path: Path, data: bytes) -> Path:
    """A new file with this content (ext4 waits for the disk where an old file is cut and written again)."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


# ---- objects for torch.save ----------------------------------------------------------------------------------------

DTYPE_NAMES = (
    *("float64", "float32", "float16", "bfloat16", "complex128", "complex64", "complex32", "bool"),
    *("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu", "float4_e2m1fn_x2"),
)


def patterned(dtype: str, *shape: int) -> torch.Tensor:
    """A tensor of that dtype whose bytes all differ from their neighbours (0 and 1 for bool)."""
    import torch

    kind = getattr(torch, dtype)
    count = torch.Size(shape).numel() * kind.itemsize
    if not count:
        return torch.empty(shape, dtype=kind)
    raw = bytes(i % 2 for i in range(count)) if dtype == "bool" else bytes(i * 37 % 113 for i in range(count))
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(kind).reshape(shape)


def values_of(tensor: torch.Tensor) -> bytes:
    """torch's own idea of the values: row-major, packed, little-endian."""
    import torch

    plain = tensor.detach().resolve_conj().resolve_neg().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def awkward_views() -> dict[str, torch.Tensor]:
    """Views of every sort: offsets, steps, transposes, broadcasts, overlaps, lazy conjugates and negatives, nothing at all."""
    import torch

    base = torch.arange(24.0).reshape(4, 6)
    waves, parts = (torch.complex(torch.arange(1.0, 13), -torch.arange(1.0, 13)).reshape(3, 4) for _ in range(2))
    return {
        "base": base,
        "tied": base,
        "rows": base[1:3],
        "columns": base[:, 1:4],
        "turned": base.T,
        "turned_rows": base[1:].T,
        "steps": base[::2, ::3],
        "flat_steps": base.flatten()[1::5],
        "diagonal": base.diagonal(),
        "overlapping": base.flatten().unfold(0, 5, 2),
        "odd_strides": base.as_strided((1, 3), (100, 1), 2),
        "one_column": base[:, 2:3],
        "broadcast": torch.tensor([1.0, 2.0, 3.0]).expand(4, 3),
        "broadcast_columns": torch.tensor([[1.0], [2.0]]).expand(2, 5),
        "broadcast_scalar": torch.tensor(2.5).expand(3, 3),
        "scalar": torch.tensor(3.5),
        "scalar_view": base[1, 2],
        "empty": torch.zeros(0),
        "empty_too": torch.zeros(3, 0, 2),
        "empty_view": base[2:2],
        "empty_beyond": torch.zeros(0, 3)[:, 1],
        "images": torch.arange(48.0).reshape(2, 3, 2, 4).to(memory_format=torch.channels_last),
        "permuted": torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        "conj": waves.conj(),
        "conj_turned": waves.conj().T,
        "conj_wide": waves.to(torch.complex128).conj()[:, 1:3],
        "imaginary": parts.imag,
        "neg": parts.conj().imag,
        "neg_turned": parts.conj().imag.T,
        "neg_conj": torch._neg_view(waves.conj()),
        "neg_int": torch._neg_view(torch.tensor([[0, 1, -7], [2**31 - 1, -(2**31), 5]], dtype=torch.int32)),
        "long_conj": torch.complex(torch.arange(140_000.0), torch.ones(140_000)).conj(),
        "long_bytes": torch.arange((1 << 20) + 1).to(torch.uint8),
    }


def awkward_tensors() -> dict[str, torch.Tensor]:
    """The views, and each dtype whole and turned."""
    views = awkward_views()
    for name in DTYPE_NAMES:
        views[f"dtype.{name}"] = patterned(name, 3, 4)
        if name != "float4_e2m1fn_x2":
            views[f"dtype.{name}.turned"] = patterned(name, 3, 4).T
    return views


def awkward_parameters() -> dict[str, torch.Tensor]:
    """nn.Parameters: plain, frozen, with attributes, tied; and a tensor and a buffer with attributes."""
    import torch

    weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    marked = torch.nn.Parameter(torch.ones(3))
    marked.shard = ("model", 1)  # type: ignore[attr-defined]
    attributed = torch.arange(3.0)
    attributed.note = "kept"  # type: ignore[attr-defined]
    frozen = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
    more = {"marked": marked, "attributed": attributed, "buffer": torch.nn.Buffer(torch.arange(4.0))}
    return {"weight": weight, "same": weight, "alias": weight.detach(), "turned": weight.T, "frozen": frozen} | more


def state_dict(names: Sequence[str] = ("0", "1"), width: int = 3) -> OrderedDict[str, torch.Tensor]:
    """What `Module.state_dict()` gives: an OrderedDict with `_metadata`; the last weight is tied to the first."""
    import torch

    model = torch.nn.Module()
    for name in names:
        model.add_module(name, torch.nn.Linear(width, width))
    model.add_module("norm", torch.nn.BatchNorm1d(width))
    model.add_module("head", torch.nn.Linear(width, width, bias=False))
    model.head.weight = getattr(model, names[0]).weight
    return model.state_dict()


def lightning_like(weights: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A checkpoint as Lightning lays it out, with an optimizer that has a state for each weight."""
    import torch

    moments = {
        i: {"step": torch.tensor(7.0), "exp_avg": torch.full(value.shape, 0.5)}
        for i, value in enumerate(weights.values())
        if value.is_floating_point()
    }
    group = {"lr": 1e-3, "betas": (0.9, 0.999), "params": list(moments)}
    checkpoint = {
        "epoch": 3,
        "global_step": 311,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4}}}},
        "callbacks": {"ModelCheckpoint{'monitor': 'val'}": {"best_model_score": torch.tensor(0.36), "dirpath": "x"}},
        "optimizer_states": [{"state": moments, "param_groups": [group]}],
        "lr_schedulers": [{"last_epoch": 3, "_last_lr": [1e-3]}],
    }
    return checkpoint | more
