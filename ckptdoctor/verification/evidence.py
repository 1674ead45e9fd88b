"""What the checks look at: the opened output, its receipt, its source, the target, and what was read of them already.

`gather` opens everything that can be had before the first check runs, so that a mistyped path is told at once. What is not
there is no error here: `no_source` and `no_record` say in a few words why, and the checks that need it are skipped with these.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdoctor.errors import CkptDoctorError, NoStateDict, UsageError
from ckptdoctor.files import Progress, SourceFile, unnoticed
from ckptdoctor.formats.base import no_data
from ckptdoctor.formats.tensors import StoredTensor, sha256_of
from ckptdoctor.health import TensorHealth, health_of
from ckptdoctor.model import Manifest
from ckptdoctor.receipt import Receipt, find_receipt, read_receipt, receipt_path
from ckptdoctor.source import OpenSource, open_source
from ckptdoctor.text import printable
from ckptdoctor.verification.types import Check
from ckptdoctor.wrappers import stripped

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


@dataclass
class Side:
    """An opened checkpoint with the keys under which its tensors are spoken of."""

    opened: OpenSource
    manifest: Manifest
    progress: Progress = unnoticed
    as_it_lies: bool = False
    """Whether values come without a look at the checksums, which would raise: they are a check of their own."""

    @cached_property
    def stored(self) -> Mapping[str, StoredTensor]:
        """The tensors as they lie in the file, by their keys in the file."""
        return self.opened.envelope.source.stored(self.opened.envelope.place)

    @property
    def format(self) -> str:
        """The name of the format."""
        return self.opened.envelope.source.format

    def memory(self, key: str) -> tuple[SourceFile, str]:
        """The storage that holds a tensor, and the file it is in; equal ones, shared memory."""
        stored = self.stored[self.manifest[key].stored_key]
        return stored.file, stored.storage

    def chunks(self, key: str) -> Iterator[bytes]:
        """The values, packed and little-endian, a chunk at a time."""
        checkpoint = self.opened.envelope.source
        stored = self.stored[self.manifest[key].stored_key]
        for chunk in checkpoint.values(stored._replace(crc=0) if self.as_it_lies else stored):
            self.progress(len(chunk))
            yield chunk

    def digest(self, key: str) -> str:
        """The sha256 of the values; a tied tensor is read once."""
        first = self.manifest[key].tied_to or key
        if first not in self._digests:
            self._digests[first] = sha256_of(self.chunks(first))
        return self._digests[first]

    @cached_property
    def _digests(self) -> dict[str, str]:
        return {}

    @cached_property
    def values(self) -> Mapping[str, TensorHealth]:
        """What reading every tensor once tells: the sha256 of its values, NaN and infinities, whether it is one value."""
        found: dict[str, TensorHealth] = {}
        for key, spec in self.manifest.items():
            found[key] = found[spec.tied_to] if spec.tied_to in found else health_of(spec.dtype, self.chunks(key))
        return found


@dataclass
class Evidence:
    """All that the checks look at; `found` are the checks that were made already."""

    path: Path
    output: Side
    receipt: Receipt | None = None
    receipt_error: str | None = None
    source: Side | None = None
    no_source: str = ""
    target: Manifest | None = None
    module: nn.Module | None = None
    strip: Sequence[str] | None = None
    found: dict[str, Check] = field(default_factory=dict)

    @property
    def record(self) -> Receipt | None:
        """The receipt, if it is one of this file."""
        return self.receipt if self.found["receipt"].passed else None

    @property
    def no_record(self) -> str:
        """Why there is none."""
        return self.found["receipt"].text if self.found["receipt"].passed is None else "the receipt is not of this file"

    def beside(self, path: str) -> Path | None:
        """What the receipt names: from the working directory, as when it was written, or from the output's folder."""
        for candidate in (Path(path), self.path.parent / path):
            try:
                if candidate.exists():
                    return candidate
            except (OSError, ValueError):  # a name that no file can have
                continue
        return None


@contextmanager
def gather(
    output: str | os.PathLike[str],
    against: str | os.PathLike[str] | None,
    selected: str | None,
    see: Progress,
) -> Iterator[Evidence]:
    """Open the output, its receipt and its source; raises CheckpointError for the output and for `against`."""
    receipt, error = _receipt(output)
    recorded = receipt.source["selected"] if receipt is not None else None
    with ExitStack() as files:
        opened = files.enter_context(_open(Path(output), selected, recorded))
        evidence = Evidence(Path(output), Side(opened, opened.manifest, see, as_it_lies=True), receipt, error)
        source = _recorded_source(evidence, see) if against is None else _named_source(evidence, Path(against), see)
        if isinstance(source, Side):
            evidence.source = source
            files.enter_context(source.opened)
        else:
            evidence.no_source = source
        yield evidence


def _receipt(output: str | os.PathLike[str]) -> tuple[Receipt | None, str | None]:
    """The receipt, or what is wrong with what lies in its place, or neither."""
    try:
        return (read_receipt(output) if find_receipt(output) is not None else None), None
    except CkptDoctorError as error:
        return None, error.message


def _open(path: Path, selected: str | None, recorded: str | None) -> OpenSource:
    """Open a checkpoint with tensors in it: those at `selected`, else at the place on record if the file has it."""
    try:
        opened = open_source(path, selected=recorded if selected is None else selected)
    except NoStateDict:
        if selected is not None or recorded is None:
            raise
        opened = open_source(path)
    if not opened.envelope.source.has_data:
        opened.__exit__()
        raise no_data(opened.envelope.source)
    return opened


def _named_source(evidence: Evidence, against: Path, see: Progress) -> Side | str:
    if evidence.receipt is None and evidence.receipt_error is None:
        raise UsageError(
            f"there is no {receipt_path(evidence.path)}, and nothing else says which tensor came of which of {against}",
            hint="verify without --against, or write the output again with remap",
        )
    side = _source(evidence, against, see)
    if against.samefile(evidence.path):
        side.opened.__exit__()
        raise UsageError(f"{against} is the output itself", hint="name the checkpoint that it was made from")
    return side


def _recorded_source(evidence: Evidence, see: Progress) -> Side | str:
    """The source that the receipt names, if it is still the file it was then; else why not."""
    if evidence.receipt is None:
        return "no receipt names it"
    recorded = evidence.receipt.source
    name, path = printable(recorded["reference"]), evidence.beside(recorded["reference"])
    if path is None:
        return f"{name} is gone"
    try:
        side = _source(evidence, path, see)
    except CkptDoctorError as error:
        return f"{name} cannot be used any more: {error.message}"
    if (side.manifest.origin.nbytes, side.manifest.fingerprint) != (recorded["bytes"], recorded["fingerprint"]):
        side.opened.__exit__()
        return f"{name} is another file now"
    return side


def _source(evidence: Evidence, path: Path, see: Progress) -> Side:
    """A checkpoint, with its keys as the receipt speaks of them."""
    recorded = evidence.receipt.source if evidence.receipt is not None else {}
    opened = _open(path, None, recorded.get("selected"))
    try:
        return Side(opened, stripped(opened.manifest, recorded.get("stripped", ())), see)
    except BaseException:
        opened.__exit__()
        raise


def check_unchanged(evidence: Evidence) -> None:
    """Raise CorruptCheckpoint if a file was written to while it was read."""
    for side in (evidence.output, evidence.source):
        if side is not None:
            side.opened.envelope.source.check_unchanged()
