"""Plans carried out in memory, for notebooks and training jobs: `apply` on a state dict, `reader_of` on a file.

Beside the tensors, what a state dict says of its modules follows the new names: `_metadata` (versions), and entries that
are no tensors (`_extra_state`).
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import CorruptCheckpoint, PlanError
from ckptdoctor.execution.values import Load, compute, tensor_of
from ckptdoctor.formats.base import no_data
from ckptdoctor.formats.torch.renames import renamed_modules
from ckptdoctor.plan import Apply, Plan, Step, Take, memories
from ckptdoctor.text import printable, shape_text

if TYPE_CHECKING:
    import torch

    from ckptdoctor.model import TensorSpec
    from ckptdoctor.source import OpenSource


def apply(plan: Plan, state_dict: Mapping[str, Any], *, wrapped: bool = False) -> dict[str, torch.Tensor]:
    """The state dict that the plan makes of this one, in the order of the target; what stays random is not in it, but for
    what an `init` of a map makes (not `init: model`: that is what a constructor does).

    What is only renamed is the same tensor object, not a copy, so tied tensors stay tied; what the target ties and the
    plan leaves out is there as the tensor that fills it. The keys of `state_dict` may be those of the plan's source or
    those that stand in its file; the result has the target's, with `wrapped` as they stand in the target itself, wrapper
    segments and all. Entries that are no tensors are kept. Raises PlanError where a tensor is missing or has another shape
    or dtype.
    """
    names = {step.target.key: step.target.stored_key if wrapped else step.target.key for step in plan.steps}
    made = _values(plan, state_dict)
    result: dict[str, Any] = OrderedDict((names[key], made[key]) for key in names if key in made)
    moved = _moved(plan, names)
    others = {key: value for key, value in state_dict.items() if not _is_dense(value)}
    for key, new in _following(others, moved).items():
        result.setdefault(new, others[key])
    _carry_metadata(state_dict, result, moved)
    return result


def _values(plan: Plan, state_dict: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensor of every target key that is filled; what shares memory is one tensor, and nothing else does."""

    def load(key: str) -> torch.Tensor:
        spec = plan.source[key]
        return _checked(state_dict.get(spec.stored_key, state_dict.get(key)), spec)

    follows = tied_steps(plan)
    steps = [step for step in plan.steps if step.has_values and step.target.key not in follows]
    memory = memories(steps, plan.source)
    made = _Made(plan, steps, memory, load).tensors()
    return made | {key: made[first] for key, first in follows.items()}


