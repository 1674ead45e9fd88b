"""Before a new file takes its place, its pickle is read back and compared with the source's: a defect is found there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ckptdoctor
from ckptdoctor.archive.writing import ArchiveWriter
from ckptdoctor.errors import CkptDoctorError, OutputError
from ckptdoctor.formats.base import WriteOptions
from ckptdoctor.formats.torch import envelope
from ckptdoctor.keymap import parse_map
from tests import builders as b

torch = pytest.importorskip("torch")

RENAME = "ckptdoctor: 1\nrules: [{from: '0.{p}', to: 'first.{p}'}]\n"


def remap(folder: Path, *, edited: bool) -> None:
    source = folder / "base.ckpt"
    torch.save(b.lightning_like(b.state_dict(), epoch=77), source)
    plan = ckptdoctor.make_plan(ckptdoctor.read_manifest(source), None, [parse_map(RENAME)])
    ckptdoctor.execute(plan, folder / "new.ckpt", options=WriteOptions(drop_optimizer=edited))


def damaging(function: Callable[..., bytes]) -> Callable[..., bytes]:
    """The function with a defect: a value far from the weights comes out as another one."""

    def damaged(*arguments: object, **keywords: object) -> bytes:
        return changed(function(*arguments, **keywords))

    return damaged


def changed(pickle: bytes) -> bytes:
    """The epoch is one more."""
    assert pickle.count(b"K\x4dX") == 1
    return pickle.replace(b"K\x4dX", b"K\x4eX")


@pytest.mark.parametrize("edited", [False, True])
def test_a_defect_in_what_makes_the_pickle(tmp_path, monkeypatch, edited):
    name = "emit" if edited else "patch"
    monkeypatch.setattr(envelope, name, damaging(getattr(envelope, name)))
    with pytest.raises(OutputError, match="not what was planned: a int where a int should be"):
        remap(tmp_path, edited=edited)
    assert [path.name for path in tmp_path.iterdir()] == ["base.ckpt"]


@pytest.mark.parametrize("edited", [False, True])
def test_a_defect_on_the_way_to_the_file(tmp_path, monkeypatch, edited):
    """What is compared is what stands in the file, not what was meant to."""
    record = ArchiveWriter.record

    def damaged(self: ArchiveWriter, name: str, data: bytes) -> None:
        record(self, name, changed(data) if name == "data.pkl" else data)

    monkeypatch.setattr(ArchiveWriter, "record", damaged)
    with pytest.raises(CkptDoctorError, match="not what was planned"):
        remap(tmp_path, edited=edited)
    assert [path.name for path in tmp_path.iterdir()] == ["base.ckpt"]


@pytest.mark.parametrize("edited", [False, True])
def test_without_a_defect_nothing_is_found(tmp_path, edited):
    remap(tmp_path, edited=edited)
    assert torch.load(tmp_path / "new.ckpt", weights_only=True)["epoch"] == 77
