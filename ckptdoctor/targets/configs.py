"""A YAML or JSON file that names a class: by `_target_`, as Hydra does, or by `class_path`, as LightningCLI does.

The class may stand at the top or under `model:`. A JSON *manifest* is no config, it is of the kind `file`.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import TargetNotBuildable

from .base import CodeResolver, TargetArguments
from .building.settings import LIMIT, read_settings

if TYPE_CHECKING:
    from .building.recipe import Recipe


class ConfigResolver(CodeResolver):
    """Builds what a config describes."""

    name = "config"
    forms = ("config.yaml", "config.json")

    def recognise(self, reference: str) -> bool:
        """Any YAML file; a JSON file if it names a class."""
        path = Path(reference)
        return path.suffix in (".yaml", ".yml") or (path.suffix == ".json" and _names_a_class(path))

    def recipe(self, reference: str, arguments: TargetArguments) -> Recipe:
        """The class of the config with its arguments; those given apart win."""
        from .building.recipe import configured_call, recipe_of

        settings = read_settings(Path(reference), reference)
        call = configured_call(settings)
        if call is None:
            raise TargetNotBuildable(f"{reference} names no class", reference=reference, hint=_hint(settings))
        return recipe_of(replace(call, keywords={**call.keywords, **arguments.keywords}), reference)


def _names_a_class(path: Path) -> bool:
    try:
        raw = path.read_bytes() if path.stat().st_size <= LIMIT else b""
        if b"ckptdoctor/manifest/" in raw[:200]:
            return False
        from .building.recipe import configured_call

        return configured_call(json.loads(raw)) is not None
    except (OSError, ValueError, RecursionError):  # whoever reads it in earnest says what is wrong
        return False


def _hint(settings: Any) -> str:
    if isinstance(settings, dict) and "ckptdoctor" in settings:
        return "this looks like a map: give it with --map"
    return "it needs _target_, or class_path and init_args, at its top or under model:"
