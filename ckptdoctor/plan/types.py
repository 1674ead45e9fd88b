"""A plan as values: one `Step` for each target tensor, one `Remainder` for each source tensor that no step uses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from ckptdoctor.errors import Location
    from ckptdoctor.initialisers import Initialiser
    from ckptdoctor.keymap import KeyMap
    from ckptdoctor.model import Manifest, TensorSpec
    from ckptdoctor.ops import Op

Status: TypeAlias = Literal["loaded", "renamed", "computed", "tied", "fresh", "missing", "mismatched"]
RANDOM: tuple[Status, ...] = ("fresh", "missing", "mismatched")


class Take(NamedTuple):
    """A tensor of the source, as it is."""

    key: str


class Apply(NamedTuple):
    """An output of an op over other expressions."""

    op: Op
    inputs: tuple[Expression, ...]
    output: int = 0


Expression: TypeAlias = Take | Apply


def taken_keys(expression: Expression | None) -> Iterator[str]:
    """The source keys that an expression reads, from left to right."""
    if isinstance(expression, Take):
        yield expression.key
    elif isinstance(expression, Apply):
        for inner in expression.inputs:
            yield from taken_keys(inner)


def ops_of(expression: Expression | None) -> Iterator[Op]:
    """The ops of an expression, in the order in which they are applied."""
    if isinstance(expression, Apply):
        for inner in expression.inputs:
            yield from ops_of(inner)
        yield expression.op


def over_firsts(expression: Expression, source: Manifest) -> Expression:
    """The expression with tied source tensors named by the first of them: equal ones make the same values."""
    if isinstance(expression, Take):
        return Take(source[expression.key].tied_to or expression.key)
    return expression._replace(inputs=tuple(over_firsts(inner, source) for inner in expression.inputs))


class Step(NamedTuple):
    """What becomes of one target tensor.

    `expression` makes its values of the source's; `given` is what comes out, with its own shape and dtype. For `mismatched`
    both say what does not fit; where nothing comes they are None.
    `rule` is the place in a map that says so, `why` the reason given there. `init` makes the values of a fresh tensor
    that is written; a copy is made by `expression`. `tie` is the first of the keys that a map ties it to. `new` elements
    of one that is filled come from no checkpoint: an op of its rule added them.
    """

    target: TensorSpec
    status: Status
    expression: Expression | None = None
    given: TensorSpec | None = None
    rule: Location | None = None
    why: str | None = None
    init: Initialiser | None = None
    tie: str | None = None
    new: int = 0

    @property
    def sources(self) -> tuple[str, ...]:
        """The source keys it reads (for `mismatched`: would read)."""
        if isinstance(self.expression, Take):
            return (self.expression.key,)
        return tuple(taken_keys(self.expression))

    @property
    def filled(self) -> bool:
        """Whether it gets its values from the checkpoint."""
        return self.status not in RANDOM

    @property
    def of_model(self) -> bool:
        """Whether the map wants it written with the values of the target's own constructor."""
        return self.init is not None and self.init.name == "model"

    @property
    def has_values(self) -> bool:
        """Whether the plan knows its values: from the checkpoint, or made by an `init` that is not the constructor."""
        return self.status not in RANDOM or (self.init is not None and not self.of_model)

    @property
    def ops(self) -> tuple[str, ...]:
        """How its values are made, in the words of a receipt."""
        made = (f"init({self.init.describe()})",) if self.init is not None else ()
        return (*(op.describe() for op in ops_of(self.expression)), *made)

    @property
    def memory(self) -> str:
        """The first of the keys whose memory it shares: its own where it shares none."""
        return self.tie or self.target.tied_to or self.target.key

    @property
    def random(self) -> int:
        """Elements that the checkpoint does not give: those that keep the constructor's values, and those that ops add."""
        return self.new if self.filled else self.target.numel

    @property
    def random_parameters(self) -> int:
        """Those of them that count as parameters."""
        return min(self.random, self.target.counted)

    @property
    def other_dtype(self) -> bool:
        """Whether the values come in another dtype than the target's."""
        return self.given is not None and self.given.dtype.name != self.target.dtype.name and self.filled


class Remainder(NamedTuple):
    """A source tensor that no step uses: unexpected, dropped with a reason, or of the shape of no target."""

    source: TensorSpec
    status: Literal["unexpected", "dropped", "mismatched"]
    rule: Location | None = None
    why: str | None = None


@dataclass(frozen=True)
class Plan:
    """What the maps would do: steps in the order of the target, remainders in the order of the source.

    `has_target` is false where the image of the maps stands in for the target. `warnings` are sentences for people. `reverse`
    says that the maps go the other way, from the target to the source: `invert` made the plan.
    """

    source: Manifest
    target: Manifest
    maps: tuple[KeyMap, ...]
    steps: tuple[Step, ...]
    remainders: tuple[Remainder, ...]
    has_target: bool
    warnings: tuple[str, ...] = ()
    reverse: bool = False

    @cached_property
    def counts(self) -> Counter[str]:
        """Number of target tensors of each status."""
        return Counter(step.status for step in self.steps)

    @cached_property
    def parameters(self) -> int:
        """Parameters of the target."""
        return self.target.parameters

    @cached_property
    def random_parameters(self) -> int:
        """Parameters that would stay random, declared ones too."""
        return sum(step.random_parameters for step in self._random)

    @cached_property
    def fresh_parameters(self) -> int:
        """The part of the random parameters that a map declares: fresh tensors, and elements that its ops add."""
        return sum(step.random_parameters for step in self._random if step.status == "fresh" or step.filled)

    @cached_property
    def random_buffers(self) -> int:
        """Elements of buffers that would keep their constructor's values."""
        return sum(step.random for step in self._random if step.target.kind == "buffer")

    @cached_property
    def _random(self) -> list[Step]:
        """The steps with anything random in them: most plans have few."""
        return [step for step in self.steps if step.new or step.status in RANDOM]

    @property
    def random_share(self) -> float:
        """Random parameters as a share of the target's, 0 to 1."""
        return self.random_parameters / self.parameters if self.parameters else 0.0

    def unused(self, status: str) -> list[Remainder]:
        """The remainders of one status."""
        return [remainder for remainder in self.remainders if remainder.status == status]
