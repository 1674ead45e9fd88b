"""What changes elsewhere in the file: optimizer states that follow the plan, and copies of the weights that go along."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any, NamedTuple

from ckptdoctor.errors import CheckpointError, UsageError
from ckptdoctor.execution.outputs import Fill, computed, output_tensors
from ckptdoctor.formats.base import (
    Beside,
    Checkpoint,
    CopyOutput,
    OptimizerOutput,
    StateOutput,
    WriteOptions,
    Writer,
    unsafe_copy,
)
from ckptdoctor.formats.tensors import OutputTensor, StoredTensor
from ckptdoctor.model import TensorSpec
from ckptdoctor.optimizer import (
    Moment,
    NewState,
    OptimizerProblem,
    WeightCopy,
    assign,
    averages_in_lists,
    changes_places,
    find_copies,
    follow,
    parameter_steps,
    read_optimizers,
    unchanged,
)
from ckptdoctor.pickles.contents import TensorGraph
from ckptdoctor.pickles.tensors import TensorView
from ckptdoctor.plan import Plan, Step, ops_of
from ckptdoctor.source import OpenSource
from ckptdoctor.text import listing
from ckptdoctor.unpickling import dangerous_globals
from ckptdoctor.wrappers import place_text


class Following(NamedTuple):
    """What a writer has to do beside the weights, and the notes about it."""

    beside: Beside = Beside()
    notes: tuple[str, ...] = ()


def what_follows(
    plan: Plan,
    source: OpenSource,
    writer: Writer[Any],
    options: WriteOptions,
    written: Collection[str],
    *,
    unwrap: bool,
    fill: Fill | None,
) -> Following:
    """Everything that goes through the plan with the weights; `written` are the target's keys that are.

    Raises CheckpointError where optimizer states cannot be kept or cannot follow, UsageError where the output has no place
    for them.
    """
    graph, place = source.envelope
    if options.weights_only:
        return Following(
            notes=("what stands around the weights was left out, but for plain numbers and texts",)
            if graph.has_envelope
            else ()
        )
    if options.follow_optimizer and not writer.keeps_envelope:
        raise UsageError(
            f"{writer.name} has no place for optimizer states: they cannot follow",
            hint="write a .ckpt or .pt file, or leave the states out: --optimizer drop",
        )
    if options.follow_optimizer:
        optimizers, notes = _optimizers(plan, source, options, unwrap=unwrap)
    else:
        optimizers, notes = (), ()
        _check_kept(plan, source, options)
    if not isinstance(graph, TensorGraph) or not writer.keeps_envelope:
        return Following(Beside((), optimizers), notes)
    copies, said = find_copies(graph, place, plan, written, unwrap=unwrap)
    outputs = tuple(_copy_output(copy, plan, source, fill) for copy in copies)
    if not keeps_parameter_order(plan):
        said += [
            f"{place_text(way)} was left as it is: a list has no keys by which it could follow; make it anew"
            for way in averages_in_lists(graph)
        ]
    return Following(Beside(outputs, optimizers), (*notes, *said))


def _copy_output(copy: WeightCopy, plan: Plan, source: OpenSource, fill: Fill | None) -> CopyOutput:
    own = source.envelope.source.stored(copy.place)
    stored = {key: own[name] for key, name in copy.old.items()}
    tensors = output_tensors(plan, source, stored, copy.new, fill)
    counters = [OutputTensor(name, own[name].spec, stored=own[name]) for name in copy.counters]
    return CopyOutput(copy.place, (*counters, *tensors.values()))


def _optimizers(
    plan: Plan, source: OpenSource, options: WriteOptions, *, unwrap: bool
) -> tuple[tuple[OptimizerOutput, ...], tuple[str, ...]]:
    graph, place = source.envelope
    if not isinstance(graph, TensorGraph):
        return (), ("optimizer: the source has no states that could follow",)
    try:
        found = read_optimizers(graph, place)
        if not found:
            return (), ("optimizer: the source has no states that could follow",)
        assigned = assign(found, plan, options.source_model)
        followed = follow(
            found,
            assigned,
            plan,
            lambda view: _bytes(graph, view),
            model=options.source_model,
            unwrap=unwrap,
            lost=partial(_lost, graph),
        )
    except OptimizerProblem as problem:
        raise CheckpointError(f"{graph.path}: {problem}", path=graph.path, hint=problem.hint) from None
    outputs = tuple(
        OptimizerOutput(each.way, tuple(tuple(_state_output(graph, state) for state in group) for group in groups))
        for each, groups in zip(found, followed.groups, strict=True)
    )
    return outputs, followed.notes


def _bytes(graph: Checkpoint, view: TensorView) -> bytes:
    spec = TensorSpec("", view.layout.shape, view.layout.dtype)
    return b"".join(graph.values(graph.stored_view(spec, view)))


def _state_output(graph: Checkpoint, state: NewState) -> StateOutput:
    if state.origin is None:
        return StateOutput(state.id, state.name)
    tensors = {moment.name: _computed(graph, moment) for moment in state.moments}
    if state.copied:  # torch would step one tensor for two parameters
        tensors = _copies(graph, state) | tensors
    return StateOutput(state.id, state.name, state.origin.id, tensors)


def _computed(graph: Checkpoint, moment: Moment) -> OutputTensor:
    stored = _stored(graph, moment)
    return OutputTensor(moment.spec.key, moment.spec, compute=partial(computed, _step(moment), stored, graph, None))


def _step(moment: Moment) -> Step:
    return Step(moment.spec, "computed", moment.expression, moment.spec)


def _stored(graph: Checkpoint, moment: Moment) -> dict[str, StoredTensor]:
    return {
        key: graph.stored_view(TensorSpec(key, view.layout.shape, view.layout.dtype), view)
        for key, view in moment.views.items()
    }


def _lost(graph: Checkpoint, moment: Moment) -> str | None:
    """Why the values of a moment do not survive its ops, if they are multiplied: computed in float64 for once."""
    if all(op.moves or op.for_moments(1) == (op,) for op in ops_of(moment.expression)):
        return None
    import torch

    from ckptdoctor.execution.values import compute, out_of_range, tensor_of

    stored = _stored(graph, moment)

    def load(key: str) -> torch.Tensor:
        tensor = tensor_of(graph, stored[key])
        return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)

    values = compute(_step(moment), load)
    why = out_of_range(values, moment.spec, vanishing=moment.order == 2)
    return why and f"numbers of its {moment.name} {why}"


def _copies(graph: Checkpoint, state: NewState) -> dict[str, OutputTensor]:
    """Every tensor of a state as one that is written once more."""
    copies = {}
    for entry in state.origin.entries or () if state.origin is not None else ():
        if entry.view is not None:
            spec = TensorSpec(f"{state.key} ({entry.name})", entry.view.layout.shape, entry.view.layout.dtype)
            copies[entry.name] = OutputTensor(spec.key, spec, stored=graph.stored_view(spec, entry.view))
    return copies


def _check_kept(plan: Plan, source: OpenSource, options: WriteOptions) -> None:
    """Optimizer states are kept by position: they are right only if no parameter was added, removed, reordered or turned."""
    checkpoint, place = source.envelope
    found = checkpoint.optimizers(place) if isinstance(checkpoint, TensorGraph) else {}
    if options.drop_optimizer or not found:
        return
    if keeps_parameter_order(plan) and not _names_old_keys(plan, source):
        return
    named = listing(place_text(way) for way in found)
    raise CheckpointError(
        f"{checkpoint.path} holds optimizer states ({named}), which belong to its parameters in their order; "
        "the map adds, removes, reorders, ties or changes parameters",
        path=checkpoint.path,
        hint="take them along: --optimizer follow, or leave them out: --optimizer drop",
    )


def _names_old_keys(plan: Plan, source: OpenSource) -> bool:
    """Whether the states name their parameters, and some of these get other names."""
    graph, place = source.envelope
    if all(step.status not in ("renamed", "computed") or step.sources == (step.target.key,) for step in plan.steps):
        return False
    try:
        return isinstance(graph, TensorGraph) and any(each.named for each in read_optimizers(graph, place))
    except OptimizerProblem:
        return False


def check_harmless(plan: Plan, source: OpenSource, writer: Writer[Any], options: WriteOptions) -> None:
    """Raise UnsafeCheckpoint where the output would hold what does harm when it is unpickled.

    A map may drop it: then this is seen when the pickle of the output is made.
    """
    graph = source.envelope.source
    if plan.source.origin.dangerous and isinstance(graph, TensorGraph) and writer.keeps_envelope:
        harm = dangerous_globals([graph.pickle])
        if harm and not options.weights_only and not any(each.envelope for each in plan.maps):
            raise unsafe_copy(graph.path, harm)


def keeps_parameter_order(plan: Plan) -> bool:
    """Whether the target's parameters are the source's, in the same order, one for one and unchanged.

    Buffers do not count, and tied parameters count once. Without a target that says their order, keys that change places
    are another order.
    """
    steps = list(parameter_steps(plan))
    buffers = {key for step in plan.steps if step.target.kind == "buffer" for key in step.sources}
    order = [key for key, spec in plan.source.items() if key not in buffers and spec.tied_to is None]
    same = all(step.filled and unchanged(step.expression) for step in steps)
    taken = [plan.source[key].tied_to or key for step in steps for key in step.sources]
    return same and taken == order and (plan.has_target or not changes_places(plan))
