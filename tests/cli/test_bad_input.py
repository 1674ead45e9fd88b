"""Files and requests that cannot be used: one clear message with a hint, the right status, and nothing half-written."""

from __future__ import annotations

import io
import os
import pickle
import resource
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import builders
from tests.cli.helpers import Done, manifest_file, map_file, run, safetensors_file, torch_checkpoint

SHAPES = {"a.w": (64, 64), "a.b": (64,)}
COMMANDS = [
    "inspect {}",
    "diff {} target.json",
    "gate {} target.json",
    "remap {} target.json -o out.ckpt",
    "diff good.ckpt {}",
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    torch_checkpoint(tmp_path / "good.ckpt", SHAPES)
    safetensors_file(tmp_path / "good.safetensors", SHAPES)
    manifest_file(tmp_path / "target.json", SHAPES)
    return tmp_path


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(project: Path) -> Iterator[None]:
    """No temporary file, and no `out.*`, which is what all runs here that must fail would write."""
    yield
    assert not [
        path.name for path in project.iterdir() if "ckptdoctor-tmp" in path.name or path.name.startswith("out.")
    ]


def refused(done: Done, *said: str, hint: bool | None = True) -> None:
    """The run ended with 2, an empty stdout, and one message that says these things, with a hint or (None) perhaps one."""
    assert (done.status, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    lines = done.stderr.rstrip("\n").split("\n")
    hints = [line for line in lines if line.startswith("hint: ")]
    assert len(lines) == 1 + len(hints), done.stderr
    assert hint is None or len(hints) == hint, done.stderr
    for each in said:
        assert each in done.stderr


class Evil:
    """Unpickling this makes the file `canary`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def torchscript(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("net/constants.pkl", "net/data.pkl", "net/version", "net/code/__torch__.py"):
            archive.writestr(name, b"\x80\x02).")


def plain_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("stuff/readme.txt", "hello")


def evil(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Evil()}))


def evil_zip(path: Path) -> None:
    path.write_bytes(builders.torch_file(pickle.dumps(Evil(), protocol=2)))


def cut(name: str, size: int) -> Callable[[Path], None]:
    """The first bytes of a good file."""
    return lambda path: (path.write_bytes((path.parent / name).read_bytes()[:size]), None)[1]


def content(data: bytes) -> Callable[[Path], None]:
    return lambda path: (path.write_bytes(data), None)[1]


MANIFEST = b'{"schema": "ckptdoctor/manifest/1", "tensors": '
BAD_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (lambda path: None, "did you mean good.ckpt"),
    "folder": (lambda path: path.mkdir(), "bad.ckpt is a folder"),
    "empty": (content(b""), "bad.ckpt is empty"),
    "torch, cut": (cut("good.ckpt", 9000), "truncated"),
    "torch, cut early": (cut("good.ckpt", 100), "truncated"),
    "safetensors, cut": (cut("good.safetensors", 9000), "copy or download it again"),
    "safetensors, cut in the header": (cut("good.safetensors", 60), "copy or download it again"),
    "html": (content(b"<!DOCTYPE html>\n<html><head><title>Sign in</title>"), "is a web page"),
    "lfs": (content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"), "git lfs pull"),
    "torchscript": (torchscript, "is a TorchScript archive"),
    "zip": (plain_zip, "zip file without a data.pkl"),
    "7z": (content(b"7z\xbc\xaf\x27\x1c" + bytes(64)), "is a 7z archive"),
    "gzip": (content(b"\x1f\x8b\x08" + bytes(64)), "is a gzip file"),
    "tar": (tar, "is a tar archive"),
    "pickle": (evil, "system"),
    "pickle in a zip": (evil_zip, "system"),
    "noise": (content(bytes(range(256)) * 9), "is no checkpoint of a known format"),
    "one byte": (content(b"x"), "is no checkpoint of a known format"),
    "other json": (content(b'{"epochs": 3}'), "is no checkpoint of a known format"),
    "manifest, cut": (content(MANIFEST + b'[{"key": "a"'), "is no valid manifest"),
    "manifest, wrong": (content(MANIFEST + b'[{"key": "a", "shape": [-1], "dtype": "float32"}]}'), "tensors[0]"),
    "manifest, no list": (content(MANIFEST + b"{}}"), "there is no list of tensors"),
}


class TestCheckpointsThatAreNone:
    @pytest.mark.parametrize("name", BAD_FILES)
    def test_are_refused_by_every_command(self, project: Path, name: str) -> None:
        make, said = BAD_FILES[name]
        make(project / "bad.ckpt")
        before = sorted(project.iterdir())
        wanted = COMMANDS if name in ("missing", "torch, cut", "pickle in a zip") else COMMANDS[:1]
        for command in wanted:
            done = run(*command.format("bad.ckpt").split(), cwd=project)
            refused(done, said, "bad.ckpt")
        assert sorted(project.iterdir()) == before, "no canary, and no output"

    def test_what_is_not_there_is_guessed_at(self, project: Path) -> None:
        refused(run("inspect", "good.ckp", cwd=project), "did you mean good.ckpt")
        refused(run("inspect", "nowhere/good.ckpt", cwd=project), "there is no folder nowhere either")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_what_may_not_be_read(self, project: Path) -> None:
        (project / "good.ckpt").chmod(0)
        assert "Permission denied" in run("inspect", "good.ckpt", cwd=project).stderr

    def test_what_is_no_file_does_not_hang(self, project: Path) -> None:
        os.mkfifo(project / "pipe.ckpt")
        done = run("inspect", "pipe.ckpt", cwd=project, timeout=20)
        assert (done.status, "not a regular file" in done.stderr) == (2, True)


class TestMaps:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("ckptdoctor: 1\nruls: []\n", "m.yaml:2:1: unknown field ruls; did you mean rules?"),
            (
                "ckptdoctor: 1\nrules:\n  - {from: 'a.{b', to: c}\n",
                "m.yaml:3:15: rules[0].from: a { that is never closed",
            ),
            ("ckptdoctor: 1\nrules:\n  - {from: {p}, to: c}\n", "m.yaml:3:12: rules[0].from: expected a pattern"),
            ("ckptdoctor: 2\n", "m.yaml:1:13: "),
            ("", "m.yaml:1:1: the map is empty"),
            ("rules: [\n", "m.yaml:2:1: not valid YAML"),
            (None, "m.yaml:1:1: cannot be read"),
        ],
    )
    @pytest.mark.parametrize("command", ["map check m.yaml", "remap good.ckpt target.json -m m.yaml -o out.ckpt"])
    def test_a_mistake_has_its_place(self, project: Path, command: str, text: str | None, said: str) -> None:
        if text is not None:
            (project / "m.yaml").write_text(text)
        refused(run(*command.split(), cwd=project), f"error: {said}", hint=False)

    def test_all_mistakes_are_said(self, project: Path) -> None:
        (project / "m.yaml").write_text("ckptdoctor: 1\nruls: []\nfresch: []\n")
        lines = run("map", "check", "m.yaml", cwd=project).stderr.splitlines()
        assert [line.split(" ")[1] for line in lines] == ["m.yaml:2:1:", "m.yaml:3:1:"]

    def test_one_that_does_not_fit_is_said_with_every_problem(self, project: Path) -> None:
        map_file(project / "m.yaml", ("zzz", "a"), ("a.w", "nowhere"), fresh="none")
        done = run("remap", "good.ckpt", "target.json", "-m", "m.yaml", "-o", "out.ckpt", cwd=project)
        assert done.status == 2
        places = [line for line in done.stderr.splitlines() if line.startswith("error: m.yaml:")]
        assert len(places) == 3
        assert sum(line.startswith("hint: ") for line in done.stderr.splitlines()) == 3


class TestTargets:
    """The ones that import torch are few: it takes more than everything else here."""

    def test_that_are_nothing(self, project: Path) -> None:
        refused(run("diff", "good.ckpt", "taget.json", cwd=project), "taget.json")
        refused(run("diff", "good.ckpt", "what is this", cwd=project), "what is this")

    def test_that_cannot_be_imported(self, project: Path) -> None:
        refused(run("gate", "good.ckpt", "no.such.module:Net", cwd=project), "there is no module no")

    @pytest.mark.parametrize(
        ("text", "last"),
        [
            (
                "class Net:\n    def __init__(self):\n        raise ValueError('width must be even')\n",
                "ValueError: width must be even",
            ),
            ("import torch\nraise SystemExit(1)\n", "SystemExit: 1"),
        ],
        ids=["constructor", "module"],
    )
    def test_whose_code_raises(self, project: Path, text: str, last: str) -> None:
        (project / "net.py").write_text(text)
        done = run("remap", "good.ckpt", "net.py:Net", "-o", "out.ckpt", cwd=project)
        lines = done.stderr.rstrip("\n").split("\n")
        assert (done.status, done.stdout, lines[-1]) == (2, "", last)
        assert lines[0].startswith("error: net.py:Net: ")
        frames = [line for line in lines if line.startswith("  File")]
        assert frames, "their own traceback"
        assert all("net.py" in frame for frame in frames), "and nothing of ours in it"


class TestOutputs:
    def test_that_exist(self, project: Path) -> None:
        (project / "there.ckpt").write_text("precious")
        done = run("remap", "good.ckpt", "-o", "there.ckpt", cwd=project)
        refused(done, "there.ckpt exists", "--overwrite")
        assert (project / "there.ckpt").read_text() == "precious"

    @pytest.mark.parametrize("out", ["folder", "missing/out.ckpt", "good.ckpt/out.ckpt"])
    @pytest.mark.parametrize("flag", [(), ("--overwrite",)])
    def test_that_cannot_be(self, project: Path, out: str, flag: tuple[str, ...]) -> None:
        (project / "folder").mkdir()
        refused(run("remap", "good.ckpt", "-o", out, *flag, cwd=project), out.split("/")[0], hint=None)
        assert not (project / "missing").exists()

    @pytest.mark.parametrize("link", ["same", "symlink", "hard link"])
    def test_that_are_the_source(self, project: Path, link: str) -> None:
        before = (project / "good.ckpt").read_bytes()
        name = "good.ckpt" if link == "same" else "link.ckpt"
        if link == "symlink":
            (project / name).symlink_to("good.ckpt")
        if link == "hard link":
            os.link(project / "good.ckpt", project / name)
        refused(run("remap", "good.ckpt", "-o", name, cwd=project), "exists")
        refused(run("remap", "good.ckpt", "-o", name, "--overwrite", cwd=project), "the source itself")
        assert (project / "good.ckpt").read_bytes() == before

    @pytest.mark.parametrize("flag", [(), ("--overwrite",)])
    @pytest.mark.parametrize("source", ["good.ckpt", "good.safetensors"])
    def test_on_a_disk_that_is_full(self, project: Path, source: str, flag: tuple[str, ...]) -> None:
        """RLIMIT_FSIZE stands in for the disk: a write fails in the midst of the file."""
        if flag:
            (project / "there.ckpt").write_text("the older one")
        before = sorted(project.iterdir())

        def limit() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))

        done = run("remap", source, "-o", "there.ckpt", *flag, cwd=project, preexec_fn=limit)
        refused(done, "cannot write", "there.ckpt")
        assert sorted(project.iterdir()) == before
        assert not flag or (project / "there.ckpt").read_text() == "the older one"

    def test_whose_receipt_cannot_be(self, project: Path) -> None:
        (project / "new.ckpt.receipt.json").mkdir()
        assert run("remap", "good.ckpt", "-o", "new.ckpt", cwd=project).status == 2
        assert not (project / "new.ckpt").exists()

    def test_never_replaces_a_file_that_is_no_receipt(self, project: Path) -> None:
        (project / "new.ckpt.receipt.json").write_text('{"mine": 1}')
        refused(
            run("remap", "good.ckpt", "-o", "new.ckpt", cwd=project), "not an older file of this kind", "another name"
        )
        assert not (project / "new.ckpt").exists()
        assert (project / "new.ckpt.receipt.json").read_text() == '{"mine": 1}'

    def test_of_a_manifest(self, project: Path) -> None:
        refused(
            run("remap", "target.json", "-o", "out.ckpt", cwd=project),
            "holds none of their data",
            "the checkpoint itself",
        )

    @pytest.mark.parametrize(
        "command",
        [
            "inspect good.ckpt --manifest good.ckpt",
            "diff good.ckpt target.json --report json=good.ckpt",
            "remap good.ckpt -o new.ckpt --report json=good.ckpt",
        ],
    )
    def test_beside_the_result_never_replace_a_checkpoint(self, project: Path, command: str) -> None:
        before = (project / "good.ckpt").read_bytes()
        done = run(*command.split(), cwd=project)
        assert (project / "good.ckpt").read_bytes() == before
        assert done.status == 2


class TestReports:
    def test_that_cannot_be_written(self, project: Path) -> None:
        done = run("diff", "good.ckpt", "target.json", "--report", "json=missing/r.json", cwd=project)
        refused(done, "there is no folder", "mkdir -p")
        done = run("inspect", "good.ckpt", "--manifest", "missing/m.json", cwd=project)
        refused(done, "there is no folder", "mkdir -p")
