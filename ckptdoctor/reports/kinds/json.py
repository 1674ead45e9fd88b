"""JSON: exact numbers, lists sorted, one object."""

from __future__ import annotations

import json

from ckptdoctor.reports.base import Page, Renderer, Style


class JsonRenderer(Renderer):
    """Writes the page's data; control characters are escaped because everything beyond ASCII is."""

    name = "json"

    def render(self, page: Page, style: Style) -> str:
        """Two-space indented JSON."""
        return json.dumps(page.data(), indent=2, ensure_ascii=True) + "\n"
