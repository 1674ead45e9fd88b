"""The ways back: from what a plan makes of the source to the expressions that make the source's tensors of it again.

`ways_back` starts with what is known, each filled target tensor as it is, and undoes one op after the other: an op whose
outputs are all known gives its inputs, if it has an inverse. What is found last are the tensors of the source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from ckptdoctor.ops import Op, OpError
from ckptdoctor.plan.types import Apply, Expression, Plan, Step, Take, taken_keys
from ckptdoctor.text import plural, printable

if TYPE_CHECKING:
    from ckptdoctor.model import Manifest, TensorSpec

Application: TypeAlias = tuple[Op, tuple[Expression, ...]]
"""An op with its inputs; each of its outputs is an `Apply`."""


class Way(NamedTuple):
    """How a tensor is made of the plan's target, and what comes out."""

    expression: Expression
    spec: TensorSpec


class Ways(NamedTuple):
    """`known` has a way for each expression over the source that comes back; `failures` say which ops have no way back."""

    known: Mapping[Expression, Way]
    failures: Mapping[Application, str]

    def blame(self, expression: Expression, key: str) -> tuple[Op, str]:
        """The op, and the reason, because of which a source key that an expression reads does not come back."""
        while isinstance(expression, Apply):
            reason = self.failures.get((expression.op, expression.inputs))
            if reason is not None:
                return expression.op, reason
            expression = next(inner for inner in expression.inputs if key in taken_keys(inner))
        raise AssertionError(f"{key} comes back, and was said not to")


class Specs:
    """What expressions over a manifest give; each is judged once."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._outputs: dict[Application, tuple[TensorSpec, ...]] = {}

    def of(self, expression: Expression) -> TensorSpec:
        """The spec of what an expression gives."""
        if isinstance(expression, Take):
            return self._manifest[expression.key]
        return self.outputs(expression.op, expression.inputs)[expression.output]

    def outputs(self, op: Op, inputs: tuple[Expression, ...]) -> tuple[TensorSpec, ...]:
        """Those of all outputs of an op."""
        if (op, inputs) not in self._outputs:
            self._outputs[op, inputs] = _made(op, tuple(map(self.of, inputs)))
        return self._outputs[op, inputs]


def ways_back(plan: Plan) -> Ways:
    """The way of every expression that comes back. Of several the first one found: short ones are found first."""
    known: dict[Expression, Way] = {}
    specs = Specs(plan.source)
    for step in _seeds(plan.steps):
        if step.expression is not None:
            known.setdefault(step.expression, Way(Take(step.target.key), step.target))
    waiting, outputs = deque(known), dict[Application, int]()
    failures: dict[Application, str] = {}
    while waiting:
        expression = waiting.popleft()
        if isinstance(expression, Take):
            continue
        application = (expression.op, expression.inputs)
        outputs[application] = outputs.get(application, 0) + 1
        made = _undone(application, outputs[application], specs, known)
        if isinstance(made, str):
            failures[application] = made
            continue
        failures.pop(application, None)
        for inner, way in zip(expression.inputs, made, strict=True):
            if inner not in known:
                known[inner] = way
                waiting.append(inner)
    return Ways(known, failures)


def _seeds(steps: Iterable[Step]) -> list[Step]:
    """The steps whose values are the source's: those that keep their name first, copies that fill fresh tensors last."""
    rank = {"loaded": 0, "renamed": 1, "computed": 1, "fresh": 2}
    seeds = [step for step in steps if step.has_values and step.expression is not None]
    return sorted(seeds, key=lambda step: rank[step.status])


def _undone(application: Application, found: int, specs: Specs, known: Mapping[Expression, Way]) -> list[Way] | str:
    """The ways of the inputs of an op, of whose outputs so many were found, or the reason why there are none (yet).

    The inverse has to be right for the tensors that are there, whose dtypes may be others than those that the op makes.
    """
    op, inputs = application
    number = len(specs.outputs(op, inputs))
    if found < number:
        return f"only {found:,} of the {plural(number, 'tensor')} that it makes are there"
    back = op.inverse(tuple(map(specs.of, inputs)))
    if isinstance(back, str):
        return back
    outputs = [known[Apply(op, inputs, place)] for place in range(number)]
    given = tuple(way.spec for way in outputs)
    try:
        made = _made(back, given)
        fits = op.inverse(made) == back and _looks(_made(op, made)) == _looks(given)
    except OpError as error:
        return error.message
    if not fits:
        there = ", ".join(f"{printable(spec.key)} is {spec.dtype}" for spec in given[:3])
        return f"{there}, and {specs.outputs(op, inputs)[0].dtype} is what it makes"
    expressions = tuple(way.expression for way in outputs)
    return [Way(Apply(back, expressions, place), spec) for place, spec in enumerate(made)]


def _made(op: Op, inputs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(
        inputs[0]._replace(shape=shape, dtype=dtype, tied_to=None, raw_key=None)
        for shape, dtype in op.out_specs(inputs)
    )


def _looks(specs: Iterable[TensorSpec]) -> list[object]:
    return [(spec.shape, spec.dtype) for spec in specs]
