"""Renaming inside a state dict's `_metadata`: module paths follow the keys that were renamed below them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptdoctor.pickles.nodes import CallNode, Node, mapping_pairs


def metadata_node(mapping: Node) -> Node | None:
    """The `_metadata` of a state dict, a mapping from module paths to versions; None where it has none."""
    for what, state in mapping.edits if type(mapping) is CallNode else ():
        for key, value in (mapping_pairs(state) or []) if what == "build" else ():
            if key == "_metadata" and mapping_pairs(value) is not None:
                return value
    return None


def renamed_modules(modules: Iterable[str], renamed: Mapping[str, str]) -> dict[str, str]:
    """New paths of modules, by what became of the keys below them: `{old key: new key}` for every key that is kept.

    A module follows its keys if these agree; one without keys, or with keys that went different ways, follows its parent.
    """
    below: dict[str, set[str]] = {}
    for old, new in renamed.items():
        parts = old.split(".")
        for length in range(len(parts)):
            rest = "." + ".".join(parts[length:])
            moved = "." + new
            below.setdefault(".".join(parts[:length]), set()).add(
                moved[: -len(rest)][1:] if moved.endswith(rest) else "\0"
            )
    paths: dict[str, str] = {}
    for module in modules:
        _follow(module, below, paths)
    return {module: paths[module] for module in paths if module != paths[module]} if _distinct(paths) else {}


def _follow(module: str, below: Mapping[str, set[str]], paths: dict[str, str]) -> str:
    if module not in paths:
        places = below.get(module, set())
        parent, _, name = module.rpartition(".")
        if len(places) == 1 and "\0" not in places:
            paths[module] = next(iter(places))
        elif not module:
            paths[module] = ""
        else:
            paths[module] = f"{_follow(parent, below, paths)}.{name}".removeprefix(".")
    return paths[module]


def _distinct(paths: Mapping[str, str]) -> bool:
    return len(set(paths.values())) == len(paths)
