"""The problems of a plan as a person reads them: in the order of the maps, those that are alike told once."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ckptdoctor.errors import PlanError
from ckptdoctor.text import plural

_NUMBER = re.compile(r"[0-9]+")


def in_order(problems: Sequence[PlanError]) -> list[PlanError]:
    """Sorted by their places. Of those of one rule that differ in numbers only (layer after layer), the first is told."""
    files = list(dict.fromkeys(problem.rule.file for problem in problems if problem.rule is not None))
    alike: dict[object, list[PlanError]] = {}
    for problem in problems:
        alike.setdefault((type(problem), problem.rule, _NUMBER.sub("0", problem.message)), []).append(problem)
    return sorted((_as_one(group) for group in alike.values()), key=lambda problem: _place(problem, files))


def _place(problem: PlanError, files: Sequence[str]) -> tuple[int, int, int]:
    rule = problem.rule
    return (len(files), 0, 0) if rule is None else (files.index(rule.file), rule.line, rule.column)


def _as_one(group: Sequence[PlanError]) -> PlanError:
    """The first of some problems, with the keys of all."""
    first = group[0]
    if len(group) == 1:
        return first
    message = f"{first.message}; the like holds for {plural(len(group) - 1, 'other key')}"
    keys = dict.fromkeys(key for problem in group for key in problem.keys)
    return type(first)(message, rule=first.rule, keys=tuple(keys), hint=first.hint)
