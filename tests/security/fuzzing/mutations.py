"""How the good files of each format are changed: as bytes, and as what they are made of, with right sizes and checksums."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random
from typing import Any

from tests import builders as b
from tests.security.fuzzing import documents, seeds
from tests.security.fuzzing.archives import change_header, change_records, records_of
from tests.security.fuzzing.blocks import Pool, change
from tests.security.fuzzing.opcodes import GLOBALS, Streams, change_pickle, split
from tests.security.fuzzing.seeds import Files

ZIP_WORDS = (
    b"PK\x01\x02",
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"archive/data.pkl",
    b"data/0",
    b"\0\0\0\0",
    b"\xff" * 4,
)
PICKLE_WORDS = (
    *map(b.global_, GLOBALS),
    b"\x80\2",
    b".",
    b"(",
    b"}",
    b"q\0",
    b"h\0",
    b"X\1\0\0\0w",
    b"K\1",
    b"R",
    b"b",
    b"s",
    b"t",
    b"Q",
)
JSON_WORDS = (
    *(
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b":",
        b",",
        b" ",
        b"null",
        b"true",
        b"1e400",
        b"NaN",
        b"-1",
        b"0",
        b"1",
        b"2",
        b"8",
        b"16",
    ),
    *(b'"w"', b"\\u0000", b"\\ud800", b"\xff", b"\xef\xbb\xbf", b"\xc3\xa9", b'"dtype"', b'"shape"', b'"data_offsets"'),
    *(
        b'"F32"',
        b'"I32"',
        b'"F4"',
        b'"__metadata__"',
        b'"weight_map"',
        b'"key"',
        b'"tied_to"',
        b'"float32"',
        b'"int32"',
    ),
)
YAML_WORDS = (
    *(
        b"- ",
        b": ",
        b"  ",
        b"\n",
        b"#",
        b"{",
        b"}",
        b"[",
        b"]",
        b"&a",
        b"*a",
        b"!!str ",
        b"<<: ",
        b"|",
        b">-",
        b"'",
        b'"',
        b"---\n",
    ),
    *(
        b"from",
        b"to",
        b"op",
        b"why",
        b"keys",
        b"optional",
        b"expect",
        b"fresh",
        b"drop",
        b"{i}",
        b"{*p}",
        b"{a,b}",
        b"{0..4}",
        b"{{",
    ),
    *(
        b"{i:int}",
        b"1",
        b"-1",
        b"99999999999999999999",
        b"1e999",
        b".nan",
        b"null",
        b"yes",
        b"0x10",
        b"\t",
        b"\xff",
        b"\xc3\xa9",
        b"\0",
    ),
)


def _one(random: Random, good: Sequence[Files]) -> tuple[str, bytes]:
    return random.choice([*random.choice(good).items()])


def _pool(good: Sequence[Files], words: Sequence[bytes]) -> Pool:
    return Pool(words, [data for files in good for data in files.values()])


@cache
def _records(archive: bytes) -> list[b.Record]:
    return records_of(archive)


@cache
def _streams() -> Streams:
    """The opcodes of every pickle in the good files."""
    zips = [record.data for files in seeds.torch_zips() for data in files.values() for record in _records(data)]
    rows = [part for files in seeds.torch_rows() for data in files.values() for part in _parts(data)[:-1]]
    return Streams([split(stream) for stream in (*zips, *rows) if stream[:1] == b"\x80"])


@cache
def _words() -> Pool:
    return Pool(PICKLE_WORDS, [b"".join(ops) for ops in _streams().others])


@cache
def _ops(stream: bytes) -> list[bytes]:
    return split(stream)


@cache
def _parts(row: bytes) -> list[bytes]:
    """The five pickles of a file from before 1.6, and its storages."""
    parts, rest = [], row
    for _ in range(5):
        length = sum(map(len, split(rest)[:-1])) + 1
        parts, rest = [*parts, rest[:length]], rest[length:]
    return [*parts, rest]


@cache
def _streams_of_rows() -> Streams:
    return _streams().of_a_row()


def mutate_zip(random: Random, good: Sequence[Files]) -> Files:
    """The file's bytes, a field of its headers, one of its records, or (half of the time) its pickle."""
    name, data = _one(random, good)
    way = random.random()
    if way < 0.2:
        return {name: change(random, data, _pool(good, ZIP_WORDS))}
    if way < 0.35:
        return {name: change_header(random, data)}
    records = _records(data)
    if way < 0.5:
        return {name: b.zip_bytes(change_records(random, records, _pool(good, PICKLE_WORDS)))}
    stream = next(record.data for record in records if record.name.endswith("/data.pkl"))
    changed = change_pickle(random, _ops(stream), _streams(), _words())
    others = {r.name: _as_long(random, r.data) for r in records if random.random() < 0.3 and "/data/" in r.name}
    return {
        name: b.zip_bytes(
            [replace(r, data=changed if r.data is stream else others.get(r.name, r.data)) for r in records]
        )
    }


