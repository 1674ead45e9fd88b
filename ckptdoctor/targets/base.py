"""What a kind of target is: it recognises a reference without importing anything heavy, and makes a manifest of it.

To add a kind, derive from `TargetResolver` (or from `CodeResolver`, if the target is somebody's Python code) in a
file of its own and add one line to the table in `__init__.py`. The contract tests run over that table.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from ckptdoctor.model import Manifest, Origin

if TYPE_CHECKING:
    import torch

    from .building.recipe import Recipe


class TargetArguments(NamedTuple):
    """What `--target-config` and `--target-arg` say, the latter having won.

    `keywords` are keyword arguments for the constructor, still with nested `_target_` or `class_path` mappings in them.
    `search_path` is a folder that shall be importable, beside the working directory.
    """

    keywords: Mapping[str, Any] = {}
    search_path: Path | None = None


class TargetResolver(ABC):
    """One kind of target."""

    name: ClassVar[str]
    """A word for `Origin.kind` and for messages."""

    forms: ClassVar[tuple[str, ...]]
    """How a user writes such a target, for help and messages."""

    @abstractmethod
    def recognise(self, reference: str) -> bool:
        """Whether `reference` is of this kind: by its text or a look at a small file; no torch, no user code."""

    @abstractmethod
    def resolve(self, reference: str, arguments: TargetArguments) -> Manifest:
        """The manifest of the target.

        Raises TargetNotFound where nothing of that name exists, TargetNotBuildable where user code raised, UsageError
        where `arguments` make no sense for this kind, MissingDependency where torch is needed and not installed.
        """


class CodeResolver(TargetResolver):
    """A kind whose target is built by running the user's code. A subclass says only what is to be called."""

    @abstractmethod
    def recipe(self, reference: str, arguments: TargetArguments) -> Recipe:
        """What to call to get the model. Imports the user's modules, calls nothing in them yet."""

    def resolve(self, reference: str, arguments: TargetArguments) -> Manifest:
        """Import, build without memory for the weights, and list what the state dict holds."""
        from .building.build import build
        from .building.contents import manifest_of_object
        from .building.guard import require_torch, user_code

        require_torch()
        with user_code(*self.folders(reference, arguments)):
            built, notes = build(self.recipe(reference, arguments))
            return manifest_of_object(built, Origin(reference, self.name, notes=notes))

    def initial_values(self, reference: str, arguments: TargetArguments, seed: int) -> dict[str, torch.Tensor]:
        """The state dict as the constructor leaves it, in real memory."""
        from .building.build import build_seeded
        from .building.guard import require_torch, user_code

        require_torch()
        with user_code(*self.folders(reference, arguments)):
            return build_seeded(self.recipe(reference, arguments), seed)

    def folders(self, reference: str, arguments: TargetArguments) -> tuple[Path, ...]:
        """The folders that go on the front of `sys.path` while user code runs, first wins."""
        extra = () if arguments.search_path is None else (arguments.search_path.absolute(),)
        return (*extra, Path.cwd())
