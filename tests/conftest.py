"""What holds for all tests: an example that hypothesis draws may take as long as it takes on a machine that is shared, and
transformers leaves torch as it was. At the end of a run stands what the tests of safety have tried."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.summary import pytest_sessionfinish as pytest_sessionfinish
from tests.summary import pytest_terminal_summary as pytest_terminal_summary

settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How much the fuzzing of tests/security tries; a failure names the seed and the number of a mutant."""
    group = parser.getgroup("fuzzing")
    group.addoption("--mutants", type=int, default=10_000, metavar="N", help="mutants to try of each format")
    group.addoption("--fuzz-seed", type=int, default=0, metavar="N", help="which mutants: other seeds, other files")


@pytest.fixture(scope="module")
def transformers() -> Iterator[Any]:
    """The package, quiet; no test imports it in another way.

    torch lists the functions that `torch.device("meta")` sends to meta once a process, at the first call under it. In
    `from_pretrained` that call would find a `torch.linspace` which transformers has replaced for the moment, and the
    real one would be left out for all later tests. So the list is made here first.
    """
    import torch
    import transformers

    with torch.device("meta"):
        torch.empty(0)

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield transformers
    transformers.logging.enable_progress_bar()
