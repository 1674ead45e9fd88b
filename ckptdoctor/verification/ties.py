"""Tensors that shared memory when the output was made share it in the output, and no others: a tie is neither lost nor made.

In a torch file that is one storage under two keys, in a safetensors file a key that `__metadata__` names beside its tensor.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence

from ckptdoctor.receipt import TensorReceipt
from ckptdoctor.text import plural
from ckptdoctor.verification.evidence import Evidence, Side
from ckptdoctor.verification.origins import is_copy
from ckptdoctor.verification.types import Check, Problem, judged, skipped


def ties(evidence: Evidence) -> Check:
    """By what the receipt says of ties, and by the source itself where it is there."""
    record, source, output = evidence.record, evidence.source, evidence.output
    if record is None:
        return skipped("ties", evidence.no_record)
    rows = [row for row in record.tensors if output.manifest[row.key].numel]  # nothing is shared where nothing is
    recorded = {row.key: row.tied_to or row.key for row in rows}
    in_source = _in_source(rows, source, output) if source is not None else {}
    groups = [*_groups(recorded), *_groups(in_source)]
    problems = {key: text for group in groups for key, text in _torn(group, output)}
    problems |= {key: text for key, text in _made(recorded, output) if not _in_one(key, groups, output)}
    tied = {key for group in groups for key in group}
    by = source.manifest.origin.reference if source is not None else f"the receipt alone, {evidence.no_source}"
    good = f"{plural(len(tied), 'tensor')} share memory as before (by {by})" if tied else f"nothing is tied (by {by})"
    bad = f"{plural(len(problems), 'tensor')} tied in another way than before (by {by})"
    return judged("ties", len(rows), (Problem(*each) for each in problems.items()), good, bad)


def _in_source(rows: Sequence[TensorReceipt], source: Side, output: Side) -> dict[str, Hashable]:
    """For the copies of tensors that are views of one storage, where both files have storages: the storage.

    Of several copies of one tensor the first has its memory; whether the others share it, the receipt says.
    """
    if output.format != "torch" or not source.format.startswith("torch"):
        return {}
    firsts: dict[str, str] = {}
    for row in rows:
        if is_copy(row) and (origin := source.manifest.get(row.sources[0])) is not None:
            firsts.setdefault(origin.tied_to or origin.key, row.key)
    return {key: source.memory(origin) for origin, key in firsts.items()}


def _groups(memory: Mapping[str, Hashable]) -> Iterator[list[str]]:
    """The keys of each memory that has several."""
    groups: dict[Hashable, list[str]] = {}
    for key, name in memory.items():
        groups.setdefault(name, []).append(key)
    return (group for group in groups.values() if len(group) > 1)


def _torn(group: Sequence[str], output: Side) -> Iterator[tuple[str, str]]:
    first, *others = group
    for key in others:
        if output.memory(key) != output.memory(first):
            yield key, f"no longer shares memory with {first}"


def _made(recorded: Mapping[str, str], output: Side) -> Iterator[tuple[str, str]]:
    """Tensors that are one in the file, and were not one when it was written."""
    for key, first in recorded.items():
        other = output.manifest[key].tied_to
        if other is not None and recorded.get(other) != first:
            yield key, f"shares memory with {other}, and did not before"


def _in_one(key: str, groups: Sequence[Sequence[str]], output: Side) -> bool:
    other = output.manifest[key].tied_to
    return any(key in group and other in group for group in groups)
