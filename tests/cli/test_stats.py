"""`ckptdoctor inspect --stats` as its users run it, and what `verify` shows of the health of the numbers."""

from __future__ import annotations

import json
import math
import re
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import builders
from tests.cli.helpers import Done, manifest_file, map_file, run, safetensors_file

NAN, INF = math.nan, math.inf
ODD: Mapping[str, Sequence[float]] = {
    **{f"blocks.{i}.weight": [0.02, -0.5, 1e-3 * i, 0.25] for i in range(3)},
    **{f"blocks.{i}.bias": [0.0] * 4 for i in range(3)},
    "norm.weight": [1.0] * 4,
    "mask": [0.0, -INF, -INF, 1.0],
    "broken": [NAN, NAN, 3.0, INF],
    "large": [65504.0, 65520.0, -1e6, 1.0],
    "tiny": [1e-9, -1e-10, 0.0, 3e-12],
    "few": [1e-9, -1.0, 0.0, 3e-12],
    "ema.0": [0.02, -0.5, 0.0, 0.25],
}


def floats(path: Path, tensors: Mapping[str, Sequence[float]]) -> Path:
    """A safetensors file of float32 vectors."""
    header: dict[str, Any] = {}
    data = b""
    for key, values in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        header[key] = {"dtype": "F32", "shape": [len(values)], "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    path.write_bytes(builders.safetensors_bytes(header, data))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    floats(tmp_path / "odd.safetensors", ODD)
    safetensors_file(tmp_path / "good.safetensors", {"a": (2, 3), "b": (4,)})
    manifest_file(tmp_path / "list.json", {"a": (2, 3)})
    return tmp_path


def table(done: Done, first: str) -> list[list[str]]:
    """The cells of the table whose head begins so."""
    lines = done.stdout.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith(first))
    return [re.split(r"\s{2,}", line) for line in lines[start + 1 : lines.index("", start)]]


def test_the_tables(folder: Path) -> None:
    done = run("inspect", "odd.safetensors", "--stats", cwd=folder)
    assert done.status == 0
    assert table(done, "FOUND") == [
        ["2 infinite", "mask", "4", "float32", "1"],
        ["2 NaN, 1 infinite", "broken", "4", "float32", "1"],
        ["all 0", "blocks.{0..2}.bias", "4", "float32", "3"],
        ["all 1", "norm.weight", "4", "float32", "1"],
        ["same bytes (1)", "blocks.0.weight", "4", "float32", "1"],
        ["same bytes (1)", "ema.0", "4", "float32", "1"],
    ]
    assert table(done, "CAST TO") == [  # float8_e4m3fn has no infinities
        ["float16", "2 overflow", "large", "1"],
        ["float16", "all 3 become 0", "tiny", "1"],
        ["float16", "2 become 0", "few", "1"],
        ["float8_e4m3fn", "6 overflow", "{broken,large,mask}", "3"],
        ["float8_e4m3fn", "all 3 become 0", "tiny", "1"],
        ["float8_e5m2", "3 overflow", "large", "1"],
        ["float8_e5m2", "all 3 become 0", "tiny", "1"],
    ]
    assert done.stdout.rstrip().endswith(
        "; NaN or infinities in 2 tensors, 4 tensors of one value, 2 tensors with the bytes of another, "
        "1 tensor would overflow in float16"
    )
    assert done.stderr == "warning: 2 NaN, 3 infinite in 2 tensors: {broken,mask}\n"
    quiet = run("inspect", "odd.safetensors", "--stats", "-q", cwd=folder)
    assert (quiet.stdout, quiet.stderr) == (done.stdout.rstrip().split("\n")[-1] + "\n", "")


def test_a_file_of_which_nothing_is_to_be_said(folder: Path) -> None:
    done = run("inspect", "good.safetensors", "--stats", cwd=folder)
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith(" on disk; no NaN and no infinity")
    assert "FOUND" not in done.stdout
    assert "CAST TO" not in done.stdout
    plain = run("inspect", "good.safetensors", cwd=folder).stdout
    assert plain.rstrip() + "; no NaN and no infinity\n" == done.stdout


def test_every_key_has_a_row_of_its_own(folder: Path) -> None:
    rows = table(run("inspect", "odd.safetensors", "--stats", "--all", cwd=folder), "FOUND")
    assert [row[1] for row in rows if row[0] == "all 0"] == [f"blocks.{i}.bias" for i in range(3)]


def test_json(folder: Path) -> None:
    done = run("inspect", "odd.safetensors", "--stats", "-f", "json", cwd=folder)
    report = json.loads(done.stdout)
    rows = {row.pop("key"): row for row in report["health"]["tensors"]}
    assert sorted(rows) == sorted(ODD) == [*rows]
    assert report["health"]["identical"] == [["blocks.0.weight", "ema.0"]]
    large, few = rows["large"], rows["few"]
    assert len(large.pop("sha256")) == 64
    assert {name: large[name] for name in ("nan", "infinite", "constant", "zero")} == {
        **{"nan": 0, "infinite": 0, "constant": None, "zero": False},
    }
    assert large["casts"]["float16"] == {"overflow": 2, "to_zero": 0, "vanishes": False}
    assert large["casts"]["bfloat16"] == {"overflow": 0, "to_zero": 0, "vanishes": False}
    assert few["casts"]["float8_e5m2"] == {"overflow": 0, "to_zero": None, "vanishes": False}
    assert rows["tiny"]["casts"]["float8_e5m2"] == {"overflow": 0, "to_zero": 3, "vanishes": True}
    assert (rows["broken"]["nan"], rows["broken"]["infinite"]) == (2, 1)
    assert (rows["norm.weight"]["constant"], rows["blocks.1.bias"]["zero"]) == ("1", True)
    plain = json.loads(run("inspect", "odd.safetensors", "-f", "json", cwd=folder).stdout)
    assert plain == {name: value for name, value in report.items() if name != "health"}


