"""The receipt beside an output: what was written, of what, by which map and version, with a digest of every tensor.

`receipt_json` writes one, `read_receipt` reads it back and believes nothing: a field that is used later is checked here, in the
tables at the end of this file. Fields that a later version adds are let be.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from ckptdoctor.errors import CheckpointError, CorruptCheckpoint, LimitExceeded, UsageError
from ckptdoctor.files import SourceFile
from ckptdoctor.limits import OverLimit, check_metadata
from ckptdoctor.model import DTYPES
from ckptdoctor.strictjson import StrictJsonError, loads
from ckptdoctor.text import cited

SCHEMA = "ckptdoctor/receipt/1"
RECEIPT_BEGINS = f'{{\n  "schema": "{SCHEMA}"'
"""How the text of every receipt begins, so that one can be told from what is none."""
RECEIPT_SUFFIX = ".receipt.json"


class TensorReceipt(NamedTuple):
    """One tensor of the output: its key in the file and in the target, how it came to be, and the sha256 of its values.

    The digest is over the elements in row-major order, little-endian; it is None where digests were left out. `note` is
    what an op had to say: how much a cast rounded.
    """

    key: str
    target: str
    status: str
    sources: tuple[str, ...]
    ops: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    sha256: str | None
    tied_to: str | None = None
    note: str | None = None


class Receipt(NamedTuple):
    """What `execute` did. `tool` holds versions, `source` and `output` describe the files, `random` are left-out targets.

    `reverse` says that the maps were gone back: they make the source of the output.
    """

    path: str
    tool: Mapping[str, str]
    command: tuple[str, ...]
    source: Mapping[str, Any]
    output: Mapping[str, Any]
    target: Mapping[str, Any] | None
    maps: tuple[Mapping[str, str], ...]
    tensors: tuple[TensorReceipt, ...]
    random: tuple[str, ...]
    notes: tuple[str, ...]
    reverse: bool = False


def receipt_path(output: str | os.PathLike[str]) -> Path:
    """`new.ckpt` has its receipt in `new.ckpt.receipt.json`."""
    path = Path(output)
    return path.with_name(path.name + RECEIPT_SUFFIX)


def receipt_json(receipt: Receipt) -> str:
    """The text of a receipt file, one tensor a line."""
    head = {
        "schema": SCHEMA,
        "tool": dict(receipt.tool),
        "command": list(receipt.command),
        "source": dict(receipt.source),
        "output": dict(receipt.output),
        "target": None if receipt.target is None else dict(receipt.target),
        "maps": [dict(row) for row in receipt.maps],
        "random": list(receipt.random),
        "notes": list(receipt.notes),
        "reverse": receipt.reverse,
    }
    rows = ",\n".join("    " + json.dumps(_row(tensor)) for tensor in receipt.tensors)
    return json.dumps(head, indent=2)[:-2] + f',\n  "tensors": [\n{rows}\n  ]\n}}\n'


def _row(tensor: TensorReceipt) -> dict[str, Any]:
    return tensor._asdict()


def find_receipt(output: str | os.PathLike[str]) -> Path | None:
    """The receipt of a file: beside the path as it was given, or beside what that links to; None if there is none."""
    beside = (receipt_path(output), receipt_path(os.path.realpath(output)))
    return next((path for path in beside if os.path.exists(path)), None)  # noqa: PTH110 - no error for a name too long


def read_receipt(output: str | os.PathLike[str]) -> Receipt:
    """The receipt of the file `output`, which itself is not looked at.

    Raises CheckpointNotFound where there is none, CorruptCheckpoint where what is there is no receipt.
    """
    path = find_receipt(output) or receipt_path(output)
    with SourceFile(path) as file:
        try:
            check_metadata(file.size, "a receipt")
            return _receipt(loads(file.read(0, file.size)), os.fspath(output))
        except StrictJsonError as error:
            hint = "remap writes one anew with the output; without the file, what it said is not checked"
            raise CorruptCheckpoint(f"{path} is no receipt: {error}", path=path, hint=hint) from None
        except OverLimit as over:
            raise LimitExceeded(f"{path}: {over}", path=path, hint=over.hint) from None


def check_not_again(source: str | os.PathLike[str], maps: Mapping[str, str], *, reverse: bool = False) -> None:
    """Raise UsageError where a receipt shows that a checkpoint is what one of these maps (sha256 -> path) has made.

    With `reverse` it is the way back that was gone already. The receipt counts if it is one of this file, by its size; one
    that cannot be read says nothing.
    """
    try:
        if not maps or find_receipt(source) is None:
            return
        receipt = read_receipt(source)
        size = _size(Path(source), receipt)
    except (CheckpointError, OSError, ValueError):  # whoever reads the file says what is wrong with it
        return
    for row in receipt.maps:
        if row["sha256"] in maps and receipt.output["bytes"] == size and receipt.reverse == reverse:
            way = "the reverse of " if reverse else ""
            raise UsageError(
                f"{os.fspath(source)} is what {way}{maps[row['sha256']]} made of {receipt.source['reference']} already",
                hint="give the checkpoint it was made of; to apply the map once more, say --again",
            )


def written_files(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """The files that a receipt says were written into a folder; none where there is no receipt of it."""
    try:
        return tuple(read_receipt(folder).output.get("files", ()))
    except (CheckpointError, ValueError):
        return ()


def _size(path: Path, receipt: Receipt) -> int:
    """Bytes of a checkpoint: of the file, or of the shards in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    output = receipt.output
    return sum((path / name).stat().st_size for name in output.get("files", ())[: output.get("shards", 0)])


