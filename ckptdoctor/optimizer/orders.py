"""In which order the members of an optimizer's groups lie among the weights: each group is a subsequence, shapes decide.

`only_order` finds the assignment, and that there is one only. A member without state has no shape and fits everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

Shape: TypeAlias = tuple[int, ...]
_SKIP = -1
MAX_STATES = 300_000
"""Positions of the search after which it is given up."""


class NoOrder(Exception):
    """None fits: the search got as far as this weight (its number), where these members (group, number) were due."""

    def __init__(self, weight: int, due: Sequence[tuple[int, int]]) -> None:
        super().__init__("no order fits")
        self.weight, self.due = weight, tuple(due)


class SeveralOrders(Exception):
    """Several fit, or there are too many to try: two differ in what this weight (its number) is."""

    def __init__(self, weight: int) -> None:
        super().__init__("several orders fit")
        self.weight = weight


class _State(NamedTuple):
    """Weights looked at, and members placed of each group."""

    weight: int
    placed: tuple[int, ...]


def only_order(weights: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> list[list[int]]:
    """For each group the numbers of the weights that its members are. Raises NoOrder or SeveralOrders."""
    search = _Search(weights, groups)
    start = _State(0, (0,) * len(groups))
    path = search.path(start)
    if path is None:
        raise NoOrder(*search.furthest)
    state = start
    for choice in path:
        for other in search.choices(state):
            if other != choice and search.path(search.after(state, other)) is not None:
                raise SeveralOrders(state.weight)
        state = search.after(state, choice)
    return [[number for number, choice in enumerate(path) if choice == group] for group in range(len(groups))]


class _Search:
    """Depth first, with the states that lead nowhere remembered."""

    def __init__(self, weights: Sequence[Shape], groups: Sequence[Sequence[Shape | None]]) -> None:
        self.weights, self.groups = weights, groups
        self.spare = len(weights) - sum(map(len, groups))
        self.dead: set[_State] = set()
        self.furthest: tuple[int, list[tuple[int, int]]] = (-1, [])

    def choices(self, state: _State) -> Iterator[int]:
        """Groups whose next member the next weight may be; it may be none's while some are to spare."""
        if state.weight == len(self.weights):
            return
        for group, (members, placed) in enumerate(zip(self.groups, state.placed, strict=True)):
            if placed < len(members) and members[placed] in (None, self.weights[state.weight]):
                yield group
        if state.weight - sum(state.placed) < self.spare:
            yield _SKIP

    def after(self, state: _State, choice: int) -> _State:
        placed = tuple(count + (group == choice) for group, count in enumerate(state.placed))
        return _State(state.weight + 1, placed)

    def path(self, start: _State) -> list[int] | None:
        """Choices that lead from a state to the end; None where there are none."""
        taken: list[int] = []
        work = [(start, self.choices(start))]
        while work:
            state, choices = work[-1]
            if state.weight == len(self.weights) and self.spare >= 0:
                return taken
            choice = next(choices, None)
            if choice is None:
                self._leave(state)
                work.pop()
                del taken[-1:]
            elif (following := self.after(state, choice)) not in self.dead:
                work.append((following, self.choices(following)))
                taken.append(choice)
        return None

    def _leave(self, state: _State) -> None:
        self.dead.add(state)
        if len(self.dead) > MAX_STATES:
            raise SeveralOrders(state.weight)
        if state.weight > self.furthest[0]:
            due = [(group, count) for group, count in enumerate(state.placed) if count < len(self.groups[group])]
            self.furthest = (state.weight, due)
