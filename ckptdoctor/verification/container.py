"""The file as a container: everything in it can be reached, and what was recorded of its bytes still holds.

torch.load never looks at the CRC-32 that torch.save records of every record; a byte that turned over on a disk is loaded
silently. safetensors records none, there the header's spans have to cover the file exactly (which opening it checks).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ckptdoctor.archive.reading import ArchiveError
from ckptdoctor.errors import CorruptCheckpoint
from ckptdoctor.text import listing, plural
from ckptdoctor.verification.evidence import Evidence, Side
from ckptdoctor.verification.types import Check, Problem

if TYPE_CHECKING:
    from ckptdoctor.archive.reading import Archive, Entry
    from ckptdoctor.formats.base import Checkpoint


def container(evidence: Evidence) -> Check:
    """Every CRC that is recorded matches."""
    side = evidence.output
    archives = _archives(side.opened.envelope.source)
    if not archives:
        text = f"all parts are where they should be; {side.format} records no checksums"
        return Check("container", "passed", text, checked=len(side.manifest))
    entries = [(archive, entry) for archive in archives for entry in archive.entries.values()]
    recorded = [(archive, entry) for archive, entry in entries if entry.crc]
    wrong = [(archive, entry) for archive, entry in recorded if not _intact(archive, entry, side)]
    unrecorded = sum(1 for _, entry in entries if not entry.crc and entry.size)
    notes = [f"{plural(unrecorded, 'record')} without a recorded CRC"] if unrecorded else []
    if wrong:
        problems = tuple(_problems(wrong, side))
        names = [problem.key for problem in problems]
        text = f"{len(wrong):,} of {plural(len(recorded), 'CRC')} do not match: {listing(names)}"
        return Check("container", "failed", text, problems, len(entries), "records", tuple(notes))
    text = f"{plural(len(entries), 'record')}, {plural(len(recorded), 'CRC')} match"
    return Check("container", "passed", "; ".join([text, *notes]), (), len(entries), "records")


def _archives(checkpoint: Checkpoint) -> list[Archive]:
    """The zip files that a checkpoint consists of."""
    from ckptdoctor.formats.torch.reader import TorchCheckpoint

    return [part.archive for part in checkpoint.parts if isinstance(part, TorchCheckpoint)]


def _intact(archive: Archive, entry: Entry, side: Side) -> bool:
    try:
        start = archive.data_offset(entry)
        if entry.method:  # packed; unpacking checks it
            archive.read(entry.name.partition("/")[2])
            return True
    except ArchiveError as error:
        path = archive.source.path
        raise CorruptCheckpoint(f"{path} is damaged: {error}", path=path) from None
    crc = 0
    for chunk in archive.source.chunks(start, entry.size):
        crc = zlib.crc32(chunk, crc)
        side.progress(len(chunk))
    return crc == entry.crc


def _problems(wrong: Sequence[tuple[Archive, Entry]], side: Side) -> Iterator[Problem]:
    """The damaged records, each with the tensors that lie in it."""
    held: dict[tuple[object, str], list[str]] = {}
    for key in side.manifest:
        file, storage = side.memory(key)
        held.setdefault((file, f"data/{storage}"), []).append(key)
    several = len(side.opened.envelope.source.files) > 1
    for archive, entry in wrong:
        record = entry.name.partition("/")[2]
        holds = listing(held.get((archive.source, record), ())) or "nothing of the weights"
        name = f"{archive.source.path.name}: {record}" if several else record
        yield Problem(name, f"does not match its CRC; it holds {holds}")
