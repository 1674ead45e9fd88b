"""`ckptdoctor verify` as its users run it: what it says, with which status it ends, and what a slip of the hand gets."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Done, manifest_file, map_file, run, safetensors_file, torch_checkpoint

SOURCE = {"a.w": (2, 3), "a.b": (3,), "c": (4,)}
TARGET = {"b.w": (2, 3), "b.b": (3,), "c": (4,), "new": (2,)}
Cli = Callable[..., Done]


@pytest.fixture(params=["ckpt", "safetensors"])
def suffix(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    torch_checkpoint(tmp_path / "base.ckpt", SOURCE)
    safetensors_file(tmp_path / "base.safetensors", SOURCE)
    manifest_file(tmp_path / "target.json", TARGET)
    manifest_file(tmp_path / "other.json", TARGET | {"more": (7,)})
    map_file(tmp_path / "map.yaml", ("a.{p}", "b.{p}"), fresh="new")
    return tmp_path


@pytest.fixture
def cli(project: Path) -> Cli:
    def call(line: str, **options: Any) -> Done:
        return run(*line.split(), cwd=project, **options)

    return call


@pytest.fixture
def out(cli: Cli, suffix: str) -> str:
    name = f"out.{suffix}"
    assert cli(f"remap base.{suffix} target.json -m map.yaml -o {name}").status == 0
    return name


def table(done: Done) -> dict[str, list[str]]:
    """Check -> its words, from the first table on stdout."""
    lines = done.stdout.split("\n")
    start = next(number for number, line in enumerate(lines) if line.startswith("CHECK"))
    rows = [line.split(maxsplit=1) for line in lines[start + 1 : lines.index("", start)]]
    return {name: re.split(r"\s{2,}", rest) for name, rest in rows}


def tamper(path: Path, key_bytes: bytes = b"\0\0\x80\x3f\0\0\0\x40") -> None:
    """Turn a bit over in the values of a.w, which count 0, 1, 2, ..."""
    data = bytearray(path.read_bytes())
    data[data.index(key_bytes)] ^= 1
    path.write_bytes(data)


def test_all_is_well(cli: Cli, out: str, suffix: str) -> None:
    done = cli(f"verify {out} target.json")
    assert (done.status, done.stderr) == (
        0,
        "warning: load: left random, as the receipt says: new\n",
    )
    assert {name: words[0] for name, words in table(done).items()} == dict.fromkeys(
        ("container", "receipt", "digests", "source", "ties", "finite", "load"), "passed"
    )
    sentence = f"passed: 3 tensors agree with the receipt and with base.{suffix}, and they fit target.json"
    assert done.stdout.endswith(f"\n{sentence}\n")
    assert cli(f"verify {out} target.json -q").stdout == sentence + "\n"


def test_a_tampered_byte(cli: Cli, out: str, project: Path) -> None:
    tamper(project / out)
    done = cli(f"verify {out}")
    assert done.status == 1
    words = table(done)
    assert words["digests"][:2] == ["FAILED", "1 of 3 tensors have other values than when they were written"]
    assert words["source"][0] == "FAILED"
    assert re.search(r"^digests +b\.w +has another sha256", done.stdout, re.MULTILINE)
    assert done.stdout.splitlines()[-1].startswith("failed: ")
    assert "next: write it again: ckptdoctor remap base." in done.stderr
    assert done.stderr.rstrip().endswith("--overwrite")


def test_json(cli: Cli, out: str, project: Path) -> None:
    report = json.loads(cli(f"verify {out} target.json -f json").stdout)
    assert report["schema"] == "ckptdoctor/verification/1"
    assert (report["command"], report["passed"], report["exit_status"]) == ("verify", True, 0)
    assert (report["output"]["path"], report["output"]["tensors"]) == (out, 3)
    assert report["receipt"] == f"{out}.receipt.json"
    assert report["source"]["path"].startswith("base.")
    assert report["target"]["reference"] == "target.json"
    assert [row["path"] for row in report["maps"]] == ["map.yaml"]
    ids = [check["id"] for check in report["checks"]]
    assert ids == sorted(ids)
    assert all(check.keys() >= {"id", "limit", "found", "passed", "keys", "where"} for check in report["checks"])
    tamper(project / out)
    done = cli(f"verify {out} -f json")
    report = json.loads(done.stdout)
    assert (done.status, report["passed"], report["exit_status"]) == (1, False, 1)
    checks = {check["id"]: check for check in report["checks"]}
    assert (checks["digests"]["passed"], checks["digests"]["found"], checks["digests"]["keys"]) == (False, 1, ["b.w"])
    assert (checks["load"]["passed"], checks["load"]["result"]) == (None, "skipped")


def test_markdown_and_reports(cli: Cli, out: str, project: Path) -> None:
    done = cli(f"verify {out} -f markdown --report json=proof.json")
    assert "| digests | passed |" in done.stdout
    assert json.loads((project / "proof.json").read_text())["passed"] is True


def test_all_gives_every_wrong_tensor_a_row(cli: Cli, project: Path, out: str) -> None:
    (project / f"{out}.receipt.json").write_text(
        re.sub(
            r'"sha256": "[0-9a-f]{60}[0-9a-f]{4}", "tied',
            '"sha256": "' + "0" * 64 + '", "tied',
            (project / f"{out}.receipt.json").read_text(),
        )
    )
    assert re.search(r"^digests +b\.\{b,w\} ", cli(f"verify {out}").stdout, re.MULTILINE) or re.search(
        r"^digests +b\.\{w,b\} ", cli(f"verify {out}").stdout, re.MULTILINE
    )
    every = cli(f"verify {out} --all").stdout
    assert len(re.findall(r"^digests +(?:b\.w|b\.b|c) ", every, re.MULTILINE)) == 3


def test_without_receipt_source_and_target(cli: Cli, out: str, project: Path) -> None:
    (project / f"{out}.receipt.json").unlink()
    done = cli(f"verify {out}")
    assert done.status == 0
    words = table(done)
    assert (words["container"][0], words["digests"][0]) == ("passed", "skipped")
    assert done.stdout.splitlines()[-1] == (
        "passed: the file is whole (3 tensors); not proven: that the values are those that were written, "
        f"that they come of the source, that a model takes them (there is no {out}.receipt.json)"
    )


def test_with_the_source_gone_and_found_again(cli: Cli, out: str, project: Path, suffix: str) -> None:
    (project / f"base.{suffix}").rename(project / f"moved.{suffix}")
    done = cli(f"verify {out}")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == (
        "passed: 3 tensors agree with the receipt; compared with the receipt alone, not with the source "
        f"(base.{suffix} is gone)"
    )
    done = cli(f"verify {out} --against moved.{suffix}")
    assert done.status == 0
    assert f"and with moved.{suffix}" in done.stdout


def test_the_receipt_of_another_file(cli: Cli, out: str, project: Path, suffix: str) -> None:
    cli(f"remap base.{suffix} -o same.{suffix}")
    shutil.copy(project / f"same.{suffix}.receipt.json", project / f"{out}.receipt.json")
    done = cli(f"verify {out}")
    assert done.status == 1
    assert done.stdout.splitlines()[-1] == (
        "failed: receipt: a receipt of another file: b.w is in the file, and not in the receipt"
    )


def test_a_receipt_that_is_none(cli: Cli, out: str, project: Path) -> None:
    (project / f"{out}.receipt.json").write_text('{"schema": ')
    done = cli(f"verify {out}")
    assert done.status == 1
    assert f"failed: receipt: {out}.receipt.json is no receipt: line 1, column 12" in done.stdout


def test_a_target_that_does_not_fit(cli: Cli, out: str) -> None:
    done = cli(f"verify {out} other.json")
    assert done.status == 1
    assert table(done)["load"] == ["FAILED", "other.json would refuse it: 1 missing key"]
    assert "next:" not in done.stderr
    assert re.search(r"^load +more +missing key: the target wants 7$", done.stdout, re.MULTILINE)


def test_the_projects_target_is_the_default(cli: Cli, out: str, project: Path) -> None:
    (project / "ckptdoctor.yaml").write_text("target: other.json\n")
    assert cli(f"verify {out}").status == 1
    assert cli(f"verify {out} target.json").status == 0
    done = cli(f"verify {out} --no-target")
    assert (done.status, table(done)["load"]) == (0, ["skipped", "no target was named"])


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("verify ouy.{}", "there is no file ouy.{}"),
        ("verify out.{} targt.json", "did you mean target.json"),
        ("verify out.{} nowhere:Net", "nowhere"),
        ("verify out.{} --against bose.{}", "there is no file bose.{}"),
        ("verify out.{} --against out.{}", "is the output itself"),
        ("verify out.{} --against target.json", "is a manifest"),
        ("verify target.json", "is a manifest"),
        ("verify out.{} --select nowhere", "no tensors at nowhere"),
        ("verify out.{} target.json --no-target", "contradict each other"),
        ("verify out.{} --target-arg a=1", "--target-arg without a target"),
        ("verify out.{} -f tabel", "did you mean table?"),
        ("verify map.yaml", "no checkpoint of a known format"),
    ],
)
def test_what_cannot_be_done(cli: Cli, out: str, suffix: str, line: str, said: str) -> None:
    done = cli(line.replace("{}", suffix))
    assert (done.status, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert said.replace("{}", suffix) in done.stderr
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr


def test_a_file_that_is_cut_off(cli: Cli, out: str, project: Path) -> None:
    whole = (project / out).read_bytes()
    (project / out).write_bytes(whole[:-30])
    done = cli(f"verify {out}")
    assert (done.status, done.stdout) == (2, "")
    assert "truncated" in done.stderr
    error = json.loads(cli(f"verify {out} -f json").stderr)["error"]
    assert (error["code"], error["path"]) == ("corrupt-checkpoint", out)


def test_against_without_a_receipt_cannot_be_done(cli: Cli, suffix: str) -> None:
    done = cli(f"verify base.{suffix} --against target.json")
    assert done.status == 2
    assert f"there is no base.{suffix}.receipt.json" in done.stderr


def test_the_values_of_a_rename_need_neither_torch_nor_numpy(out: str, project: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "ckptdoctor"]
    done = run("verify", out, "target.json", cwd=project, command=command)
    names = set(re.findall(r"^import time: .*\| +([A-Za-z]\w*)", done.stderr, re.MULTILINE))
    assert done.status == 0
    assert "ckptdoctor" in names
    assert names & {"torch", "numpy", "safetensors"} == set()


def test_the_help_is_one_line_as_that_of_the_others(cli: Cli) -> None:
    line = next(line for line in cli("--help").stdout.split("\n") if line.strip().startswith("verify"))
    assert "Read a checkpoint again and prove it" in line
    assert "--against" in cli("verify --help").stdout


def test_a_name_so_long_that_no_receipt_can_stand_beside_it(project: Path) -> None:
    name = "n" * 250
    torch_checkpoint(project / name, {"a": (2,)})
    done = run("verify", name, cwd=project)
    assert (done.status, "there is no nnn" in done.stdout, done.stderr) == (0, True, "")
