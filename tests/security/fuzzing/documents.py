"""Changes of JSON that keep it JSON, mostly: values, names and their order; and of lines, for texts that are made of lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.security.fuzzing.blocks import Pool, near


class Object(list[tuple[str, Any]]):
    """A JSON object as the list of its pairs, doubled names and all."""


class Raw(str):
    """A text that is written as it is, JSON or not."""


VALUES = (
    *(None, True, False, 0, 1, -1, 2, 4, 8, 2**31, 2**53, 2**62, 2**63, 2**64, 10**30, 1.0, 1.5, -0.0),
    *(
        "",
        "w",
        "weight",
        "F32",
        "I32",
        "BF16",
        "F4",
        "U8",
        "float32",
        "int32",
        "bfloat16",
        "parameter",
        "buffer",
        "\ud800",
    ),
    *([], [0], [0, 8], [2, 2], [1] * 70, Object(), Object([("w", 1)]), "é", "../x", "x" * 300, "\0", "\x1b[31m", "a/b"),
    *(
        Raw("1e400"),
        Raw("NaN"),
        Raw("-0"),
        Raw("1e1"),
        Raw("01"),
        Raw("9" * 5000),
        Raw("[" * 40 + "]" * 40),
        Raw('"\\ud800"'),
    ),
)


def parsed(text: bytes) -> Any:
    """A document whose objects are lists of pairs."""
    return json.loads(text, object_pairs_hook=Object)


def dumped(value: Any, *, colon: str = ":", comma: str = ",", ascii_only: bool = True) -> str:
    """The text of such a document."""
    style = {"colon": colon, "comma": comma, "ascii_only": ascii_only}
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Object):
        return "{" + comma.join(dumped(k, **style) + colon + dumped(v, **style) for k, v in value) + "}"
    if isinstance(value, list):
        return "[" + comma.join(dumped(item, **style) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def _slots(value: Any) -> Iterator[tuple[Any, int]]:
    """Every place where a value stands: a list or an object, and a position in it."""
    for at, item in enumerate(value if isinstance(value, list) else ()):
        yield value, at
        yield from _slots(item[1] if isinstance(value, Object) else item)


def _get(parent: Any, at: int) -> Any:
    return parent[at][1] if isinstance(parent, Object) else parent[at]


def _set(parent: Any, at: int, value: Any) -> None:
    parent[at] = (parent[at][0], value) if isinstance(parent, Object) else value


def _copied(value: Any) -> Any:
    if isinstance(value, Object):
        return Object((name, _copied(item)) for name, item in value)
    return [_copied(item) for item in value] if isinstance(value, list) else value


def change_json(random: Random, document: Any) -> Any:
    """The document with a few changes in it."""
    document = _copied(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        slots = list(_slots(document))
        if not slots:
            return _any(random)
        (parent, at), (other, there) = random.choice(slots), random.choice(slots)
        alike = [slot for slot in slots if type(_get(*slot)) is type(_get(parent, at))]
        what, value = random.randrange(10), _get(parent, at)
        if what < 3:
            _set(parent, at, _changed(random, value))
        elif what == 3:
            twin, where = random.choice(alike)
            mine, theirs = value, _get(twin, where)
            _set(parent, at, _copied(theirs)), _set(twin, where, _copied(mine))
        elif what == 4:
            _set(parent, at, _copied(_get(*random.choice(alike))))
        elif what == 5:
            del parent[at]
        elif what == 6:
            parent.insert(random.randrange(len(parent) + 1), _copied(parent[at]))
        elif what == 7 and isinstance(parent, Object):
            names = [name for each, where in slots if isinstance(each, Object) for name in (each[where][0],)]
            parent[at] = (random.choice((random.choice(names), "x", "w", "", "é", "\ud800")), value)
        elif what == 8:
            random.shuffle(parent)
        else:
            _set(parent, at, _copied(_get(other, there)) if random.random() < 0.5 else _any(random))
    return document


def _any(random: Random) -> Any:
    return _copied(random.choice(VALUES))


def _changed(random: Random, value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return random.choice((True, False, None, 0))
    if isinstance(value, int):
        return near(random, value)
    if isinstance(value, str) and value:
        at = random.randrange(len(value))
        return value[:at] + random.choice(("", "x", ".", value[at].swapcase(), "é", "\n")) + value[at + 1 :]
    if isinstance(value, list) and not isinstance(value, Object):
        return random.choice((value[::-1], value + value[:1], value[1:], [1, *value], [*value, 1], value))
    return _any(random)


def text_of(random: Random, document: Any) -> bytes:
    """Its text, spaced in one way or another."""
    style = {"colon": random.choice((":", ": ")), "comma": random.choice((",", ", ", ",\n"))}
    ascii_only = random.random() < 0.8
    return dumped(document, ascii_only=ascii_only, **style).encode("utf-8", "surrogatepass")


def change_lines(random: Random, text: bytes, pool: Pool) -> bytes:
    """Lines are dropped, doubled, swapped, taken from another text, and moved to the left or the right."""
    lines = text.split(b"\n")
    for _ in range(random.choice((1, 1, 2))):
        at, other = random.randrange(len(lines)), random.randrange(len(lines))
        what = random.randrange(6)
        if what == 0 and len(lines) > 1:
            del lines[at]
        elif what == 1:
            lines.insert(other, lines[at])
        elif what == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif what == 3:
            lines.insert(at, random.choice(random.choice(pool.others).split(b"\n")))
        elif what == 4:
            lines[at] = random.choice((b"  " + lines[at], lines[at][2:], lines[at].lstrip(), b"- " + lines[at]))
        else:
            lines[at] = lines[at] + random.choice(
                (b" # x", b" ", b": x", b"", b" x", b'"', b"}", random.choice(pool.words))
            )
    return b"\n".join(lines)
