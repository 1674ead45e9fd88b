"""The pickles at the beginning of a torch file from before 1.6, with the object's graph in the form that zip files have today.

Three things are different in the old form: a text may be a `str` of Python 2, a class of a module is a reference that brings
its source code along, and a reference to a storage may mean a part of it.
"""

from __future__ import annotations

from typing import NamedTuple

from ckptdoctor.files import SourceFile
from ckptdoctor.limits import OverLimit, limits
from ckptdoctor.pickles.machine import Handler, Machine, PickleError
from ckptdoctor.pickles.nodes import ByteString, CallNode, DictNode, Node, PersistentNode
from ckptdoctor.pickles.objects import binpersid
from ckptdoctor.pickles.parse import HANDLERS, Pickle, parse
from ckptdoctor.pickles.tensors import storage_of, view_of
from ckptdoctor.pickles.values import counted, quoted, text_line

MAGIC = 0x1950A86A20F9469CFC6C
_BRIEF = 1 << 14
VERSION = 1001
_WINDOWS = (1 << 20, 1 << 25)
"""Bytes in which the pickles are looked for, one size after the other, and at last as many as metadata may have: nothing in the
file says how long they are."""


class Row(NamedTuple):
    """The object's pickle, the keys of the storages in order, and where these begin; whether a little-endian machine wrote
    them, and all pickles in the row."""

    contents: Pickle
    keys: list[str]
    end: int
    little_endian: bool
    pickles: tuple[Pickle, ...]


def begins_row(head: bytes) -> bool:
    """Whether the first pickle is the magic number, in whatever protocol."""
    try:
        _expect(MAGIC, parse(head), "magic number")
    except PickleError:
        return False
    return True


def read_row(source: SourceFile) -> Row:
    """Parse the pickles, without reading much of what follows them; raises PickleError."""
    before = ""
    most = limits().metadata
    for window in (*(window for window in _WINDOWS if window < most), most):
        size = min(window, source.size)
        try:
            return _parse_row(source.read(0, size))
        except PickleError as error:  # malformed, or longer than the window
            if size == source.size or (str(error) == before and "early" not in before):
                raise
            before = str(error)
    if "early" in before:
        raise OverLimit("metadata", f"its pickles do not end within {most:,} bytes")
    raise PickleError(before)


def _parse_row(data: bytes) -> Row:
    magic, at = _brief(data, 0, "magic number")
    _expect(MAGIC, magic, "magic number")
    version, at = _brief(data, at, "protocol version")
    _expect(VERSION, version, "protocol version")
    machine, at = _brief(data, at, "record of its machine")
    contents = parse(data, at, table=_HANDLERS)
    keys = parse(data, contents.end, table=_HANDLERS)
    _join_storage_views(contents)
    return Row(
        contents, _keys(keys.root), keys.end, _little_endian(machine.root), (contents, magic, version, machine, keys)
    )


def _brief(data: bytes, start: int, what: str) -> tuple[Pickle, int]:
    """One of the pickles that are never long, and where it ends."""
    try:
        pickle = parse(data[start : start + _BRIEF], table=_HANDLERS)
    except PickleError as error:
        if "early" in str(error) and len(data) > start + _BRIEF:
            raise PickleError(f"its {what} is longer than {_BRIEF:,} bytes") from None
        raise
    return pickle, start + pickle.end


def _expect(number: int, pickle: Pickle, what: str) -> None:
    if type(pickle.root) is not int or pickle.root != number:
        raise PickleError(f"its {what} is not {number}")


def _little_endian(machine: Node) -> bool:
    pairs = machine.pairs if isinstance(machine, DictNode) else []
    flag = next((value for key, value in pairs if isinstance(key, str) and key == "little_endian"), None)
    if not isinstance(flag, bool):
        raise PickleError("it does not say which byte order its machine had")
    return flag


def _keys(node: Node) -> list[str]:
    if not isinstance(node, list) or not all(isinstance(key, str) for key in node) or len(set(node)) != len(node):
        raise PickleError("its list of storages is no list of different keys")
    return node


def _text(raw: bytes) -> str | ByteString:
    """A `str` of Python 2: torch.load reads it as UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return ByteString(raw)


def _reference(m: Machine, at: int) -> int:
    """Classes of modules are references too here, with their source code; what is wanted is the class."""
    pid = m.stack[-1]
    if isinstance(pid, tuple) and len(pid) == 4 and isinstance(pid[0], str) and pid[0] == "module":
        m.discards, m.stack[-1] = True, pid[1]
        return at
    return binpersid(m, at)


def _table() -> list[Handler]:
    """The opcodes as in any pickle, but for the texts of Python 2 and the references."""
    table = list(HANDLERS)
    table[ord("T")], table[ord("U")] = counted("<i", _text), counted("<B", _text)
    table[ord("S")], table[ord("Q")] = text_line(lambda raw: _text(quoted(raw))), _reference
    return table


_HANDLERS = _table()


def _join_storage_views(pickle: Pickle) -> None:
    """References with five parts, as zip files have them, in the place of six.

    The sixth, which only the first years of torch filled, says that the storage was a part of a larger one. Then the tensors
    on it become views of that larger one. Raises PickleError where such a part stands by itself.
    """
    joined = set()
    for call in pickle.calls:
        stored = call.arguments[0] if call.arguments else None
        if isinstance(stored, PersistentNode) and _storage_view(stored) is not None:
            _join(call, stored)
            joined.add(id(stored))
    for node in pickle.persistent:
        if _storage_view(node) is not None and id(node) not in joined:
            raise PickleError("a part of a storage that belongs to no tensor")
    for node in {id(node): node for node in pickle.persistent}.values():
        node.pid = node.pid[:5]


def _storage_view(node: PersistentNode) -> tuple[Node, ...] | None:
    """Key, offset and size, in elements, of a part of a storage."""
    if not isinstance(node.pid, tuple) or len(node.pid) != 6:
        raise PickleError("a reference to something outside the file that is no storage")
    part = node.pid[5]
    if part is None or (isinstance(part, tuple) and len(part) == 3):
        return part
    raise PickleError("a part of a storage without key, offset and size")


def _join(call: CallNode, stored: PersistentNode) -> None:
    _, offset, size = _storage_view(stored) or ()
    storage, view = storage_of(stored), view_of(call)
    if storage is None or view is None or type(offset) is not int or type(size) is not int:
        raise PickleError("a part of a storage without a tensor")
    if not 0 <= offset <= offset + size <= storage.numel or view.layout.reach > size:
        raise PickleError(f"a tensor reaches beyond its part of storage {storage.key}")
    call.arguments = (stored, view.layout.offset + offset, *call.arguments[2:])
