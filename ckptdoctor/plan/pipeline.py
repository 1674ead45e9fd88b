"""The ops of a rule on one of its instances, judged on shapes: nothing is computed, every mistake is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptdoctor.errors import PlanError, ShapeError
from ckptdoctor.ops import Op, OpError
from ckptdoctor.plan import hints
from ckptdoctor.plan.stage import Value
from ckptdoctor.plan.types import Apply
from ckptdoctor.text import listing, plural, shape_text

if TYPE_CHECKING:
    from ckptdoctor.keymap import Rule
    from ckptdoctor.model import TensorSpec


def joins(op: Op) -> bool:
    """Whether an op takes several tensors."""
    return op.fan_in or bool(op.input_names)


def misfit_of_ops(rule: Rule) -> PlanError | None:
    """What the sides of a rule and its ops have against each other, whatever the keys; None if nothing."""
    joining, parting = [op for op in rule.ops if joins(op)], [op for op in rule.ops if op.fan_out]
    if len(joining) > len(rule.fan_in):
        message = f"{rule.text}: {joining[-1].describe()} takes several tensors, and one comes"
        hint = "say on the left which: a group such as {q,k,v}, a number such as {e:int}, or a list"
        return PlanError(message, rule=rule.location, hint=hint)
    if len(parting) > len(rule.fan_out):
        message = f"{rule.text}: {parting[-1].describe()} makes several tensors, and one key is there for them"
        hint = "say on the right which: a group such as {q,k,v}, a number such as {e:int}, or a list"
        return PlanError(message, rule=rule.location, hint=hint)
    if len(joining) < len(rule.fan_in) or len(parting) < len(rule.fan_out):
        return hints.fan_without_op(rule, (), {}, None)
    if joining and parting and rule.ops.index(joining[-1]) > rule.ops.index(parting[0]):
        message = f"{rule.text}: {joining[-1].describe()} comes after {parting[0].describe()}"
        return PlanError(message, rule=rule.location, hint="first the ops that join, then those that part")
    return _misnamed(rule, joining) or _unnumbered(rule)


def _misnamed(rule: Rule, joining: Sequence[Op]) -> PlanError | None:
    """An op for named inputs gets them by their names, any other op by their order."""
    for axis, op in zip(reversed(rule.fan_in), joining, strict=True):
        if op.input_names and sorted(axis.members) != sorted(op.input_names):
            hint = f"from: {{{', '.join(f'{name}: ...' for name in op.input_names)}}}"
            message = f"{rule.text}: {op.describe()} takes inputs that are named {listing(op.input_names)}"
            return PlanError(message, rule=rule.location, hint=hint)
        if rule.input_names and not op.input_names:
            message = f"{rule.text}: {op.describe()} takes its inputs in their order, not by names"
            return PlanError(message, rule=rule.location, hint="write from as a list")
    return None


def _unnumbered(rule: Rule) -> PlanError | None:
    """A capture along a fan axis has an order only if it is a number."""
    for pattern, axes in ((rule.sources[0], rule.fan_in), (rule.targets[0], rule.fan_out)):
        for axis in axes:
            if isinstance(axis.key, str) and not axis.members and pattern.captures[axis.key] != "int":
                message = f"{rule.text}: {axis.text} stands on one side only, and only numbers have an order"
                hint = f"write {{{axis.key}:int}}, or a group with the names in their order"
                return PlanError(message, rule=rule.location, hint=hint)
    return None


def through_ops(
    rule: Rule,
    values: Sequence[Value],
    lengths: Sequence[int],
    outs: Sequence[int] | None,
    targets: Sequence[TensorSpec | None],
) -> list[Value]:
    """The values after all ops. `lengths` and `outs` are those of the fan axes (`outs` None: the op decides).

    `targets` are the specs of what is to come out, as far as they are known, and only the last op is shown them. Raises
    ShapeError where an op cannot take its inputs.
    """
    lengths, left, values = list(lengths), list(outs or ()), list(values)
    for number, op in enumerate(rule.ops):
        several = lengths.pop() if joins(op) else 1
        made = (left.pop(0) if left else None) if op.fan_out else 1
        result: list[Value] = []
        for start in range(0, len(values), several):
            group = values[start : start + several]
            wanted: Sequence[TensorSpec | None] = (None,) * (made or 0)
            if number == len(rule.ops) - 1 and made is not None and targets:
                wanted = targets[len(result) : len(result) + made]
            result += _applied(rule, op, _by_name(rule, op, group), tuple(wanted))
        values = result
    return values


def _by_name(rule: Rule, op: Op, group: Sequence[Value]) -> Sequence[Value]:
    """In the order of the names that the op asks for."""
    if not op.input_names:
        return group
    named = dict(zip(rule.fan_in[-1].members, group, strict=True))
    return [named[name] for name in op.input_names]


def _applied(rule: Rule, op: Op, group: Sequence[Value], wanted: tuple[TensorSpec | None, ...]) -> list[Value]:
    specs = tuple(value.spec for value in group)
    try:
        fitted = op.fitted(specs, wanted)
        outputs = fitted.out_specs(specs)
        new = fitted.new_elements(specs, tuple(value.new for value in group))
    except OpError as error:
        taken = listing(f"{spec.key} ({shape_text(spec.shape)})" for spec in specs)
        message = f"{op.describe()} cannot take {taken}: {error}"
        hint = error.hint or "correct the op, or let the rule match other keys"
        keys = tuple(spec.key for spec in specs)
        raise ShapeError(message, rule=rule.location, keys=keys, hint=hint) from None
    expressions = tuple(value.expression for value in group)
    return [
        Value(
            replace(specs[0], shape=shape, dtype=dtype),
            Apply(fitted, expressions, number),
            rule.location,
            new=new[number],
        )
        for number, (shape, dtype) in enumerate(outputs)
    ]


def wrong_number(rule: Rule, made: int, keys: Sequence[str]) -> ShapeError:
    """The error for ops that make another number of tensors than there are keys."""
    message = f"{rule.text}: the ops make {plural(made, 'tensor')}, and there are {plural(len(keys), 'key')} for them"
    return ShapeError(message, rule=rule.location, keys=tuple(keys[:5]), hint="correct the op, or the group of keys")
