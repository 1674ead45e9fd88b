"""`pkg.mod:Name`: an importable class, function or instance; `Name` may have dots (`Net.small`)."""

from __future__ import annotations

import re

from .base import CodeResolver, TargetArguments
from .building.names import member, module_named
from .building.recipe import Recipe, recipe_for

_REFERENCE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class ModuleResolver(CodeResolver):
    """Imports by name, with the working directory on the path."""

    name = "module"
    forms = ("pkg.mod:Name",)

    def recognise(self, reference: str) -> bool:
        """Whether it is one dotted name, a colon and another."""
        return _REFERENCE.fullmatch(reference) is not None and not reference.partition(":")[0].endswith(".py")

    def recipe(self, reference: str, arguments: TargetArguments) -> Recipe:
        """The class or factory under that name with the arguments, or the instance that is there."""
        module, _, name = reference.partition(":")
        return recipe_for(member(module_named(module, reference), name, reference), reference, arguments.keywords)
