"""Mutants of the texts that we read: manifests, receipts and maps. None is taken for what a plain parser does not see in it."""

from __future__ import annotations

import pytest

from tests.security.fuzzing import campaign, targets

pytest.importorskip("torch")


@pytest.mark.parametrize("target", [targets.MANIFESTS, targets.RECEIPTS, targets.MAPS], ids=lambda target: target.name)
def test_mutants_are_read_as_others_read_them_or_refused(target, pytestconfig, tmp_path, record_property):
    campaign.run_checked(target, pytestconfig, tmp_path, record_property)
