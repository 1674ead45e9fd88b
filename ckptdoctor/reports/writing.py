"""The page of a remap that has written its output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from ckptdoctor.receipt import Receipt, receipt_path
from ckptdoctor.reports.base import Page
from ckptdoctor.text import bytes_text, listing, plural


def receipt_page(receipt: Receipt) -> Page:
    """What was written, of what; the receipt file holds the rest."""
    counts = Counter(tensor.status for tensor in receipt.tensors)
    parts = ", ".join(f"{count:,} {status}" for status, count in counts.items())
    size, kind = receipt.output["bytes"], receipt.output["format"]
    random = f"; {plural(len(receipt.random), 'tensor')} of the target stay random" if receipt.random else ""
    return Page(
        title=f"{receipt.source['reference']} -> {receipt.path} ({kind}, {bytes_text(size)})",
        facts=tuple(_facts(receipt)),
        sentence=f"wrote {plural(len(receipt.tensors), 'tensor')} ({parts}){random}",
        tone="good",
        warnings=receipt.notes,
        data=partial(_data, receipt),
    )


def _facts(receipt: Receipt) -> Iterator[str]:
    shards, files = receipt.output.get("shards", 0), receipt.output.get("files", ())
    if beside := files[shards:]:
        yield f"{plural(shards, 'shard')}, and beside them {listing(beside, limit=12)}"
    yield f"receipt: {receipt_path(receipt.path)}"


def _data(receipt: Receipt) -> dict[str, Any]:
    return {
        "schema": "ckptdoctor/written/1",
        "path": receipt.path,
        "receipt": str(receipt_path(receipt.path)),
        "source": dict(receipt.source),
        "output": dict(receipt.output),
        "reverse": receipt.reverse,
        "tensors": len(receipt.tensors),
        "random": list(receipt.random),
        "notes": list(receipt.notes),
    }
