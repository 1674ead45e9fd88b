"""Tables for a terminal. One column folds where the line is short; nothing is ever cut off."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

from ckptdoctor.reports.base import Page, Renderer, Style, Table, Tone
from ckptdoctor.text import printable

if TYPE_CHECKING:
    from rich.console import Console

_STYLES: dict[Tone, str] = {"plain": "", "good": "green", "bad": "red", "note": "yellow"}
_UNBOUNDED = 10_000
_GAP = 2
_NARROWEST = 12


class TableRenderer(Renderer):
    """Writes aligned columns with Rich, which is imported only here."""

    name = "table"

    def render(self, page: Page, style: Style) -> str:
        """Title, facts, tables, sentence, with empty lines between."""
        from rich.console import Console
        from rich.text import Text

        buffer = io.StringIO()
        console = Console(
            file=buffer,
            width=style.width or _UNBOUNDED,
            force_terminal=style.color,
            color_system="standard" if style.color else None,
            legacy_windows=False,
            emoji=False,
            highlight=False,
            markup=False,
        )
        console.print(Text(printable(page.title), "bold"))
        for fact in page.facts:
            console.print(Text("  " + printable(fact)))
        for table in page.tables:
            _print_table(console, table)
            console.width = style.width or _UNBOUNDED
        console.print()
        console.print(Text(printable(page.sentence), _STYLES[page.tone]))
        return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def _print_table(console: Console, table: Table) -> None:
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=None, padding=(0, _GAP, 0, 0), pad_edge=False, header_style="bold")
    for column in table.columns:
        justify: Literal["left", "right"] = "right" if column.right else "left"
        grid.add_column(column.title, justify=justify, no_wrap=not column.fold, overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(printable(cell), _STYLES[row.tone]) for cell in row.cells))
    console.print()
    if table.heading:
        console.print(Text(printable(table.heading), "bold"))
    console.width = max(console.width, _least_width(table))  # below that, Rich would cut cells off
    console.print(grid)


def _least_width(table: Table) -> int:
    """What the columns that do not fold need, and a little for the one that does."""
    from rich.cells import cell_len

    rows = [tuple(column.title for column in table.columns), *(row.cells for row in table.rows)]
    needed = 0
    for column, *cells in zip(table.columns, *rows, strict=True):
        width = max(cell_len(printable(cell)) for cell in cells)
        needed += _GAP + (min(width, _NARROWEST) if column.fold else width)
    return needed - _GAP
