"""What a writer is given for each step of a plan: a copy of the source's tensor, a computed one, or one that fills a gap."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import PlanError
from ckptdoctor.execution.streams import spans_of
from ckptdoctor.formats.base import Checkpoint
from ckptdoctor.formats.tensors import OutputTensor, Piece, StoredTensor
from ckptdoctor.model import TensorSpec
from ckptdoctor.optimizer import spec_of
from ckptdoctor.plan import Plan, Step, Take, memories
from ckptdoctor.source import OpenSource
from ckptdoctor.text import printable
from ckptdoctor.wrappers import rewrapped

if TYPE_CHECKING:
    import torch


class Fill(NamedTuple):
    """Values for the target's tensors that stay random, by key, and where they come from (`init(seed=0)`).

    `seed` is what the target was constructed with, where that is known. With an `init` of its own, a key takes nothing from
    here, unless that is `model`.
    """

    values: Mapping[str, torch.Tensor]
    text: str
    seed: int | None = None

    def only(self, keys: Iterable[str]) -> Fill:
        """The values of these keys, as far as they are there."""
        return self._replace(values={key: self.values[key] for key in keys if key in self.values})

    def ops(self, step: Step) -> tuple[str, ...]:
        """What a receipt says of a tensor that is filled."""
        if step.of_model:
            return ("init(model)" if self.seed is None else f"init(model, seed={self.seed})",)
        return (self.text,)


def model_keys(plan: Plan) -> list[str]:
    """The keys, as they stand in the target, that a map wants with the values of the target's constructor."""
    return [step.target.stored_key for step in plan.steps if step.of_model]


def check_filled(plan: Plan, fill: Fill | None) -> None:
    """Raise PlanError where a map asks for the constructor's values and `fill` does not have them."""
    for step in plan.steps:
        if step.of_model and (fill is None or step.target.stored_key not in fill.values):
            raise PlanError(
                f"{printable(step.target.key)} is to have its constructor's values, and there are none",
                rule=step.rule,
                keys=(step.target.key,),
                hint="name a model as target (pkg.mod:Name), or choose another init",
            )


def output_keys(plan: Plan, *, unwrap: bool, fill: Fill | None) -> dict[str, str]:
    """Target key -> key as written, for everything that is written: what has values, what is tied to it, what fills gaps."""
    gaps = fill.values if fill is not None else {}
    keys = [step.target.key for step in plan.steps if step.has_values or step.target.stored_key in gaps]
    return {key: key for key in keys} if unwrap else rewrapped(keys, plan.source)


def stored_weights(plan: Plan, source: OpenSource) -> dict[str, StoredTensor]:
    """The source's tensors as they lie in the file, by their keys in the plan."""
    stored = source.envelope.source.stored(source.envelope.place)
    return {key: stored[spec.stored_key] for key, spec in plan.source.items()}


def output_tensors(
    plan: Plan, source: OpenSource, stored: Mapping[str, StoredTensor], names: Mapping[str, str], fill: Fill | None
) -> dict[str, OutputTensor]:
    """Target key -> tensor to write, in the order of the plan. Of those that share memory, the others are tied to one.

    `stored` are the tensors that stand for the plan's source: the weights, or a copy of them of the same shapes.
    """
    steps = [step for step in plan.steps if step.target.key in names]
    memory = memories(steps, plan.source)
    holder: dict[Hashable, str] = {}
    for step in steps:
        if step.status != "tied":
            holder.setdefault(memory[step.target.key], names[step.target.key])
    tensors = {}
    for step in steps:
        key = step.target.key
        spec = _spec(step, stored)
        held_by = holder[memory[key]]
        tensor = OutputTensor(names[key], spec, tied_to=held_by if held_by != names[key] else None)
        if not step.has_values:
            tensor = tensor._replace(compute=partial(_filled, step, fill))
        elif isinstance(step.expression, Take) and step.init is None:
            tensor = tensor._replace(stored=stored[step.expression.key])
        elif step.init is not None or step.expression is not None:
            remarks: list[str] = []
            values = partial(computed, step, stored, source.envelope.source, remarks)
            near = stored[step.sources[0]].file if step.sources else None
            tensor = tensor._replace(compute=values, remarks=remarks, near=near)
        tensors[key] = tensor
    return tensors


def _spec(step: Step, stored: Mapping[str, StoredTensor]) -> TensorSpec:
    """What is written; a copy of the weights may have another dtype than they have."""
    if not step.filled or step.given is None:
        return step.target
    if step.expression is None:
        return step.given
    return spec_of(step.expression, {key: stored[key].spec for key in step.sources})


def computed(
    step: Step, stored: Mapping[str, StoredTensor], checkpoint: Checkpoint, remarks: list[str] | None, checked: bool
) -> Iterable[Piece]:
    """The values of a step that needs an op, packed and little-endian; `stored` has what its expression names.

    They are bytes of the files where the ops only put these in another row, so that torch is not needed.
    """
    if (spans := spans_of(step.expression, stored)) is not None:
        for key in step.sources if checked else ():
            if not any(span.crc and span.name == stored[key].storage for span in spans):
                checkpoint.check_storage(stored[key])
        return spans
    from ckptdoctor.execution.values import bytes_of, compute, tensor_of

    def load(key: str) -> torch.Tensor:
        return tensor_of(checkpoint, stored[key])

    return [bytes_of(compute(step, load, remarks))]


def _filled(step: Step, fill: Fill | None, _checked: bool) -> Iterable[Piece]:
    """The values of a tensor that would stay random, packed and little-endian."""
    from ckptdoctor.execution.values import bytes_of

    assert fill is not None
    return [bytes_of(fill.values[step.target.stored_key])]
