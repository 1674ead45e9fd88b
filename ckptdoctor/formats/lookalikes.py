"""Files that are given for checkpoints and are none: what they are, and what to do instead."""

from __future__ import annotations

import re

from ckptdoctor.errors import CheckpointError, UnknownFormat, UnsafeCheckpoint
from ckptdoctor.formats.base import Probe
from ckptdoctor.pickles.machine import Machine, PickleError
from ckptdoctor.pickles.parse import HANDLERS, run
from ckptdoctor.text import listing

_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run: git lfs pull"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\x1f\x8b", "a gzip file", "unpack it first (gunzip, tar xzf)"),
    (b"BZh", "a bzip2 file", "unpack it first"),
    (b"\xfd7zXZ", "an xz file", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "unpack it first"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras?)", "convert it to safetensors with the library that wrote it"),
    (b"GGUF", "a GGUF file", "convert it to safetensors with the tools of llama.cpp"),
    (b"\x93NUMPY", "a NumPy array", "save a state dict with torch.save or safetensors"),
)
_HTML = (b"<!doctype html", b"<html", b"<?xml", b"<head")


def lookalike(probe: Probe) -> CheckpointError | None:
    """The error that says what the file is, if it is something well known."""
    if probe.is_folder:
        return _folder(probe)
    if probe.head.lstrip()[:20].lower().startswith(_HTML):
        return _unknown(probe, "a web page, not a checkpoint", "the download needs a login or another address")
    for beginning, what, hint in _BEGINNINGS:
        if probe.head.startswith(beginning):
            return _unknown(probe, what, hint)
    if probe.head[257:262] == b"ustar":
        return _unknown(
            probe, "a tar archive (torch before 0.1.10 wrote such files)", "load and save it with torch once"
        )
    return _pickle(probe)


def _folder(probe: Probe) -> UnknownFormat:
    """What a folder without shards is, by what is in it."""
    names = {entry.name for entry in probe.path.iterdir()}
    if ".metadata" in names:
        return _unknown(probe, "a folder of torch.distributed.checkpoint", "convert it: see dcp_to_torch_save of torch")
    if "model_index.json" in names:
        return _unknown(probe, "a pipeline of several models", "give the folder of one of them")
    files = sorted(name for name in names if name.endswith((".ckpt", ".pt", ".pth", ".bin")))
    hint = f"give one of the files in it: {listing(files)}" if files else "give another folder, or the file itself"
    return _unknown(probe, "a folder without the weights of a model", hint)


def _unknown(probe: Probe, what: str, hint: str) -> UnknownFormat:
    return UnknownFormat(f"{probe.path} is {what}", path=probe.path, hint=hint)


def _pickle(probe: Probe) -> CheckpointError | None:
    """A bare pickle: named with what its beginning says that it would call."""
    machine = Machine(probe.head)
    try:
        run(machine, 0, HANDLERS)
        whole = True
    except PickleError:
        whole = False
    marked = re.match(rb"\x80[\0-\5]", probe.head)
    if not marked and not (whole and machine.globals):  # before protocol 2, any text may look like one
        return None
    named = f"; to load it would call {listing(machine.globals)}" if machine.globals else ""
    hint = "load it where it was written and save the state dict with torch.save"
    return UnsafeCheckpoint(f"{probe.path} is a bare pickle, not a checkpoint{named}", path=probe.path, hint=hint)
