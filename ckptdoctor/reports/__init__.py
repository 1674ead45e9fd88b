"""Results as text: `render(result, kind)`. Kinds of report stand in one table, results with their pages in another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptdoctor.errors import UsageError
from ckptdoctor.receipt import Receipt
from ckptdoctor.reports.base import Page, Renderer, Style
from ckptdoctor.reports.comparison import Comparison, comparison_page
from ckptdoctor.reports.inspection import Inspection, inspection_page
from ckptdoctor.reports.kinds.json import JsonRenderer
from ckptdoctor.reports.kinds.markdown import MarkdownRenderer
from ckptdoctor.reports.kinds.table import TableRenderer
from ckptdoctor.reports.writing import receipt_page
from ckptdoctor.text import did_you_mean

RENDERERS: Mapping[str, Renderer] = {each.name: each for each in (TableRenderer(), JsonRenderer(), MarkdownRenderer())}
PAGES: Mapping[type, Callable[[Any], Page]] = {
    Comparison: comparison_page,
    Inspection: inspection_page,
    Receipt: receipt_page,
}

__all__ = ["PAGES", "RENDERERS", "Comparison", "Inspection", "Page", "page_of", "render"]


def page_of(result: object) -> Page:
    """The page of a result; raises TypeError for what is none."""
    make = PAGES.get(type(result))
    if make is None:
        raise TypeError(f"{type(result).__name__} is no result that can be rendered")
    return make(result)


def render(result: object, kind: str = "table", *, width: int | None = None, color: bool = False) -> str:
    """A result (Comparison, Inspection, Receipt, or a Page) as text of a kind (`table`, `json`, `markdown`).

    `width` is the length of a line in characters (None: no limit). Raises UsageError for an unknown kind.
    """
    renderer = RENDERERS.get(kind)
    if renderer is None:
        hint = did_you_mean(kind, RENDERERS) or f"choose from {', '.join(RENDERERS)}"
        raise UsageError(f"there is no report of the kind {kind!r}", hint=hint)
    page = result if isinstance(result, Page) else page_of(result)
    return renderer.render(page, Style(width, color))
