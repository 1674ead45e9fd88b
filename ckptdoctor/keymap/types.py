"""What a map says, as values: a `KeyMap` of `Rule`s and `Declaration`s, each checked by itself and not yet applied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from ckptdoctor.errors import Location
from ckptdoctor.initialisers import Initialiser
from ckptdoctor.keymap.arithmetic import Arithmetic
from ckptdoctor.ops import Op
from ckptdoctor.patterns import Axis, Pairing, Pattern


@dataclass(frozen=True)
class Rule:
    """One entry of `rules`: which source keys make which target keys, and how.

    `input_names` is empty unless `from` names its inputs; then each goes with its source. `ops` are applied in their
    order. `expect` is the number of target keys that the rule must make, `optional` the reason why it need not match at
    all, and `excepts` are source keys it leaves alone. `where` says what captures of the source are, by those of the
    target. `pairings` has one item for each pattern of a list, and is empty where there are lists (of literal keys) on
    both sides. `text` is the rule in short, for messages.
    """

    location: Location
    sources: tuple[Pattern, ...]
    input_names: tuple[str, ...]
    targets: tuple[Pattern, ...]
    ops: tuple[Op, ...]
    expect: int | None
    optional: str | None
    excepts: tuple[Pattern, ...]
    where: tuple[tuple[str, Arithmetic], ...]
    pairings: tuple[Pairing, ...]
    text: str

    @cached_property
    def fan_in(self) -> tuple[Axis, ...]:
        """What makes several source keys meet in one target key, from left to right; a list is an axis, too."""
        if len(self.sources) > 1:
            names = self.input_names or tuple(pattern.text for pattern in self.sources)
            return (Axis("", names, f"[{', '.join(pattern.text for pattern in self.sources)}]"),)
        bound = dict(self.where)
        return tuple(axis for axis in self.pairings[0].fan_in if axis.key not in bound) if self.pairings else ()

    @cached_property
    def fan_out(self) -> tuple[Axis, ...]:
        """What makes one source key become several target keys, from left to right."""
        if len(self.targets) > 1:
            names = tuple(pattern.text for pattern in self.targets)
            return (Axis("", names, f"[{', '.join(names)}]"),)
        axes = self.pairings[0].fan_out if self.pairings else ()
        return tuple(axis for axis in axes if not (self.where and isinstance(axis.key, str)))


@dataclass(frozen=True, slots=True)
class Declaration:
    """One entry of `fresh`, `drop` or `tie`: these keys, and why. `optional` is the reason why it need not match at all.

    `init` is how a fresh key gets its first values; without it, it keeps what its constructor gave it.
    """

    location: Location
    patterns: tuple[Pattern, ...]
    why: str
    optional: str | None
    init: Initialiser | None = None


@dataclass(frozen=True, slots=True)
class EnvelopeEdit:
    """One change to what stands around the weights: a plain value set or added at a path, or whatever is there dropped."""

    location: Location
    action: Literal["set", "add", "drop"]
    path: tuple[str, ...]
    value: object = None


@dataclass(frozen=True, slots=True)
class KeyMap:
    """A map. `path` is what the user wrote, `sha256` that of the file's bytes.

    `select` is the way to the weights in the file, one step an item, and `strip` are the wrapper segments to take out;
    None where the map leaves them out.
    """

    path: str
    sha256: str
    description: str
    select: tuple[str, ...] | None
    strip: tuple[str, ...] | None
    rules: tuple[Rule, ...]
    fresh: tuple[Declaration, ...]
    drop: tuple[Declaration, ...]
    envelope: tuple[EnvelopeEdit, ...] = ()
    tie: tuple[Declaration, ...] = ()
