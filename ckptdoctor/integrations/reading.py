"""Which tensor of a receipt is which of a model: by its key in the file or in the target, less what wraps either.

Every name of either side stands for one tensor in one reading, so what all agree on cannot be right by accident; where two
readings agree on as many names and on other tensors, none of them is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ckptdoctor.errors import UsageError
from ckptdoctor.integrations.live import EXTRA_STATE, LiveTensor
from ckptdoctor.receipt import Receipt, TensorReceipt
from ckptdoctor.wrappers import paired, without_wrappers


class Reading(NamedTuple):
    """The tensors of a receipt by name, what it says is random, and the names of each live tensor, less what wraps them."""

    rows: dict[str, TensorReceipt]
    fresh: frozenset[str]
    names: tuple[tuple[str, ...], ...]

    @property
    def agreed(self) -> int:
        """How many names of the receipt the model has."""
        return len((self.rows.keys() | self.fresh) & {name for names in self.names for name in names})

    @property
    def meant(self) -> list[set[str]]:
        """For each live tensor, what it is in the file."""
        return [{self.rows[name].key for name in names if name in self.rows} for names in self.names]


def best_reading(receipt: Receipt, live: Sequence[LiveTensor]) -> Reading:
    """The reading under which more names agree; that of the target's keys where both do.

    Raises UsageError where two agree on as many names, and not on which tensors these are.
    """
    rows = weights_of(receipt)
    by_target = _reading(rows, [row.target for row in rows], receipt.random, live)
    by_key = _reading(rows, [row.key for row in rows], _in_file(rows, receipt.random), live)
    first, second = sorted((by_target, by_key), key=lambda reading: -reading.agreed)
    if first.agreed == second.agreed and first.meant != second.meant:
        raise UsageError(
            f"the names in the receipt of {receipt.path} can be read in two ways for this model",
            hint="give the part of the model that the file is of: assert_loaded(model.net, ...)",
        )
    return first


def weights_of(receipt: Receipt) -> list[TensorReceipt]:
    """The tensors of a receipt, less `_extra_state`."""
    return [row for row in receipt.tensors if not row.target.endswith(EXTRA_STATE)]


def _reading(
    rows: Sequence[TensorReceipt], said: Sequence[str], fresh: Sequence[str], live: Sequence[LiveTensor]
) -> Reading:
    """The reading of these names, less what takes away most differences; less wrappers only, where that joins two names."""
    ours, theirs = [*said, *fresh], [name for tensor in live for name in tensor.names]
    short, names = paired(ours, theirs)
    if len({*short}) < len(short):
        short, names = without_wrappers(ours), theirs
    if len({*short}) < len(short):
        short = ours
    found = iter(names)
    return Reading(
        dict(zip(short[: len(rows)], rows, strict=True)),
        frozenset(short[len(rows) :]),
        tuple(tuple(next(found) for _ in tensor.names) for tensor in live),
    )


def _in_file(rows: Sequence[TensorReceipt], fresh: Sequence[str]) -> list[str]:
    """What the file would call the tensors that it does not have: with what stands before the keys of all others."""
    fronts = {row.key.removesuffix(row.target) for row in rows if row.key.endswith(row.target)}
    front = fronts.pop() if len(fronts) == 1 else ""
    return [front + name for name in fresh]
