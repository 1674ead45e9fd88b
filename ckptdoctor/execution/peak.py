"""How much memory carrying a plan out takes, known before anything is read: what the ops of one tensor need at once.

Renames and ops that only put bytes in another row need none. What is computed holds its inputs, what the ops make of them,
and the packed values; it is an upper bound, for an op whose output is a view of its input needs less.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import UsageError
from ckptdoctor.execution.outputs import stored_weights
from ckptdoctor.execution.streams import spans_of
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.model import TensorSpec
from ckptdoctor.optimizer import spec_of
from ckptdoctor.plan import Expression, Plan, Step, Take, taken_keys
from ckptdoctor.source import OpenSource
from ckptdoctor.text import bytes_text, printable

if TYPE_CHECKING:
    from ckptdoctor.errors import Location

PYTHON = 60_000_000
TORCH = 300_000_000
"""Bytes that an interpreter has with our modules, and what torch adds to it, rounded up from measurement."""


class Peak(NamedTuple):
    """The most bytes at a time, everything counted; `key` is the tensor that needs most, made by `rule`."""

    nbytes: int
    key: str | None = None
    rule: Location | None = None

    @property
    def text(self) -> str:
        """For people."""
        if self.key is None:
            return f"needs {bytes_text(self.nbytes)} of memory at most: nothing is computed"
        where = f" ({self.rule})" if self.rule is not None else ""
        return f"needs {bytes_text(self.nbytes)} of memory at most; {printable(self.key)}{where} the most of it"

    def check(self, limit: int | None) -> None:
        """Raise UsageError if that is more than a limit."""
        if limit is not None and self.nbytes > limit:
            raise UsageError(
                f"this {self.text}, which is over --memory-limit {bytes_text(limit)}",
                hint="raise the limit, or run it where there is more memory; nothing was written",
            )


def memory_peak(plan: Plan, source: OpenSource, *, at_once: int = 1, filled: int = 0) -> Peak:
    """The peak where so many tensors are made `at_once`, with `filled` bytes of a constructed target beside them."""
    stored = stored_weights(plan, source)
    needs = [(_need(step, stored), step) for step in plan.steps if step.has_values]
    most = nlargest(at_once, (need for need in needs if need[0]), key=lambda need: need[0])
    if not most and not filled:
        return Peak(PYTHON)
    total = PYTHON + TORCH + filled + sum(need for need, _ in most)
    return Peak(total, most[0][1].target.key, most[0][1].rule) if most else Peak(total)


def _need(step: Step, stored: Mapping[str, StoredTensor]) -> int:
    """Bytes in memory while one tensor is made."""
    if step.expression is None:
        return 2 * step.target.nbytes if step.init is not None else 0
    if isinstance(step.expression, Take) or spans_of(step.expression, stored) is not None:
        return max((_gathered(stored[key]) for key in step.sources), default=0)
    specs = {key: stored[key].spec for key in taken_keys(step.expression)}
    return _evaluated(step.expression, specs) + (step.given or step.target).nbytes


def _evaluated(expression: Expression, specs: Mapping[str, TensorSpec]) -> int:
    """The most bytes while an expression is evaluated, inputs from left to right, its result included."""
    if isinstance(expression, Take):
        return specs[expression.key].nbytes
    held = peak = 0
    for inner in expression.inputs:
        peak = max(peak, held + _evaluated(inner, specs))
        held += spec_of(inner, specs).nbytes
    made = expression.op.out_specs(tuple(spec_of(inner, specs) for inner in expression.inputs))
    return max(peak, held + sum(TensorSpec("", *spec).nbytes for spec in made))


def _gathered(tensor: StoredTensor) -> int:
    """A view with gaps is read with what lies between its elements."""
    if tensor.layout.contiguous:
        return 0
    return (tensor.layout.reach - tensor.layout.offset) * tensor.layout.dtype.itemsize
