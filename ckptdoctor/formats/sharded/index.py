"""The index of a sharded checkpoint: JSON with `weight_map`, key -> file, and `metadata`, where `total_size` counts bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.files import SourceFile
from ckptdoctor.limits import check_metadata, longest_name
from ckptdoctor.strictjson import StrictJsonError, loads
from ckptdoctor.text import cited


class Index(NamedTuple):
    """What an index says: the keys in each file, files in the order of their names."""

    path: Path
    files: Mapping[str, list[str]]
    metadata: Mapping[str, Any]

    @property
    def total_size(self) -> int | None:
        """Bytes of all tensors, if it says so; some tools write it as a float."""
        size = self.metadata.get("total_size")
        if size is None:
            return None
        if isinstance(size, bool) or not isinstance(size, int | float) or size != int(size):
            raise invalid(self.path, "its total_size is no count of bytes")
        return int(size)


def read_index(path: Path) -> Index:
    """Parse an index; raises CorruptCheckpoint."""
    try:
        with SourceFile(path) as source:
            check_metadata(source.size, "an index")
            document = loads(source.read(0, source.size))
    except StrictJsonError as error:
        raise invalid(path, str(error)) from None
    weights = document.get("weight_map") if isinstance(document, dict) else None
    metadata = document.get("metadata") or {} if isinstance(document, dict) else {}
    if not isinstance(weights, dict) or set(map(type, weights.values())) != {str}:
        raise invalid(path, "there is no weight_map from keys to names of files")
    if not isinstance(metadata, dict):
        raise invalid(path, "its metadata is no mapping")
    if (long := longest_name([*weights, *weights.values()])) is not None:
        raise invalid(path, f"{cited(long)} is too long for a name")
    files: dict[str, list[str]] = {name: [] for name in sorted(set(weights.values()))}
    for key, name in weights.items():
        files[name].append(key)
    return Index(path, files, metadata)


def index_json(weight_map: Mapping[str, str], metadata: Mapping[str, Any]) -> str:
    """The text of an index, as transformers writes it."""
    document = {"metadata": dict(metadata), "weight_map": dict(weight_map)}
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def invalid(path: Path, what: str) -> CorruptCheckpoint:
    """The error for an index that is none."""
    hint = "copy or download it again, or give the shard that you want"
    return CorruptCheckpoint(f"{path} is no valid index: {what}", path=path, hint=hint)
