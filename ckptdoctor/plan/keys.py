"""The keys of a manifest, found by pattern without asking every key: a map may have thousands of rules."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property

from ckptdoctor.errors import AmbiguousMatch, Location, PlanError
from ckptdoctor.patterns import AmbiguousKey, Match, Pattern

_FEW = 100  # are read sooner than something is made to look them up in


class Keys:
    """Keys in their order.

    Few of them begin as a pattern does, or have one of its literal segments in its place. Both are looked up, in what is made
    when it is first needed: a sorted list, and for each place the keys by their segments there.
    """

    def __init__(self, keys: Collection[str]) -> None:
        self._keys = keys
        self._at: dict[int, Mapping[str, list[str]]] = {}

    def matching(
        self, pattern: Pattern, problems: list[PlanError], where: Location, *, but: Collection[str] = ()
    ) -> Iterator[tuple[str, Match]]:
        """The keys that a pattern names, in order, with how it reads them; one read in two ways becomes a problem."""
        for key in self._like(pattern):
            match = None if key in but else match_of(pattern, key, problems, where)
            if match is not None:
                yield key, match

    def named(self, patterns: Iterable[Pattern], problems: list[PlanError], where: Location) -> list[str]:
        """The keys that any of the patterns names, in order."""
        found = {key for pattern in patterns for key, _ in self.matching(pattern, problems, where)}
        return sorted(found, key=self._position.__getitem__) if len(found) > 1 else list(found)

    def _like(self, pattern: Pattern) -> Iterable[str]:
        """Every key that the pattern could name, and few others, in order."""
        if pattern.literal:
            key = pattern.fill({})
            return (key,) if key in self._keys else ()
        fewest = beginning = self._beginning(pattern.prefix)
        for place, segment in pattern.landmarks:
            if len(fewest) <= _FEW:
                break
            fewest = min(fewest, self._having(segment, place), key=len)
        in_order = fewest is not beginning or not pattern.prefix
        return fewest if in_order else sorted(fewest, key=self._position.__getitem__)

    def _beginning(self, prefix: str) -> Collection[str]:
        """The keys that begin so, sorted by their text; all of them as they are if nothing is asked."""
        if not prefix:
            return self._keys
        start = bisect_left(self._sorted, prefix)
        return self._sorted[start : bisect_right(self._sorted, prefix, start, key=lambda key: key[: len(prefix)])]

    def _having(self, segment: str, place: int) -> Collection[str]:
        """The keys with this segment at a place, in order."""
        if place not in self._at:
            found = self._at[place] = defaultdict[str, list[str]](list)
            for key in self._keys:
                segments = key.split(".")
                if -len(segments) <= place < len(segments):
                    found[segments[place]].append(key)
        return self._at[place].get(segment, ())

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
