"""What a hostile file is, and what it must come to: refused with a certain error, or listed and written again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tests import builders as b


@dataclass(frozen=True)
class Built:
    """Something on the disk that is more than a file of bytes: `build` makes it in a folder and says what is to be opened."""

    build: Callable[[Path], Path]


Content: TypeAlias = bytes | Callable[[], bytes] | Built


@dataclass(frozen=True)
class Refused:
    """`inspect` ends with 2 and an error of this code; `words` is a pattern found in the message, `hint` a part of the hint.

    A `costly` one is opened once, and not in the process of the tests.
    """

    content: Content
    code: str
    words: str
    hint: str = ""
    costly: bool = False


@dataclass(frozen=True)
class Listed:
    """`inspect` ends with 0 and lists these keys (or so many). `remap` writes it again as a torch file and as safetensors:
    True is that it must, False that it is not tried, a pattern is that of the error that it must give instead. `options` are
    given to it."""

    content: Content
    keys: tuple[str, ...] | int
    to_torch: bool | str = True
    to_safetensors: bool | str = True
    costly: bool = False
    options: tuple[str, ...] = ()


Case: TypeAlias = Refused | Listed
Cases: TypeAlias = Mapping[str, Case]


def corrupt(content: Content, words: str, hint: str = "", *, costly: bool = False) -> Refused:
    """A file that breaks the rules of its format."""
    return Refused(content, "corrupt-checkpoint", words, hint, costly)


def unknown(content: Content, words: str, hint: str = "") -> Refused:
    """A file of no format."""
    return Refused(content, "unknown-format", words, hint)


def over(content: Content, limit: str, words: str = "") -> Refused:
    """A file that asks for more than a limit; the hint names its flag."""
    return Refused(content, "limit-exceeded", words, f"--max-{limit} ", costly=True)


def file_of(pairs: Any, storages: dict[str, bytes] | None = None, protocol: int = 2, **others: bytes) -> bytes:
    """A torch file around a dict of opcodes."""
    return b.torch_file(b.pickled(b.dict_(pairs), protocol=protocol), storages, **others)


def torch_with(*tensors: bytes, storages: dict[str, bytes] | None = None, **others: bytes) -> bytes:
    """A torch file with these tensors under the keys t0, t1, ..."""
    return file_of({f"t{number}": tensor for number, tensor in enumerate(tensors)}, storages, **others)


W = b.text("w") + b.tensor()
"""The opcodes of a key and a tensor."""
PICKLE = b.pickled(b.dict_({"w": b.tensor()}))
GOOD = b.torch_file(PICKLE)
ROW = {"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
SAFE = b.safetensors_bytes(ROW, bytes(8))


def beside_w(*opcodes: bytes) -> bytes:
    """A torch file with these keys and values beside a tensor, in a state dict that is not the root."""
    return file_of({"state_dict": b"}(" + b"".join(opcodes) + W + b"u"})


def records(pick: Callable[[b.Record], b.Record | None]) -> bytes:
    """The good file with other records; None leaves one out."""
    return b.zip_bytes(record for record in map(pick, b.torch_records(PICKLE)) if record is not None)


def without(name: str) -> bytes:
    """The good file without a record."""
    return records(lambda record: None if record.name.endswith(name) else record)
