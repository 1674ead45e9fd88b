"""The house of DESIGN section 3, held by reading the code: who may import whom, where torch stands, how long things get.

A new module needs a line in FLOORS, a new plug-in none. What fails here names the file and what it does against the plan.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import ckptdoctor

PACKAGE = Path(ckptdoctor.__file__).parent
TREES = {
    str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".").removesuffix(".__init__"): ast.parse(
        path.read_text()
    )
    for path in sorted(PACKAGE.rglob("*.py"))
}
FACADE = ("__init__", "__main__")

# From the ground up; what stands on one line may not import what stands on the same line.
FLOORS = """
errors limits model text lazy collector
files strictjson patterns danger ops wrappers pickles
initialisers
strided archive keymap receipt unpickling
formats
source
targets
plan
policy grouping optimizer health
execution
verification triaging
reports
config
cli integrations
"""
FLOOR = {room: number for number, line in enumerate(FLOORS.split("\n")) for room in line.split()}

# Folders of plug-ins: a file in there imports these helpers of its folder, and nothing of another plug-in. "" is the folder's
# table: a format that is made of others (a folder of shards) finds them there by name.
PLUGINS = {
    "formats": {"", "base", "lookalikes", "moving", "sidecar", "tensors"},
    "targets": {"base", "building"},
    "ops": {"arguments", "base", "boxes", "filling", "numbers", "shapes", "slicing"},
    "reports.kinds": set[str](),
}
NEVER = {room: {"formats", "targets"} for room in ("plan", "policy", "optimizer")} | {"reports": {"formats"}}
HEAVY = {"torch", "numpy", "safetensors"}

# All calls to the system that touch files of users stand in this module. Elsewhere `os` and `shutil` are for what touches none,
# and for these few calls that only look, or that are about the process's own streams.
SYSTEM = "files.system"
TOUCHES_NOTHING = {
    *("PathLike", "devnull", "environ", "fsencode", "fspath", "path", "stat_result", "strerror", "get_terminal_size"),
    *("getpid", "geteuid", "kill", "sysconf", "uname", "urandom", "SEEK_SET", "SEEK_DATA", "SEEK_HOLE"),
}
LOOKS = {
    "cli.guard": {"open", "dup2"},
    "cli.verify": {"stat"},
    "formats.sharded.layout": {"scandir"},
    "formats.torch.envelope": {"replace"},  # of a class of its own
    "triaging.following": {"fstat"},
}
WRITES = {
    *("write_text", "write_bytes", "unlink", "rename", "mkdir", "rmdir", "touch"),
    *("chmod", "lchmod", "symlink_to", "hardlink_to"),
}

NOUNS = ["TensorSpec", "Manifest", "KeyMap", "Rule", "Op", "Plan", "Step", "Policy", "Finding", "Verdict", "Receipt"]
VERBS = ["read_manifest", "resolve_target", "load_map", "make_plan", "evaluate", "execute", "apply", "verify", "render"]


def imports(name: str) -> Iterator[str]:
    """The modules of the package that a module names, as `formats.base`: in imports, lazily, or in a table of plug-ins."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (each.name.removeprefix("ckptdoctor.") for each in node.names if _ours(each.name))
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(name, node)
            if _ours(base):
                yield from (_module(f"{base}.{each.name}") for each in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"ckptdoctor\.[\w.]+:\w+", str(node.value)):
            yield _module(str(node.value).partition(":")[0])


