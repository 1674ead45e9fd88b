"""The receipt beside an output: what was written, of what, by which map and version, with a digest of every tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA = "ckptdoctor/receipt/1"


class TensorReceipt(NamedTuple):
    """One tensor of the output: its key in the file and in the target, how it came to be, and the sha256 of its values.

    The digest is over the elements in row-major order, little-endian; it is None where digests were left out.
    """

    key: str
    target: str
    status: str
    sources: tuple[str, ...]
    ops: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    sha256: str | None
    tied_to: str | None = None


class Receipt(NamedTuple):
    """What `execute` did. `tool` holds versions, `source` and `output` describe the files, `random` are left-out targets."""

    path: str
    tool: Mapping[str, str]
    command: tuple[str, ...]
    source: Mapping[str, Any]
    output: Mapping[str, Any]
    target: Mapping[str, Any] | None
    maps: tuple[Mapping[str, str], ...]
    tensors: tuple[TensorReceipt, ...]
    random: tuple[str, ...]
    notes: tuple[str, ...]


def receipt_path(output: str | os.PathLike[str]) -> Path:
    """`new.ckpt` has its receipt in `new.ckpt.receipt.json`."""
    path = Path(output)
    return path.with_name(path.name + ".receipt.json")


def receipt_json(receipt: Receipt) -> str:
    """The text of a receipt file, one tensor a line."""
    head = {
        "schema": SCHEMA,
        "tool": dict(receipt.tool),
        "command": list(receipt.command),
        "source": dict(receipt.source),
        "output": dict(receipt.output),
        "target": None if receipt.target is None else dict(receipt.target),
        "maps": [dict(row) for row in receipt.maps],
        "random": list(receipt.random),
        "notes": list(receipt.notes),
    }
    rows = ",\n".join("    " + json.dumps(_row(tensor)) for tensor in receipt.tensors)
    return json.dumps(head, indent=2)[:-2] + f',\n  "tensors": [\n{rows}\n  ]\n}}\n'


def _row(tensor: TensorReceipt) -> dict[str, Any]:
    return tensor._asdict()
