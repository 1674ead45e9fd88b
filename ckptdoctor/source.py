"""From a path to a manifest: open the file in whatever format it is, find the weights in it, and list them."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.collector import collector_paused
from ckptdoctor.errors import NoStateDict
from ckptdoctor.formats import open_checkpoint
from ckptdoctor.formats.base import Checkpoint, Envelope, Place
from ckptdoctor.model import Manifest, Origin
from ckptdoctor.text import listing, plural, shortened
from ckptdoctor.wrappers import SelectionError, place_text, select

if TYPE_CHECKING:
    from ckptdoctor.unpickling import Exposure

_MOST_NOTES = 100
"""Notes of one kind that are worth a line each."""


@collector_paused()
def read_manifest(path: str | os.PathLike[str], *, selected: str | None = None) -> Manifest:
    """What a checkpoint holds, without reading any tensor and without running anything from the file.

    `selected` is the place of the weights in the file (`state_dict`, `a/b`; `.` is the root); left out, they are found.
    The keys are as in the file. Raises CheckpointError.
    """
    with open_checkpoint(path) as checkpoint:
        return _manifest(checkpoint, selected)


class OpenSource(NamedTuple):
    """An opened checkpoint with the place of its weights; close it, or use it in a `with`."""

    envelope: Envelope
    manifest: Manifest

    def __enter__(self) -> OpenSource:
        return self

    def __exit__(self, *_: object) -> None:
        self.envelope.source.__exit__()


@collector_paused()
def open_source(path: str | os.PathLike[str], *, selected: str | None = None) -> OpenSource:
    """Open a checkpoint for reading its tensors; `selected` as in `read_manifest`."""
    checkpoint = open_checkpoint(path)
    try:
        return OpenSource(Envelope(checkpoint, find_weights(checkpoint, selected)), _manifest(checkpoint, selected))
    except BaseException:
        checkpoint.__exit__()
        raise


class Description(NamedTuple):
    """A checkpoint's manifest, facts about what else is in the file, and the globals that its pickles name."""

    manifest: Manifest
    facts: tuple[str, ...] = ()
    globals: tuple[Exposure, ...] = ()


@collector_paused()
def describe(path: str | os.PathLike[str], *, selected: str | None = None) -> Description:
    """What is in a checkpoint; raises CheckpointError."""
    with open_checkpoint(path) as checkpoint:
        manifest = _manifest(checkpoint, selected)
        place = find_weights(checkpoint, selected)
        elsewhere: Counter[str] = Counter()
        for other, tensors in checkpoint.places.items():
            if other != place:
                elsewhere[place_text(other[:1])] += tensors
        most = elsewhere.most_common(_MOST_NOTES)
        facts = [f"{plural(count, 'tensor')} more at {shortened(name)}" for name, count in most]
        if (more := len(elsewhere) - _MOST_NOTES) > 0:
            facts.append(f"more tensors at {plural(more, 'other place')}")
        return Description(manifest, tuple(facts), _exposures(checkpoint))


def _exposures(checkpoint: Checkpoint) -> tuple[Exposure, ...]:
    if not checkpoint.pickles:
        return ()
    from ckptdoctor.unpickling import exposures

    return exposures(checkpoint.pickles)


def _dangerous(checkpoint: Checkpoint) -> tuple[str, ...] | None:
    if not checkpoint.pickles:
        return () if checkpoint.has_data else None
    from ckptdoctor.unpickling import dangerous_globals

    return dangerous_globals(checkpoint.pickles)


def find_weights(checkpoint: Checkpoint, selected: str | None) -> Place:
    """Where the weights lie; raises NoStateDict with the candidates where that is not clear."""
    try:
        return select(checkpoint.places, selected)
    except SelectionError as error:
        candidates = [place_text(place) for place in error.candidates]
        globals_ = dict.fromkeys(name.path for pickle in checkpoint.pickles for name in pickle.globals)
        named = f"; loading it would call {listing(globals_)}" if not candidates and globals_ else ""
        raise NoStateDict(
            f"{checkpoint.path}: {error}{named}", path=checkpoint.path, hint=error.hint, candidates=candidates
        ) from None


def _manifest(checkpoint: Checkpoint, selected: str | None) -> Manifest:
    place = find_weights(checkpoint, selected)
    notes = list(checkpoint.notes)
    others = checkpoint.others(place)
    notes += [f"{shortened(key)} is no dense tensor; it is kept as it is" for key in others[:_MOST_NOTES]]
    if (more := len(others) - _MOST_NOTES) > 0:
        notes.append(f"{more:,} more of its entries are no dense tensors")
    if harm := _dangerous(checkpoint):
        notes.append(f"{checkpoint.path} would call {listing(harm)} if it were unpickled; ckptdoctor never does that")
    origin = Origin(
        reference=str(checkpoint.path),
        kind=checkpoint.format,
        nbytes=checkpoint.nbytes,
        selected=place_text(place) if place else None,
        notes=tuple(notes),
        files=len(checkpoint.files),
        dangerous=harm,
    )
    return checkpoint.manifest(place).said_of(origin)
