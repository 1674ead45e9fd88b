"""From a name to the thing: import a module, walk attributes, and where nothing is there, say what may have been meant."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from ckptdoctor.errors import TargetNotBuildable, TargetNotFound
from ckptdoctor.text import listing, nearest, printable

from .guard import not_buildable


def module_named(name: str, reference: str) -> ModuleType:
    """Import `name`. Raises TargetNotFound if there is no such module, TargetNotBuildable if importing it raises."""
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is None or not f"{name}.".startswith(f"{absent}."):
            raise import_failed(name, reference, error) from error
    raise TargetNotFound(
        f"{reference}: there is no module {printable(absent)}",
        reference=reference,
        hint=_modules_like(absent, reference)
        or "modules are looked for in the working directory and among what is installed",
    )


def import_failed(what: str, reference: str, error: BaseException) -> TargetNotBuildable:
    """The error for a module that is there and raises."""
    hint = None
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        hint = f"{printable(error.name)} has to be importable in the environment that ckptdoctor runs in"
    return not_buildable(reference, f"importing {what} failed", error, hint)


def located(dotted: str, reference: str) -> object:
    """What `pkg.mod.Name` or `pkg.mod:Name` names: an attribute, or else a submodule, as Hydra looks it up."""
    module, colon, name = dotted.partition(":")
    if colon:
        return member(module_named(module, reference), name, reference)
    first, *rest = dotted.split(".")
    found: object = module_named(first, reference)
    for part in rest:
        if isinstance(found, ModuleType) and not hasattr(found, part) and _has_submodule(found, part):
            found = module_named(f"{found.__name__}.{part}", reference)
        else:
            found = member(found, part, reference)
    return found


def _has_submodule(module: ModuleType, name: str) -> bool:
    return hasattr(module, "__path__") and importlib.util.find_spec(f"{module.__name__}.{name}") is not None


def member(holder: object, dotted: str, reference: str) -> object:
    """The attribute `a.b` of a module or class. Raises TargetNotFound, with the nearest names."""
    for name in dotted.split("."):
        try:
            holder = getattr(holder, name)
        except AttributeError:
            raise _no_member(holder, name, reference) from None
        except (Exception, SystemExit) as error:
            raise not_buildable(reference, f"looking up {name} failed", error) from error
    return holder


def _no_member(holder: object, name: str, reference: str) -> TargetNotFound:
    names = [each for each in dir(holder) if not each.startswith("_")]
    names += _modules_in(getattr(holder, "__path__", ()))
    own = [each for each in names if _defined_in(holder, each)]
    owner = "the file" if ".py:" in reference else getattr(holder, "__name__", type(holder).__name__)
    hint = suggestion(name, names, reference) or (f"it defines {listing(own)}" if own else None)
    return TargetNotFound(f"{reference}: {printable(owner)} has no {printable(name)!r}", reference=reference, hint=hint)


def _defined_in(holder: object, name: str) -> bool:
    found = getattr(holder, name, None)
    return callable(found) and getattr(found, "__module__", None) == getattr(holder, "__name__", ...)


def _modules_like(absent: str, reference: str) -> str | None:
    parent, _, last = absent.rpartition(".")
    places = getattr(sys.modules[parent], "__path__", ()) if parent in sys.modules else sys.path
    return suggestion(last, _modules_in(places), reference)


def _modules_in(places: Iterable[str]) -> list[str]:
    """Names of the modules in these folders; folders without an `__init__.py` are packages too."""
    found = [Path(place) for place in places if Path(place).is_dir()]
    folders = {each.name for place in found for each in place.iterdir() if each.name.isidentifier() and each.is_dir()}
    return sorted({entry.name for entry in pkgutil.iter_modules(map(str, found))} | folders - {"__pycache__"})


def suggestion(wrong: str, candidates: Iterable[str], reference: str) -> str | None:
    """A hint with the nearest names: whole references, to be copied, if `wrong` is a part of the reference."""
    near = nearest(wrong, candidates)
    if ":" in reference:  # a config's path says nothing of the names inside
        near = [re.sub(rf"(?<!\w){re.escape(wrong)}(?!\w)", each, reference, count=1) for each in near]
    return f"did you mean {' or '.join(printable(each) for each in near)}?" if near else None