def _as_long(random: Random, data: bytes) -> bytes:
    """Other values in a storage."""
    return random.randbytes(len(data)) if random.random() < 0.5 else data[::-1]


def mutate_row(random: Random, good: Sequence[Files]) -> Files:
    """The file's bytes, one of its pickles (most often the object's), or its storages."""
    name, data = _one(random, good)
    if random.random() < 0.3:
        return {name: change(random, data, _pool(good, PICKLE_WORDS))}
    parts = list(_parts(data))
    at = random.choice((0, 1, 2, 3, 3, 3, 3, 3, 3, 4, 5))
    if at == 5:
        parts[at] = change(random, parts[at], _words())
    else:
        parts[at] = change_pickle(random, _ops(parts[at]), _streams_of_rows(), _words())
    return {name: b"".join(parts)}


@cache
def _header(data: bytes) -> tuple[Any, bytes]:
    (length,) = struct.unpack("<Q", data[:8])
    return documents.parsed(data[8 : 8 + length]), data[8 + length :]


def mutate_safetensors(random: Random, good: Sequence[Files]) -> Files:
    """The file's bytes, or its header with the right length before it."""
    name, data = _one(random, good)
    pool = _pool(good, JSON_WORDS)
    if random.random() < 0.25:
        return {name: change(random, data, pool)}
    header, values = _header(data)
    if random.random() < 0.15:
        return {name: b.safetensors_bytes(change(random, documents.text_of(random, header), pool), values)}
    if random.random() < 0.15:
        return {name: b.safetensors_bytes(documents.text_of(random, header), change(random, values, pool))}
    text = documents.text_of(random, documents.change_json(random, header))
    padding = b" " * random.choice((0, 0, 1, 7))
    return {name: b.safetensors_bytes(text + padding, values)}


def mutate_folder(random: Random, good: Sequence[Files]) -> Files:
    """One file of a folder: its index as JSON or as bytes, a shard as in its own format; or a file is not there."""
    files = dict(random.choice(good))
    name = random.choice([*files])
    way = random.random()
    if way < 0.04:
        del files[name]
    elif way < 0.08:
        files[random.choice((name + "x", "x.safetensors", "y.bin", "other-model.bin"))] = files[name]
    elif name.endswith(".json") and way < 0.8:
        files[name] = documents.text_of(random, documents.change_json(random, documents.parsed(files[name])))
    elif name.endswith(".json"):
        files[name] = change(random, files[name], _pool(good, JSON_WORDS))
    elif name.endswith(".safetensors"):
        files[name] = mutate_safetensors(random, [{name: files[name]}])[name]
    else:
        files[name] = mutate_zip(random, [{name: files[name]}])[name]
    return files


def mutate_json(random: Random, good: Sequence[Files]) -> Files:
    """A document as bytes, or as a tree."""
    name, data = _one(random, good)
    if random.random() < 0.3:
        return {name: change(random, data, _pool(good, JSON_WORDS))}
    return {name: documents.text_of(random, documents.change_json(random, documents.parsed(data)))}


def mutate_yaml(random: Random, good: Sequence[Files]) -> Files:
    """A map as bytes, or as lines."""
    name, data = _one(random, good)
    how = change if random.random() < 0.6 else documents.change_lines
    return {name: how(random, data, _pool(good, YAML_WORDS))}
