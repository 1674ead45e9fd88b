"""The nouns that everything else speaks in: `DType`, `TensorSpec`, `Layout`, `Manifest`. No tensor data, no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["parameter", "buffer", "unknown"]
Family: TypeAlias = Literal["float", "integer", "complex", "bool"]


@dataclass(frozen=True, slots=True)
class DType:
    """An element type by torch's name (`float32`, `bfloat16`), with its size in bits (some are smaller than a byte)."""

    name: str
    bits: int
    family: Family

    @property
    def itemsize(self) -> int:
        """Bytes of one element; only for types of whole bytes."""
        return self.bits // 8

    def __str__(self) -> str:
        return self.name


def _table() -> dict[str, DType]:
    families: dict[Family, dict[int, str]] = {
        "float": {
            64: "float64",
            32: "float32",
            16: "float16 bfloat16",
            8: "float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu float4_e2m1fn_x2",
            6: "float6_e2m3fn float6_e3m2fn",
        },
        "complex": {128: "complex128", 64: "complex64", 32: "complex32"},
        "integer": {64: "int64 uint64", 32: "int32 uint32", 16: "int16 uint16", 8: "int8 uint8"},
        "bool": {8: "bool"},
    }
    return {
        name: DType(name, bits, family)
        for family, sizes in families.items()
        for bits, names in sizes.items()
        for name in names.split()
    }


DTYPES: Mapping[str, DType] = _table()


class TensorSpec(NamedTuple):
    """One tensor without its data.

    `kind` is `unknown` where nobody can tell (a checkpoint does not say what was a buffer). `tied_to` names the first key
    that shares all of this tensor's memory. `raw_key` is the key as it stands in the file, where wrapper segments were
    taken out of `key`.
    """

    key: str
    shape: tuple[int, ...]
    dtype: DType
    kind: Kind = "unknown"
    tied_to: str | None = None
    raw_key: str | None = None

    @property
    def numel(self) -> int:
        """Number of elements (1 for a scalar)."""
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, packed."""
        return (self.numel * self.dtype.bits + 7) // 8

    @property
    def stored_key(self) -> str:
        """The key as it stands in the file."""
        return self.key if self.raw_key is None else self.raw_key

    def alone(self, key: str) -> TensorSpec:
        """The same under another key, which is also the one in the file, and tied to nothing."""
        return TensorSpec(key, self.shape, self.dtype, self.kind)

    @property
    def counted(self) -> int:
        """Elements that count as parameters: none for a buffer, none for a tensor tied to one already counted."""
        return 0 if self.kind == "buffer" or self.tied_to is not None else prod(self.shape)


class Origin(NamedTuple):
    """Where a manifest comes from. `reference` is what the user wrote, `kind` the format or the kind of target.

    `dangerous` are the globals of a checkpoint that would do harm if it were unpickled; None where that is not known (a
    manifest, a module).
    """

    reference: str
    kind: str
    nbytes: int | None = None
    selected: str | None = None
    stripped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: int = 1
    dangerous: tuple[str, ...] | None = None


class Manifest(Mapping[str, TensorSpec]):
    """An ordered `key -> TensorSpec`: what a checkpoint holds, or what a target wants.

    Raises ValueError if two tensors have one key.
    """

    __slots__ = ("_tensors", "origin")

    def __init__(self, tensors: Iterable[TensorSpec], origin: Origin | None = None) -> None:
        specs = list(tensors)
        self._tensors = {spec.key: spec for spec in specs}
        self.origin = origin or Origin("(in memory)", "manifest")
        if len(self._tensors) < len(specs):
            twice = Counter(spec.key for spec in specs).most_common(1)[0][0]
            raise ValueError(f"two tensors with the key {twice!r}")

    @classmethod
    def joined(cls, parts: Iterable[Manifest]) -> Manifest:
        """The tensors of several, one after the other; raises ValueError if two have one key."""
        whole, count = cls(()), 0
        for part in parts:
            whole._tensors.update(part._tensors)
            count += len(part)
        if len(whole) != count:
            raise ValueError("two tensors with one key")
        return whole

    def said_of(self, origin: Origin) -> Manifest:
        """The same tensors with another origin."""
        other = Manifest((), origin)
        other._tensors = self._tensors
        return other

    def __getitem__(self, key: str) -> TensorSpec:
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def keys(self) -> KeysView[str]:
        """The keys, in order."""
        return self._tensors.keys()

    def values(self) -> ValuesView[TensorSpec]:
        """The tensors, in order."""
        return self._tensors.values()

    def items(self) -> ItemsView[str, TensorSpec]:
        """Both."""
        return self._tensors.items()

    def __repr__(self) -> str:
        return f"<Manifest of {len(self)} tensors from {self.origin.reference!r}>"

    @property
    def parameters(self) -> int:
        """Elements of all parameters, tied ones once; tensors of unknown kind count as parameters."""
        return sum(spec.counted for spec in self.values())

    @property
    def buffers(self) -> int:
        """Elements of all buffers."""
        return sum(spec.numel for spec in self.values() if spec.kind == "buffer")

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, tied ones once."""
        return sum(spec.nbytes for spec in self.values() if spec.tied_to is None)

    @property
    def fingerprint(self) -> str:
        """sha256 over keys, shapes, dtypes and ties, in order: equal manifests, equal fingerprints. No values go in."""
        import hashlib
        import json

        digest = hashlib.sha256()
        for spec in self.values():
            line = json.dumps([spec.key, spec.shape, spec.dtype.name, spec.tied_to])
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()


class Layout(NamedTuple):
    """How a tensor lies in its storage. Offset and stride count elements; `conj` and `neg` are torch's lazy bits."""

    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    conj: bool = False
    neg: bool = False

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other in row-major order without gaps."""
        return 0 in self.shape or all(
            size == 1 or step == packed
            for size, step, packed in zip(self.shape, self.stride, packed_stride(self.shape), strict=True)
        )

    @property
    def reach(self) -> int:
        """Elements that the storage must have: one past the last that the view touches."""
        if 0 in self.shape:
            return 0
        last = self.offset
        for size, step in zip(self.shape, self.stride, strict=True):
            last += (size - 1) * step
        return last + 1

    @property
    def nbytes(self) -> int:
        """Bytes of the elements, packed."""
        return (prod(self.shape) * self.dtype.bits + 7) // 8

    @property
    def plain(self) -> bool:
        """Whether the bytes of the view are its values (but for byte order)."""
        return self.contiguous and not (self.conj or self.neg)


def packed(dtype: DType, shape: tuple[int, ...]) -> Layout:
    """The layout of a tensor that fills its storage in row-major order."""
    return Layout(dtype, shape, packed_stride(shape))


def packed_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides, in elements, of a row-major tensor of this shape."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
