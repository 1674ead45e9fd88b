"""What every format gives and takes: a `Reader` recognises a file and opens it as a `Checkpoint`, a `Writer` writes tensors
and, where it can, the envelope of the checkpoint they come from. A new format is one file with a subclass of these and one
line in the table of `formats/__init__.py`; tests/contracts/test_formats.py then covers it."""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from ckptdoctor.errors import CheckpointError, UnsafeCheckpoint
from ckptdoctor.files import OutputFile, OutputFolder, Progress, SourceFile, check_output, new_file, unnoticed
from ckptdoctor.formats.tensors import OutputTensor, StoredTensor, checksum_error
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.strided import gather
from ckptdoctor.text import listing

if TYPE_CHECKING:
    from ckptdoctor.keymap import EnvelopeEdit
    from ckptdoctor.pickles.parse import Pickle
    from ckptdoctor.pickles.tensors import TensorView

Place: TypeAlias = tuple[str, ...]
"""The way from the root of a file to a mapping that holds tensors: `("state_dict",)`; `()` is the root itself."""


class Probe(NamedTuple):
    """What a reader sees of a path before it says whether it can read it."""

    path: Path
    is_folder: bool
    size: int
    head: bytes


@dataclass(slots=True)
class Written:
    """What a writer reports back: the bytes of the checkpoint, sha256 of each tensor's values (where wanted), what had to be
    left out.

    `files` are those of a folder, by name: first the weights, of which there are so many as `shards` says. `sidecars` are the
    texts of small files that belong beside the output, by what their names add to its name.
    `check` is called with the new file, opened as any other, before it takes its place; it raises OutputError.
    """

    nbytes: int
    digests: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sidecars: dict[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    shards: int = 1
    check: Callable[[Checkpoint], None] = lambda _: None


class CopyOutput(NamedTuple):
    """A copy of the weights elsewhere in the file (an average of them): the tensors that will stand at its place."""

    place: Place
    tensors: tuple[OutputTensor, ...]


class StateOutput(NamedTuple):
    """A parameter in a group of an optimizer, by number or name, and its state: that which `origin` has in the source, with
    some tensors replaced; none where `origin` is None. `name` is there for groups that list names too."""

    id: int | str
    name: str | None = None
    origin: int | str | None = None
    tensors: Mapping[str, OutputTensor] = {}


class OptimizerOutput(NamedTuple):
    """An optimizer as it will be: the way to its state dict in the source, and for each group its parameters in order."""

    way: Place
    groups: tuple[tuple[StateOutput, ...], ...]


class Beside(NamedTuple):
    """What changes with the weights, elsewhere in the file."""

    copies: tuple[CopyOutput, ...] = ()
    optimizers: tuple[OptimizerOutput, ...] = ()


class WriteOptions(NamedTuple):
    """How to write: with digests or not, what becomes of the optimizer states and of the envelope, who hears of progress.

    With `weights_only` everything around the weights is left out, and they stand where they stood. Optimizer states stay as
    they are, unless they are dropped or follow the plan; `source_model` then says order and kinds of the source's
    parameters. `execute` fills in `envelope_edits` and `beside`.
    """

    digests: bool = True
    drop_optimizer: bool = False
    weights_only: bool = False
    progress: Progress = unnoticed
    envelope_edits: tuple[EnvelopeEdit, ...] = ()
    follow_optimizer: bool = False
    source_model: Manifest | None = None
    beside: Beside = Beside()
    shard_size: int | None = None
    link: bool = False


class Checkpoint(ABC):
    """An opened file. `places` are the mappings that directly hold tensors, with the number of these."""

    format: ClassVar[str]
    has_data: ClassVar[bool] = True
    has_envelope: ClassVar[bool] = False
    places: Mapping[Place, int]
    metadata: Mapping[str, str]
    notes: tuple[str, ...] = ()
    """What whoever reads it should know."""

    def __init__(self, path: Path, *files: SourceFile) -> None:
        self.path = path
        self.files = files
        self.metadata = {}
        self._intact: set[tuple[SourceFile, str]] = set()

    @property
    def parts(self) -> Sequence[Checkpoint]:
        """The checkpoints that this one consists of, one a file."""
        return [self]

    @property
    def pickles(self) -> Sequence[Pickle]:
        """The pickles in it, parsed."""
        return ()

    @property
    def nbytes(self) -> int:
        """Bytes of the whole checkpoint on disk."""
        return sum(file.size for file in self.files)

    @abstractmethod
    def manifest(self, place: Place) -> Manifest:
        """The tensors directly at a place, in order, with their keys as in the file; raises CheckpointError."""

    @abstractmethod
    def stored(self, place: Place) -> Mapping[str, StoredTensor]:
        """The tensors at a place, by key; raises CheckpointError where the file holds no data."""

    def stored_view(self, spec: TensorSpec, view: TensorView) -> StoredTensor:
        """A tensor of the file's pickle, wherever it stands, as one whose values can be read."""
        raise TypeError(f"{self.format} files hold no pickle")

    def values(self, tensor: StoredTensor) -> Iterator[bytes]:
        """The elements in row-major order, packed, little-endian, a chunk at a time.

        The checksum of the storage is checked, where one is on record; raises CorruptCheckpoint.
        """
        start, memory = tensor.start(), (tensor.file, tensor.storage)
        chunks = gather(tensor.file, start, tensor.extent, tensor.layout, big_endian=tensor.big_endian)
        if not tensor.crc or memory in self._intact:
            return chunks
        if tensor.fills_storage:
            return self._checked(chunks, tensor)
        self.check_storage(tensor)
        return chunks

    def fill(self, buffer: memoryview, tensor: StoredTensor) -> None:
        """Write the same into a buffer of their size."""
        known = not tensor.crc or (tensor.file, tensor.storage) in self._intact
        if tensor.as_it_lies and (known or tensor.fills_storage):
            span = tensor.span()
            span.file.read_into(buffer, span.offset)
            if not known and zlib.crc32(buffer) != tensor.crc:
                raise checksum_error(tensor.file.path, tensor.storage)
            return
        at = 0
        for chunk in self.values(tensor):
            buffer[at : at + len(chunk)] = chunk
            at += len(chunk)

    def check_storage(self, tensor: StoredTensor) -> None:
        """Compare the checksum of a tensor's storage with the one on record, once; raises CorruptCheckpoint."""
        if tensor.crc and (tensor.file, tensor.storage) not in self._intact:
            for _ in self._checked(tensor.file.chunks(tensor.start(), tensor.extent), tensor):
                pass

    def _checked(self, chunks: Iterator[bytes], tensor: StoredTensor) -> Iterator[bytes]:
        crc = 0
        for chunk in chunks:
            crc = zlib.crc32(chunk, crc)
            yield chunk
        if crc != tensor.crc:
            raise checksum_error(tensor.file.path, tensor.storage)
        self._intact.add((tensor.file, tensor.storage))

    def others(self, place: Place) -> list[str]:
        """Keys at a place whose values are no dense tensors (`_extra_state`, sparse tensors, ...)."""
        return []

    def has_optimizer(self, place: Place) -> bool:
        """Whether optimizer states lie beside the weights at a place."""
        return False

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        for file in self.files:
            file.close()

    def check_unchanged(self) -> None:
        """Raise CorruptCheckpoint if a file was written to since it was opened."""
        for file in self.files:
            file.check_unchanged()


class Envelope(NamedTuple):
    """Where the tensors come from: the opened source, and the place in it whose weights are replaced."""

    source: Checkpoint
    place: Place


class Reader(ABC):
    """Recognises and opens one format."""

    name: ClassVar[str]

    @abstractmethod
    def refusal(self, probe: Probe) -> str | None:
        """None if this looks like the reader's format, else why not, in a few words."""

    @abstractmethod
    def open(self, path: Path) -> Checkpoint:
        """Open for reading; raises CheckpointError where the file is damaged."""


Output = TypeVar("Output", OutputFile, OutputFolder)


class Writer(ABC, Generic[Output]):
    """Writes one format. `suffixes` are the endings of names that ask for it."""

    name: ClassVar[str]
    suffixes: ClassVar[tuple[str, ...]] = ()
    keeps_envelope: ClassVar[bool] = False
    takes_shard_size: ClassVar[bool] = False
    at_once: ClassVar[int] = 1
    """How many tensors may be in memory at a time."""

    @abstractmethod
    def destination(self, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
        """The real path to write to, if it may be written; raises OutputError with the reason if not."""

    @abstractmethod
    def opened(self, place: Path, final: Path) -> AbstractContextManager[Output]:
        """The output, made at `place` and synced at the end of the `with`; it will stand at `final`."""

    @abstractmethod
    def write(
        self, output: Output, tensors: Sequence[OutputTensor], origin: Envelope, options: WriteOptions
    ) -> Written:
        """Write the tensors, and what else the source holds around them as far as the format can hold it."""


class FileWriter(Writer[OutputFile]):
    """Writes a format of one file."""

    def destination(self, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
        """A regular file, or a place for one."""
        return check_output(path, overwrite=overwrite)

    def opened(self, place: Path, final: Path) -> AbstractContextManager[OutputFile]:
        """A new file."""
        return new_file(place, final)


def unsafe_copy(path: str | os.PathLike[str], harm: Iterable[str]) -> UnsafeCheckpoint:
    """The error for an output that would hold what does harm when it is unpickled."""
    return UnsafeCheckpoint(
        f"{path} would call {listing(harm)} if it were unpickled, and so would a copy of what is in it",
        path=path,
        hint="inspect says where; --weights-only leaves it out, and so does a map that drops it (envelope: {drop: ...})",
    )


def no_data(checkpoint: Checkpoint) -> CheckpointError:
    """The error for reading tensors where there are none."""
    return CheckpointError(
        f"{checkpoint.path} is a manifest: it lists tensors and holds none of their data",
        path=checkpoint.path,
        hint="give the checkpoint itself",
    )
