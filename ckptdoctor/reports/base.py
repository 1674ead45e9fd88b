"""What a report is made of: a `Page` for people (lines, tables, one closing sentence) with its `data` for machines, and the
`Renderer` that writes pages in one way. A new kind of report is a renderer in kinds/ and a line in the table of __init__.py;
a new result is a function that makes a page of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

Tone: TypeAlias = Literal["plain", "good", "bad", "note"]


class Column(NamedTuple):
    """A column of a table. `fold` marks the one column that gives way where the line is too short."""

    title: str
    right: bool = False
    fold: bool = False


class Row(NamedTuple):
    """A row of plain text cells; the tone repeats in colour what the words say."""

    cells: tuple[str, ...]
    tone: Tone = "plain"


class Table(NamedTuple):
    """Columns and rows; `heading` stands above it."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    heading: str | None = None


class Page(NamedTuple):
    """A result for people and for machines.

    `title` is one line, `facts` are lines below it, `sentence` closes the page and says it all. `warnings`,
    `next_step`, and `details` where they are asked for, go to stderr on a command line. `details` and
    `data` (what the JSON report holds) are made only when they are asked for.
    """

    title: str
    sentence: str
    data: Callable[[], Mapping[str, Any]]
    tone: Tone = "plain"
    facts: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    warnings: tuple[str, ...] = ()
    details: Callable[[], Iterable[str]] = tuple
    next_step: str | None = None


class Style(NamedTuple):
    """How wide a line may be (None: as wide as it gets), and whether colour is wanted."""

    width: int | None = None
    color: bool = False

    def narrower(self, columns: int) -> Style:
        """The same with so many columns less."""
        return self if self.width is None else self._replace(width=max(self.width - columns, 1))


class Renderer(ABC):
    """Writes a page in one way."""

    name: ClassVar[str]

    @abstractmethod
    def render(self, page: Page, style: Style) -> str:
        """The text, with a line break at its end. Text from files is made harmless here, in every kind."""