def _receipt(document: Any, output: str) -> Receipt:
    if not isinstance(document, dict):
        raise StrictJsonError("it is no object")
    if document.get("schema") != SCHEMA:
        raise StrictJsonError(f"its schema is not {SCHEMA} but {document.get('schema')!r:.60}")
    document.setdefault("reverse", False)  # older ones do not say
    _check(document, _HEAD, "")
    for name, fields in _PARTS.items():
        _check(document[name], fields, f"{name}/")
    _check(
        document["output"], {name: fits for name, fits in _OF_FOLDERS.items() if name in document["output"]}, "output/"
    )
    for name, fields in _ROWS.items():
        for number, row in enumerate(document[name]):
            _check(row, fields, f"{name}[{number}]/")
    tensors = tuple(_tensor(row) for row in document["tensors"])
    _check_keys(tensors, document["random"])
    return Receipt(
        path=output,
        tool=document["tool"],
        command=tuple(document["command"]),
        source=document["source"],
        output=document["output"],
        target=document["target"],
        maps=tuple(document["maps"]),
        tensors=tensors,
        random=tuple(document["random"]),
        notes=tuple(document["notes"]),
        reverse=document["reverse"],
    )


def _check(part: Any, fields: Mapping[str, _Fits], where: str) -> None:
    if part is None and where == "target/":
        return
    if not isinstance(part, dict):
        raise StrictJsonError(f"{where.rstrip('/')} is no object")
    for name, fits in fields.items():
        if name not in part or not fits(part[name]):
            raise StrictJsonError(f"{where}{name} is {'of a wrong kind' if name in part else 'missing'}")


def _tensor(row: Mapping[str, Any]) -> TensorReceipt:
    values: Iterable[Any] = (row.get(name) for name in TensorReceipt._fields)
    return TensorReceipt._make(tuple(value) if isinstance(value, list) else value for value in values)


def _check_keys(tensors: tuple[TensorReceipt, ...], random: Iterable[str]) -> None:
    keys = Counter(tensor.key for tensor in tensors)
    for key, times in keys.items():
        if times > 1:
            raise StrictJsonError(f"the tensor {cited(key)} stands in it {times} times")
    targets = Counter([*(tensor.target for tensor in tensors), *random])
    for key, times in targets.items():
        if times > 1:
            raise StrictJsonError(f"the target {cited(key)} stands in it {times} times")
    for tensor in tensors:
        if tensor.tied_to is not None and tensor.tied_to not in keys:
            raise StrictJsonError(f"{cited(tensor.key)} is tied to {cited(tensor.tied_to)}, which is not there")


_Fits: TypeAlias = Callable[[Any], bool]


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _shape(value: Any) -> bool:
    return _list(value) and len(value) <= 64 and all(map(_count, value))


def _digest(value: Any) -> bool:
    return _text(value) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _or_none(fits: _Fits) -> _Fits:
    return lambda value: value is None or fits(value)


_HEAD: Mapping[str, _Fits] = {
    **dict.fromkeys(("tool", "source", "output"), _object),
    **dict.fromkeys(("command", "random", "notes"), _texts),
    **dict.fromkeys(("maps", "tensors"), _list),
    "target": _or_none(_object),
    "reverse": lambda value: isinstance(value, bool),
}
_PARTS: Mapping[str, Mapping[str, _Fits]] = {
    "source": {
        **{"reference": _text, "bytes": _or_none(_count), "selected": _or_none(_text)},
        **{"stripped": _texts, "fingerprint": _text},
    },
    "output": {"format": _text, "bytes": _count},
    "target": {"reference": _text},
}
_OF_FOLDERS: Mapping[str, _Fits] = {"files": _texts, "shards": _count}
_ROWS: Mapping[str, Mapping[str, _Fits]] = {
    "maps": {"path": _text, "sha256": _digest},
    "tensors": {
        **dict.fromkeys(("key", "target", "status"), _text),
        **dict.fromkeys(("sources", "ops"), _texts),
        **{"shape": _shape, "dtype": lambda value: _text(value) and value in DTYPES},
        **{"sha256": _or_none(_digest), "tied_to": _or_none(_text)},
    },
}
