"""Text for people: names from files made harmless to print, numbers and shapes in one way everywhere, near misses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

_TYPED = 200
_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def printable(text: str) -> str:
    """`text` with everything that could move the cursor, hide or break a line written as an escape (`\\x1b`, `\\u202e`)."""
    if text.isascii() and text.isprintable():
        return text
    from unicodedata import category

    def harmless(character: str) -> bool:
        return character == " " or category(character)[0] not in "CZ"

    return "".join(c if harmless(c) else c.encode("unicode_escape").decode() for c in text)


def cited(text: str, most: int = 200) -> str:
    """Words from a file for a message: quoted, harmless, and at most about so many characters of them."""
    if len(text) <= most:
        return f"'{printable(text)}'"
    return f"'{printable(text[:most])}...' ({len(text):,} characters)"


def shortened(text: str, most: int = 200) -> str:
    """The same without quotes: a name in a list of names."""
    return printable(text) if len(text) <= most else f"{printable(text[:most])}... ({len(text):,} characters)"


def cells_of(text: str) -> int:
    """How many columns of a terminal printable text takes: two for a wide character, none for one that is put on another."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(0 if category(c) in ("Mn", "Me") else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def folded(text: str, width: int | None) -> list[str]:
    """Printable text in lines of at most so many columns: broken between words, and within those longer than that."""
    if width is None or cells_of(text) <= width:
        return [text]
    lines = [""]
    for word in re.findall(r"\s*\S+\s*", text):
        if not lines[-1] or cells_of(lines[-1] + word.rstrip()) > width:
            lines += _chopped(word, width)
        else:
            lines[-1] += word
    return lines[1:]


def _chopped(word: str, width: int) -> Iterator[str]:
    start = used = 0
    for number, character in enumerate(word.rstrip()):
        used += cells_of(character)
        if used > width and number > start:
            yield word[start:number]
            start, used = number, cells_of(character)
    yield word[start:]


def shape_text(shape: Sequence[int]) -> str:
    """`(3072, 768)` as `3072x768`, `()` as `scalar`."""
    return "x".join(map(str, shape)) or "scalar"


def bytes_text(count: int) -> str:
    """A number of bytes in decimal units, three digits or so: `209.9 MB`."""
    size = float(count)
    for unit in _UNITS:
        if size < 1000 or unit == _UNITS[-1]:
            return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError("unreachable")


def bytes_of(text: str) -> int | None:
    """The number of bytes that `5GB`, `1.5 GiB` or `4096` says; None where it says none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kMGTP]?)(i?)B?)", text.strip(), re.IGNORECASE)
    if match is None:
        return None
    power = " kmgtp".index(match[2].lower() or " ")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** power)


def plural(count: int, noun: str) -> str:
    """`1 key`, `2 keys`, `1,024 keys`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def listing(names: Iterable[str], limit: int = 5) -> str:
    """The first few names for a message, none of them long, and how many more there are."""
    every = list(names)
    more = len(every) - limit
    return ", ".join(map(shortened, every[:limit])) + (f" and {more:,} more" if more > 0 else "")


def nearest(name: str, candidates: Iterable[str], limit: int = 3) -> list[str]:
    """The candidates most like `name`, best first; empty where nothing is near, or too long to be somebody's typing."""
    from difflib import get_close_matches

    if len(name) > _TYPED:
        return []
    short = [candidate for candidate in islice(candidates, 5000) if len(candidate) <= _TYPED]
    return get_close_matches(name, short, n=limit, cutoff=0.6)


def did_you_mean(name: str, candidates: Iterable[str]) -> str | None:
    """A hint that names the nearest candidates, if any is near."""
    near = nearest(name, candidates)
    return f"did you mean {' or '.join(printable(candidate) for candidate in near)}?" if near else None
