"""Call a recipe so that it takes next to no memory: three ways, the cheapest first, each calling the recipe anew.

1. Memory is allocated on the meta device and computed values are real; fails where a constructor mixes the two.
2. Everything is real, but each tensor loses its memory as soon as a module registers it.
3. Everything is real and stays; only where the second way failed because a constructor looked at what had no memory.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from ckptdoctor.errors import CkptDoctorError, TargetNotBuildable

from .devices import construction_mode
from .guard import not_buildable, summary
from .recipe import Recipe
from .registration import Change, moving_to_meta, registering, within_half_of_memory

if TYPE_CHECKING:
    import torch

_WAYS: tuple[tuple[bool, Callable[[], Change], str], ...] = (
    (False, moving_to_meta, ""),
    (True, moving_to_meta, "built in real memory, one tensor at a time"),
    (True, within_half_of_memory, "built in real memory"),
)


def build(recipe: Recipe) -> tuple[object, tuple[str, ...]]:
    """What the recipe makes, and notes on how it had to be made. Parameters and buffers may be on the meta device.

    Raises TargetNotBuildable with the traceback of the last attempt, in which allocations were real.
    """
    failures: list[TargetNotBuildable] = []
    reasons: list[str] = []
    for allocate, change, note in _WAYS:
        if len(failures) == 2 and "meta" not in reasons[-1].lower():
            break
        try:
            with registering(change()), construction_mode(allocate=allocate):
                return _complete(recipe.make()), ((f"{note}: {reasons[0]}",) if note else ())
        except CkptDoctorError:
            raise
        except (Exception, SystemExit) as error:
            # kept as text: the exception's frames hold all that was built so far
            failures.append(not_buildable(recipe.reference, "it cannot be built", error))
            reasons.append(summary(error))
    raise failures[-1]


def build_seeded(recipe: Recipe, seed: int) -> dict[str, torch.Tensor]:
    """The tensors of the state dict of what the recipe makes in real memory, with torch, numpy and random seeded.

    Raises TargetNotBuildable.
    """
    import random

    import torch

    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed)
    try:
        with registering(within_half_of_memory()), construction_mode(allocate=True):
            state: Mapping[str, object] = _complete(recipe.make()).state_dict()  # type: ignore[attr-defined]
    except (Exception, SystemExit) as error:
        raise not_buildable(recipe.reference, "it cannot be built", error) from None
    return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}


def _complete(built: object) -> object:
    """A LightningModule may make its layers in `configure_model`, which the trainer would call."""
    from torch import nn

    configure = getattr(built, "configure_model", None)
    if isinstance(built, nn.Module) and callable(configure) and next(built.parameters(), None) is None:
        configure()
    return built
