"""Tables of plug-ins that are imported when they are first used, so that a run pays only for what it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def load(place: str) -> Any:
    """What `package.module:name` names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


class Table(Mapping[str, T], Generic[T]):
    """Names to instances of the classes at `package.module:Class`, in the order given; each is made once, when asked for."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._made: dict[str, T] = {}

    def __getitem__(self, name: str) -> T:
        if name not in self._made:
            self._made[name] = load(self._places[name])()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places


class Classes(Table[type[T]]):
    """Names to the classes themselves at `package.module:Class`, in the order given; each is imported when asked for."""

    def __getitem__(self, name: str) -> type[T]:
        if name not in self._made:
            self._made[name] = load(self._places[name])
        return self._made[name]
