"""Mass balance: every element of the checkpoint and of the target is in exactly one class, and the classes add up.

Of the checkpoint an element is used, left out (by an op that takes only some), dropped, unexpected or mismatched. Of the
target its class is the status of its tensor, or `new`, where an op of a rule added it to what the checkpoint gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.model import TensorSpec
from ckptdoctor.plan.types import Apply, Expression, Plan, Take, taken_keys

if TYPE_CHECKING:
    from ckptdoctor.model import Manifest

SOURCE_CLASSES = ("used", "left_out", "dropped", "unexpected", "mismatched")
TARGET_CLASSES = ("loaded", "renamed", "computed", "tied", "fresh", "missing", "mismatched", "new")


class Amount(NamedTuple):
    """How much of a side is in one class. A tensor that is partly in two classes is counted in the one that it is named by."""

    tensors: int = 0
    elements: int = 0
    bytes: int = 0

    def plus(self, tensors: int, elements: int, nbytes: int) -> Amount:
        """With so much more."""
        return Amount(self.tensors + tensors, self.elements + elements, self.bytes + nbytes)


class Balance(NamedTuple):
    """The classes of both sides that hold anything."""

    source: Mapping[str, Amount]
    target: Mapping[str, Amount]


def balance_of(plan: Plan) -> Balance:
    """The balance of a plan. Raises AssertionError if it does not add up, which would be a defect of ours."""
    source, target = _source_side(plan), _target_side(plan)
    for side, manifest in ((source, plan.source), (target, plan.target)):
        _check(side, manifest)
    return Balance(*({name: amount for name, amount in side.items() if any(amount)} for side in (source, target)))


def _source_side(plan: Plan) -> dict[str, Amount]:
    rest = {remainder.source.key: remainder.status for remainder in plan.remainders}
    left_out = _left_out(plan)
    names = [rest.get(key, "used") for key in plan.source]
    cuts = [left_out.get(key, 0) for key in plan.source]
    return _summed(SOURCE_CLASSES, "left_out", names, plan.source.values(), cuts)


def _target_side(plan: Plan) -> dict[str, Amount]:
    names, specs = map(attrgetter("status"), plan.steps), map(attrgetter("target"), plan.steps)
    new = [step.new if step.new and step.filled else 0 for step in plan.steps]
    return _summed(TARGET_CLASSES, "new", names, [*specs], new)


def _summed(
    classes: Iterable[str],
    part_class: str,
    names: Iterable[str],
    specs: Collection[TensorSpec],
    parts: Iterable[int],
) -> dict[str, Amount]:
    """Amounts of tensors, each in its class but for the elements of it that are in the class of parts.

    Few differ in all that counts here: those that do not are taken together.
    """
    sums = {name: Amount() for name in classes}
    shapes, widths = map(attrgetter("shape"), specs), map(attrgetter("dtype.bits"), specs)
    for (name, shape, bits, part), count in Counter(zip(names, shapes, widths, parts, strict=True)).items():
        numel = prod(shape)
        nbytes, cut = (numel * bits + 7) // 8, part * bits // 8
        sums[name] = sums[name].plus(count, count * (numel - part), count * (nbytes - cut))
        sums[part_class] = sums[part_class].plus(0, count * part, count * cut)
    return sums


def _check(side: Mapping[str, Amount], manifest: Manifest) -> None:
    tensors, elements = (sum(amount[place] for amount in side.values()) for place in (0, 1))
    if (tensors, elements) != (len(manifest), sum(map(prod, map(attrgetter("shape"), manifest.values())))):
        raise AssertionError(f"the plan does not add up: {dict(side)} of {manifest!r}")


class _Chosen(NamedTuple):
    """An op that takes some elements: of which expression, along which dimension, and which indices."""

    of: Expression
    dim: int
    indices: frozenset[int]


def _left_out(plan: Plan) -> dict[str, int]:
    """For each source key, how many of its elements no output holds although the tensor is used."""
    roots = [step.expression for step in plan.steps if step.has_values and type(step.expression) is Apply]
    chosen = {found for root in roots for found in _choices(root, plan.source)}
    if not chosen:
        return {}
    whole = {key for root in plan.steps if root.has_values for key in _taken_whole(root.expression, plan.source)}
    along: dict[Expression, dict[int, frozenset[int]]] = {}
    for choice in chosen:
        dims = along.setdefault(choice.of, {})
        dims[choice.dim] = dims.get(choice.dim, frozenset()) | choice.indices
    left: dict[str, int] = {}
    for expression, dims in along.items():
        shape, keys = _spec(expression, plan.source).shape, tuple(dict.fromkeys(taken_keys(expression)))
        if not whole.isdisjoint(keys):
            continue
        for key in keys:  # of tensors that were joined, each loses its share
            count = plan.source[key].numel
            for dim, indices in dims.items():
                count = count * (shape[dim] - len(indices)) // shape[dim]
            left[key] = left.get(key, 0) + count
    return left


def _choices(expression: Expression, source: Manifest) -> Iterator[_Chosen]:
    if isinstance(expression, Take):
        return
    for inner in expression.inputs:
        yield from _choices(inner, source)
        selection = expression.op.selected(_spec(inner, source))
        if selection is not None:
            yield _Chosen(inner, selection[0], frozenset(selection[1]))


def _taken_whole(expression: Expression | None, source: Manifest) -> Iterator[str]:
    """The source keys that reach an output without an op in between that takes only some elements."""
    if isinstance(expression, Take):
        yield expression.key
    elif expression is not None:
        for inner in expression.inputs:
            if expression.op.selected(_spec(inner, source)) is None:
                yield from _taken_whole(inner, source)


def _spec(expression: Expression, source: Manifest) -> TensorSpec:
    """What an expression makes, as far as shapes and dtypes go."""
    if isinstance(expression, Take):
        return source[expression.key]
    inputs = tuple(_spec(inner, source) for inner in expression.inputs)
    shape, dtype = expression.op.out_specs(inputs)[expression.output]
    return TensorSpec("", shape, dtype)
