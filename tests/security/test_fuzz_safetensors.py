"""Mutants of safetensors files: never an uncaught exception, and where the reference reads one too, the same tensors."""

from __future__ import annotations

import pytest

from tests.security.fuzzing import campaign, targets

pytest.importorskip("torch")


def test_mutants_are_read_as_others_read_them_or_refused(pytestconfig, tmp_path, record_property):
    campaign.run_checked(targets.SAFETENSORS, pytestconfig, tmp_path, record_property)
