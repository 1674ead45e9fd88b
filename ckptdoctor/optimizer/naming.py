"""Other parts of a file name the weights in their own way: with wrapper segments that the state dict has not, or without.

`match_names` finds the one way that holds for all of them; the `Naming` names other tensors in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ckptdoctor.model import Manifest
from ckptdoctor.wrappers import EVERYWHERE, IN_FRONT, rewrapped

_DEPTH = 4


class Naming(NamedTuple):
    """`keys` are the source's keys by name. `left_out` is what stands in front of the keys and of none of the names."""

    keys: Mapping[str, str]
    left_out: str
    source: Manifest

    def names_for(self, keys: Iterable[str], *, unwrap: bool = False) -> dict[str, str] | None:
        """Names for (other) keys; None for keys that cannot be named in this way. Raises KeyCollision as `rewrapped` does."""
        keys = list(keys)
        if self.left_out:
            outside = not all(key.startswith(self.left_out) for key in keys)
            return None if outside else {key: key.removeprefix(self.left_out) for key in keys}
        if unwrap:
            return {key: key for key in keys}
        named = Manifest(self.source[key]._replace(raw_key=name, tied_to=None) for name, key in self.keys.items())
        return rewrapped(keys, named)


def match_names(names: Sequence[str], source: Manifest) -> Naming | None:
    """How these names and the source's keys go together, each name another key; None where they do not."""
    stored = {spec.stored_key: spec.key for spec in source.values()}
    ways: list[Callable[[str], str]] = [lambda name: stored.get(name, name), str]
    ways += [_without_front(count) for count in range(_DEPTH)]
    for way in ways:
        keys = {name: way(name) for name in names}
        if _fit(keys, source):
            return Naming(keys, "", source)
    for key in source if names else ():
        if key.endswith(f".{names[0]}"):
            prefix = key[: -len(names[0])]
            keys = {name: prefix + name for name in names}
            if _fit(keys, source):
                return Naming(keys, prefix, source)
    return None


def unmatched(names: Sequence[str], source: Manifest) -> list[str]:
    """Names that are no key of the source, with or without wrapper segments in front."""
    known = {_without_front(_DEPTH)(key) for key in source} | {spec.stored_key for spec in source.values()}
    return [name for name in names if name not in known and _without_front(_DEPTH)(name) not in known]


def _fit(keys: Mapping[str, str], source: Manifest) -> bool:
    return all(key in source for key in keys.values()) and len(set(keys.values())) == len(keys)


def _without_front(count: int) -> Callable[[str], str]:
    def way(name: str) -> str:
        parts = [part for part in name.split(".") if part not in EVERYWHERE]
        for _ in range(count):
            parts = parts[1:] if len(parts) > 1 and parts[0] in IN_FRONT else parts
        return ".".join(parts)

    return way
