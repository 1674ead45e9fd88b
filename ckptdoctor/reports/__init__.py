"""Results as text: `render(result, kind)`. Kinds of report stand in one table, results with their pages in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptdoctor.errors import UsageError
from ckptdoctor.lazy import Table, load
from ckptdoctor.reports.base import Page, Renderer, Style
from ckptdoctor.text import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

RENDERERS: Table[Renderer] = Table(
    {
        "table": "ckptdoctor.reports.kinds.table:TableRenderer",
        "json": "ckptdoctor.reports.kinds.json:JsonRenderer",
        "markdown": "ckptdoctor.reports.kinds.markdown:MarkdownRenderer",
    }
)
PAGES: Mapping[str, str] = {
    "Comparison": "ckptdoctor.reports.comparison:comparison_page",
    "Inspection": "ckptdoctor.reports.inspection:inspection_page",
    "Plan": "ckptdoctor.reports.comparison:plan_page",
    "Verdict": "ckptdoctor.reports.comparison:verdict_page",
    "Receipt": "ckptdoctor.reports.writing:receipt_page",
    "Verification": "ckptdoctor.reports.verification:verification_page",
    "Triage": "ckptdoctor.reports.triage:triage_page",
}


def page_of(result: object) -> Page:
    """The page of a result, which may be a page already; raises TypeError for what is none."""
    if isinstance(result, Page):
        return result
    name = type(result).__name__
    if name not in PAGES:
        raise TypeError(f"{name} is no result that can be rendered")
    page: Page = load(PAGES[name])(result)
    return page


def render(result: object, kind: str = "table", *, width: int | None = None, color: bool = False) -> str:
    """A result (Comparison, Inspection, Receipt, or a Page) as text of a kind (`table`, `json`, `markdown`).

    `width` is the length of a line in characters (None: no limit). Raises UsageError for an unknown kind.
    """
    if kind not in RENDERERS:
        hint = did_you_mean(kind, RENDERERS) or f"choose from {', '.join(RENDERERS)}"
        raise UsageError(f"there is no report of the kind {kind!r}", hint=hint)
    return RENDERERS[kind].render(page_of(result), Style(width, color))
