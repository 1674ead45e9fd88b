"""Files that are given for checkpoints and are none."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tarfile
from typing import Any

import pytest

from tests import builders as b
from tests.security.corpus.cases import GOOD, ROW, Cases, Refused, corrupt, file_of, unknown


class Runs:
    """Pickled, it runs a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch canary",)


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"), io.BytesIO(b""))
    return file.getvalue()


def _scripted_module() -> bytes:
    torch = pytest.importorskip("torch")

    class Tiny(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.w

    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(Tiny(), torch.ones(2)), file)
    return file.getvalue()


def _whole_module() -> bytes:
    torch = pytest.importorskip("torch")
    file = io.BytesIO()
    torch.save(torch.nn.Linear(2, 2), file)
    return file.getvalue()


PADDED = b.pickled(b.call("os.system", b.text("true")), b"0", b.text("x" * 10_000))
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def _unsafe(content: Any, words: str) -> Refused:
    return Refused(content, "unsafe-checkpoint", words, "torch.save")


def _no_weights(content: Any, words: str) -> Refused:
    return Refused(content, "no-state-dict", words, "inspect")


LOOKALIKES: Cases = {
    "a web page": unknown(b"<!DOCTYPE html><html><body>log in</body></html>", "web page", "login"),
    "a web page after line breaks": unknown(b"\n\n  <html>\n", "web page", "login"),
    "an XML error": unknown(b'<?xml version="1.0"?><Error>AccessDenied</Error>', "web page", "address"),
    "a Git LFS pointer": unknown(LFS, "Git LFS", "git lfs pull"),
    "gzip": unknown(gzip.compress(GOOD), "gzip", "unpack"),
    "7z": unknown(b"7z\xbc\xaf\x27\x1c" + bytes(50), "7z", "unpack"),
    "bzip2": unknown(b"BZh9" + bytes(50), "bzip2", "unpack"),
    "xz": unknown(b"\xfd7zXZ\0" + bytes(50), "xz", "unpack"),
    "zstd": unknown(b"\x28\xb5\x2f\xfd" + bytes(50), "zstd", "unpack"),
    "tar": unknown(_tar, "tar archive", "torch"),
    "HDF5": unknown(b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5", "safetensors"),
    "GGUF": unknown(b"GGUF\x03\0\0\0" + bytes(50), "GGUF", "llama.cpp"),
    "NumPy": unknown(b"\x93NUMPY\x01\0" + bytes(50), "NumPy", "torch.save"),
    "TorchScript": unknown(_scripted_module, "TorchScript", "state_dict"),
    "TorchScript in name only": unknown(
        b.zip_bytes([*b.torch_records(b"N."), b.Record("archive/constants.pkl", b"N.")]), "TorchScript", "state_dict"
    ),
    "a zip file of something else": unknown(
        b.zip_bytes([b.Record("folder/readme.txt", b"hello")]), "data.pkl", "unpacked"
    ),
    "an empty zip file": unknown(b.zip_bytes([]), "known format", "torch.save"),
    "one byte": unknown(b"\x80", "known format", "torch.save"),
    "text": unknown(b"hello\n", "known format", "torch.save"),
    "zeros": unknown(bytes(5000), "known format", "torch.save"),
    "JSON of something else": unknown(b'{"hello": [1, 2]}', "known format", "manifests"),
    "a bare pickle that runs a program": _unsafe(lambda: pickle.dumps(Runs(), 2), "call (posix|nt).system"),
    "a bare pickle of protocol 0": _unsafe(lambda: pickle.dumps(Runs(), 0), "call (posix|nt).system"),
    "a bare pickle of protocol 4": _unsafe(lambda: pickle.dumps(Runs(), 4), "call (posix|nt).system"),
    "a bare pickle that is longer than what is looked at": _unsafe(PADDED, "call os.system"),
    "a bare pickle of plain values": _unsafe(lambda: pickle.dumps({"a": 1}, 2), "bare pickle, not a checkpoint$"),
    "a bare pickle cut": _unsafe(b"\x80\x02cos\nsystem\n(X", "call os.system"),
    "empty": corrupt(b"", "is empty", "download it again"),
    "half a torch file": corrupt(GOOD[: len(GOOD) // 2], "truncated", "truncated: copy or download it again"),
    "half a safetensors file": corrupt(b.safetensors_bytes(ROW, b"123"), "ends", "download it again"),
    "half a safetensors header": corrupt(b.safetensors_bytes(ROW)[:30], "ends", "download it again"),
    "a module saved whole": _no_weights(_whole_module, "torch.nn.modules.linear.Linear"),
    "a file without tensors": _no_weights(file_of({"epoch": b"K\1"}, {}), "no state dict"),
    "nothing but an optimizer": _no_weights(file_of({"optimizer": b.dict_({"m": b.tensor()})}), "no state dict"),
}
