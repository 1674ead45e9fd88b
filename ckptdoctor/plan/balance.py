"""Mass balance: every element of the checkpoint and of the target is in exactly one class, and the classes add up.

Of the checkpoint an element is used, left out (by an op that takes only some), dropped, unexpected or mismatched. Of the
target its class is the status of its tensor, or `new`, where an op of a rule added it to what the checkpoint gives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from math import prod
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops import Op
from ckptdoctor.ops.boxes import Box, elements, together, whole
from ckptdoctor.plan.types import Apply, Expression, Plan, Take, ops_of, taken_keys
from ckptdoctor.plan.ways import Specs

if TYPE_CHECKING:
    from ckptdoctor.model import Manifest

SOURCE_CLASSES = ("used", "left_out", "dropped", "unexpected", "mismatched")
Part: TypeAlias = Box | int | None
"""Elements of a tensor: which, or how many of them, or nobody can tell."""
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


def _left_out(plan: Plan) -> dict[str, int]:
    """For each source key, how many of its elements no output holds although the tensor is used; 0 where nobody can tell."""
    roots = [step.expression for step in plan.steps if step.has_values and step.expression is not None]
    if not any(_takes_some(op) for root in roots for op in ops_of(root)):
        return {}
    specs = Specs(plan.source)
    parts: dict[str, list[Part]] = {key: [] for root in roots for key in taken_keys(root)}
    for root in roots:
        for key, part in _read(root, whole(specs.of(root).shape), specs):
            parts[key].append(part)
    return {key: plan.source[key].numel - _used(plan.source[key], found) for key, found in parts.items()}


def _takes_some(op: Op) -> bool:
    return op.fan_out or type(op).selected is not Op.selected


def _read(expression: Expression, wanted: Part, specs: Specs) -> Iterator[tuple[str, Part]]:
    """The source keys that an expression reads for the wanted elements of it, each with the elements that these are made of."""
    if isinstance(expression, Take):
        yield expression.key, wanted
        return
    if isinstance(wanted, tuple) and not elements(wanted):
        return
    inputs = tuple(map(specs.of, expression.inputs))
    for inner, part in zip(expression.inputs, _parts(expression, inputs, wanted), strict=True):
        yield from _read(inner, part, specs)


def _parts(expression: Apply, inputs: tuple[TensorSpec, ...], wanted: Part) -> tuple[Part, ...]:
    op = expression.op
    alone = len(inputs) == 1 and (op.moves or op.selected(inputs[0]) is not None)
    if not isinstance(wanted, tuple):
        return (wanted if alone else None,) * len(inputs)
    read = op.read(inputs, expression.output, wanted)
    return tuple(elements(wanted) if part is None and alone else part for part in read)


def _used(spec: TensorSpec, parts: Iterable[Part]) -> int:
    """How many elements of a tensor are in any of these parts of it; all of them where that cannot be told."""
    different = list(dict.fromkeys(parts))
    boxes = [part for part in different if isinstance(part, tuple)]
    if whole(spec.shape) in boxes or None in different:
        return spec.numel
    if len(boxes) < len(different):
        return next(part for part in different if isinstance(part, int)) if len(different) == 1 else spec.numel
    joined = together(boxes)
    return spec.numel if joined is None else joined
