"""safetensors files: eight bytes with the header's length, a JSON header, then the tensors' bytes without gaps.

The header is read strictly (see `_header`): what two readers could understand differently is refused. Tensors that share
memory are stored once and named in `__metadata__` as `safetensors.torch.save_model` does it: `{second key: first key}`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.files import TRUNCATED, SourceFile
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.limits import check_metadata, longest_name
from ckptdoctor.model import DTYPES, DType, Manifest, TensorSpec, packed
from ckptdoctor.strictjson import StrictJsonError, loads
from ckptdoctor.text import cited

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
        own, self._spans, metadata, self._data = _header(source)
        tied = {key: first for key, first in metadata.items() if first in own and key not in own and key != "format"}
        self.metadata = {name: text for name, text in metadata.items() if name not in tied}
        ties = [own[first]._replace(key=key, tied_to=first) for key, first in tied.items()]
        self._manifest = Manifest([*own.values(), *ties]) if ties else own
        self.places = {(): len(self._manifest)}

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


class _Look(NamedTuple):
    """What tensors of one dtype and shape have in common; of the many in a file, most look like another."""

    dtype: DType
    shape: tuple[int, ...]
    nbytes: int


def _header(source: SourceFile) -> tuple[Manifest, dict[str, list[int]], dict[str, str], int]:
    """Tensors, their spans, the metadata, and where the data begins."""
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > min(MAX_HEADER, source.size - 8):
        raise StrictJsonError(f"its header of {length:,} bytes ends beyond the file")
    check_metadata(length, "its header")
    raw = source.read(8, length)
    document = loads(raw, max_nesting=None, count_names=_names)
    if not isinstance(document, dict):
        raise StrictJsonError("the header is no object")
    metadata = _metadata(document.pop("__metadata__", None))
    if (long := longest_name(document) or longest_name(metadata)) is not None:
        raise StrictJsonError(f"{cited(long)} is too long for a key")
    if b"\\u" in raw and (half := next(filter(_is_no_text, chain(document, *metadata.items())), None)) is not None:
        raise StrictJsonError(f"{cited(half)} is no Unicode text")  # an escape of half a surrogate
    names, shapes, spans = _columns(document)
    looks = _looks(document, list(zip(names, map(tuple, shapes), strict=True)))
    _check_spans(document, looks, spans, source.size - 8 - length)
    specs = [TensorSpec(key, look.shape, look.dtype) for key, look in zip(document, looks, strict=True)]
    return Manifest(specs), dict(zip(document, spans, strict=True)), metadata, 8 + length


def _is_no_text(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _names(document: Any) -> int:
    """The names in a header of the usual form; no number that could be right for anything else."""
    if not isinstance(document, dict) or not _all_are(dict, document.values()):
        return -1
    return len(document) + sum(map(len, document.values()))


def _metadata(value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise StrictJsonError("__metadata__ is no mapping of texts")
    return value


def _columns(rows: Mapping[str, Any]) -> list[list[Any]]:
    """Dtypes, shapes and spans of all rows. Types are asked of a whole column: one by one takes many times as long."""
    kinds = {"dtype": str, "shape": list, "data_offsets": list}
    regular = _all_are(dict, rows.values()) and set(map(len, rows.values())) <= {len(kinds)}
    try:
        columns = [[row[field] for row in rows.values()] for field in kinds] if regular else []
    except KeyError:
        regular = False
    if not regular:
        key = next(key for key, row in rows.items() if not isinstance(row, dict) or row.keys() != kinds.keys())
        raise StrictJsonError(f"the entry of {cited(key)} has not exactly dtype, shape and data_offsets")
    for kind, column in zip(kinds.values(), columns, strict=True):
        if not _all_are(kind, column) or (kind is list and not _all_are(int, chain.from_iterable(column))):
            key = next(key for key, value in zip(rows, column, strict=True) if not _is_good(value, kind))
            raise StrictJsonError(f"{cited(key)} has a shape or a span that is no list of counts, or no dtype")
    return columns


def _all_are(kind: type, values: Iterable[object]) -> bool:
    return set(map(type, values)) <= {kind}


def _is_good(value: Any, kind: type) -> bool:
    return type(value) is kind and (not isinstance(value, list) or _all_are(int, value))


def _looks(keys: Iterable[str], found: Sequence[tuple[Any, tuple[int, ...]]]) -> list[_Look]:
    """The look of every tensor; each of them is checked once."""
    known = {look: _look(key, *look) for look, key in dict(zip(found, keys, strict=True)).items()}
    return [known[look] for look in found]


def _look(key: str, name: Any, shape: tuple[int, ...]) -> _Look:
    if name not in DTYPE_NAMES:
        raise StrictJsonError(f"{cited(key)} has the unknown dtype {cited(name)}")
    if not all(0 <= size < 1 << 63 for size in shape):
        raise StrictJsonError(f"{cited(key)} has a shape that is no list of counts")
    if len(shape) > 64:
        raise StrictJsonError(f"{cited(key)} has more than 64 dimensions")
    dtype = DTYPES[DTYPE_NAMES[name]]
    if dtype.name == "float4_e2m1fn_x2":  # torch counts pairs
        if not shape or shape[-1] % 2:
            raise StrictJsonError(f"{cited(key)} has an odd number of 4-bit elements")
        shape = (*shape[:-1], shape[-1] // 2)
    numel = prod(shape)
    if numel >= 1 << 63 or numel * dtype.bits % 8:
        raise StrictJsonError(f"{cited(key)} has a number of elements that no file can hold")
    return _Look(dtype, shape, numel * dtype.bits // 8)


def _check_spans(keys: Iterable[str], looks: Sequence[_Look], spans: Sequence[list[int]], size: int) -> None:
    """Every tensor has the bytes that it needs, and all follow each other from the first byte to the last."""
    at = 0
    for span, key, look in sorted(zip(spans, keys, looks, strict=True)):
        begin, end = span if len(span) == 2 else (0, -1)
        if end - begin != look.nbytes:
            raise StrictJsonError(f"the span of {cited(key)} does not fit its shape and dtype")
        if begin != at:
            raise StrictJsonError(f"the span of {cited(key)} overlaps another or leaves a gap")
        at = end
    if at != size:
        raise StrictJsonError(
            f"its data of {at:,} bytes ends {'after' if at > size else 'before'} the file does ({size:,})"
        )
