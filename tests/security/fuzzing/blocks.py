"""Changes of bytes that know nothing of any format, and the numbers and words that hurt."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

INTEGERS = (
    *(0, 1, -1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 24, 63, 64, 65, 127, 128, 255, 256, 4096, 2**15, 2**16 - 1, 2**16),
    *(2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**53, 2**61, 2**62, 2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64),
)
WIDTHS = {1: "B", 2: "H", 4: "I", 8: "Q"}


class Pool(NamedTuple):
    """What a mutation may draw from: words of the format, and its other good files."""

    words: Sequence[bytes]
    others: Sequence[bytes]


Change = Callable[[Random, bytes, Pool], bytes]


def near(random: Random, value: int) -> int:
    """A number that is interesting, or a little beside the one that stands there."""
    return random.choice(INTEGERS) if random.random() < 0.6 else value + random.randint(-9, 9)


def put_integer(data: bytes, at: int, width: int, value: int, order: str = "<") -> bytes:
    """The data with `value`, as far as it fits, in these bytes."""
    raw = struct.pack(order + WIDTHS[width], value % (1 << 8 * width))
    return data[:at] + raw + data[at + width :]


def _span(random: Random, data: bytes) -> tuple[int, int]:
    """Begin and end of a block, most often a short one."""
    begin = random.randrange(len(data) + 1)
    return begin, min(len(data), begin + random.choice((1, 1, 2, 4, 8, 16, 64, 512)))


def _flip(random: Random, data: bytes, pool: Pool) -> bytes:
    at = random.randrange(len(data) or 1)
    return data[:at] + bytes(byte ^ 1 << random.randrange(8) for byte in data[at : at + 1]) + data[at + 1 :]


def _set(random: Random, data: bytes, pool: Pool) -> bytes:
    at = random.randrange(len(data) or 1)
    return data[:at] + bytes([random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))]) + data[at + 1 :]


def _insert(random: Random, data: bytes, pool: Pool) -> bytes:
    at, block = random.randrange(len(data) + 1), random.randbytes(random.choice((1, 2, 4, 16)))
    return data[:at] + random.choice((block, bytes(len(block)))) + data[at:]


def _delete(random: Random, data: bytes, pool: Pool) -> bytes:
    begin, end = _span(random, data)
    return data[:begin] + data[end:]


def _duplicate(random: Random, data: bytes, pool: Pool) -> bytes:
    begin, end = _span(random, data)
    at = random.choice((end, random.randrange(len(data) + 1)))
    return data[:at] + data[begin:end] + data[at:]


def _swap(random: Random, data: bytes, pool: Pool) -> bytes:
    (a, b), (c, d) = sorted((_span(random, data), _span(random, data)))
    return data if b > c else data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


def _cut(random: Random, data: bytes, pool: Pool) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _splice(random: Random, data: bytes, pool: Pool) -> bytes:
    other = random.choice(pool.others)
    at = random.randrange(len(data) + 1)
    begin, end = _span(random, other)
    return random.choice((data[:at] + other[at:], data[:at] + other[begin:end] + data[at:]))


def _number(random: Random, data: bytes, pool: Pool) -> bytes:
    width = random.choice((1, 2, 4, 8))
    if len(data) < width:
        return data
    at = random.randrange(len(data) - width + 1)
    there = int.from_bytes(data[at : at + width], "little")
    return put_integer(data, at, width, near(random, there), random.choice("<<<>"))


def _word(random: Random, data: bytes, pool: Pool) -> bytes:
    at, word = random.randrange(len(data) + 1), random.choice(pool.words)
    return data[:at] + word + data[at + random.choice((0, len(word))) :]


def _word_for_word(random: Random, data: bytes, pool: Pool) -> bytes:
    there = [word for word in random.sample(pool.words, min(8, len(pool.words))) if word in data]
    return data.replace(random.choice(there), random.choice(pool.words), random.choice((1, -1))) if there else data


CHANGES: tuple[Change, ...] = (
    *(_flip, _flip, _set, _set, _insert, _delete, _duplicate, _swap),
    *(_cut, _splice, _number, _number, _word, _word_for_word),
)


def change(random: Random, data: bytes, pool: Pool) -> bytes:
    """One to three changes, most often one."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(CHANGES)(random, data, pool)
    return data
