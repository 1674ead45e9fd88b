"""A map from a file or from a text. Everything that is wrong with it comes out as one `KeyMapError`."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path

from ckptdoctor.errors import KeyMapError, Location, Problem
from ckptdoctor.keymap.document import Mapping, Node, Scalar, compose
from ckptdoctor.keymap.kinds import Log
from ckptdoctor.keymap.language import MAP
from ckptdoctor.keymap.types import KeyMap
from ckptdoctor.keymap.values import VERSION, VERSION_NUMBER
from ckptdoctor.text import bytes_text

LARGEST = 1 << 20


def load_map(path: str | PathLike[str]) -> KeyMap:
    """The map in a YAML file.

    Raises KeyMapError with all problems, each with file, line and column; a file that cannot be read is such a problem.
    """
    name = fspath(path)
    try:
        with Path(path).open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise _unusable(name, f"cannot be read: {error.strerror}") from error
    return _parse(raw, name)


def parse_map(text: str, file: str = "<map>") -> KeyMap:
    """The map that `text` writes; `file` names it in messages.

    Raises KeyMapError with all problems.
    """
    return _parse(text.encode("utf-8", "surrogatepass"), file)


def _parse(raw: bytes, file: str) -> KeyMap:
    if len(raw) > LARGEST:
        raise _unusable(file, f"larger than {bytes_text(LARGEST)}", "a map is a page or two; is this the right file?")
    root, problems = compose(_decoded(raw, file), file)
    log = Log(problems)
    if root is None and not problems:
        log.add(Location(file, 1, 1), "", "the map is empty", f"begin with ckptdoctor: {VERSION}")
    keymap = None
    if root is not None and not _of_another_version(root, log):
        keymap = MAP.read(root, "", log)
    if keymap is None or log.problems:
        raise KeyMapError(log.problems)
    return replace(keymap, path=file, sha256=hashlib.sha256(raw).hexdigest())


def _decoded(raw: bytes, file: str) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", "replace").split("\n")
        location = Location(file, len(before), len(before[-1]) + 1)
        problem = Problem(location, f"not UTF-8: the byte 0x{raw[error.start]:02x}", "save the file as UTF-8")
        raise KeyMapError([problem]) from None


def _of_another_version(root: Node, log: Log) -> bool:
    """Whether the map is of a version that we do not know, which is then all that can be said of it."""
    version = root.items.get("ckptdoctor") if isinstance(root, Mapping) else None
    if not isinstance(version, Scalar) or version.type != "int":
        return False
    return VERSION_NUMBER.read(version, "ckptdoctor", log) is None


def _unusable(file: str, message: str, hint: str | None = None) -> KeyMapError:
    return KeyMapError([Problem(Location(file, 1, 1), message, hint)])
