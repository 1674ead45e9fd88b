"""A file system that shares blocks: identity and rename on an XFS or btrfs in a loop-mounted file, beside `cp --reflink=never`.

    python -m benchmarks.reflinks [--size 1GB] [--rounds 5]

Needs root, a loop device and mkfs.xfs (xfsprogs) or mkfs.btrfs (btrfs-progs) on PATH; what is missing is said.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks import data, rivals
from benchmarks.harness import Options, alone, out_folder, remap, rewrite
from benchmarks.measure import Process
from benchmarks.results import Bar, Work

WHEN = ("never", "always")
NEVER = "cp --reflink=never"
BARS = [Bar(0.05, NEVER)]
MAPS = {"rename": rivals.RENAME, "identity": '  - {from: "{*key}", to: "{*key}"}\n'}
MAKERS = {"xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"), "btrfs": ("mkfs.btrfs", "-q")}
AT_LEAST = 500_000_000
"""Bytes below which mkfs refuses."""


class NotHere(Exception):
    """What the machine does not allow."""


def measure(options: Options, folder: Path) -> Iterator[Work]:
    try:
        with mounted(folder, int(2.1 * options.size) + AT_LEAST) as (kind, place):
            for name in MAPS:
                yield on(place, name, f"{name}, safetensors, on {kind} with reflinks", options)
    except NotHere as error:
        yield Work("identity and rename on a file system with reflinks", not_run=str(error))


def on(place: Path, name: str, title: str, options: Options) -> Work:
    with data.made(place / "model.safetensors", "safetensors_file", options.size) as source:
        out = out_folder(source) / source.name
        copies = [Process(f"cp --reflink={when}", ["cp", f"--reflink={when}", source, out]) for when in WHEN]
        processes = [remap(source, MAPS[name], out), *copies]
        return rewrite(title, source, processes, BARS, options, baseline=NEVER)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[tuple[str, Path]]:
    """The kind and the place of a fresh file system in a sparse file, with everything undone afterwards."""
    kind = next((kind for kind, (program, *_) in MAKERS.items() if shutil.which(program)), None)
    if kind is None:
        raise NotHere("neither mkfs.xfs nor mkfs.btrfs is installed")
    image, place = folder / "image", folder / "mounted"
    place.mkdir()
    with image.open("wb") as file:
        os.truncate(file.fileno(), size)
    device = said("losetup", "--direct-io=on", "--find", "--show", image)  # or its pages would be in memory twice
    try:
        said(*MAKERS[kind], device)
        said("mount", device, place)
        try:
            yield kind, place
        finally:
            said("umount", place)
    finally:
        said("losetup", "--detach", device)
        image.unlink()


def said(*command: str | Path) -> str:
    """What a command prints; raises NotHere with what it says instead."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except OSError as error:
        raise NotHere(f"{command[0]}: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise NotHere(f"{command[0]}: {error.stderr.strip() or f'status {error.returncode}'}") from None


if __name__ == "__main__":
    alone(measure, __doc__)
