"""What to call, and with what: a class or factory, and its arguments, some of which may have to be built themselves.

Everything is looked up and imported when the recipe is made, and nothing is called. Calling it makes all arguments
anew, since building may take more than one attempt and a constructor may change what it is given.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ckptdoctor.errors import TargetNotBuildable, UsageError
from ckptdoctor.text import did_you_mean, listing, printable

from .guard import not_buildable
from .names import located

_HYDRA = ("_target_", "_args_", "_partial_", "_recursive_", "_convert_")
_JSONARGPARSE = {"class_path", "init_args", "dict_kwargs"}
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Recipe:
    """`make()` gives the model, a new one at each call; `reference` is what the user wrote."""

    reference: str
    make: Callable[[], object]


@dataclass(frozen=True, slots=True)
class ClassCall:
    """A mapping that names a class: by `_target_` as Hydra writes it, or `class_path` as jsonargparse does."""

    name: str
    keywords: Mapping[str, Any] = field(default_factory=dict)
    positional: tuple[Any, ...] = ()
    partial: bool = False
    recursive: bool = True


def class_call(value: object) -> ClassCall | None:
    """Read such a mapping; None if `value` names no class."""
    if not isinstance(value, dict):
        return None
    if isinstance(name := value.get("_target_"), str) and isinstance(positional := value.get("_args_", []), list):
        keywords = {key: each for key, each in value.items() if key not in _HYDRA}
        partial, recursive = bool(value.get("_partial_")), bool(value.get("_recursive_", True))
        return ClassCall(name, keywords, tuple(positional), partial, recursive)
    parts = [value.get(key) or {} for key in ("init_args", "dict_kwargs")]
    if isinstance(name := value.get("class_path"), str) and value.keys() <= _JSONARGPARSE:
        return ClassCall(name, parts[0] | parts[1]) if all(isinstance(each, dict) for each in parts) else None
    return None


def configured_call(settings: object) -> ClassCall | None:
    """The class that a whole config names, at its top or under `model:`."""
    return class_call(settings) or (class_call(settings.get("model")) if isinstance(settings, dict) else None)


def recipe_for(found: object, reference: str, keywords: Mapping[str, Any]) -> Recipe:
    """The recipe for what stands under a name: a class or a function is called, an instance is taken as it is."""
    from torch import nn

    if isinstance(found, nn.Module | Mapping) or not callable(found):
        if keywords:
            kind = type(found).__name__
            raise UsageError(
                f"{reference} is an instance ({kind}) already: it takes no arguments ({listing(keywords)})"
            )
        return Recipe(reference, lambda: found)
    return Recipe(reference, _calling(found, ClassCall("", keywords), reference))


def recipe_of(call: ClassCall, reference: str) -> Recipe:
    """The recipe for a config that names a class."""
    return Recipe(reference, _calling(_callable(call.name, reference), call, reference))


def _callable(name: str, reference: str) -> Callable[..., object]:
    found = located(name, reference)
    if not callable(found):
        kind = type(found).__name__
        raise TargetNotBuildable(
            f"{reference}: {printable(name)} cannot be called, it is a {kind}", reference=reference
        )
    return found


def _calling(found: Callable[..., object], call: ClassCall, reference: str) -> Callable[[], object]:
    keywords = {key: _prepared(value, reference, call.recursive) for key, value in call.keywords.items()}
    positional = [_prepared(value, reference, call.recursive) for value in call.positional]
    run = functools.partial(functools.partial, found) if call.partial else functools.partial(_called, found, reference)
    return lambda: run(*(make() for make in positional), **{str(key): make() for key, make in keywords.items()})


def _prepared(value: object, reference: str, recursive: bool = True) -> Callable[[], Any]:
    call = class_call(value) if recursive else None
    if call is not None:
        return _calling(_callable(call.name, reference), call, reference)
    if isinstance(value, dict):
        entries = {key: _prepared(each, reference, recursive) for key, each in value.items()}
        return lambda: {key: make() for key, make in entries.items()}
    if isinstance(value, list):
        items = [_prepared(each, reference, recursive) for each in value]
        return lambda: [make() for make in items]
    if isinstance(value, str) and "${" in value:
        raise TargetNotBuildable(
            f"{reference}: {printable(value)!r} is an interpolation, and ckptdoctor resolves none",
            reference=reference,
            hint="give the resolved config, as Hydra prints it with --cfg job --resolve",
        )
    return lambda: value


def _called(found: Callable[..., object], reference: str, *positional: object, **keywords: object) -> object:
    try:
        return found(*positional, **keywords)
    except TypeError as error:
        hint = _argument_hint(found, positional, keywords)
        if hint is None:
            raise
        raise not_buildable(reference, "the arguments do not fit", error, hint) from error


def _argument_hint(
    found: Callable[..., object], positional: tuple[object, ...], keywords: Mapping[str, object]
) -> str | None:
    """What the signature takes, if it does not take these arguments; None if they fit or there is no signature."""
    try:
        signature = inspect.signature(found)
    except (TypeError, ValueError):
        return None
    try:
        signature.bind(*positional, **keywords)
    except TypeError:
        parameters = [each for each in signature.parameters.values() if each.kind in _NAMED]
        names = [each.name for each in parameters]
        absent = [each.name for each in parameters[len(positional) :] if each.default is each.empty]
        takes = f"it takes {listing(names, 20)}" if names else "it takes no arguments"
        return f"{_advice(keywords, names, [name for name in absent if name not in keywords])}{takes}"
    return None


def _advice(keywords: Iterable[str], names: Collection[str], needed: Collection[str]) -> str:
    unknown = [key for key in keywords if key not in names]
    if unknown:
        near = did_you_mean(unknown[0], names)
        return f"{near} " if near else ""
    return f"give {listing(needed)}; " if needed else ""
