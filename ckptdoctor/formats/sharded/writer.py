"""Writes a folder of shards with its index, two files at a time. The index comes last: without it nothing looks complete.

Tensors stay in the shard they were in, and shards keep their names, where the source is such a folder and nobody asks for
another size. What else lies in the source's folder for its readers (configuration, tokenizer, code) comes along.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from contextvars import copy_context
from pathlib import Path
from typing import NamedTuple

from ckptdoctor.files import OutputFolder, Progress, SourceFile, Span, check_output_folder, new_folder
from ckptdoctor.formats import WRITERS
from ckptdoctor.formats.base import Checkpoint, Envelope, WriteOptions, Writer, Written
from ckptdoctor.formats.sharded.index import index_json
from ckptdoctor.formats.sharded.layout import INDEX, SAFETENSORS, TORCH, file_names
from ckptdoctor.formats.sharded.reader import ShardedCheckpoint
from ckptdoctor.formats.sharded.tensors import Tensors, unchanged
from ckptdoctor.formats.sidecar import keep_envelope
from ckptdoctor.formats.tensors import OutputTensor, sha256_of
from ckptdoctor.receipt import written_files
from ckptdoctor.text import listing

SHARD_SIZE = 5_000_000_000
_COMPANIONS = (".json", ".txt", ".model", ".jinja", ".py", ".md", ".yaml", ".yml", ".tiktoken", ".spm", ".bpe")
_OF_TRAINING = ("trainer_state.json", "training_args.json")


class _Shard(NamedTuple):
    name: str
    tensors: tuple[OutputTensor, ...]


class ShardedWriter(Writer[OutputFolder]):
    """Writes a folder of safetensors files."""

    name = SAFETENSORS.name
    family = SAFETENSORS
    takes_shard_size = True
    at_once = 2

    def destination(self, path: str | os.PathLike[str], *, overwrite: bool) -> Path:
        """A folder that is not there yet, or empty; or one that a receipt says was written by us, and by nobody else."""
        return check_output_folder(path, replaceable=written_files(path) if overwrite else None)

    def opened(self, place: Path, final: Path) -> AbstractContextManager[OutputFolder]:
        """A new folder."""
        return new_folder(place, final)

    def write(
        self, output: OutputFolder, tensors: Sequence[OutputTensor], origin: Envelope, options: WriteOptions
    ) -> Written:
        """Shards, companions, index."""
        source = origin.source
        shards = self._shards(tensors, source, options.shard_size)
        written = Written(0, files=tuple(shard.name for shard in shards), shards=len(shards))
        together = _Together(options.progress)
        watched = options._replace(progress=together.progress)
        with ThreadPoolExecutor(self.at_once) as workers, together:
            tasks = [
                workers.submit(
                    copy_context().run, self._write_shard, output, shard, origin, watched
                )  # limits hold there too
                for shard in shards
            ]
            for task in as_completed(tasks):
                task.result()
        for part in (task.result() for task in tasks):
            written.digests |= part.digests
            written.notes += part.notes
            written.nbytes += part.nbytes
        self._bring_companions(output, source, written)
        if len(shards) > 1:
            self._write_index(output, shards, source, written)
        if source.has_envelope:
            keep_envelope(written, self.name, origin, options)
        return written

    def _shards(self, tensors: Sequence[OutputTensor], source: Checkpoint, size: int | None) -> list[_Shard]:
        keeps = isinstance(source, ShardedCheckpoint) and size is None
        parts = _as_they_lie(tensors, source) if keeps else _by_size(tensors, size or SHARD_SIZE)
        stem = source.stem if isinstance(source, ShardedCheckpoint) else self.family.stem
        if stem in (SAFETENSORS.stem, TORCH.stem):
            stem = self.family.stem
        suffix, count = self.family.suffix, len(parts)
        if count < 2:
            return [_Shard(stem + suffix, tuple(part)) for part in parts] or [_Shard(stem + suffix, ())]
        return [
            _Shard(f"{stem}-{number:05d}-of-{count:05d}{suffix}", tuple(part)) for number, part in enumerate(parts, 1)
        ]

    def _write_shard(self, output: OutputFolder, shard: _Shard, origin: Envelope, options: WriteOptions) -> Written:
        same = unchanged(shard.tensors, origin.source, self.family) if options.link else None
        if same is not None and output.link(same.path, shard.name):
            return Written(same.nbytes, _digests(shard.tensors, same) if options.digests else {})
        inner = Envelope(Tensors(origin.source), ())
        with output.file(shard.name) as file:
            return WRITERS[self.family.shards[0]].write(file, shard.tensors, inner, options)

    def _bring_companions(self, output: OutputFolder, source: Checkpoint, written: Written) -> None:
        """Copy what readers of the source's folder look for beside the weights; say what did not come along."""
        if not isinstance(source, ShardedCheckpoint):
            return
        names = [name for name in file_names(source.folder) if not source.is_weights(name)]
        coming = [name for name in names if name.endswith(_COMPANIONS) and name not in _OF_TRAINING]
        for name in coming:
            with SourceFile(source.folder / name) as companion, output.file(name) as file:
                file.append(Span(companion, 0, companion.size))
        written.files += tuple(coming)
        if staying := [name for name in names if name not in coming]:
            written.notes.append(f"left out: {listing(staying, limit=12)}")

    def _write_index(
        self, output: OutputFolder, shards: Sequence[_Shard], source: Checkpoint, written: Written
    ) -> None:
        stem = shards[0].name.rpartition("-of-")[0].rpartition("-")[0]
        name = stem + self.family.suffix + INDEX
        weight_map = {tensor.key: shard.name for shard in shards for tensor in shard.tensors}
        specs = [tensor.spec for shard in shards for tensor in shard.tensors if tensor.tied_to is None]
        metadata = dict(source.index.metadata) if isinstance(source, ShardedCheckpoint) and source.index else {}
        metadata["total_size"] = sum(spec.nbytes for spec in specs)
        if "total_parameters" in metadata:
            metadata["total_parameters"] = sum(spec.numel for spec in specs)
        output.put(name, index_json(weight_map, metadata))
        written.files += (name,)