def test_markdown_and_reports(folder: Path) -> None:
    words = ("inspect", "odd.safetensors", "--stats", "-f", "markdown", "--report", "json=h.json")
    done = run(*words, cwd=folder)
    assert "| all 1 | norm.weight | 4 | float32 | 1 |" in done.stdout
    assert "> **warning:** 2 NaN, 3 infinite in 2 tensors: {broken,mask}" in done.stdout
    assert json.loads((folder / "h.json").read_text())["health"]["identical"]


def test_eighty_columns_are_enough(folder: Path) -> None:
    long = ".".join(["a_rather_long_name_of_a_module"] * 4)
    floats(folder / "long.safetensors", {f"{long}.{key}": values for key, values in ODD.items()})
    done = run("inspect", "long.safetensors", "--stats", cwd=folder, env={"COLUMNS": "80"})
    assert done.status == 0
    assert max(map(len, done.stdout.split("\n"))) <= 80
    assert done.stdout.replace("\n", "").count("2 NaN, 1 infinite") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["list.json"], "list.json is a list of tensors without them"),
        (
            ["torch.nn:Linear", "--target-arg", "in_features=2", "--target-arg", "out_features=2"],
            "torch.nn:Linear is a list",
        ),
        (["lost.safetensors"], "there is no file lost.safetensors"),
    ],
)
def test_where_there_are_no_values(folder: Path, words: list[str], said: str) -> None:
    done = run("inspect", *words, "--stats", cwd=folder)
    assert (done.status, done.stdout) == (2, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    if said.endswith("them"):
        assert "hint: give a checkpoint, or leave --stats out" in done.stderr


def test_the_chosen_weights_under_their_short_names(folder: Path) -> None:
    weights = {f"_orig_mod.{key}": builders.tensor(builders.storage(str(n))) for n, key in enumerate(("a", "b"))}
    root = builders.dict_({"ema": builders.dict_(weights), "state_dict": builders.dict_({"c": builders.tensor()})})
    storages = {"0": struct.pack("<4f", 1, 2, 3, 4), "1": bytes(16)}
    (folder / "two.ckpt").write_bytes(builders.torch_file(builders.pickled(root), storages))
    done = run("inspect", "two.ckpt", "--stats", "--select", "ema", cwd=folder)
    assert table(done, "FOUND") == [["all 0", "b", "4", "float32", "1"]]
    report = json.loads(run("inspect", "two.ckpt", "--stats", "--select", "ema", "-f", "json", cwd=folder).stdout)
    assert [row["key"] for row in report["health"]["tensors"]] == ["a", "b"]


def test_a_damaged_file_is_an_error(folder: Path) -> None:
    root = builders.dict_({"state_dict": builders.dict_({"a": builders.tensor()})})
    values = struct.pack("<4f", 1, 2, 3, 4)
    data = bytearray(builders.torch_file(builders.pickled(root), {"0": values}))
    data[data.index(values)] ^= 1
    (folder / "damaged.ckpt").write_bytes(data)
    assert run("inspect", "damaged.ckpt", cwd=folder).status == 0
    done = run("inspect", "damaged.ckpt", "--stats", cwd=folder)
    assert (done.status, done.stdout) == (2, "")
    assert "do not match their checksum" in done.stderr


def test_neither_torch_nor_numpy_is_imported(folder: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ckptdoctor"]
    done = run("inspect", "odd.safetensors", "--stats", cwd=folder, command=command)
    names = set(re.findall(r"^import time: .*\| +([A-Za-z][\w.]*)", done.stderr, re.MULTILINE))
    assert done.status == 0
    assert "ckptdoctor.health" in names
    assert names & {"torch", "numpy", "safetensors"} == set()
    plain = run("inspect", "odd.safetensors", cwd=folder, command=command).stderr
    assert "ckptdoctor.health" not in plain, "who does not ask does not pay"


def test_verify_shows_it_and_fails_nothing_for_it(folder: Path) -> None:
    floats(folder / "some.safetensors", {key: ODD[key] for key in ("norm.weight", "blocks.0.weight", "ema.0")})
    map_file(folder / "map.yaml", ("norm.{p}", "ln.{p}"))
    assert run("remap", "some.safetensors", "-m", "map.yaml", "-o", "out.safetensors", cwd=folder).status == 0
    done = run("verify", "out.safetensors", cwd=folder)
    assert (done.status, done.stderr) == (0, "")
    assert [row[:2] for row in table(done, "FOUND")] == [
        ["all 1", "ln.weight"],
        ["same bytes (1)", "blocks.0.weight"],
        ["same bytes (1)", "ema.0"],
    ]
    report = json.loads(run("verify", "out.safetensors", "-f", "json", cwd=folder).stdout)
    assert [row["constant"] for row in report["health"]["tensors"]] == [None, None, "1"]
    assert report["health"]["identical"] == [["blocks.0.weight", "ema.0"]]
    assert report["passed"] is True
