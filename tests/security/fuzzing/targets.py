"""The formats as they are fuzzed: good files, changes, our reader, the reference, and what must be the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from ckptdoctor.keymap import load_map
from ckptdoctor.receipt import read_receipt
from tests.security.fuzzing import mutations, ours, references, seeds
from tests.security.fuzzing.seeds import Files

Mutate = Callable[[Random, Sequence[Files]], Files]


@dataclass(frozen=True)
class Target:
    """A format. `read` and `reference` take the path of the mutant; `difference` compares what they return.

    `second` is another reference for every fourth mutant, `rewrite` says that an identity is written of every sixteenth.
    `least` is the share of mutants that both readers must accept, so that there is something to compare, and `least_new` of
    those among them that hold something else than any good file.
    """

    name: str
    seeds: Callable[[], tuple[Files, ...]]
    mutate: Mutate
    read: Callable[[Path], Any]
    reference: Callable[[Path], Any]
    difference: Callable[[Any, Any], str | None]
    second: Callable[[Path], Any] | None = None
    rewrite: bool = False
    path: str = ""
    least: float = 0.1
    least_new: float = 0.02

    def mutant(self, seed: int, number: int) -> Files:
        """The files of one mutant: the same for the same numbers, whatever was made before."""
        random = Random(f"{self.name} {seed} {number}")
        return self.mutate(random, self.seeds())

    def readings(self, folder: Path) -> list[Any]:
        """What we read in the good files, for which an empty folder is needed."""
        found = []
        for number, files in enumerate(self.seeds()):
            (folder / str(number)).mkdir()
            found.append(self.read(self.write(folder / str(number), files)))
        return found

    def write(self, folder: Path, files: Files) -> Path:
        """The mutant in an empty folder; the path that is to be opened."""
        for name, data in files.items():
            (folder / name).write_bytes(data)
        return folder / (self.path or next(iter(files))) if self.path != "." else folder


TORCH = Target(
    "torch", seeds.torch_zips, mutations.mutate_zip, ours.read_checkpoint, references.of_torch, references.torch_difference,
    second=lambda path: references.of_torch(path, mmap=True), rewrite=True,
)  # fmt: skip
LEGACY = Target(
    "torch-legacy", seeds.torch_rows, mutations.mutate_row, ours.read_checkpoint,
    references.of_torch, references.torch_difference, rewrite=True,
)  # fmt: skip
SAFETENSORS = Target(
    "safetensors", seeds.safetensors, mutations.mutate_safetensors, ours.read_checkpoint,
    references.of_safetensors, references.safetensors_difference, rewrite=True,
)  # fmt: skip
FOLDERS = Target(
    "sharded", seeds.folders, mutations.mutate_folder, ours.read_checkpoint, references.of_folder, references.folder_difference,
    rewrite=True, path=".",
)  # fmt: skip
MANIFESTS = Target(
    "manifest", seeds.manifests, mutations.mutate_json, ours.read_checkpoint, references.of_json, references.manifest_difference
)  # fmt: skip
RECEIPTS = Target(
    "receipt", seeds.receipts, mutations.mutate_json, read_receipt,
    references.of_receipt, references.receipt_difference, path="out",
)  # fmt: skip
MAPS = Target("map", seeds.maps, mutations.mutate_yaml, load_map, references.of_yaml, references.map_difference)
