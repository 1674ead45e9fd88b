"""What becomes of the moments of one parameter: the plan's expression over the weights, turned into one over their moments.

Every op says itself what it does to moments (`Op.for_moments`); where one says that they cannot follow, the parameter starts
anew. The table of these is in docs/howto/optimizer.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from ckptdoctor.model import DType, TensorSpec
from ckptdoctor.ops import Op, OpError
from ckptdoctor.optimizer.states import Entry, Member, OptimizerProblem, Order
from ckptdoctor.pickles.tensors import TensorView
from ckptdoctor.plan import Apply, Expression, Take, ops_of, taken_keys
from ckptdoctor.text import listing, printable, shape_text

Read = Callable[[TensorView], bytes]
"""Reads the values of a small tensor."""


class Moment(NamedTuple):
    """A moment to be computed: `views` are the moments of that name by the keys of the weights that `expression` names."""

    name: str
    expression: Expression
    spec: TensorSpec
    views: Mapping[str, TensorView]
    order: Order = 0


class Reset(NamedTuple):
    """The parameter starts without state, and why."""

    why: str


def moments_of(
    target: TensorSpec, expression: Expression, members: Mapping[str, Member], read: Read
) -> tuple[Moment, ...] | Reset:
    """The moments of a target's parameter that are computed of those of its sources (none: they stay as they are).

    `members` has a member for each source key, all of them with a state. Raises OptimizerProblem for moments of which nobody
    knows what an op would do to them.
    """
    first, *others = (members[key] for key in dict.fromkeys(taken_keys(expression)))
    for other in others:
        if [entry.name for entry in other.entries or ()] != [entry.name for entry in first.entries or ()]:
            return Reset("its sources have states of different kinds")
        if different := [a.name for a, b in zip(first.scalars, other.scalars, strict=True) if not _same(a, b, read)]:
            return Reset(f"its sources differ in {listing(different)}")
    computed = []
    for entry in first.moments:
        turned = _turned(expression, entry, first)
        if isinstance(turned, Reset):
            return turned
        if not isinstance(turned, Take):
            views = {key: _view(members[key], entry.name) for key in taken_keys(turned)}
            computed.append(Moment(entry.name, turned, _spec(target, turned, entry, views), views, entry.order))
    return tuple(computed)


def _same(left: Entry, right: Entry, read: Read) -> bool:
    if left.view is None or right.view is None:
        return type(left.value) is type(right.value) and bool(left.value == right.value)
    ours, theirs = left.view.layout, right.view.layout
    return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and read(left.view) == read(right.view)


def _turned(expression: Expression, entry: Entry, member: Member) -> Expression | Reset:
    """The expression that makes the moment."""
    if isinstance(expression, Take):
        return expression
    inputs = []
    for inner in expression.inputs:
        turned = _turned(inner, entry, member)
        if isinstance(turned, Reset):
            return turned
        inputs.append(turned)
    ops = _ops(expression.op, entry, member)
    return ops if isinstance(ops, Reset) else _chained(ops, tuple(inputs), expression)


def _ops(op: Op, entry: Entry, member: Member) -> tuple[Op, ...] | Reset:
    first, second = op.for_moments(1), op.for_moments(2)
    if first is None or second is None:
        return Reset(f"moments do not go through {op.describe()}")
    if entry.order == 0:
        if first == second == ():
            return ()
        if not op.moves:
            raise OptimizerProblem(
                f"{member.where}: nobody knows what {op.describe()} does to {printable(entry.name)}, which is no moment that "
                "ckptdoctor knows"
            )
        return (op,)
    return first if entry.order == 1 else second


def _chained(ops: tuple[Op, ...], inputs: tuple[Expression, ...], weight: Apply) -> Expression | Reset:
    """One op after the other; which output is meant, the one that has several says."""
    if not ops:
        return inputs[0] if len(inputs) == 1 else Reset(f"moments do not go through {weight.op.describe()}")
    single = len(ops) == 1
    for op in ops:
        inputs = (Apply(op, inputs, weight.output if single or op.fan_out else 0),)
    return inputs[0]


def _view(member: Member, name: str) -> TensorView:
    return next(entry.view for entry in member.moments if entry.name == name and entry.view)


def _spec(target: TensorSpec, expression: Expression, entry: Entry, views: Mapping[str, TensorView]) -> TensorSpec:
    key = f"{target.key} ({entry.name})"
    try:
        found = spec_of(expression, {key: TensorSpec(key, *_shaped(view)) for key, view in views.items()})
    except OpError as error:
        raise OptimizerProblem(f"{printable(key)}: {error.message}") from None
    if found.shape != target.shape:
        shapes = f"{shape_text(found.shape)}, the parameter is {shape_text(target.shape)}"
        raise OptimizerProblem(f"{printable(key)} would be {shapes}")
    return TensorSpec(key, found.shape, found.dtype)


def _shaped(view: TensorView) -> tuple[tuple[int, ...], DType]:
    return view.layout.shape, view.layout.dtype


def spec_of(expression: Expression, inputs: Mapping[str, TensorSpec]) -> TensorSpec:
    """Shape and dtype of what an expression makes of such tensors. Raises OpError where they do not fit."""
    if isinstance(expression, Take):
        return inputs[expression.key]
    given = tuple(spec_of(inner, inputs) for inner in expression.inputs)
    shape, dtype = expression.op.out_specs(given)[expression.output]
    return TensorSpec(expression.op.describe(), shape, dtype)


def unchanged(expression: Expression | None) -> bool:
    """Whether the moments of one weight stay as they are, by its name and its elements."""
    return all(op.for_moments(1) == () for op in ops_of(expression))
