"""Pausing the cyclic garbage collector: it runs again afterwards, whatever happens, unless it was off before."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from ckptdoctor import read_manifest
from ckptdoctor.collector import collector_paused
from ckptdoctor.errors import CheckpointError


@pytest.fixture(autouse=True)
def _enabled_again() -> Iterator[None]:
    gc.enable()
    yield
    gc.enable()


def test_it_is_paused_and_runs_again():
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_it_runs_again_after_an_error(tmp_path):
    (tmp_path / "f.pt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError):
        read_manifest(tmp_path / "f.pt")
    assert gc.isenabled()


def test_who_turned_it_off_finds_it_off():
    gc.disable()
    with collector_paused():
        pass
    assert not gc.isenabled()
