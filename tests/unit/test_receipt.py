"""Receipts go to a file and come back as they were; whatever else lies there is refused with the place of the fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptdoctor.errors import CheckpointNotFound, CorruptCheckpoint
from ckptdoctor.receipt import SCHEMA, Receipt, TensorReceipt, read_receipt, receipt_json, receipt_path

SOURCE = {
    "reference": "base.ckpt",
    "kind": "torch",
    "bytes": 123,
    "selected": "state_dict",
    "stripped": ["module"],
    "fingerprint": "f" * 64,
}


def receipt(path: Path, *tensors: TensorReceipt, **fields: Any) -> Receipt:
    rows = tensors or (
        TensorReceipt("module.a", "a", "renamed", ("b",), (), (2, 3), "float32", "0" * 64),
        TensorReceipt("module.c", "c", "computed", ("d", "e"), ("cast(float16)",), (), "float16", None),
        TensorReceipt("module.t", "t", "tied", (), (), (2, 3), "float32", "0" * 64, tied_to="module.a"),
    )
    values: dict[str, Any] = {
        "path": str(path),
        "tool": {"ckptdoctor": "0.1.0"},
        "command": ("remap", "base.ckpt", "-o", str(path)),
        "source": SOURCE,
        "output": {"format": "torch", "bytes": 456},
        "target": None,
        "maps": ({"path": "m.yaml", "sha256": "1" * 64},),
        "tensors": rows,
        "random": ("new",),
        "notes": ("a note",),
    }
    return Receipt(**(values | fields))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "new.ckpt"


def write(output: Path, text: str | bytes) -> None:
    receipt_path(output).write_bytes(text.encode() if isinstance(text, str) else text)


def test_what_is_written_is_read_back(output: Path) -> None:
    for made in (
        receipt(output),
        receipt(output, target={"reference": "m:Net", "kind": "module"}),
        receipt(output, TensorReceipt('\ud800 "\n层', "x", "loaded", ("x",), (), (0,), "bool", "a" * 64)),
        receipt(output)._replace(tensors=(), random=(), maps=()),
        receipt(output, source=SOURCE | {"bytes": None, "selected": None, "stripped": []}),
    ):
        write(output, receipt_json(made))
        assert read_receipt(output) == made


def test_fields_that_a_later_version_adds_are_let_be(output: Path) -> None:
    document = json.loads(receipt_json(receipt(output)))
    document["later"] = document["tensors"][0]["later"] = document["source"]["later"] = {"x": 1}
    write(output, json.dumps(document))
    assert read_receipt(output) == receipt(output)._replace(source=SOURCE | {"later": {"x": 1}})


def test_a_missing_one(output: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"new\.ckpt\.receipt\.json"):
        read_receipt(output)


def test_one_behind_a_link_to_the_output_is_found(tmp_path: Path, output: Path) -> None:
    output.write_bytes(b"x")
    write(output, receipt_json(receipt(output)))
    link = tmp_path / "best.ckpt"
    link.symlink_to(output)
    assert read_receipt(link)._replace(path=str(output)) == receipt(output)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1, column 1"),
        ("{]", "line 1, column 2"),
        (b"\xff\xfe", "not UTF-8"),
        ("[]", "no object"),
        ("null", "no object"),
        ("{}", "schema"),
        ('{"schema": "ckptdoctor/manifest/1"}', "schema"),
        ('{"schema": "ckptdoctor/receipt/2"}', "ckptdoctor/receipt/2"),
        ('{"schema": ["x"]}', "schema"),
        ('{"schema": "a", "schema": "b"}', "stands twice"),
        ('{"schema": NaN}', "NaN"),
        ("[" * 100_000, "nested deeper"),
    ],
)
def test_what_is_no_receipt(output: Path, text: str | bytes, said: str) -> None:
    write(output, text)
    with pytest.raises(CorruptCheckpoint) as caught:
        read_receipt(output)
    assert said in caught.value.message
    assert "new.ckpt.receipt.json" in caught.value.message
    assert caught.value.hint


def changed(**fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(fields)


def in_part(part: str, **fields: object) -> Callable[[dict[str, Any]], None]:
    return lambda document: (document[part][0] if part in ("tensors", "maps") else document[part]).update(fields)


def without(*way: str) -> Callable[[dict[str, Any]], None]:
    def remove(document: dict[str, Any]) -> None:
        part = document
        for name in way[:-1]:
            part = part[name][0] if isinstance(part[name], list) else part[name]
        del part[way[-1]]

    return remove


@pytest.mark.parametrize(
    ("change", "said"),
    [
        *(
            (without(name), name)
            for name in ("tool", "command", "source", "output", "target", "maps", "random", "notes")
        ),
        (without("tensors"), "tensors"),
        *((without("source", name), f"source/{name}") for name in ("reference", "bytes", "selected", "stripped")),
        *((without("tensors", name), f"tensors[0]/{name}") for name in ("key", "target", "sources", "shape", "sha256")),
        (changed(tool=[]), "tool"),
        (changed(command="remap"), "command"),
        (changed(random=[1]), "random"),
        (changed(target="m:Net"), "target"),
        (changed(target={}), "target"),
        (changed(tensors={}), "tensors"),
        (changed(tensors=[3]), "tensors[0]"),
        (changed(maps=["m.yaml"]), "maps[0]"),
        (in_part("maps", sha256=None), "maps[0]/sha256"),
        (in_part("source", bytes="1"), "source/bytes"),
        (in_part("source", bytes=True), "source/bytes"),
        (in_part("source", stripped="module"), "source/stripped"),
        (in_part("output", format=None), "output/format"),
        (in_part("output", bytes=-1), "output/bytes"),
        (in_part("tensors", key=1), "tensors[0]/key"),
        (in_part("tensors", shape=[-1]), "tensors[0]/shape"),
        (in_part("tensors", shape=[1.0]), "tensors[0]/shape"),
        (in_part("tensors", shape=[1] * 65), "tensors[0]/shape"),
        (in_part("tensors", dtype="float33"), "tensors[0]/dtype"),
        (in_part("tensors", dtype=[]), "tensors[0]/dtype"),
        (in_part("tensors", sha256="0" * 63), "tensors[0]/sha256"),
        (in_part("tensors", sha256="G" * 64), "tensors[0]/sha256"),
        (in_part("tensors", tied_to=1), "tensors[0]/tied_to"),
        (in_part("tensors", tied_to="nowhere"), "nowhere"),
        (in_part("tensors", key="module.c"), "module.c"),
        (in_part("tensors", target="c"), "the target 'c' stands in it 2 times"),
        (changed(random=["a"]), "the target 'a' stands in it 2 times"),
    ],
)
def test_a_field_that_is_missing_or_of_a_wrong_kind_is_named(
    output: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    document = json.loads(receipt_json(receipt(output)))
    change(document)
    write(output, json.dumps(document))
    with pytest.raises(CorruptCheckpoint) as caught:
        read_receipt(output)
    assert said in caught.value.message


def test_the_name_and_the_schema(output: Path) -> None:
    assert receipt_path(output).name == "new.ckpt.receipt.json"
    assert json.loads(receipt_json(receipt(output)))["schema"] == SCHEMA
