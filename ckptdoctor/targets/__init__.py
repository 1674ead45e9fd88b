"""What has to be filled, as a manifest: a model, built without memory for its weights, or a file that stands for one.

`resolve_target` asks the kinds in the table below, in order; the first that recognises the reference resolves it.
Importing this room is cheap: torch, and the user's code with it, is imported when a model is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import UsageError
from ckptdoctor.lazy import Table
from ckptdoctor.model import Manifest

from .base import CodeResolver, TargetArguments, TargetResolver
from .building.settings import parse_target_args, read_settings

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .building.recipe import Recipe

__all__ = [
    "RESOLVERS",
    "TargetArguments",
    "TargetResolver",
    "build_target_module",
    "initial_values",
    "names_code",
    "parse_target_args",
    "resolve_target",
]

RESOLVERS: Table[TargetResolver] = Table(
    {
        "config": "ckptdoctor.targets.configs:ConfigResolver",
        "file": "ckptdoctor.targets.files:FileResolver",
        "python-file": "ckptdoctor.targets.python_files:PythonFileResolver",
        "module": "ckptdoctor.targets.modules:ModuleResolver",
    }
)


def resolve_target(
    reference: str | PathLike[str] | None,
    *,
    config: str | PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    search_path: Path | None = None,
) -> Manifest:
    """The manifest of a target: of a model, without memory for its weights, or of a file.

    `reference` is `pkg.mod:Name`, `path/file.py:Name`, a YAML or JSON file that names a class, a checkpoint or a
    manifest. `config` is a YAML or JSON file with keyword arguments for the class; `arguments` are more of them, and
    win. Without a reference, `config` has to name the class itself. While user code runs, the folder `search_path`
    and the working directory lead `sys.path`, and what is printed goes to stderr. Building may run the constructor up
    to three times.

    Raises TargetNotFound; TargetNotBuildable, with the constructor's own traceback in `.traceback`; UsageError where
    reference, config and arguments contradict each other; MissingDependency without torch; CheckpointError for a file
    that is neither checkpoint nor manifest.
    """
    text, resolver, given = _request(reference, config, arguments, search_path)
    return resolver.resolve(text, given)


def build_target_module(
    reference: str | PathLike[str] | None,
    *,
    config: str | PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    search_path: Path | None = None,
) -> tuple[Manifest, nn.Module | None]:
    """The manifest of a target, as `resolve_target` makes it, and the very module that it lists; None for any other target.

    The module's tensors may be on the meta device; where the reference names an instance, it is that instance. Arguments and
    errors are those of `resolve_target`.
    """
    text, resolver, given = _request(reference, config, arguments, search_path)
    if not isinstance(resolver, CodeResolver):
        return resolver.resolve(text, given), None
    built: list[object] = []
    keeping = copy(resolver)
    keeping.recipe = partial(_kept, resolver, built)  # type: ignore[method-assign]
    manifest = keeping.resolve(text, given)
    from torch import nn

    return manifest, built[-1] if isinstance(built[-1], nn.Module) else None


def _kept(resolver: CodeResolver, built: list[object], reference: str, arguments: TargetArguments) -> Recipe:
    """The resolver's recipe, which notes in `built` what it makes."""
    recipe = resolver.recipe(reference, arguments)

    def make() -> object:
        built.append(recipe.make())
        return built[-1]

    return replace(recipe, make=make)


def _request(
    reference: str | PathLike[str] | None,
    config: str | PathLike[str] | None,
    arguments: Mapping[str, Any] | None,
    search_path: Path | None,
) -> tuple[str, TargetResolver, TargetArguments]:
    """What is to be resolved, by whom, with which arguments; those given apart win over those of the config."""
    if reference is None:
        if config is None:
            raise UsageError("there is neither a target nor a config that names one")
        reference, config = config, None
    text = fspath(reference)
    keywords = {**(_keywords(config, text) if config is not None else {}), **(arguments or {})}
    resolver = next((each for each in RESOLVERS.values() if each.recognise(text)), None)
    if resolver is None:
        from .building.suggest import not_found

        raise not_found(text, [form for each in RESOLVERS.values() for form in each.forms])
    return text, resolver, TargetArguments(keywords, search_path)


def initial_values(
    reference: str | PathLike[str],
    *,
    config: str | PathLike[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    search_path: Path | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """The state dict of a target as its constructor leaves it, built in real memory with the random numbers of `seed`.

    The arguments are those of `resolve_target`. Raises UsageError for a target that is a file, else as `resolve_target`.
    """
    text = fspath(reference)
    resolver = next((each for each in RESOLVERS.values() if each.recognise(text)), None)
    if not isinstance(resolver, CodeResolver):
        raise UsageError(f"{text} has no constructor to take initial values from", hint="name a model: pkg.mod:Name")
    keywords = {**(_keywords(config, text) if config is not None else {}), **(arguments or {})}
    return resolver.initial_values(text, TargetArguments(keywords, search_path), seed)


def names_code(reference: str) -> bool:
    """Whether a reference names a model to be built rather than a file with tensors; looks, and runs nothing."""
    resolver = next((each for each in RESOLVERS.values() if each.recognise(reference)), None)
    return isinstance(resolver, CodeResolver) and (
        ":" in reference or Path(reference).suffix in (".yaml", ".yml", ".json")
    )


def _keywords(config: str | PathLike[str], reference: str) -> Mapping[str, Any]:
    """The keyword arguments in a config for a class that is named elsewhere."""
    from .building.recipe import configured_call

    path = Path(config)
    settings = read_settings(path, reference)
    call = configured_call(settings)
    if call is not None:
        if call.name.replace(":", ".") != reference.replace(":", ".") or call.positional:
            raise UsageError(
                f"{reference} and {path} both name a class ({call.name})",
                hint=f"give {path} as the target, and nothing else",
            )
        return call.keywords
    if not isinstance(settings, dict | None):
        raise UsageError(f"{path} holds no mapping of arguments, but a {type(settings).__name__}")
    settings = settings or {}
    # LightningCLI with a fixed class writes the arguments of the model beside those of the trainer
    return settings["model"] if "trainer" in settings and isinstance(settings.get("model"), dict) else settings
