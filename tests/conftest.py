"""What holds for all tests: an example that hypothesis draws may take as long as it takes on a machine that is shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared")
settings.load_profile("shared")
