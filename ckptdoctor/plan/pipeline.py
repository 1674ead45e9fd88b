"""The ops of a rule on one of its instances, judged on shapes: nothing is computed, every mistake is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TYPE_CHECKING

from ckptdoctor.errors import PlanError, ShapeError
from ckptdoctor.ops import Op, OpError
from ckptdoctor.plan import hints
from ckptdoctor.plan.hints import joins
from ckptdoctor.plan.stage import Value
from ckptdoctor.plan.types import Apply
from ckptdoctor.text import listing, plural, shape_text

if TYPE_CHECKING:
    from ckptdoctor.keymap import Rule
    from ckptdoctor.model import TensorSpec
    from ckptdoctor.ops import OutSpec

_MAX_RANK = 64
_MAX_BYTES = 2**63 - 1


def misfit_of_ops(rule: Rule) -> PlanError | None:
    """What the sides of a rule and its ops have against each other, whatever the keys; None if nothing."""
    joining, parting = [op for op in rule.ops if joins(op)], [op for op in rule.ops if op.fan_out]
    if len(joining) > len(rule.fan_in):
        message = f"{rule.text}: {joining[-1].describe()} takes several tensors, and one comes"
        hint = "say on the left which: a group such as {q,k,v}, a number such as {e:int}, or a list"
        if joining[-1].input_names:
            hint = _named_inputs(joining[-1])
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
            hint = _named_inputs(op)
            message = f"{rule.text}: {op.describe()} takes inputs that are named {listing(op.input_names)}"
            return PlanError(message, rule=rule.location, hint=hint)
        if rule.input_names and not op.input_names:
            message = f"{rule.text}: {op.describe()} takes its inputs in their order, not by names"
            return PlanError(message, rule=rule.location, hint="write from as a list")
    return None


def _named_inputs(op: Op) -> str:
    return f"name its inputs: from: {{{', '.join(f'{name}: ...' for name in op.input_names)}}}"


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
    outs: Sequence[int | None],
    targets: Sequence[TensorSpec | None],
) -> tuple[list[Value], tuple[int, ...]]:
    """The values after all ops, and the lengths of the fan-out axes.

    `lengths` and `outs` are those of the fan axes, as far as they are known. The first op that joins takes the last axis of
    the left side, the first that parts makes the first axis of the right side. `targets` are the specs of what is to come
    out, as far as they are known, and only the last op is shown them. Raises ShapeError where an op cannot take its
    inputs, or makes another number of tensors than there are keys.
    """
    lengths, values = list(lengths), list(values)
    made: list[int] = []
    for number, op in enumerate(rule.ops, 1):
        several = lengths.pop() if joins(op) else 1
        groups = [values[start : start + several] for start in range(0, len(values), several)]
        names = rule.fan_in[len(lengths)].members if op.input_names else ()
        count = outs[len(made)] if op.fan_out else 1
        shown = targets if number == len(rule.ops) else ()
        values = []
        for group in groups:
            wanted = _wanted(count, shown, len(values))
            result = _applied(rule, op, _by_name(op, names, group), wanted)
            count = len(result) if count is None else count
            if len(result) != count:
                raise _wrong_number(rule, op, len(result), count, group)
            values += result
        made += [count] if op.fan_out and count is not None else []
    return values, tuple(made)


def _wanted(count: int | None, targets: Sequence[TensorSpec | None], start: int) -> tuple[TensorSpec | None, ...]:
    """What is known of the outputs of an op on one group: None for each where nothing is, empty where not even how many."""
    if count is None:
        return ()
    return tuple(targets[start : start + count]) or (None,) * count


def _by_name(op: Op, names: Sequence[str], group: Sequence[Value]) -> Sequence[Value]:
    """In the order of the names that the op asks for."""
    if not op.input_names:
        return group
    named = dict(zip(names, group, strict=True))
    return [named[name] for name in op.input_names]


def _applied(rule: Rule, op: Op, group: Sequence[Value], wanted: tuple[TensorSpec | None, ...]) -> list[Value]:
    specs = tuple(value.spec for value in group)
    try:
        fitted = op.fitted(specs, wanted)
        outputs = fitted.out_specs(specs)
        _check_sizes(fitted, outputs)
        new = fitted.new_elements(specs, tuple(value.new for value in group))
    except OpError as error:
        taken = listing(f"{spec.key} ({shape_text(spec.shape)})" for spec in specs)
        reason = str(error).removeprefix(op.describe()).lstrip(": ")
        message = f"{op.describe()} cannot take {taken}: {reason}"
        hint = error.hint or "correct the op, or let the rule match other keys"
        keys = tuple(spec.key for spec in specs)
        raise ShapeError(message, rule=rule.location, keys=keys, hint=hint) from None
    expressions = tuple(value.expression for value in group)
    return [
        Value(
            specs[0]._replace(shape=shape, dtype=dtype),
            Apply(fitted, expressions, number),
            rule.location,
            new=new[number],
        )
        for number, (shape, dtype) in enumerate(outputs)
    ]


def _check_sizes(op: Op, outputs: Iterable[OutSpec]) -> None:
    """Raise OpError for what no tensor of torch can be."""
    for shape, dtype in outputs:
        if len(shape) > _MAX_RANK:
            raise OpError(f"{op.describe()} makes {len(shape):,} dimensions, and a tensor has at most {_MAX_RANK}")
        if max(prod(shape) * dtype.bits // 8, 0, *shape) > _MAX_BYTES:
            raise OpError(f"{op.describe()} makes more bytes than can be counted", hint="correct the sizes")


def _wrong_number(rule: Rule, op: Op, made: int, wanted: int, group: Sequence[Value]) -> ShapeError:
    """The error for an op that makes another number of tensors than there are keys."""
    message = f"{op.describe()} makes {plural(made, 'tensor')}, and there are {plural(wanted, 'key')} for them"
    keys = tuple(value.spec.key for value in group)
    return ShapeError(
        f"{rule.text}: {message}", rule=rule.location, keys=keys, hint="let the rule name one key for each"
    )
