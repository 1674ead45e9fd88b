"""Tensors and storages whose sizes lie, and some that are only odd."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

from tests import builders as b
from tests.security.corpus.cases import GOOD, Cases, Listed, corrupt, file_of, records, torch_with

UNTYPED = b.storage(kind="torch.storage.UntypedStorage", numel=16)
_SHARED = {f"t{n}": b.tensor(shape=(2, 2), stride=(2, 1)) if n % 2 else b.tensor() for n in range(10_000)}


def _spilling() -> bytes:
    """Two storages, of which the first claims the bytes of the second too."""
    stored = {"0": struct.pack("<4f", 1, 2, 3, 4), "1": bytes(16)}
    return torch_with(b.tensor(b.storage(numel=40), shape=(40,)), b.tensor(b.storage("1")), storages=stored)


def _storage(**changes: Any) -> bytes:
    """The good file with its storage's record changed."""
    return records(lambda record: replace(record, **changes) if record.name.endswith("data/0") else record)


def _encrypted() -> bytes:
    """The flag of encryption is set beside the storage, and not in the directory."""
    at = GOOD.index(b"archive/data/0") - 30 + 6
    return GOOD[:at] + struct.pack("<H", 0x0801) + GOOD[at + 2 :]


_DISAGREES = "disagrees with the directory"
_CHANGED = "do not match their checksum"

