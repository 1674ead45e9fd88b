"""Manifest files: the keys, shapes and dtypes of a checkpoint or a model in a small JSON file, in state-dict order."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.files import SourceFile
from ckptdoctor.formats.base import Checkpoint, Place, Probe, Reader, no_data
from ckptdoctor.formats.tensors import StoredTensor
from ckptdoctor.limits import check_metadata, longest_name
from ckptdoctor.model import DTYPES, Manifest, TensorSpec
from ckptdoctor.strictjson import StrictJsonError, loads
from ckptdoctor.text import cited

SCHEMA = "ckptdoctor/manifest/1"


def manifest_json(manifest: Manifest) -> str:
    """The text of a manifest file, one tensor a line."""
    lines = ",\n".join("    " + json.dumps(_row(spec, manifest)) for spec in manifest.values())
    return f'{{\n  "schema": "{SCHEMA}",\n  "tensors": [\n{lines}\n  ]\n}}\n'


def _row(spec: TensorSpec, manifest: Manifest) -> dict[str, Any]:
    return {
        "key": spec.stored_key,
        "shape": spec.shape,
        "dtype": spec.dtype.name,
        "kind": spec.kind,
        "tied_to": None if spec.tied_to is None else manifest[spec.tied_to].stored_key,
    }


class ManifestCheckpoint(Checkpoint):
    """A manifest in the place of a checkpoint: everything but the data."""

    format = "manifest"
    has_data = False

    def __init__(self, source: SourceFile, manifest: Manifest) -> None:
        super().__init__(source.path, source)
        self.places = {(): len(manifest)}
        self._manifest = manifest

    def manifest(self, place: Place) -> Manifest:
        """All of it."""
        return self._manifest

    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """Never there."""
        raise no_data(self)


class ManifestReader(Reader):
    """Opens the JSON files that `inspect --manifest` writes."""

    name = "manifest"

    def refusal(self, probe: Probe) -> str | None:
        """It must begin like a JSON object that names the schema."""
        if probe.is_folder or not probe.head.lstrip().startswith(b"{"):
            return "not a JSON object"
        return None if b"ckptdoctor/manifest/" in probe.head else f"no JSON with the schema {SCHEMA}"

    def open(self, path: Path) -> Checkpoint:
        """Read the whole file, which is small."""
        source = SourceFile(path)
        try:
            check_metadata(source.size, "a manifest")
            return ManifestCheckpoint(source, _parse(loads(source.read(0, source.size))))
        except StrictJsonError as error:
            source.close()
            raise CorruptCheckpoint(
                f"{path} is no valid manifest: {error}",
                path=path,
                hint="write it anew with ckptdoctor inspect --manifest",
            ) from None
        except BaseException:
            source.close()
            raise


def _parse(document: Any) -> Manifest:
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise StrictJsonError(f"the schema is not {SCHEMA}")
    rows = document.get("tensors")
    if not isinstance(rows, list):
        raise StrictJsonError("there is no list of tensors")
    specs = [_spec(row, number) for number, row in enumerate(rows)]
    try:
        manifest = Manifest(specs)
    except ValueError as error:
        raise StrictJsonError(str(error)) from None
    for spec in specs:
        first = manifest.get(spec.tied_to) if spec.tied_to is not None else None
        if spec.tied_to is not None and first is None:
            raise StrictJsonError(f"{cited(spec.key)} is tied to {cited(spec.tied_to)}, which is not there")
        if first is not None and (first.tied_to is not None or (first.dtype, first.numel) != (spec.dtype, spec.numel)):
            raise StrictJsonError(
                f"{cited(spec.key)} is tied to {cited(first.key)}, which is tied itself or of another size"
            )
    return manifest


def _spec(row: Any, number: int) -> TensorSpec:
    if not isinstance(row, dict) or not {"key", "shape", "dtype"} <= row.keys():
        raise StrictJsonError(f"tensors[{number}] has no key, shape and dtype")
    key, shape, dtype = row["key"], row["shape"], row["dtype"]
    kind: Any = row.get("kind", "unknown")
    tied_to = row.get("tied_to")
    good = (
        isinstance(key, str)
        and longest_name([key]) is None
        and isinstance(shape, list)
        and all(type(size) is int and 0 <= size < 1 << 63 for size in shape[:64])
        and len(shape) <= 64
        and isinstance(dtype, str)
        and dtype in DTYPES
        and kind in ("parameter", "buffer", "unknown")
        and (tied_to is None or isinstance(tied_to, str))
    )
    if not good:
        raise StrictJsonError(f"tensors[{number}] has a field of a wrong kind")
    return TensorSpec(key, tuple(shape), DTYPES[dtype], kind, tied_to)
