"""`path/file.py:Name`: as `pkg.mod:Name`, for a file wherever it is; it can import its neighbours as usual."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from ckptdoctor.errors import TargetNotFound
from ckptdoctor.model import Manifest
from ckptdoctor.text import listing

from .base import CodeResolver, TargetArguments
from .building.names import import_failed, member, module_named
from .building.recipe import Recipe, recipe_for
from .building.settings import files_like

_REFERENCE = re.compile(r"(?P<path>.*\.py)(:+(?P<name>[\w.]*))?", re.DOTALL)


class PythonFileResolver(CodeResolver):
    """Runs a file as a module, anew for each target."""

    name = "python-file"
    forms = ("path/file.py:Name",)

    def recognise(self, reference: str) -> bool:
        """Whether a path to a `.py` file stands before the colon (or alone, to be told that a name is missing)."""
        return _REFERENCE.fullmatch(reference) is not None

    def resolve(self, reference: str, arguments: TargetArguments) -> Manifest:
        """As for all code, with the modules beside the file forgotten afterwards."""
        with _own_modules(_split(reference)[0]):
            return super().resolve(reference, arguments)

    def folders(self, reference: str, arguments: TargetArguments) -> tuple[Path, ...]:
        """The file's own folder, or that of its outermost package, before the others."""
        return (_package(_split(reference)[0])[0], *super().folders(reference, arguments))

    def recipe(self, reference: str, arguments: TargetArguments) -> Recipe:
        """The class or factory in that file with the arguments, or the instance that is there."""
        path, name = _split(reference)
        if not path.is_file():
            raise TargetNotFound(f"{reference}: there is no file {path}", reference=reference, hint=files_like(path))
        if not name:
            raise TargetNotFound(
                f"{reference}: say which class or function of the file", reference=reference, hint=_names(path)
            )
        return recipe_for(member(_module(path, reference), name, reference), reference, arguments.keywords)


def _split(reference: str) -> tuple[Path, str]:
    found = _REFERENCE.fullmatch(reference)
    assert found is not None, "recognise() came first"
    return Path(found["path"]), (found["name"] or "").strip(".")


def _names(path: Path) -> str | None:
    """The classes and functions of a file, without running it."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (SyntaxError, ValueError):
        return None
    classes = [each.name for each in body if isinstance(each, ast.ClassDef)]
    functions = [each.name for each in body if isinstance(each, ast.FunctionDef) and not each.name.startswith("_")]
    names = [f"{path}:{name}" for name in classes or functions]
    return f"as in {listing(names)}" if names else None


def _module(path: Path, reference: str) -> ModuleType:
    dotted = _package(path)[1]
    if dotted is not None:
        return module_named(dotted, reference)
    name = "_target_" + re.sub(r"\W", "_", path.stem)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None, "a .py file has a loader"
    assert spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise import_failed(path.name, reference, error) from error
    return module


def _package(path: Path) -> tuple[Path, str | None]:
    """The folder to import a file from, and its dotted name if an `__init__.py` is beside it."""
    folder = path.absolute().parent
    parts = [] if path.stem == "__init__" else [path.stem]
    alone = not (folder / "__init__.py").is_file()
    while (folder / "__init__.py").is_file() and folder != folder.parent:
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, None if alone else ".".join(parts)


@contextmanager
def _own_modules(path: Path) -> Iterator[None]:
    """Forget afterwards what was imported from beside the file: the same names beside another file are other modules.

    Without this, comparing `old/model.py:Net` with `new/model.py:Net` would see the old `layers.py` twice.
    """
    root, dotted = _package(path)
    top = None if dotted is None else dotted.partition(".")[0]
    namesakes = {name for name in sys.modules if name.partition(".")[0] == top and not _from(root, sys.modules[name])}
    aside = {name: sys.modules.pop(name) for name in namesakes}
    before = set(sys.modules)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name not in before and _from(root, sys.modules[name])]:
            del sys.modules[name]
        sys.modules.update(aside)


def _from(root: Path, module: ModuleType | None) -> bool:
    """Whether a loaded module lies under `root`; a folder without `__init__.py` has a path and no file."""
    attributes = getattr(module, "__dict__", {})  # getattr() on the module itself may run code
    places = [attributes.get("__file__"), *(attributes.get("__path__") or ())]
    paths = [Path(place) for place in places if isinstance(place, str)]
    return any(path.is_relative_to(root) and "site-packages" not in path.relative_to(root).parts for path in paths)
