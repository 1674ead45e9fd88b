"""Changes of a zip file: of the fields of its headers as they lie, and of its records before they are laid out anew."""

from __future__ import annotations

import io
import re
import zipfile
from dataclasses import replace
from random import Random

from tests import builders as b
from tests.security.fuzzing.blocks import Pool, change, near, put_integer

_FIELDS = {  # offset and width of the numbers behind each signature
    b"PK\x01\x02": (
        (4, 2),
        (6, 2),
        (8, 2),
        (10, 2),
        (16, 4),
        (20, 4),
        (24, 4),
        (28, 2),
        (30, 2),
        (32, 2),
        (34, 2),
        (42, 4),
    ),
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x07\x08": ((4, 4), (8, 4), (12, 4)),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
    b"PK\x06\x06": ((4, 8), (12, 2), (14, 2), (16, 4), (20, 4), (24, 8), (32, 8), (40, 8), (48, 8)),
    b"PK\x06\x07": ((4, 4), (8, 8), (16, 4)),
}
_SIGNATURES = re.compile(b"|".join(map(re.escape, _FIELDS)))
NAMES = (
    "data.pkl",
    "data/0",
    "data/1",
    "Data/0",
    "DATA.PKL",
    "version",
    "byteorder",
    ".format_version",
    "x",
    "../data/0",
)


def records_of(archive: bytes) -> list[b.Record]:
    """The entries of a good file, in order."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        for entry in opened.infolist():
            entry.CRC = None  # type: ignore[assignment]  # some have none on record, which zipfile takes for zero
        return [b.Record(name, opened.read(name)) for name in opened.namelist()]


def change_header(random: Random, archive: bytes) -> bytes:
    """One field of one header is another number, or that of another header of its kind."""
    for _ in range(random.choice((1, 1, 2))):
        places = [(match.start(), match[0]) for match in _SIGNATURES.finditer(archive)]
        if not places:
            return archive
        start, signature = random.choice(places)
        offset, width = random.choice(_FIELDS[signature])
        alike = random.choice([at for at, other in places if other == signature]) + offset
        there, twin = (int.from_bytes(archive[at : at + width], "little") for at in (start + offset, alike))
        if start + offset + width <= len(archive):
            value = twin if random.random() < 0.3 else near(random, there)
            archive = put_integer(archive, start + offset, width, value)
    return archive


def change_records(random: Random, records: list[b.Record], pool: Pool) -> list[b.Record]:
    """One record is other than the rest of the file says; checksums and sizes are right unless they are what is changed."""
    records = list(records)
    at = random.randrange(len(records))
    one = records[at]
    top = one.name.partition("/")[0]
    name = random.choice(
        (f"{top}/{random.choice(NAMES)}", one.name.swapcase(), one.name + "x", random.choice(records).name)
    )
    what = random.randrange(14)
    size = near(random, len(one.data)) % (1 << 32)
    if what < 3:
        records[at] = replace(one, data=change(random, one.data, pool))
    elif what == 3:
        del records[at]
    elif what == 4:
        records.insert(random.randrange(len(records) + 1), replace(one, name=random.choice((name, one.name))))
    elif what == 5:
        random.shuffle(records)
    elif what == 6:
        records[at] = replace(one, name=name)
    elif what == 7:
        records[at] = replace(one, data=random.choice(records).data)
    else:
        fields = (
            *({"crc": random.choice((0, 1, 2**32 - 1))}, {"size": size}, {"packed": size}, {"local_name": name}),
            *({"flags": random.choice((0, 1, 8, 0x0808))}, {"method": random.choice((0, 8, 9, 99))}, {"deflate": True}),
            *({"local_size": size}, {"local_crc": 0}, {"gap": random.randbytes(random.choice((1, 4, 64)))}),
            *(
                {"attributes": random.choice((16, 0x10 << 16, 2**32 - 1))},
                {"local_extra": random.choice((1, 4, 2**16 - 1))},
                {"at": random.choice((0, 30, 2**31, 2**32 - 1))},
            ),
        )
        records[at] = replace(one, **random.choice(fields))
    return records
