"""Tables for a terminal. One column folds where the line is short; nothing is ever cut off, and no line begins with words that
come from a file: a key may be `error: all is lost`.

Laid out here, a column at a time: a table may have a row for each of 200,000 tensors, and Rich takes a third of a millisecond
for a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat, zip_longest

from ckptdoctor.reports.base import Column, Page, Renderer, Style, Table, Tone
from ckptdoctor.text import cells_of, folded, printable

_BOLD = "1"
_COLORS: dict[Tone, str] = {"plain": "", "good": "32", "bad": "31", "note": "33"}
_GAP = "  "
_NARROWEST = 12


class TableRenderer(Renderer):
    """Writes aligned columns."""

    name = "table"

    def render(self, page: Page, style: Style) -> str:
        """Title, facts, tables, sentence, with empty lines between."""
        lines = [*_styled(_BOLD, _text(page.title, style), style)]
        lines += [_GAP + line for fact in page.facts for line in _text(fact, style.narrower(len(_GAP)))]
        for table in page.tables:
            lines.append("")
            if table.heading:
                lines += _styled(_BOLD, _text(table.heading, style), style)
            lines += _table(table, style, _GAP if table.columns[0].fold else "")
        lines += ["", *_styled(_COLORS[page.tone], _text(page.sentence, style), style), ""]
        return "\n".join(lines)


def _text(text: str, style: Style) -> list[str]:
    return [line.rstrip() for line in folded(printable(text), style.width)]


def _styled(code: str, lines: Iterable[str], style: Style) -> Iterable[str]:
    return (f"\x1b[{code}m{line}\x1b[0m" for line in lines) if code and style.color else lines


def _table(table: Table, style: Style, before: str) -> Iterator[str]:
    """The lines of the head and of the rows, each with something before it."""
    style = style.narrower(len(before))
    rows = [tuple(column.title for column in table.columns), *(row.cells for row in table.rows)]
    columns: Sequence[Sequence[str]] = [_printable(cells) for cells in zip(*rows, strict=True)]
    widths = _widths(table.columns, columns, style.width)
    codes: Sequence[str] = [_BOLD, *(_COLORS[row.tone] for row in table.rows)]
    fold = next((at for at, column in enumerate(table.columns) if column.fold), None)
    if fold is not None and widths[fold] < max(_lengths(columns[fold])):
        codes, columns = _unfolded(codes, columns, fold, widths[fold])
    padded = [
        _padded(cells, width, right=column.right)
        for column, cells, width in zip(table.columns, columns, widths, strict=True)
    ]
    lines = (before + _GAP.join(cells).rstrip() for cells in zip(*padded, strict=True))
    if not style.color:
        return lines
    return (f"\x1b[{code}m{line}\x1b[0m" if code else line for code, line in zip(codes, lines, strict=True))


def _printable(cells: Sequence[str]) -> Sequence[str]:
    together = "".join(cells)  # one question for all of them: nearly always they are
    return cells if together.isascii() and together.isprintable() else [printable(cell) for cell in cells]


def _lengths(cells: Sequence[str]) -> Iterable[int]:
    return map(len if all(map(str.isascii, cells)) else cells_of, cells)


def _widths(columns: Sequence[Column], cells: Sequence[Sequence[str]], limit: int | None) -> list[int]:
    """What every column needs; the one that folds gets what is left of the line, but always a little."""
    widths = [max(_lengths(each)) for each in cells]
    over = 0 if limit is None else sum(widths) + len(_GAP) * (len(widths) - 1) - limit
    return [
        max(width - over, min(width, _NARROWEST)) if column.fold and over > 0 else width
        for column, width in zip(columns, widths, strict=True)
    ]


def _unfolded(
    codes: Sequence[str], columns: Sequence[Sequence[str]], fold: int, width: int
) -> tuple[list[str], list[list[str]]]:
    """As many rows as there are lines: the other cells stand in the first of each."""
    made: list[tuple[str, list[str]]] = []
    for code, *cells in zip(codes, *columns, strict=True):
        parts = [line.rstrip() for line in folded(cells[fold], width)]
        rest: list[Sequence[str]] = [parts if at == fold else (cell,) for at, cell in enumerate(cells)]
        made += [(code, [*row]) for row in zip_longest(*rest, fillvalue="")]
    return [code for code, _ in made], [[*column] for column in zip(*(row for _, row in made), strict=True)]


def _padded(cells: Sequence[str], width: int, *, right: bool) -> Iterable[str]:
    if all(map(str.isascii, cells)):
        return map(str.rjust if right else str.ljust, cells, repeat(width))
    gaps = (" " * (width - cells_of(cell)) for cell in cells)
    return (gap + cell if right else cell + gap for cell, gap in zip(cells, gaps, strict=True))
