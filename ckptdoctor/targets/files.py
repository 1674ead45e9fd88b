"""A checkpoint or a manifest file as the target: what lies on disk is what has to be filled. Runs no user code."""

from __future__ import annotations

from pathlib import Path

from ckptdoctor.errors import UsageError
from ckptdoctor.model import Manifest
from ckptdoctor.source import read_manifest
from ckptdoctor.text import listing

from .base import TargetArguments, TargetResolver

_CODE = (".py", ".yaml", ".yml")


class FileResolver(TargetResolver):
    """Whatever exists and is neither code nor a config; the formats say what it is."""

    name = "file"
    forms = ("model.ckpt", "manifest.json")

    def recognise(self, reference: str) -> bool:
        """Whether a file or folder is there that is not Python, YAML or a package. Configs in JSON are asked first."""
        path = Path(reference)
        return bool(reference) and path.exists() and path.suffix not in _CODE and not (path / "__init__.py").exists()

    def resolve(self, reference: str, arguments: TargetArguments) -> Manifest:
        """Its manifest. Raises CheckpointError where it is none that can be read."""
        if arguments.keywords:
            raise UsageError(
                f"{reference} is a file with tensors: it takes no arguments ({listing(arguments.keywords)})",
                hint="arguments are for a class: pkg.mod:Name or path/file.py:Name",
            )
        return read_manifest(reference)
