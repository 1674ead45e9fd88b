"""The health of the numbers, for the pages of `inspect --stats` and of `verify`: tables, words for the sentence, JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ckptdoctor.grouping import labels
from ckptdoctor.model import DType, Manifest
from ckptdoctor.reports.base import Column, Row, Table, Tone
from ckptdoctor.text import listing, plural, shape_text

if TYPE_CHECKING:
    from ckptdoctor.health import Health, Loss, TensorHealth

_FOUND = (Column("FOUND"), Column("KEY", fold=True), Column("SHAPE"), Column("DTYPE"), Column("TENSORS", right=True))
_CAST = (Column("CAST TO"), Column("LOSES"), Column("KEY", fold=True), Column("TENSORS", right=True))
_TONES: dict[str, Tone] = {"special": "bad", "constant": "plain", "zero": "note", "identical": "note"}


def health_tables(health: Health, manifest: Manifest, *, every_key: bool = False) -> tuple[Table, ...]:
    """What was found, and what casts lose (in `verify`: have lost). A table that would be empty is left out."""
    own = _own(health, manifest)
    found, lost = _findings(own, health.identical, manifest, every_key), _casts(own, every_key)
    return tuple(table for table in (Table(_FOUND, tuple(found)), Table(_CAST, tuple(lost))) if table.rows)


def _own(health: Health, manifest: Manifest) -> dict[str, TensorHealth]:
    """Without the tensors that are tied to others, of which the same would be said again."""
    return {key: each for key, each in health.tensors.items() if manifest[key].tied_to is None}


def _findings(
    own: Mapping[str, TensorHealth], identical: Iterable[Iterable[str]], manifest: Manifest, every_key: bool
) -> Iterator[Row]:
    """Tensors of which the same is to be said share a row, if they have one shape and dtype."""
    groups: dict[tuple[str, str, tuple[int, ...], DType, str | None], list[str]] = {}
    for kind, text, key in _found(own, identical):
        spec = manifest[key]
        groups.setdefault((kind, text, spec.shape, spec.dtype, key if every_key else None), []).append(key)
    for (kind, text, shape, dtype, _), keys in groups.items():
        for label in labels(keys):
            yield Row((text, label.text, shape_text(shape), dtype.name, f"{len(label.keys):,}"), _TONES[kind])


def _found(own: Mapping[str, TensorHealth], identical: Iterable[Iterable[str]]) -> Iterator[tuple[str, str, str]]:
    """Kind, text and key: first what is no number, then tensors of one value, then groups of the same bytes."""
    yield from (("special", each.specials.text, key) for key, each in own.items() if any(each.specials))
    yield from (("zero", "all 0", key) for key, each in own.items() if each.zero)
    yield from (
        ("constant", f"all {each.constant}", key) for key, each in own.items() if each.constant and not each.zero
    )
    for number, keys in enumerate(identical, start=1):
        yield from (("identical", f"same bytes ({number})", key) for key in keys)


def _casts(own: Mapping[str, TensorHealth], every_key: bool) -> Iterator[Row]:
    """For each dtype and each way to lose numbers: of which tensors, and how many all together."""
    for to in _into(own.values()):
        losses = {key: each.losses[to] for key, each in own.items() if to in each.losses}
        for how, counts in _ways(losses):
            for keys in [[key] for key in counts] if every_key else [[*counts]]:
                for label in labels(keys):
                    number = how.format(sum(counts[key] for key in label.keys))
                    yield Row((to.name, number, label.text, f"{len(label.keys):,}"), "note")


def _ways(losses: Mapping[str, Loss]) -> Iterator[tuple[str, dict[str, int]]]:
    """The ways to lose numbers: what is said of it, and how many do so in each tensor."""
    yield "{:,} overflow", {key: loss.overflow for key, loss in losses.items() if loss.overflow}
    yield "all {:,} become 0", {key: loss.to_zero or 0 for key, loss in losses.items() if loss.vanishes}
    yield "{:,} become 0", {key: loss.to_zero for key, loss in losses.items() if loss.to_zero and not loss.vanishes}


def _into(found: Iterable[TensorHealth]) -> Iterable[DType]:
    """The dtypes that casts were thought of to, the widest first."""
    return sorted({to for each in found for to in each.losses}, key=lambda to: (-to.bits, to.name))


def health_words(health: Health, manifest: Manifest) -> str:
    """What the closing sentence says of it."""
    own = _own(health, manifest).values()
    odd, one = sum(any(each.specials) for each in own), sum(each.constant is not None for each in own)
    words = [f"NaN or infinities in {plural(odd, 'tensor')}" if odd else "no NaN and no infinity"]
    words += [f"{plural(one, 'tensor')} of one value"] if one else []
    words += (
        [f"{plural(sum(map(len, health.identical)), 'tensor')} with the bytes of another"] if health.identical else []
    )
    over = {
        to: sum(each.losses[to].overflow > 0 for each in own if to in each.losses) for to in _into(own) if to.bits == 16
    }
    words += [f"{plural(count, 'tensor')} would overflow in {to}" for to, count in over.items() if count]
    return ", ".join(words)


def health_warnings(health: Health, manifest: Manifest) -> tuple[str, ...]:
    """What `inspect` warns of: tensors that hold something else than numbers."""
    odd = {key: each.specials for key, each in _own(health, manifest).items() if any(each.specials)}
    if not odd:
        return ()
    names = listing(label.text for label in labels(odd))
    counts = (
        (sum(each.nan for each in odd.values()), "NaN"),
        (sum(each.infinite for each in odd.values()), "infinite"),
    )
    numbers = ", ".join(f"{count:,} {what}" for count, what in counts if count)
    return (f"{numbers} in {plural(len(odd), 'tensor')}: {names}",)


def health_data(health: Health) -> dict[str, Any]:
    """The JSON of it: a row for every tensor, and the groups of the same bytes."""
    return {
        "tensors": [{"key": key, **_tensor(each)} for key, each in sorted(health.tensors.items())],
        "identical": sorted(sorted(keys) for keys in health.identical),
        "remarks": list(health.remarks),
    }


def _tensor(health: TensorHealth) -> dict[str, Any]:
    return {
        "sha256": health.sha256,
        "nan": health.specials.nan,
        "infinite": health.specials.infinite,
        "constant": health.constant,
        "zero": health.zero,
        "casts": {to.name: loss._asdict() for to, loss in health.losses.items()},
    }
