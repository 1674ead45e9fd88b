"""How others read a mutant: torch, safetensors, and the plain parsers of JSON and YAML. Whatever they raise is a refusal."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptdoctor.formats.base import Place
from ckptdoctor.receipt import Receipt, TensorReceipt
from tests import builders as b
from tests.security.fuzzing.ours import MOST, Reading, Tensors, Value, as_rows

_DEEPEST = 64


def of_torch(path: Path, *, mmap: bool = False) -> Tensors:
    """The tensors of every mapping that torch.load gives, found in the order in which we look for them."""
    import torch

    return places_in(torch.load(path, weights_only=True, map_location="cpu", mmap=mmap))


def places_in(root: Any) -> Tensors:
    """Every dict below a loaded object that directly holds dense tensors under texts."""
    found: dict[Place, dict[str, Value]] = {}
    work: list[tuple[Place, Any]] = [((), root)]
    seen: set[int] = set()
    while work:
        place, node = work.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        items = _items(node)
        tensors = {key: _value(value) for key, value in items if isinstance(key, str) and _is_dense(value)}
        if tensors:
            found[place] = tensors
        deeper = [((*place, str(key)), value) for key, value in reversed(items) if _is_name(key)]
        work += deeper if len(place) < _DEEPEST else []
    return found


def _items(node: Any) -> list[tuple[Any, Any]]:
    if type(node) in (dict, OrderedDict):
        return list(node.items())
    return list(enumerate(node)) if type(node) in (list, tuple) else []


def _is_name(key: Any) -> bool:
    return isinstance(key, str) or (isinstance(key, int) and key.bit_length() < 64)


def _is_dense(value: Any) -> bool:
    import torch

    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
        and not value.is_nested
    )


def _value(tensor: Any) -> Value:
    import torch

    shape, dtype = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    few = tensor.detach()
    while few.numel() * few.itemsize > MOST * 2:
        rows = max(1, MOST * 2 * len(few) // (few.numel() * few.itemsize))
        few = few[0] if len(few) == 1 else few[:rows]
    values = b.values_of(few.view(torch.uint8) if few.dtype is torch.bool else few)  # a copy of bools would mend them
    whole = tensor.numel() * tensor.itemsize <= MOST
    return Value(shape, dtype, values if whole else values[:MOST])


def of_safetensors(path: Path) -> tuple[dict[str, Value], dict[str, str]]:
    """The tensors and the metadata of a safetensors file, as its library reads them."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as opened:
        return {key: _value(opened.get_tensor(key)) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118


def torch_difference(ours: Reading, theirs: Tensors) -> str | None:
    """What is not the same; what we leave unopened, torch may make a tensor of."""
    kept = {
        place: {key: value for key, value in tensors.items() if (place, key) not in ours.unopened}
        for place, tensors in theirs.items()
    }
    return _difference(ours.tensors, {place: tensors for place, tensors in kept.items() if tensors})


def safetensors_difference(ours: Reading, theirs: tuple[dict[str, Value], dict[str, str]]) -> str | None:
    """What is not the same. A key that only the metadata names is the other name of a tensor, as in `load_model`."""
    tensors, metadata = theirs
    names = {
        key: first for key, first in metadata.items() if first in tensors and key not in tensors and key != "format"
    }
    if dict(ours.ties) != names:
        return f"ties: {ours.ties} and {names}"
    return _unordered(ours, tensors | {key: tensors[first] for key, first in names.items()})


def of_folder(folder: Path) -> dict[str, Value]:
    """The tensors of the shards that an index names, or of all shards without one: as every loader of shards does it."""
    indexes = list(folder.glob("*.index.json"))
    names = {path.name for path in folder.iterdir()}
    if indexes:
        names = set(json.loads(indexes[0].read_bytes())["weight_map"].values())
    found: dict[str, Value] = {}
    for name in sorted(names):
        if name.endswith(".safetensors"):
            tensors, metadata = of_safetensors(folder / name)
            ties = {
                key: first
                for key, first in metadata.items()
                if first in tensors and key not in tensors and key != "format"
            }
            found |= tensors | {key: tensors[first] for key, first in ties.items()}
        else:
            found |= of_torch(folder / name).get((), {})
    return found


def folder_difference(ours: Reading, theirs: dict[str, Value]) -> str | None:
    """What is not the same; the order is that of the shards, which nobody else keeps."""
    return _unordered(ours, theirs)


def _unordered(ours: Reading, theirs: Mapping[str, Value]) -> str | None:
    mine = {key: value for tensors in ours.tensors.values() for key, value in tensors.items()}
    return _difference({(): dict(sorted(mine.items()))}, {(): dict(sorted(theirs.items()))})


def _difference(ours: Tensors, theirs: Tensors) -> str | None:
    if ours == theirs and all(list(ours[place]) == list(theirs[place]) for place in ours):
        return None
    if ours.keys() != theirs.keys():
        return f"places: {sorted(ours)} and {sorted(theirs)}"
    place = next(place for place in ours if ours[place] != theirs[place] or list(ours[place]) != list(theirs[place]))
    if list(ours[place]) != list(theirs[place]):
        return f"keys at {place}: {list(ours[place])} and {list(theirs[place])}"
    key = next(key for key in ours[place] if ours[place][key] != theirs[place][key])
    mine, other = ours[place][key], theirs[place][key]
    field = next(name for name, a, z in zip(Value._fields, mine, other, strict=True) if a != z)
    return f"{field} of {place}/{key}: {getattr(mine, field)!r:.200} and {getattr(other, field)!r:.200}"


def of_json(path: Path) -> Any:
    """A document as Python's own parser reads it."""
    return json.loads(path.read_bytes())


def of_receipt(output: Path) -> Any:
    """The document beside an output."""
    return of_json(output.with_name(output.name + ".receipt.json"))


def manifest_difference(ours: Reading, theirs: Any) -> str | None:
    """The rows of a manifest must be its tensors, one for one."""
    rows = [(row["key"], tuple(row["shape"]), row["dtype"], row.get("tied_to")) for row in theirs["tensors"]]
    found = [(key, value.shape, value.dtype, ours.ties.get(key)) for key, value in ours.tensors[()].items()]
    return None if rows == found else f"rows: {found} and {rows}"


def receipt_difference(ours: Receipt, theirs: Any) -> str | None:
    """Every field of a receipt must be that of the document."""
    fields = {name: theirs.get(name, False) for name in Receipt._fields if name not in ("path", "tensors")}
    fields["tensors"] = [{name: row.get(name) for name in TensorReceipt._fields} for row in theirs["tensors"]]
    found = as_rows(ours._replace(path=""))
    wrong = [name for name, value in fields.items() if found[name] != value]
    return f"fields: {', '.join(wrong)}" if wrong else None


def of_yaml(path: Path) -> Any:
    """A document as PyYAML reads it."""
    import yaml

    return yaml.safe_load(path.read_bytes().decode("utf-8-sig"))


def map_difference(ours: Any, theirs: Any) -> str | None:
    """A map has as many rules and declarations as its document, and they speak of the same keys."""
    for name in ("rules", "fresh", "drop", "tie"):
        if len(getattr(ours, name)) != len(theirs.get(name) or ()):
            return f"{name}: {len(getattr(ours, name))} and {theirs.get(name)}"
    for rule, row in zip(ours.rules, theirs.get("rules") or (), strict=True):
        for mine, name in ((rule.sources, "from"), (rule.targets, "to")):
            other = row[name]
            texts = [*other.values()] if isinstance(other, dict) else other if isinstance(other, list) else [other]
            if [pattern.text for pattern in mine] != [str(text) for text in texts]:
                return f"patterns: {[pattern.text for pattern in mine]} and {texts}"
    return None if ours.description == (theirs.get("description") or "").strip() else "another description"
