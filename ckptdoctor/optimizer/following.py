"""The optimizers as they will be: which of the target's parameters are in which group, in which order, and with which state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import count
from typing import NamedTuple

from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.ops import Op
from ckptdoctor.optimizer.assigning import changes_places, looks_like_buffer, naming_of, parameter_steps, parameters_of
from ckptdoctor.optimizer.moments import Moment, Read, Reset, moments_of
from ckptdoctor.optimizer.states import Member, OptimizerProblem, OptimizerState
from ckptdoctor.plan import Plan, Step, ops_of, taken_keys
from ckptdoctor.text import listing, plural, printable

Group = tuple[int, int]
"""An optimizer and a group in it, by their numbers."""


class NewState(NamedTuple):
    """A parameter of the target in its group.

    `origin` is the member whose state it gets, with `moments` computed; None where it starts without. With `copied`, another
    parameter gets that very state too, so that its tensors have to be written once more.
    """

    id: int | str
    name: str | None
    key: str
    origin: Member | None = None
    moments: tuple[Moment, ...] = ()
    copied: bool = False


class Followed(NamedTuple):
    """For each optimizer its groups, and what people should know."""

    groups: tuple[tuple[tuple[NewState, ...], ...], ...]
    notes: tuple[str, ...]


class _Parameter(NamedTuple):
    """A parameter of the target: its step (of tied ones the one that says where values come from) and its group."""

    step: Step
    group: Group


def follow(
    optimizers: Sequence[OptimizerState],
    assigned: Mapping[Member, str],
    plan: Plan,
    read: Read,
    *,
    model: Manifest | None = None,
    unwrap: bool = False,
    lost: Callable[[Moment], str | None] = lambda _: None,
) -> Followed:
    """What becomes of every state; `model` is that of `assign`. `lost` says why the values of a moment do not survive.

    Raises OptimizerProblem where a parameter fits no group, a moment no op, or nothing says in which order parameters are.
    """
    if not plan.has_target and changes_places(plan) and not all(optimizer.named for optimizer in optimizers):
        raise OptimizerProblem(
            "parameters change places, and without a target nothing says in which order they are then",
            hint="name the target, or leave the states out: --optimizer drop",
        )
    known = {spec.key for spec in parameters_of(plan, model)}
    return _Following(optimizers, assigned, plan, read, known, lost).result(unwrap=unwrap)


class _Following:
    def __init__(
        self,
        optimizers: Sequence[OptimizerState],
        assigned: Mapping[Member, str],
        plan: Plan,
        read: Read,
        known: Collection[str],
        lost: Callable[[Moment], str | None],
    ) -> None:
        self.optimizers, self.plan, self.read, self.known, self.lost = optimizers, plan, read, known, lost
        self.members = {key: member for member, key in assigned.items()}
        self.group_of = {
            assigned[member]: (number, group)
            for number, optimizer in enumerate(optimizers)
            for group, members in enumerate(optimizer.groups)
            for member in members
        }
        self.shapes = {key: plan.source[key].shape for key in self.group_of}
        self.wanted: set[str] = set()
        self.reset: dict[str, str] = {}
        self.new: list[str] = []
        self.moved = 0

    def result(self, *, unwrap: bool) -> Followed:
        parameters = [*self._parameters()]
        whole = Counter(key for each in parameters for key in self._whole(each.step))
        used: set[Member] = set()
        groups: dict[Group, list[NewState]] = {}
        for step, group in parameters:
            state = self._state(step, whole)
            if (origin := state.origin) is not None:
                state = state._replace(copied=origin in used)
                used.add(origin)
            groups.setdefault(group, []).append(state)
        made = tuple(
            self._labelled(
                optimizer, [groups.get((number, group), []) for group in range(len(optimizer.groups))], unwrap
            )
            for number, optimizer in enumerate(self.optimizers)
        )
        return Followed(made, tuple(self._notes([state for states in groups.values() for state in states])))

    def _first(self, key: str) -> str:
        """A key of the source, tied ones by the first."""
        return self.plan.source[key].tied_to or key

    def _whole(self, step: Step) -> set[str]:
        """The source keys of which a parameter holds all, and not one part of several."""
        parted = any(op.fan_out or type(op).selected is not Op.selected for op in ops_of(step.expression))
        return set() if parted or not step.filled else {self._first(key) for key in step.sources}

    def _parameters(self) -> Iterator[_Parameter]:
        """The target's parameters in order, tied ones once, with their groups."""
        for step in parameter_steps(self.plan):
            group = self._group(step)
            if group is not None:
                yield _Parameter(step, group)

    def _group(self, step: Step) -> Group | None:
        """The group of a parameter; None for what no optimizer trains."""
        keys = [self._first(key) for key in step.sources] if step.filled else []
        groups = {self.group_of[key] for key in keys if key in self.group_of}
        if len(groups) > 1:
            wheres = " and ".join(self._where(group) for group in sorted(groups))
            raise OptimizerProblem(
                f"{printable(step.target.key)} is made of parameters of {wheres}: which group is it to be in?"
            )
        if groups:
            return groups.pop()
        from_buffers = step.target.kind == "parameter" and not any(key in self.known for key in keys)
        if keys and not from_buffers:
            return None  # its sources were frozen
        if step.target.kind == "unknown" and looks_like_buffer(step.target, self.plan.target):
            return None
        return self._group_of_new(step.target)

    def _group_of_new(self, target: TensorSpec) -> Group | None:
        """The only group, or the one that holds all the matrices, or all the vectors."""
        every = sorted(set(self.group_of.values()))
        if not every:
            return None
        if len(every) == 1:
            return every[0]
        ranks = {
            group: {len(self.shapes[key]) > 1 for key, of in self.group_of.items() if of == group} for group in every
        }
        alike = [group for group in every if ranks[group] == {len(target.shape) > 1}]
        if len(alike) == 1 and all(len(rank) == 1 for rank in ranks.values()):
            return alike[0]
        raise OptimizerProblem(
            f"{printable(target.key)} is new, and nothing says to which of {plural(len(every), 'parameter group')} it belongs"
        )

    def _where(self, group: Group) -> str:
        return printable(f"{'/'.join(self.optimizers[group[0]].way)}, group {group[1]}")

    def _state(self, step: Step, whole: Mapping[str, int]) -> NewState:
        """The state of a parameter, its number and name still to be given."""
        state = NewState(0, None, step.target.key)
        expression = step.expression if step.filled else None
        keys = [self._first(key) for key in taken_keys(expression)]
        self.wanted.update(keys)
        if expression is None or not any(key in self.members for key in keys):
            self.new.append(step.target.key)
            return state
        members = {key: self.members.get(self._first(key)) for key in taken_keys(expression)}
        with_state = {key: member for key, member in members.items() if member and member.entries}
        if not with_state:
            return state
        made: tuple[Moment, ...] | Reset = Reset("a part of its sources has no state")
        if copied := [key for key in self._whole(step) if whole[key] > 1]:
            made = Reset(f"it is one of several copies of {printable(min(copied))}, which shared one gradient")
        elif len(with_state) == len(members):
            made = moments_of(step.target, expression, with_state, self.read)
        if not isinstance(made, Reset):
            made = next((Reset(why) for moment in made if (why := self.lost(moment)) is not None), made)
        if isinstance(made, Reset):
            self.reset[step.target.key] = made.why
            return state
        origin = next(iter(with_state.values()))
        self.moved += len(origin.moments)
        return state._replace(origin=origin, moments=made)

    def _labelled(
        self, optimizer: OptimizerState, groups: Sequence[Sequence[NewState]], unwrap: bool
    ) -> tuple[tuple[NewState, ...], ...]:
        """The groups of one optimizer, with numbers that count through them, and names where it has names."""
        names: Mapping[str, str] | None = {}
        if optimizer.named:
            keys = [state.key for states in groups for state in states]
            names = naming_of(optimizer, self.plan.source).names_for(keys, unwrap=unwrap)
        if names is None:
            raise OptimizerProblem(f"{printable('/'.join(optimizer.way))}: there is no name for a new parameter in it")
        by_name = optimizer.named and isinstance(optimizer.members[0].id, str)
        numbers = count()
        labelled = []
        for states in groups:
            numbered = [(state, names.get(state.key), next(numbers)) for state in states]
            labelled.append(
                tuple(
                    state._replace(id=name if by_name and name is not None else number, name=name)
                    for state, name, number in numbered
                )
            )
        return tuple(labelled)

    def _notes(self, states: Sequence[NewState]) -> Iterator[str]:
        kept = sum(1 for state in states if state.origin is not None)
        without = len(states) - kept
        yield (
            f"optimizer: {plural(self.moved, 'moment')} of {plural(kept, 'parameter')} followed, {len(self.reset):,} reset; "
            f"{plural(without, 'parameter')} start{'s' if without == 1 else ''} without state"
        )
        whys: dict[str, list[str]] = {}
        for key, why in self.reset.items():
            whys.setdefault(why, []).append(key)
        for why, keys in whys.items():
            yield f"optimizer: {listing(keys)} start{'s' if len(keys) == 1 else ''} anew: {why}"
        if self.new:
            yield f"optimizer: new in it {'is' if len(self.new) == 1 else 'are'} {listing(self.new)}"
        gone = [key for key, member in self.members.items() if member.entries and key not in self.wanted]
        if gone:
            yield f"optimizer: with their parameters the states of {listing(gone)} were left out"