def _absolute(name: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    is_folder = (PACKAGE / name.replace(".", "/")).is_dir()
    above = ["ckptdoctor", *name.split(".")][: None if is_folder and node.level == 1 else -node.level + is_folder]
    return ".".join([*above, *([node.module] if node.module else [])])


def _ours(module: str) -> bool:
    return module == "ckptdoctor" or module.startswith("ckptdoctor.")


def _module(dotted: str) -> str:
    """`ckptdoctor.formats.base.Reader` as `formats.base`."""
    parts = dotted.split(".")[1:]
    while parts and ".".join(parts) not in TREES:
        parts.pop()
    return ".".join(parts) or "__init__"


def room(name: str) -> str:
    return name.split(".")[0]


def outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported, less what stands under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from outside_functions(node)


modules = pytest.mark.parametrize("name", TREES)


def test_the_reader_of_imports_reads_all_ways_to_write_one() -> None:
    assert "base" not in set(imports("targets.modules"))
    assert {"targets.base", "targets.building.names"} <= set(imports("targets.modules"))
    assert {"formats.torch.reader", "formats.base", "lazy"} <= set(imports("formats"))
    assert "source" in set(imports("targets.files"))
    assert "keymap" in set(imports("plan.rules")), "a room that is a folder"


def test_every_room_has_a_floor() -> None:
    without = {room(name) for name in TREES} - set(FLOOR) - set(FACADE)
    assert not without, f"say in FLOORS where {sorted(without)} stand"


@modules
def test_a_module_imports_lower_floors_only(name: str) -> None:
    if name in FACADE:
        return
    above = {
        other
        for other in imports(name)
        if other != "__init__" and room(other) != room(name) and FLOOR.get(room(other), 0) >= FLOOR.get(room(name), 99)
    }
    assert not above, f"{name} imports {sorted(above)}"


@modules
def test_some_never_meet(name: str) -> None:
    met = {other for other in imports(name) if room(other) in NEVER.get(room(name), ())}
    assert not met, f"{name} imports {sorted(met)}"


@modules
def test_a_plug_in_imports_the_base_and_no_other_plug_in(name: str) -> None:
    folder = next((folder for folder in PLUGINS if name.startswith(f"{folder}.")), None)
    if folder is None:
        return
    own = name.removeprefix(f"{folder}.").split(".")[0]
    inside = {other for other in imports(name) if other == folder or other.startswith(f"{folder}.")}
    units = {other.removeprefix(folder).removeprefix(".").split(".")[0] for other in inside}
    assert units <= PLUGINS[folder] | {own}, f"{name} imports {sorted(inside)}"


@modules
def test_the_heavy_ones_are_imported_inside_functions(name: str) -> None:
    for node in outside_functions(TREES[name]):
        names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not HEAVY & {each.split(".")[0] for each in names}, f"{name}:{node.lineno}"


@modules
def test_nothing_gets_too_long(name: str) -> None:
    tree = TREES[name]
    assert max((node.end_lineno for node in ast.walk(tree) if hasattr(node, "end_lineno")), default=0) <= 300
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.body[0].lineno  # a signature may list one option a line
            assert lines < 50, f"{name}:{node.lineno} {node.name}"


@modules
def test_only_one_module_touches_files(name: str) -> None:
    if name == SYSTEM:
        return
    found = {text for text in _touching(TREES[name]) if text.partition(".")[2] not in LOOKS.get(name, ())}
    assert not found, f"{name}: {sorted(found)}; put it into {SYSTEM}"


def test_what_touches_files_is_seen() -> None:
    program = """
import os, shutil
from os import rename
from pathlib import Path
os.replace("a", "b"); os.open("a", os.O_RDWR); shutil.rmtree("a"); Path("a").write_text("b"); Path("a").replace("b")
open("a", "w"); Path("a").open(mode="ab"); system.rename("a", "b"); "a".replace("b", "c"); open("a"); os.path.join("a")
"""
    seen = {"os.replace", "os.open", "shutil.rmtree", "os.rename", "Path('a').write_text", "Path('a').replace"}
    assert set(_touching(ast.parse(program))) == seen | {"open", "Path('a').open"}


def _touching(tree: ast.AST) -> Iterator[str]:
    """What a module uses of `os` and `shutil`, less what touches nothing; and calls of paths that write."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            yield from (f"{node.module}.{each.name}" for each in node.names if each.name not in TOUCHES_NOTHING)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("os", "shutil"):
            if node.attr not in TOUCHES_NOTHING and not node.attr.startswith("O_"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and _writes(node):
            yield ast.unparse(node.func)


def _writes(call: ast.Call) -> bool:
    owner, _, name = ast.unparse(call.func).rpartition(".")
    if owner in ("os", "shutil", "system"):
        return False
    if name == "open":
        modes = [*call.args, *(each.value for each in call.keywords if each.arg == "mode")]
        return any(
            isinstance(each, ast.Constant) and re.fullmatch("[rb]*[wax+][rwaxbt+]*", str(each.value)) for each in modes
        )
    renames = name == "replace" and len(call.args) == 1 and not call.keywords
    return bool(owner) and (name in WRITES or renames)


@modules
def test_only_the_command_line_prints(name: str) -> None:
    if room(name) == "cli":
        return
    calls = [node for node in ast.walk(TREES[name]) if isinstance(node, ast.Call)]
    assert not [call.lineno for call in calls if ast.unparse(call.func) == "print"]


@modules
def test_no_exception_is_swallowed_whole(name: str) -> None:
    broad = {"", "Exception", "BaseException"}
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {ast.unparse(each) if each else "" for each in caught}
            nothing = all(isinstance(each, ast.Pass | ast.Continue) or _is_text(each) for each in node.body)
            assert not (names & broad and nothing), f"{name}:{node.lineno}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "suppress":
            assert not broad & {ast.unparse(each) for each in node.args}, f"{name}:{node.lineno}"


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@modules
def test_every_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(TREES[name]), name


class TestThePublicNames:
    def test_are_sorted_and_can_be_had(self) -> None:
        assert sorted(set(ckptdoctor.__all__)) == ckptdoctor.__all__
        for name in ckptdoctor.__all__:
            assert getattr(ckptdoctor, name).__module__.startswith("ckptdoctor."), name

    def test_are_those_of_the_design(self) -> None:
        assert {*NOUNS, *VERBS} <= set(ckptdoctor.__all__)

    def test_are_the_same_for_type_checkers(self) -> None:
        (block,) = [node for node in TREES["__init__"].body if isinstance(node, ast.If)]
        named = {each.name for node in block.body for each in node.names}  # type: ignore[attr-defined]
        assert named == set(ckptdoctor.__all__)
        assert set(dir(ckptdoctor)) >= named

    def test_stay_what_they_are_when_their_modules_are_imported(self) -> None:
        from importlib import import_module

        for name in FLOOR.keys() & {room(each) for each in TREES}:
            import_module(f"ckptdoctor.{name}")
        assert [name for name in ckptdoctor.__all__ if isinstance(getattr(ckptdoctor, name), ModuleType)] == []

    def test_any_other_is_an_error(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
            _ = ckptdoctor.nonsense
