"""Headers of safetensors files that two readers could read differently, or that say what is not so."""

from __future__ import annotations

from tests import builders as b
from tests.security.corpus.cases import ROW, Cases, Listed, corrupt, unknown

_HEADER = b'{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'

HEADERS: Cases = {
    "a name twice": corrupt(
        b.safetensors_bytes(_HEADER + _HEADER.replace(b"{", b",", 1) + b"}", bytes(8)), "'w' stands twice"
    ),
    "a name twice, once escaped": corrupt(
        b.safetensors_bytes(_HEADER + _HEADER.replace(b'{"w"', b',"\\u0077"', 1) + b"}", bytes(8)), "'w' stands twice"
    ),
    "a field twice": corrupt(
        b.safetensors_bytes(b'{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(8)),
        "'dtype' stands twice",
    ),
    "a field more": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"x": 1}}, bytes(8)), "exactly dtype, shape and data_offsets"
    ),
    "a field less": corrupt(b.safetensors_bytes({"w": {"dtype": "F32", "shape": [2]}}, bytes(8)), "exactly dtype"),
    "a space before it": unknown(b.safetensors_bytes(b" " + _HEADER + b"}", bytes(8)), "known format"),
    "no object": unknown(b.safetensors_bytes(b"[]", bytes(8)), "known format"),
    "not UTF-8": corrupt(b.safetensors_bytes(b'{"\xff":1}'), "not UTF-8"),
    "half a surrogate": corrupt(b.safetensors_bytes(b'{"\xed\xa0\x80":1}'), "not UTF-8"),
    "NaN": corrupt(b.safetensors_bytes(b'{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,8]}}', bytes(8)), "NaN"),
    "1e400": corrupt(
        b.safetensors_bytes(b'{"w":{"dtype":"F32","shape":[1e400],"data_offsets":[0,8]}}', bytes(8)), "1e400"
    ),
    "a float": corrupt(
        b.safetensors_bytes(b'{"w":{"dtype":"F32","shape":[2.0],"data_offsets":[0,8]}}', bytes(8)), "no list of counts"
    ),
    "a truth": corrupt(
        b.safetensors_bytes(b'{"w":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}}', bytes(1)), "no list of counts"
    ),
    "a number of 5,000 digits": corrupt(
        b.safetensors_bytes(b'{"w":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', bytes(1)),
        "too many digits",
    ),
    "a shape of 2^63": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"shape": [1 << 63]}}, bytes(8)), "no list of counts"
    ),
    "a shape whose product is 2^64": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"shape": [1 << 32, 1 << 32]}}, bytes(8)), "no file can hold"
    ),
    "a negative shape": corrupt(b.safetensors_bytes({"w": ROW["w"] | {"shape": [-2]}}, bytes(8)), "no list of counts"),
    "a shape of 65 dimensions": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"shape": [1] * 65}}, bytes(8)), "64 dimensions"
    ),
    "a span that begins at -8": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"data_offsets": [-8, 0]}}, bytes(8)), "overlaps another or leaves a gap"
    ),
    "a span that ends before it begins": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"data_offsets": [8, 0]}}, bytes(8)), "does not fit"
    ),
    "a span of one number": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"data_offsets": [8]}}, bytes(8)), "does not fit"
    ),
    "two tensors on one span": corrupt(
        b.safetensors_bytes({"v": ROW["w"], "w": ROW["w"]}, bytes(8)), "overlaps another"
    ),
    "a gap": corrupt(
        b.safetensors_bytes({"v": ROW["w"], "w": ROW["w"] | {"data_offsets": [12, 20]}}, bytes(20)), "leaves a gap"
    ),
    "a dtype that there is not": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"dtype": "F31"}}, bytes(8)), "unknown dtype 'F31'"
    ),
    "a dtype of 10,000 letters": corrupt(
        b.safetensors_bytes({"w": ROW["w"] | {"dtype": "F" * 10_000}}, bytes(8)), r"\(10,000 characters\)"
    ),
    "metadata that is no text": corrupt(
        b.safetensors_bytes({"__metadata__": {"a": 1}} | ROW, bytes(8)), "__metadata__ is no mapping of texts"
    ),
    "metadata that ties a tensor to another": Listed(
        b.safetensors_bytes({"__metadata__": {"v": "w"}} | ROW, bytes(8)), ("w", "v")
    ),
    "metadata that ties a tensor to itself": Listed(
        b.safetensors_bytes({"__metadata__": {"w": "w"}} | ROW, bytes(8)), ("w",)
    ),
    "a header longer than the file": corrupt(
        b.safetensors_bytes(ROW, bytes(8), length=9_999), "ends beyond the file", "download"
    ),
    "a header of 2^64 - 1 bytes": unknown(
        b.safetensors_bytes(ROW, bytes(8), length=(1 << 64) - 1), "longer than 100 MB"
    ),
    "a header that ends early": corrupt(b.safetensors_bytes(ROW, bytes(8), length=20), "line 1, column|ends"),
}
