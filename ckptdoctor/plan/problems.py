"""The problems of a plan as a person reads them: in the order of the maps, those that are alike told once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ckptdoctor.errors import PlanError
from ckptdoctor.text import plural

_NUMBER = re.compile(r"[0-9]+")
_MOST = 3


class _Told(NamedTuple):
    """A problem, and those that need not be told beside it."""

    problem: PlanError
    others: tuple[PlanError, ...] = ()


def in_order(problems: Sequence[PlanError]) -> list[PlanError]:
    """Sorted by their places.

    Of a rule's problems that differ in numbers only (layer after layer) the first is told, and of one sort three at most.
    """
    told = _folded(map(_Told, problems), 1, lambda problem: (*_sort(problem), _NUMBER.sub("0", problem.message)))
    files = list(dict.fromkeys(problem.rule.file for problem in problems if problem.rule is not None))
    return sorted(map(_said, _folded(told, _MOST, _sort)), key=lambda problem: _place(problem, files))


def _sort(problem: PlanError) -> tuple[object, ...]:
    return (type(problem), problem.rule or id(problem))


def _folded(told: Iterable[_Told], most: int, alike: Callable[[PlanError], object]) -> list[_Told]:
    """With so many of each group at most; the last of them stands for the rest."""
    groups: dict[object, list[_Told]] = {}
    for each in told:
        groups.setdefault(alike(each.problem), []).append(each)
    for group in groups.values():
        rest = [problem for each in group[most:] for problem in (each.problem, *each.others)]
        group[most - 1 :] = [_Told(each.problem, (*each.others, *rest)) for each in group[most - 1 : most]]
    return [each for group in groups.values() for each in group]


def _said(told: _Told) -> PlanError:
    """The problem, with the keys of all that it stands for."""
    problem, others = told
    if not others:
        return problem
    message = f"{problem.message}; the like holds for {plural(len(others), 'other key')}"
    keys = dict.fromkeys(key for each in (problem, *others) for key in each.keys)
    return type(problem)(message, rule=problem.rule, keys=tuple(keys), hint=problem.hint)


def _place(problem: PlanError, files: Sequence[str]) -> tuple[int, int, int]:
    rule = problem.rule
    return (len(files), 0, 0) if rule is None else (files.index(rule.file), rule.line, rule.column)
