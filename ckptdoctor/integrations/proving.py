"""`assert_loaded`: a live model holds, tensor by tensor, the values that a receipt has the digests of.

reading.py finds which tensor of the receipt is which of the model, live.py takes the digests, unproven.py makes the message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ckptdoctor.errors import CheckpointNotFound, CkptDoctorError, UsageError, WeightProblem
from ckptdoctor.grouping import labels
from ckptdoctor.integrations.judging import several
from ckptdoctor.integrations.live import LiveTensor, is_sharded, live_tensors
from ckptdoctor.integrations.modules import unwrapped
from ckptdoctor.integrations.reading import Reading, best_reading, weights_of
from ckptdoctor.integrations.unproven import unproven
from ckptdoctor.policy import matches_any, parse_pattern
from ckptdoctor.receipt import Receipt, TensorReceipt, find_receipt, read_receipt
from ckptdoctor.text import listing, plural, printable, shape_text

if TYPE_CHECKING:
    from torch import nn

    from ckptdoctor.patterns import Pattern

ReceiptLike: TypeAlias = "Receipt | str | os.PathLike[str]"
_Values: TypeAlias = "tuple[str | None, tuple[int, ...], str]"
"""Digest, shape and dtype."""
_ENDING = ".receipt.json"


class Proof(NamedTuple):
    """What was proven: so many tensors are those of the file at `path`; `random` names those that are not from there."""

    path: str
    tensors: int
    random: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{plural(self.tensors, 'tensor')} in the model as written to {printable(self.path)}"
        names = [label.text for label in labels(self.random)]
        return f"{text}; not from there: {listing(names)}" if names else text


def assert_loaded(model: nn.Module, receipt: ReceiptLike, *, allow_random: str | Iterable[str] = ()) -> Proof:
    """Prove that a model holds what `remap` has written: the sha256 of each of its tensors is the one in the receipt.

    `receipt` is the checkpoint that was written, its `.receipt.json`, or a Receipt. Call it after the load: before or after
    DDP, DataParallel, FSDP (`fully_shard`, or FullyShardedDataParallel), torch.compile and activation checkpointing, in any
    order. The model has to have all tensors of the receipt, in their shape and dtype. What else it has must be random by
    the receipt (`fresh`), or named by a pattern in `allow_random` (adapters, parts of another origin). Buffers that are not
    persistent and `_extra_state` are not looked at. A tensor with several names (tied) is read once.

    Where the model is sharded, all ranks must call it: tensors are gathered one by one, in one order on all ranks, and each
    rank raises only after the last. Otherwise each rank judges its own copy. One tensor at a time is on the CPU. DeepSpeed's
    ZeRO-3 is not known here: call it before `deepspeed.initialize`.

    Returns what was proven; `print` it. Raises WeightsNotLoaded, whose message names the tensors and what is wrong with
    each: other values than in the file, those of another tensor, another dtype or shape, none (meta device, sparse,
    quantised), never loaded. Raises UsageError where the receipt has no digests, and CheckpointNotFound or CorruptCheckpoint
    where it cannot be read.
    """
    if not hasattr(model, "named_modules") or isinstance(model, type):
        raise UsageError(f"assert_loaded takes a module, not {type(model).__name__}", hint="give the model itself")
    allowed = tuple(map(parse_pattern, several(allow_random)))
    try:
        found = receipt_of(receipt)
        _check_digests(found)
    except CkptDoctorError:
        if is_sharded(model):
            live_tensors(model)  # a rank that has read its receipt waits for this one's part
        raise
    live = live_tensors(model)
    reading = best_reading(found, live)
    problems = list(_problems(reading, live, allowed))
    if problems:
        raise unproven(
            type(unwrapped(model)).__name__, found.path, problems, len(reading.rows), _compared(reading, live)
        )
    random = (names[0] for names in reading.names if not any(name in reading.rows for name in names))
    return Proof(found.path, len(reading.rows), tuple(random))


def receipt_of(receipt: ReceiptLike) -> Receipt:
    """The receipt that is meant. Raises CheckpointNotFound or CorruptCheckpoint."""
    if isinstance(receipt, Receipt):
        return receipt
    path = os.fspath(receipt)
    output = path.removesuffix(_ENDING)
    if find_receipt(output) is None:
        beside = "; it stands beside what ckptdoctor remap writes" if Path(output).exists() else ""
        raise CheckpointNotFound(
            f"there is no receipt {output}{_ENDING}",
            path=path,
            hint=f"give the checkpoint that was written, or its receipt{beside}",
        )
    return read_receipt(output)


def _check_digests(receipt: Receipt) -> None:
    rows = weights_of(receipt)
    without = [row.key for row in rows if row.sha256 is None]
    if not rows:
        raise UsageError(f"the receipt of {receipt.path} has no tensors: it proves nothing")
    if without:
        raise UsageError(
            f"the receipt of {receipt.path} has no digests of {plural(len(without), 'tensor')}, as {listing(without, 1)}",
            hint="write the file without --no-digests",
        )


def _problems(reading: Reading, live: Sequence[LiveTensor], allowed: tuple[Pattern, ...]) -> Iterator[WeightProblem]:
    """All that is wrong, in the order of the model and by its names; then what only the receipt has."""
    shown = {
        short: name
        for tensor, names in zip(live, reading.names, strict=True)
        for short, name in zip(names, tensor.names, strict=True)
    }
    homes: dict[_Values, str] = {}
    for name, row in reading.rows.items():
        homes.setdefault((row.sha256, row.shape, row.dtype), shown.get(name, name))
    for tensor, names in zip(live, reading.names, strict=True):
        known = [name for name in names if name in reading.rows]
        for name in known:
            yield from _compare(tensor, shown[name], reading.rows[name], homes)
        if not known and not any(matches_any(allowed, name) for name in (*names, *tensor.names)):
            yield from _unknown(tensor, names, reading.fresh)
    for name in (name for name in reading.rows if name not in shown):
        yield WeightProblem(name, "unexpected", "in the file, not in the model")


def _unknown(tensor: LiveTensor, names: Iterable[str], fresh: frozenset[str]) -> Iterator[WeightProblem]:
    if fresh.isdisjoint(names):
        yield WeightProblem(tensor.names[0], "missing", "not in the file, and not fresh: never loaded")
    elif tensor.on_meta:
        yield WeightProblem(tensor.names[0], "unreadable", f"fresh, and {tensor.fault}")


def _compare(
    tensor: LiveTensor, name: str, row: TensorReceipt, homes: Mapping[_Values, str]
) -> Iterator[WeightProblem]:
    if tensor.fault is not None:
        yield WeightProblem(name, "unreadable", tensor.fault)
    elif tensor.shape != row.shape:
        text = f"{shape_text(row.shape)} in the file, {shape_text(tensor.shape)} in the model"
        yield WeightProblem(name, "shape", text)
    elif tensor.dtype != row.dtype:
        yield WeightProblem(name, "dtype", f"{row.dtype} in the file, {tensor.dtype} in the model")
    elif tensor.sha256 != row.sha256:
        other = homes.get((tensor.sha256, tensor.shape, tensor.dtype))
        if tensor.constant is not None:
            yield WeightProblem(name, "values", f"{tensor.constant} everywhere, not as in the file")
        elif other is not None:
            yield WeightProblem(name, "other", f"holds the values of {printable(other)}")
        else:
            yield WeightProblem(name, "values", "other values than in the file")


def _compared(reading: Reading, live: Iterable[LiveTensor]) -> int:
    """How many tensors of the receipt had their values compared."""
    return sum(
        tensor.sha256 is not None and (row.shape, row.dtype) == (tensor.shape, tensor.dtype)
        for tensor, names in zip(live, reading.names, strict=True)
        for name in names
        if (row := reading.rows.get(name)) is not None
    )