class TorchShardsWriter(ShardedWriter):
    """Writes a folder of torch files."""

    name = TORCH.name
    family = TORCH


class _Together:
    """Workers that stop together: what ends one of them ends the others at their next step."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._cause: BaseException | None = None

    def progress(self, count: int) -> None:
        """To be told of every step of every worker."""
        if self._cause is not None:
            raise InterruptedError
        with self:
            self._progress(count)

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self._cause = self._cause or error
            raise self._cause


def _as_they_lie(tensors: Sequence[OutputTensor], source: Checkpoint) -> list[list[OutputTensor]]:
    """One part for each file of the source; what comes from no file goes with what stands before it."""
    parts: dict[int, list[OutputTensor]] = {id(file): [] for file in source.files}
    home, homes = id(source.files[0]), dict[str, int]()
    for tensor in tensors:
        home = homes[tensor.tied_to] if tensor.tied_to in homes else id(tensor.home) if tensor.home else home
        homes[tensor.key] = home
        parts[home].append(tensor)
    return [part for part in parts.values() if part]


def _by_size(tensors: Iterable[OutputTensor], size: int) -> list[list[OutputTensor]]:
    """Parts of at most so many bytes, in order; a tensor that is larger has one of its own. What is tied stays together."""
    parts: list[list[OutputTensor]] = []
    homes: dict[str, list[OutputTensor]] = {}
    full = size
    for tensor in tensors:
        if tensor.tied_to in homes:
            homes[tensor.tied_to].append(tensor)
            continue
        if not parts or (full + tensor.spec.nbytes > size and parts[-1]):
            parts.append([])
            full = 0
        parts[-1].append(tensor)
        full += tensor.spec.nbytes
        homes[tensor.key] = parts[-1]
    return parts


def _digests(tensors: Sequence[OutputTensor], shard: Checkpoint) -> dict[str, str]:
    return {tensor.key: sha256_of(shard.values(tensor.stored)) for tensor in tensors if tensor.stored is not None}
