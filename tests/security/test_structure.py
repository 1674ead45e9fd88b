"""That reading runs nothing is a matter of structure: where bytes of a file are read, there is nothing that could run them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import ckptdoctor
from ckptdoctor.targets.building.settings import yaml_loader

PACKAGE = Path(ckptdoctor.__file__).parent
TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}
READING = (
    "archive/",
    "files/",
    "formats/",
    "pickles/",
    "strided.py",
    "strictjson.py",
    "source.py",
    "unpickling.py",
    "danger.py",
)
BY_NAME = {"__import__", "import_module", "eval", "exec", "compile", "getattr", "setattr", "globals", "vars"}
RUNNERS = {"importlib", "runpy", "pkgutil", "builtins"}
LOADERS = {"_pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call, by the last name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            function = node.func
            yield getattr(function, "attr", getattr(function, "id", "")), node


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{each.name}" for each in node.names)


def is_constant_name(call: ast.Call) -> bool:
    """`getattr(x, "name")`: which attribute it is stands in our own code."""
    return len(call.args) > 1 and isinstance(call.args[1], ast.Constant)


@pytest.mark.parametrize("name", [name for name in TREES if name.startswith(READING)])
def test_nothing_that_reads_can_import_or_call_by_name(name: str) -> None:
    found = [
        (called, call.lineno)
        for called, call in calls(TREES[name])
        if called in BY_NAME and isinstance(call.func, ast.Name) and not is_constant_name(call)
    ]
    assert not found, f"{name} calls {found}"
    assert not {module.split(".")[0] for module in imported(TREES[name])} & RUNNERS


@pytest.mark.parametrize("name", TREES)
def test_no_module_has_a_loader_that_runs_what_it_loads(name: str) -> None:
    modules = set(imported(TREES[name]))
    assert not {module.split(".")[0] for module in modules} & LOADERS
    assert {module for module in modules if module.partition(".")[0] == "pickle"} <= {"pickle.UnpicklingError"}
    for _, call in calls(TREES[name]):
        path, given = ast.unparse(call.func), {each.arg: ast.unparse(each.value) for each in call.keywords}
        where = f"{name}:{call.lineno}"
        assert path != "torch.load" or (given.get("weights_only") == "True" and name == "verification/loading.py"), (
            where
        )
        assert path != "yaml.load" or ast.unparse(call.args[1]) == "yaml_loader()", where
        assert path not in (
            "torch.serialization.load",
            "yaml.unsafe_load",
            "yaml.full_load",
            "np.load",
            "numpy.load",
        ), where


def test_the_loader_of_yaml_is_a_safe_one() -> None:
    assert issubclass(yaml_loader(), yaml.SafeLoader)