SIZES: Cases = {
    "a storage larger than its record": corrupt(torch_with(b.tensor(b.storage(numel=5), shape=(5,))), "differs by -4"),
    "a storage that spills into its neighbour": corrupt(_spilling(), "claims 160 bytes, its record differs by -144"),
    "a storage smaller than its record": corrupt(
        torch_with(b.tensor(b.storage(numel=3), shape=(3,))), "differs by \\+4"
    ),
    "a record one byte short": corrupt(torch_with(b.tensor(), storages={"0": bytes(15)}), "differs by -1"),
    "a storage without a record": corrupt(torch_with(b.tensor(b.storage("1"))), "no record data/1"),
    "no storage at all": corrupt(torch_with(b.tensor(), storages={}), "no record data/0"),
    "a storage of 2^62 elements": corrupt(
        torch_with(b.tensor(b.storage(numel=1 << 62))), "claims 18,446,744,073,709,551,616"
    ),
    "a storage of 2^63 elements": corrupt(
        torch_with(b.tensor(b.storage(numel=1 << 63))), "size of a storage that is no count"
    ),
    "a storage of 2^70 elements": corrupt(
        torch_with(b.tensor(b.storage(numel=1 << 70))), "size of a storage that is no count"
    ),
    "a storage of -1 elements": corrupt(
        torch_with(b.tensor(b.storage(numel=-1))), "size of a storage that is no count"
    ),
    "a storage of two sizes": corrupt(torch_with(b.tensor(), b.tensor(b.storage(numel=2), shape=(2,))), "two sizes"),
    "a storage of two types of other sizes": corrupt(
        torch_with(b.tensor(), b.tensor(b.storage(kind="torch.DoubleStorage"))), "two sizes"
    ),
    "a storage of an unknown type": corrupt(
        torch_with(b.tensor(b.storage(kind="torch.SecretStorage"))), "unknown type"
    ),
    "a storage whose type is long": corrupt(
        torch_with(b.tensor(b.storage(kind="torch." + "x" * 9000))), r"\(9,006 characters\)"
    ),
    "a view one element too long": corrupt(torch_with(b.tensor(shape=(5,))), "reaches beyond its storage"),
    "a view that begins too late": corrupt(torch_with(b.tensor(offset=1)), "reaches beyond its storage"),
    "a view that begins at 2^62": corrupt(torch_with(b.tensor(offset=1 << 62)), "reaches beyond its storage"),
    "a view that begins at -1": corrupt(torch_with(b.tensor(offset=-1)), "offset of a tensor that is no count"),
    "a view with a stride too long": corrupt(torch_with(b.tensor(shape=(2, 2), stride=(3, 1))), "reaches beyond"),
    "a view with a huge stride": corrupt(torch_with(b.tensor(shape=(2,), stride=(1 << 62,))), "reaches beyond"),
    "a view with a negative stride": corrupt(
        torch_with(b.tensor(shape=(2,), stride=(-1,), offset=3)), "stride that is no count"
    ),
    "a view with a negative size": corrupt(torch_with(b.tensor(shape=(-4,))), "shape that is no count"),
    "a view whose size is a truth": corrupt(
        torch_with(b.tensor().replace(b.number(4) + b"t", b"\x88t", 1)), "no count|differ"
    ),
    "a view with more strides than sizes": corrupt(torch_with(b.tensor(shape=(4,), stride=(1, 1))), "differ in length"),
    "a view with too many dimensions": corrupt(
        torch_with(b.tensor(shape=(1,) * 80, stride=(1,) * 80)), "reaches beyond"
    ),
    "a shape of 20,000 dimensions": corrupt(
        torch_with(b.tensor(shape=(1,) * 20_000, stride=(1,) * 20_000)), "reaches beyond"
    ),
    "a shape of numbers of 20,000 bits": corrupt(torch_with(b.tensor(shape=(1 << 20_000,))), "shape that is no count"),
    "a view of wider elements": corrupt(torch_with(b.tensor(UNTYPED, dtype="torch.float64")), "reaches beyond"),
    "a view of six-bit elements": corrupt(
        torch_with(b.tensor(UNTYPED, shape=(999,), dtype="torch.float6_e2m3fn")), "unknown element"
    ),
    "a view of elements that torch does not have": corrupt(
        torch_with(b.tensor(UNTYPED, dtype="torch.float5")), "unknown element type"
    ),
    "a view without a storage": corrupt(
        file_of({"w": b.call("torch._utils._rebuild_tensor_v2", b"N", b"K\0", b")", b")")}), "without a storage"
    ),
    "a tensor that a view is called": corrupt(
        file_of({"w": b.call("torch._utils._rebuild_tensor_v2", b.tensor(), b"K\0", b")", b")")}), "without a storage"
    ),
    "four floats as 2^38 floats": Listed(
        torch_with(b.tensor(shape=(1 << 38,), stride=(0,))),
        ("t0",),
        *["1,099,511,627,776 bytes on a storage of 16"] * 2,
    ),
    "four floats as 2^40 floats in two dimensions": Listed(
        torch_with(b.tensor(shape=(1 << 20, 1 << 20), stride=(0, 0))),
        ("t0",),
        *["4,398,046,511,104 bytes on a storage of 16"] * 2,
    ),
    "four floats as 2^620 floats": Listed(
        torch_with(b.tensor(shape=(1 << 62,) * 10, stride=(0,) * 10)),
        ("t0",),
        to_torch=False,
        to_safetensors="bytes on a storage of 16|no file",
    ),
    "an empty tensor of 2^62 rows": Listed(torch_with(b.tensor(shape=(1 << 62, 0), stride=(1, 1))), ("t0",)),
    "an empty tensor far away": Listed(torch_with(b.tensor(shape=(0,), offset=1 << 40)), ("t0",)),
    "ten thousand tensors on one storage": Listed(file_of(_SHARED), 10_000, False),
    "a record a few bytes longer": Listed(torch_with(b.tensor(), storages={"0": bytes(19)}), ("t0",)),
    "a storage that nobody names": Listed(torch_with(b.tensor(), storages={"0": bytes(16), "9": bytes(7)}), ("t0",)),
    "a storage with another checksum in the directory": Listed(
        _storage(crc=7, local_crc=8), ("w",), _DISAGREES, _DISAGREES
    ),
    "a storage with another checksum": Listed(_storage(crc=7, local_crc=7), ("w",), _CHANGED, _CHANGED),
    "a storage with another local name": Listed(_storage(local_name="archive/data/1"), ("w",), _DISAGREES, _DISAGREES),
    "a storage with another local size": Listed(_storage(local_size=7), ("w",), _DISAGREES, _DISAGREES),
    "a storage that is encrypted by its local header": Listed(_encrypted(), ("w",), _DISAGREES, _DISAGREES),
}
