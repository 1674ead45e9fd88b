"""The keys of a manifest, found by pattern without asking every key: a map may have thousands of rules."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator
from functools import cached_property

from ckptdoctor.errors import AmbiguousMatch, Location, PlanError
from ckptdoctor.patterns import AmbiguousKey, Match, Pattern


class Keys:
    """Keys in their order. What begins as a pattern does is looked up in a sorted list, made when it is first needed."""

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys

    def matching(
        self, pattern: Pattern, problems: list[PlanError], where: Location, *, but: Collection[str] = ()
    ) -> Iterator[tuple[str, Match]]:
        """The keys that a pattern names, in order, with how it reads them; one read in two ways becomes a problem."""
        for key in self._beginning(pattern):
            match = None if key in but else match_of(pattern, key, problems, where)
            if match is not None:
                yield key, match

    def named(self, patterns: Iterable[Pattern], problems: list[PlanError], where: Location) -> list[str]:
        """The keys that any of the patterns names, in order."""
        found = {key for pattern in patterns for key, _ in self.matching(pattern, problems, where)}
        return sorted(found, key=self._position.__getitem__) if len(found) > 1 else list(found)

    def _beginning(self, pattern: Pattern) -> Iterable[str]:
        """Every key that the pattern could name, and few others, in order."""
        if pattern.literal:
            key = pattern.fill({})
            return (key,) if key in self._keys else ()
        prefix = pattern.prefix
        if not prefix:
            return self._keys
        start = bisect_left(self._sorted, prefix)
        end = bisect_right(self._sorted, prefix, key=lambda key: key[: len(prefix)])
        return sorted(self._sorted[start:end], key=self._position.__getitem__)

    @cached_property
    def _sorted(self) -> list[str]:
        return sorted(self._keys)

    @cached_property
    def _position(self) -> dict[str, int]:
        return {key: number for number, key in enumerate(self._keys)}


def match_of(pattern: Pattern, key: str, problems: list[PlanError], where: Location) -> Match | None:
    """How a pattern reads a key, or None; that it does so in two ways becomes a problem."""
    try:
        return pattern.match(key)
    except AmbiguousKey as error:
        problems.append(AmbiguousMatch(str(error), rule=where, keys=(key,), hint="make the pattern more exact"))
        return None
