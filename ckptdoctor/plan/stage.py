"""One map over one set of tensors: first `drop`, then the rules, then identity. Rules never see each other's output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.plan.types import Expression

if TYPE_CHECKING:
    from ckptdoctor.errors import Location, PlanError
    from ckptdoctor.keymap import Declaration, KeyMap
    from ckptdoctor.model import TensorSpec
    from ckptdoctor.plan.keys import Keys


class Value(NamedTuple):
    """A tensor on its way: its spec under its current key, how it is made of the source, and which rule made it."""

    spec: TensorSpec
    expression: Expression
    rule: Location | None = None
    why: str | None = None
    new: int = 0
    """Elements that no checkpoint gives: an op added them."""


@dataclass
class Stage:
    """What one map made of its inputs. `problems` are collected: all of them are reported at once.

    `target_keys` only serve the hints; `targets` is the target where this map's outputs are meant to be it.
    """

    inputs: Mapping[str, Value]
    target_keys: Mapping[str, TensorSpec] | None
    targets: Mapping[str, TensorSpec] | None = None
    made: dict[str, Value] = field(default_factory=dict)
    made_of: dict[str, tuple[str, int]] = field(default_factory=dict)
    passed: Mapping[str, Value] = field(default_factory=dict)
    dropped: dict[str, tuple[Value, Declaration]] = field(default_factory=dict)
    problems: list[PlanError] = field(default_factory=list)

    @cached_property
    def input_index(self) -> Keys:
        """The inputs, to find patterns in."""
        from ckptdoctor.plan.keys import Keys

        return Keys(self.inputs)

    @cached_property
    def target_index(self) -> Keys:
        """The keys of the target, where this map's outputs are meant to be it."""
        from ckptdoctor.plan.keys import Keys

        return Keys(self.targets or {})

    @property
    def outputs(self) -> Mapping[str, Value]:
        """What the next stage, or the target, sees, in the order of the inputs, never in that of the rules.

        A rule's output wins over a tensor that only has the same name.
        """
        if not self.made:
            return self.passed
        position = {key: number for number, key in enumerate(self.inputs)}
        together = {**self.passed, **self.made}

        def order(key: str) -> tuple[int, int, str]:
            first, number = self.made_of.get(key, (key, 0))
            return position[first], number, key

        return {key: together[key] for key in sorted(together, key=order)}


def run_stage(
    key_map: KeyMap | None,
    inputs: Mapping[str, Value],
    target_keys: Mapping[str, TensorSpec] | None,
    *,
    last: bool = True,
) -> Stage:
    """Apply one map (None: identity alone). Only the last one makes the target's keys."""
    stage = Stage(inputs, target_keys, target_keys if last else None)
    if key_map is None:
        stage.passed = inputs
        return stage
    from ckptdoctor.plan.rules import fire

    taken = fire(stage, key_map)
    stage.passed = {key: value for key, value in inputs.items() if key not in taken and key not in stage.dropped}
    return stage
