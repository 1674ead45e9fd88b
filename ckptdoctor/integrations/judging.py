"""Maps and a policy as a caller in Python writes them, and the verdict that has to pass before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from typing import TYPE_CHECKING, TypeAlias

from ckptdoctor.errors import PolicyNotMet
from ckptdoctor.plan import make_plan
from ckptdoctor.policy import Policy, Verdict, evaluate, make_policy
from ckptdoctor.text import printable
from ckptdoctor.wrappers import align

if TYPE_CHECKING:
    from ckptdoctor.keymap import KeyMap
    from ckptdoctor.model import Manifest

MapLike: TypeAlias = "KeyMap | str | PathLike[str]"
Maps: TypeAlias = "MapLike | Sequence[MapLike] | None"


def key_maps(given: Maps) -> list[KeyMap]:
    """The maps that are named: one or several, each a path or a KeyMap. Raises KeyMapError."""
    if given is None:
        return []
    from ckptdoctor.keymap import KeyMap, load_map

    several = [given] if isinstance(given, str | PathLike | KeyMap) else given
    return [one if isinstance(one, KeyMap) else load_map(one) for one in several]


def policy_of(
    max_random: str | int | None,
    max_unexpected: str | int | None,
    allow_random: str | Iterable[str],
    allow_unexpected: str | Iterable[str],
    fail_on: str | Iterable[str],
) -> Policy:
    """The policy of `ckptdoctor remap`: mismatched and unexpected tensors always fail. Raises UsageError."""
    return make_policy(
        max_random=None if max_random is None else str(max_random),
        max_unexpected=None if max_unexpected is None else str(max_unexpected),
        allow_random=several(allow_random),
        allow_unexpected=several(allow_unexpected),
        fail_on=[*(fail_on.split(",") if isinstance(fail_on, str) else fail_on), "mismatched", "unexpected"],
    )


def several(texts: str | Iterable[str]) -> Iterable[str]:
    """The texts, of which one may stand alone."""
    return (texts,) if isinstance(texts, str) else texts


def selected_by(maps: Iterable[KeyMap]) -> str | None:
    """Where the maps say that the weights lie."""
    return next(("/".join(key_map.select) for key_map in maps if key_map.select), None)


def judged(
    source: Manifest, target: Manifest, maps: Sequence[KeyMap], policy: Policy, strip: str | Sequence[str] | None
) -> Verdict:
    """The verdict on what the maps make of the source. `strip` wins over what the maps say. Raises PlanError."""
    if strip is None:
        strip = next((key_map.strip for key_map in maps if key_map.strip is not None), None)
    aligned = align(source, target, list(several(strip)) if strip is not None else None)
    assert aligned.target is not None
    return evaluate(make_plan(aligned.source, aligned.target, maps), policy)


def require(verdict: Verdict) -> None:
    """Raise PolicyNotMet, with the table that `ckptdoctor gate` would print, unless the verdict passed."""
    if verdict.passed:
        return
    from ckptdoctor.reports import render
    from ckptdoctor.reports.comparison import Comparison

    table = render(Comparison("gate", verdict.plan, verdict, 1), "table")
    source, target = (side.origin.reference for side in (verdict.plan.source, verdict.plan.target))
    raise PolicyNotMet(
        f"{printable(source)} does not fill {printable(target)} as the policy asks; nothing was loaded",
        verdict=verdict,
        table=table,
        hint="mend the map, declare it there (fresh, drop), or allow it: allow_random, allow_unexpected",
    )
