"""What to say about a reference that is of no kind: most are paths with a typo, or names with a dot for the colon."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ckptdoctor.errors import TargetNotFound
from ckptdoctor.text import printable

from .settings import files_like


def not_found(reference: str, forms: Iterable[str]) -> TargetNotFound:
    """The error for a reference that no kind recognises."""
    path = Path(reference)
    if reference and path.is_dir():  # a package: other folders are taken for checkpoints
        what, hint = "is a package", f"name a class in it, as in {_dotted(path)}:Name"
    elif re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*\.[A-Z]\w*", reference):
        module, _, name = reference.rpartition(".")
        what, hint = "is no file", f"did you mean {module}:{name}?"
    else:
        what, hint = "does not exist", files_like(path) or f"a target is one of {', '.join(forms)}"
    return TargetNotFound(f"{printable(reference)} {what}", reference=reference, hint=hint)


def _dotted(path: Path) -> str:
    return printable(".".join(part for part in path.parts if part not in ("/", "..")))
