"""What the figures were taken on."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "safetensors", "transformers", "numpy", "typer", "rich")


def facts(folder: Path, mergekit: Path) -> dict[str, object]:
    """The machine, its kernel, the file system of a folder, and versions (`mergekit` is a Python that has it)."""
    versions = {name: _version(name) for name in PACKAGES}
    versions["mergekit"] = _says(
        str(mergekit), "-c", "from importlib.metadata import version as v; print(v('mergekit'))"
    )
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _first(r"model name\s*: (.*)", Path("/proc/cpuinfo")),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": f"{platform.system()} {platform.release()}",
        "file_system": file_system(folder),
        "python": platform.python_version(),
        "cp": _says("cp", "--version"),
        "commit": _says("git", "describe", "--always", "--dirty"),
        "versions": {name: found for name, found in versions.items() if found},
    }


def file_system(folder: Path) -> str:
    """The type of the file system that a folder is on."""
    place = str(folder.resolve())
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    over = [(len(at), kind) for _, at, kind, *_ in mounts if f"{place}/".startswith(f"{at.rstrip('/')}/")]
    return max(over)[1] if over else "unknown"


def _first(pattern: str, path: Path) -> str | None:
    found = re.search(pattern, path.read_text())
    return found[1].strip() if found else None


def _says(*command: str) -> str | None:
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.splitlines()[0]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
