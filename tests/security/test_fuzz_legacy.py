"""Mutants of torch files from before 1.6: never an uncaught exception, and where torch reads one too, the same tensors."""

from __future__ import annotations

import pytest

from tests.security.fuzzing import campaign, targets

pytest.importorskip("torch")


def test_mutants_are_read_as_others_read_them_or_refused(pytestconfig, tmp_path, record_property):
    campaign.run_checked(targets.LEGACY, pytestconfig, tmp_path, record_property)
