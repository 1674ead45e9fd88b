"""safetensors files: eight bytes with the header's length, a JSON header, then the tensors' bytes without gaps.

The header is read strictly (see `_header`): what two readers could understand differently is refused. Tensors that share
memory are stored once and named in `__metadata__` as `safetensors.torch.save_model` does it: `{second key: first key}`.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.files import TRUNCATED, SourceFile
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.model import DTYPES, Manifest, TensorSpec, packed
from ckptdoctor.strictjson import StrictJsonError, loads

MAX_HEADER = 100_000_000

DTYPE_NAMES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64", "BOOL": "bool"},
    **{
        f"{letter}{bits}": f"{name}{bits}" for letter, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)
    },
    **{"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"},
    **{"F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz"},
    **{"F4": "float4_e2m1fn_x2", "F6_E2M3": "float6_e2m3fn", "F6_E3M2": "float6_e3m2fn"},
}


class SafetensorsCheckpoint(Checkpoint):
    """An opened safetensors file: one flat list of tensors."""

    format = "safetensors"

    def __init__(self, source: SourceFile) -> None:
        super().__init__(source.path, source)
        rows, self.metadata, self._data = _header(source)
        self._spans = {key: span for key, (_, span) in rows.items()}
        tied = {
            key: first for key, first in self.metadata.items() if first in rows and key not in rows and key != "format"
        }
        specs = [spec for spec, _ in rows.values()]
        specs += [_tied_spec(key, rows[first][0]) for key, first in tied.items()]
        self.tied = tied
        self._manifest = Manifest(specs)
        self.places = {(): len(specs)}

    def manifest(self, place: Place) -> Manifest:
        """All tensors of the file."""
        return self._manifest

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """Every tensor fills its own span."""
        return {spec.key: self._stored(spec) for spec in self._manifest.values()}

    def _stored(self, spec: TensorSpec) -> StoredTensor:
        storage = spec.tied_to or spec.key
        begin, end = self._spans[storage]
        offset = self._data + begin
        layout = packed(spec.dtype, spec.shape)
        return StoredTensor(spec, self.files[0], storage, lambda: offset, end - begin, layout)


class SafetensorsReader(Reader):
    """Opens a single .safetensors file."""

    name = "safetensors"

    def refusal(self, probe: Probe) -> str | None:
        """The ninth byte opens a JSON object and the first eight are a plausible length."""
        if probe.is_folder or probe.size < 10 or probe.head[8:9] != b"{":
            return "no header length followed by a JSON object"
        (length,) = struct.unpack("<Q", probe.head[:8])
        return None if length <= MAX_HEADER else "the header would be longer than 100 MB"

    def open(self, path: Path) -> Checkpoint:
        """Read and check the header; no tensor is read."""
        source = SourceFile(path)
        try:
            return SafetensorsCheckpoint(source)
        except StrictJsonError as error:
            source.close()
            hint = TRUNCATED if "ends" in str(error) else None
            raise CorruptCheckpoint(f"{path} is a damaged safetensors file: {error}", path=path, hint=hint) from None
        except BaseException:
            source.close()
            raise


Row = tuple[TensorSpec, tuple[int, int]]


def _header(source: SourceFile) -> tuple[dict[str, Row], dict[str, str], int]:
    """Tensors with their spans, the metadata, and where the data begins."""
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > min(MAX_HEADER, source.size - 8):
        raise StrictJsonError(f"its header of {length:,} bytes ends beyond the file")
    document = loads(source.read(8, length))
    if not isinstance(document, dict):
        raise StrictJsonError("the header is no object")
    metadata = _metadata(document.pop("__metadata__", None))
    rows = {key: _row(key, row) for key, row in document.items()}
    _check_spans(rows, source.size - 8 - length)
    return rows, metadata, 8 + length


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise StrictJsonError("__metadata__ is no mapping of texts")
    return value


def _row(key: str, row: Any) -> Row:
    if not isinstance(row, dict) or row.keys() != {"dtype", "shape", "data_offsets"}:
        raise StrictJsonError(f"the entry of {key!r} has not exactly dtype, shape and data_offsets")
    shape, span = _counts(key, row["shape"]), _counts(key, row["data_offsets"])
    if not isinstance(row["dtype"], str) or row["dtype"] not in DTYPE_NAMES:
        raise StrictJsonError(f"{key!r} has the unknown dtype {row['dtype']!r}")
    dtype = DTYPES[DTYPE_NAMES[row["dtype"]]]
    if dtype.name == "float4_e2m1fn_x2":  # torch counts pairs
        if not shape or shape[-1] % 2:
            raise StrictJsonError(f"{key!r} has an odd number of 4-bit elements")
        shape = (*shape[:-1], shape[-1] // 2)
    spec = TensorSpec(key, shape, dtype)
    if len(span) != 2 or spec.numel >= 1 << 63 or span[1] - span[0] != spec.nbytes or spec.numel * dtype.bits % 8:
        raise StrictJsonError(f"the span of {key!r} does not fit its shape and dtype")
    return spec, (span[0], span[1])


def _counts(key: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(x) is int and 0 <= x < 1 << 63 for x in value):
        raise StrictJsonError(f"{key!r} has a shape or a span that is no list of counts")
    if len(value) > 64:
        raise StrictJsonError(f"{key!r} has more than 64 dimensions")
    return tuple(value)


def _check_spans(rows: Mapping[str, Row], size: int) -> None:
    at = 0
    for key, (_, (begin, end)) in sorted(rows.items(), key=lambda row: row[1][1]):
        if begin != at:
            raise StrictJsonError(f"the span of {key!r} overlaps another or leaves a gap")
        at = end
    if at != size:
        raise StrictJsonError(
            f"its data of {at:,} bytes ends {'after' if at > size else 'before'} the file does ({size:,})"
        )


def _tied_spec(key: str, first: TensorSpec) -> TensorSpec:
    return TensorSpec(key, first.shape, first.dtype, first.kind, first.key)