class _Made:
    """The tensors of an `apply`: one for each memory, even where several are made of one tensor of the source.

    The first that lies in the memory of a source tensor has it; others get copies. What is only renamed comes first, so
    that it stays the tensor that it is.
    """

    def __init__(self, plan: Plan, steps: Sequence[Step], memory: Mapping[str, Hashable], load: Load) -> None:
        self._source, self._steps, self._memory, self._load = plan.source, steps, memory, load
        uses = {(memory[step.target.key], first) for step in steps for first in self._firsts(step)}
        self._uses = Counter(first for _, first in uses)
        self._made: dict[Hashable, torch.Tensor] = {}
        self._lent: dict[str, list[range]] = {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensor for the target key of each step."""
        return {step.target.key: self._tensor(step) for step in sorted(self._steps, key=_claim)}

    def _firsts(self, step: Step) -> set[str]:
        return {self._source[key].tied_to or key for key in step.sources}

    def _tensor(self, step: Step) -> torch.Tensor:
        name = self._memory[step.target.key]
        if name not in self._made:
            self._made[name] = self._alone(step, compute(step, self._load))
        made = self._made[name]
        if isinstance(step.expression, Take) and (own := self._load(step.expression.key)).data_ptr() == made.data_ptr():
            return own
        return made

    def _alone(self, step: Step, tensor: torch.Tensor) -> torch.Tensor:
        for key in self._firsts(step):
            if self._uses[key] > 1 and _overlap(addresses := _addresses(tensor), _addresses(self._load(key))):
                lent = self._lent.setdefault(key, [])
                if any(_overlap(addresses, other) for other in lent):
                    return tensor.clone()
                lent.append(addresses)
        return tensor


def _claim(step: Step) -> int:
    return 2 if step.init is not None else 1 if isinstance(step.expression, Apply) else 0


def _addresses(tensor: torch.Tensor) -> range:
    """Where the elements of a tensor lie, from the first to the last."""
    reach = sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    return range(tensor.data_ptr(), tensor.data_ptr() + (reach * tensor.element_size() if tensor.numel() else 0))


def _overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


def _is_dense(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.layout == torch.strided


def _checked(tensor: torch.Tensor | None, spec: TensorSpec) -> torch.Tensor:
    """The tensor, if it is what the plan was made for."""
    if tensor is None:
        problem = "has no"
    elif tuple(tensor.shape) != spec.shape:
        problem = f"has another shape ({shape_text(tensor.shape)}, not {shape_text(spec.shape)}) for"
    elif str(tensor.dtype) != f"torch.{spec.dtype}":
        problem = f"has another dtype ({tensor.dtype}, not {spec.dtype}) for"
    else:
        return tensor
    message = f"the state dict {problem} {printable(spec.key)}"
    raise PlanError(message, keys=(spec.key,), hint="make the plan from this state dict")


def tied_steps(plan: Plan) -> dict[str, str]:
    """For each target key that gets no values of its own, as it shares memory with others: one of these that does.

    These are the tied ones; all that a map ties together but the first; all that are initialised together but the first.
    """
    fills: dict[str, str] = {}
    for step in plan.steps:
        if step.has_values and step.status != "tied":
            fills.setdefault(step.memory, step.target.key)
    return {step.target.key: fills[step.memory] for step in plan.steps if _follows(step, fills)}


def _follows(step: Step, fills: Mapping[str, str]) -> bool:
    if step.status == "tied":
        return True
    together = step.has_values and (step.tie is not None or step.init is not None)
    return together and fills[step.memory] != step.target.key


def _moved(plan: Plan, names: Mapping[str, str]) -> dict[str, str]:
    """Key in the file -> new name, for tensors that became exactly one other."""
    uses = Counter(key for step in plan.steps if step.filled for key in step.sources)
    alone = [step for step in plan.steps if step.filled and len(step.sources) == 1 and uses[step.sources[0]] == 1]
    return {plan.source[step.sources[0]].stored_key: names[step.target.key] for step in alone}


def _following(keys: Mapping[str, object], moved: Mapping[str, str]) -> dict[str, str]:
    """New names of entries that are no tensors: they go where their modules go."""
    modules = {key.rpartition(".")[0] for key in keys}
    new = renamed_modules(modules, moved)
    split = {key: key.rpartition(".") for key in keys}
    return {key: f"{new.get(module, module)}{dot}{name}".lstrip(".") for key, (module, dot, name) in split.items()}


def _carry_metadata(old: Mapping[str, Any], new: dict[str, Any], moved: Mapping[str, str]) -> None:
    metadata = getattr(old, "_metadata", None)
    if isinstance(metadata, Mapping):
        paths = renamed_modules(metadata, moved)
        new._metadata = OrderedDict((paths.get(path, path), of) for path, of in metadata.items())  # type: ignore[attr-defined]


def reader_of(plan: Plan, source: OpenSource) -> Load:
    """A function that reads the tensors of the plan's source from its file, one at a time; nothing is kept.

    Raises CheckpointError where the file has no data, or is not the one that the plan was made for.
    """
    checkpoint = source.envelope.source
    if not checkpoint.has_data:
        raise no_data(checkpoint)
    if [spec.stored_key for spec in plan.source.values()] != list(source.manifest):
        message = f"{checkpoint.path} is not the file that the plan was made for"
        raise CorruptCheckpoint(message, path=checkpoint.path, hint="make the plan again")
    stored = checkpoint.stored(source.envelope.place)

    def load(key: str) -> torch.Tensor:
        spec = plan.source[key]
        return tensor_of(checkpoint, stored[spec.stored_key])

    return load
