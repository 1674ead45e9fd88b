"""The value of a metric in the rows of a CSV file, as Lightning's CSVLogger writes one: most cells are empty, the header may
come again where several runs were put together."""

from __future__ import annotations

import csv

from ckptdoctor.triaging.lines import Segment
from ckptdoctor.triaging.sights import Sight, excerpt, number
from ckptdoctor.triaging.types import Observation

_COUNTERS = ("epoch", "step")


class CsvFinder:
    """Finds one column in the rows of a CSV file."""

    def __init__(self, metric: str) -> None:
        self._metric = metric
        self._columns: list[str] = []

    def is_dull(self, _: bytes, /) -> bool:
        """A row has to be parsed to know."""
        return False

    def look(self, segment: Segment) -> Sight | None:
        """A row's value, or the names of a header."""
        text = segment.raw.decode("utf-8", "replace").removeprefix("\ufeff")
        row = [cell.strip() for cell in _cells(text)]
        if not self._columns or self._metric in row:
            self._columns = row if segment.whole else []
            return Sight(names=tuple(row))
        cells = dict(zip(self._columns, row, strict=False))
        printed = cells.get(self._metric, "")
        value = number(printed)
        if value is None:
            return None
        cut = not segment.whole and self._columns.index(self._metric) == len(row) - 1
        observation = Observation(value, printed[:40], segment.line, excerpt(text, 0), "csv", None, cut)
        return Sight(observation, counters=tuple(f"{name} {cells[name]}" for name in _COUNTERS if cells.get(name)))


def _cells(text: str) -> list[str]:
    try:
        return next(csv.reader([text]), [])
    except csv.Error:
        return []
