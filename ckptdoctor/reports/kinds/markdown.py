"""Markdown for pull requests and job summaries: a heading, tables, and the sentence in bold."""

from __future__ import annotations

from ckptdoctor.reports.base import Page, Renderer, Style, Table
from ckptdoctor.text import printable


class MarkdownRenderer(Renderer):
    """Writes GitHub-flavoured Markdown."""

    name = "markdown"

    def render(self, page: Page, style: Style) -> str:
        """Everything of the page, warnings too: a summary page has no stderr."""
        parts = [f"### {_escaped(page.title)}"]
        parts += ["\n".join(f"- {_escaped(fact)}" for fact in page.facts)] if page.facts else []
        parts += [_table(table) for table in page.tables]
        parts += [f"> **warning:** {_escaped(warning)}" for warning in page.warnings]
        parts.append(f"**{_escaped(page.sentence)}**")
        return "\n\n".join(parts) + "\n"


def _table(table: Table) -> str:
    lines = [f"**{_escaped(table.heading)}**", ""] if table.heading else []
    lines.append("| " + " | ".join(column.title.lower() for column in table.columns) + " |")
    lines.append("|" + "|".join("---:" if column.right else "---" for column in table.columns) + "|")
    lines += ["| " + " | ".join(_cell(cell) for cell in row.cells) + " |" for row in table.rows]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return _escaped(text.strip())


def _escaped(text: str) -> str:
    text = printable(text).replace("\\", "\\\\")
    for character in "|`*_<>[]~&#":
        text = text.replace(character, "\\" + character)
    return text
