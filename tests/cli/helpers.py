"""Run the command line as its users do, and make the small files it is run on. None of it needs torch."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests import builders

Shapes = Mapping[str, Sequence[int]]

_SCRIPT = Path(sys.executable).with_name("ckptdoctor")
COMMAND = [str(_SCRIPT)] if _SCRIPT.exists() else [sys.executable, "-m", "ckptdoctor"]


class Done(NamedTuple):
    """How a run ended."""

    status: int
    stdout: str
    stderr: str


def environment(**more: str) -> dict[str, str]:
    """The environment of this process without what would change the output, and with `more`."""
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHONUTF8", "PYTHONIOENCODING")
    return {name: value for name, value in os.environ.items() if name not in dropped} | more


def run(*args: object, cwd: Path, command: Sequence[str] = COMMAND, timeout: float = 60, **more: Any) -> Done:
    """Run to the end, in a folder. `env` adds to the environment; other keywords go to subprocess."""
    env = environment(**more.pop("env", {}))
    words = [*command, *map(str, args)]
    done = subprocess.run(words, cwd=cwd, env=env, capture_output=True, timeout=timeout, check=False, **more)
    stdout, stderr = (stream.decode("utf-8", "surrogateescape") for stream in (done.stdout, done.stderr))
    return Done(done.returncode, stdout, stderr)


def start(*args: object, cwd: Path, command: Sequence[str] = COMMAND) -> subprocess.Popen[str]:
    """Begin a run and leave it going."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *map(str, args)], cwd=cwd, env=environment(), text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def manifest_file(path: Path, shapes: Shapes, *, kind: str = "parameter", dtype: str = "float32") -> Path:
    rows = [
        {"key": key, "shape": list(shape), "dtype": dtype, "kind": kind, "tied_to": None}
        for key, shape in shapes.items()
    ]
    path.write_text(json.dumps({"schema": "ckptdoctor/manifest/1", "tensors": rows}))
    return path


def safetensors_file(path: Path, shapes: Shapes) -> Path:
    """float32 tensors whose elements count up through the whole file."""
    header, data = {}, b""
    for key, shape in shapes.items():
        values = _values(len(data) // 4, shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    path.write_bytes(builders.safetensors_bytes(header, data))
    return path


def torch_checkpoint(path: Path, shapes: Shapes) -> Path:
    """What `torch.save({"epoch": 3, "state_dict": ...})` writes, the elements as above."""
    tensors, storages = {}, {}
    for number, (key, shape) in enumerate(shapes.items()):
        values = _values(sum(map(len, storages.values())) // 4, shape)
        stride = [len(_values(0, shape[axis + 1 :])) // 4 for axis in range(len(shape))]
        stored = builders.storage(str(number), numel=len(values) // 4)
        tensors[key] = builders.tensor(stored, shape=shape, stride=stride)
        storages[str(number)] = values
    root = builders.dict_({"epoch": builders.number(3), "state_dict": builders.dict_(tensors)})
    path.write_bytes(builders.torch_file(builders.pickled(root), storages))
    return path


def map_file(path: Path, *rules: tuple[str, str], **declared: str) -> Path:
    """A map of renames, with `fresh` and `drop`; every entry has a line of its own."""
    lines = ["ckptdoctor: 1", *(["rules:"] if rules else [])]
    lines += [f"  - {{from: {json.dumps(source)}, to: {json.dumps(target)}}}" for source, target in rules]
    for name, keys in declared.items():
        lines += [f"{name}:", f"  - {{keys: {json.dumps(keys)}, why: because}}"]
    path.write_text("\n".join(lines) + "\n")
    return path


def _values(first: int, shape: Sequence[int]) -> bytes:
    count = 1
    for size in shape:
        count *= size
    return struct.pack(f"<{count}f", *range(first, first + count))
