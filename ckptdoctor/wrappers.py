"""Where the weights lie in a file (`select`), and which wrapper segments are taken out of the keys (`align`).

DataParallel, torch.compile, FSDP, DeepSpeed and Lightning put their own segments into keys: `module.`, `_orig_mod.`, `net.`.
Some are never part of a model and go wherever they stand; others (`model`, `net`) may be real names, so they go only from the
front, and unasked only if more keys match without them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

from ckptdoctor.errors import KeyCollision
from ckptdoctor.model import Manifest, TensorSpec
from ckptdoctor.text import did_you_mean, listing, plural

Place = tuple[str, ...]

NAMES = ("state_dict", "model", "model_state_dict", "module")
EVERYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_forward_module", "_checkpoint_wrapped_module")
IN_FRONT = ("module", "model", "net", "network", "backbone")
_OPTIMIZERS = ("optim", "lr_scheduler", "scaler")


class SelectionError(ValueError):
    """The weights are not where they were said to be, or in two places that look alike."""

    def __init__(self, message: str, *, hint: str | None = None, candidates: Sequence[Place] = ()) -> None:
        super().__init__(message)
        self.hint = hint
        self.candidates = tuple(candidates)


def place_text(place: Place) -> str:
    """`("a", "b")` as `a/b`, the root as `.`: what `--select` takes."""
    return "/".join(place) or "."


def select(places: Mapping[Place, int], wanted: str | None = None) -> Place:
    """Choose the place of the weights among the mappings that hold tensors (with the number of tensors in each).

    Raises SelectionError where there is none, or where two are equally good.
    """
    if wanted is not None:
        return _wanted(places, wanted)
    weights = [place for place in places if not any(name.startswith(_OPTIMIZERS) for name in place)]
    if not weights:
        raise SelectionError(
            "no state dict in it: no mapping holds tensors by name", hint="ckptdoctor inspect shows what is in it"
        )
    for group in _preferences(weights):
        if len(group) == 1:
            return group[0]
        if group:
            rows = listing((f"{place_text(place)} ({plural(places[place], 'tensor')})" for place in group), limit=12)
            message = f"several places could hold the weights: {rows}"
            raise SelectionError(message, hint=f"choose one, as --select {place_text(group[0])}", candidates=group)
    raise AssertionError("unreachable: the last preference takes everything")


def _wanted(places: Mapping[Place, int], wanted: str) -> Place:
    place = tuple(part for part in wanted.split("/") if part not in ("", "."))
    if place not in places:
        candidates = list(places)
        texts = [place_text(place) for place in sorted(candidates, key=len)]
        hint = did_you_mean(wanted, texts) or (
            f"tensors lie at {listing(texts)}" if texts else "it holds no tensors by name"
        )
        raise SelectionError(f"no tensors at {wanted}", hint=hint, candidates=candidates)
    return place


def _preferences(places: Sequence[Place]) -> Iterable[list[Place]]:
    """Groups of places, best first: known names, then the root, then what is alone; EMA copies only where nothing else is."""
    usual = [place for place in places if not is_average(place)]
    for candidates in (usual, places):
        yield [place for place in candidates if len(place) == 1 and place[0] in NAMES]
        yield [place for place in candidates if not place]
        yield list(candidates)


def is_average(place: Place) -> bool:
    """Whether a place is named like an averaged copy of the weights."""
    return any("ema" in name.lower().split("_") or name.lower().startswith(("ema", "swa")) for name in place)


class Aligned(NamedTuple):
    """Two manifests whose keys speak of the same things; what was taken out stands in their origins."""

    source: Manifest
    target: Manifest | None


def align(source: Manifest, target: Manifest | None, strip: Sequence[str] | None = None) -> Aligned:
    """Take the wrapper segments out of both sides.

    `strip` says which segments go from the source (`[]`: none), those of EVERYWHERE wherever they stand, any other from the
    front. Left out, they are found: those of EVERYWHERE always, those of IN_FRONT where that strictly increases the keys
    that match. Raises KeyCollision where two keys would become one.
    """
    if strip is not None or target is None:
        return Aligned(
            stripped(source, EVERYWHERE if strip is None else strip), target and stripped(target, EVERYWHERE)
        )
    ours, theirs = _best_fronts(source, target)
    return Aligned(stripped(source, (*EVERYWHERE, *ours)), stripped(target, (*EVERYWHERE, *theirs)))


def paired(ours: Collection[str], theirs: Collection[str]) -> tuple[list[str], list[str]]:
    """The names of both sides as `align` has them, each in its order; two of one side may then be one."""
    fronts = _best_fronts(ours, theirs)
    first, second = (
        _shortened(side, (*EVERYWHERE, *front)) for side, front in zip((ours, theirs), fronts, strict=True)
    )
    return first, second


def _best_fronts(source: Collection[str], target: Collection[str]) -> tuple[Place, Place]:
    """What to take from the front of both sides, so that the most keys match; of the best the shortest."""
    plain = [{*_shortened(side, EVERYWHERE)} for side in (source, target)]
    if len(plain[0] & plain[1]) == min(len(source), len(target)) or _alike_in_front(plain):
        return (), ()
    ours, theirs = map(_by_front, plain)
    pairs = sorted(product(ours, theirs), key=lambda pair: len(pair[0]) + len(pair[1]))
    return max(pairs, key=lambda pair: len(ours[pair[0]] & theirs[pair[1]]))


def without_wrappers(keys: Collection[str]) -> list[str]:
    """The keys without the segments that are never part of a model."""
    return _shortened(keys, EVERYWHERE)


def stripped(manifest: Manifest, segments: Sequence[str]) -> Manifest:
    """A manifest without these segments; `raw_key` keeps what stood in the file."""
    short = _shortened(manifest, segments)
    if short == list(manifest):
        return manifest.said_of(manifest.origin._replace(stripped=()))
    changed = [(key, other) for key, other in zip(manifest, short, strict=True) if key != other]
    renamed = dict(zip(manifest, short, strict=True))
    _check_distinct(renamed)
    before, after = (Counter(part for key in side for part in key.split(".")) for side in zip(*changed, strict=True))
    specs = (
        TensorSpec(
            key,
            spec.shape,
            spec.dtype,
            spec.kind,
            renamed[spec.tied_to] if spec.tied_to is not None else None,
            None if key == spec.stored_key else spec.stored_key,
        )
        for key, spec in zip(short, manifest.values(), strict=True)
    )
    gone = tuple(name for name in segments if before[name] > after[name])
    return Manifest(specs, manifest.origin._replace(stripped=gone))


def _shortened(keys: Collection[str], segments: Sequence[str]) -> list[str]:
    """The keys without the segments. Most keys have none of them that may stand anywhere: that is asked of all at once."""
    front = [name for name in segments if name not in EVERYWHERE]
    text = "\n".join(keys) if len(front) < len(segments) else ""
    everywhere = {name for name in segments if name in EVERYWHERE and name in text}
    if not everywhere and len(front) < 2:  # nearly always, and much faster
        return [key.removeprefix(f"{front[0]}.") for key in keys] if front else list(keys)
    return [_short(key, everywhere, front) for key in keys]


def _short(key: str, everywhere: Collection[str], front: Iterable[str]) -> str:
    if everywhere:
        key = ".".join(part for part in key.split(".") if part not in everywhere)
    left = [*front]
    while left:
        first, dot, rest = key.partition(".")
        if not dot or first not in left:
            break
        left.remove(first)
        key = rest
    return key


def _alike_in_front(sides: Iterable[Collection[str]]) -> bool:
    """Whether every key of both sides begins with one and the same name that may go, and none with two of these."""
    texts = [("\n".join(("", *keys)), len(keys)) for keys in sides]
    return any(
        all(text.count(f"\n{name}.") == count for text, count in texts)
        and not any(f"\n{name}.{inner}." in text for inner in IN_FRONT for text, _ in texts)
        for name in IN_FRONT
    )


def _by_front(keys: set[str], depth: int = 3) -> dict[Place, set[str]]:
    """What could be taken from the front of some keys, sequences of up to `depth` names of IN_FRONT, and the keys without."""
    found: dict[Place, set[str]] = {(): keys}
    waiting: list[Place] = [()]
    for front in waiting:
        rest = found[front] = {*_shortened(keys, front)} if front else keys
        text = "\n".join(("", *rest))  # where a key has a line of its own in it, there is one more to try, and no harm
        if len(front) < depth:
            waiting += [(*front, name) for name in IN_FRONT if f"\n{name}." in text]
    return found


def _check_distinct(renamed: Mapping[str, str]) -> None:
    first: dict[str, str] = {}
    for key, short in renamed.items():
        if short in first:
            raise KeyCollision(
                f"without wrapper segments, {first[short]} and {key} would both be {short}",
                keys=(first[short], key),
                hint="say which segments to take out with --strip, or none with --strip ''",
            )
        first[short] = key


def rewrapped(keys: Iterable[str], source: Manifest) -> dict[str, str]:
    """Output keys with the wrapper segments of the source put back: `{key: key as written}`.

    A key of the source gets its own back, a new one those of the longest path that it shares with a key of the source.
    Raises KeyCollision where the source wraps that path in two ways.
    """
    if all(spec.raw_key is None for spec in source.values()):
        return {key: key for key in keys}
    paths = _wrapped_paths(source)
    return {key: source[key].stored_key if key in source else _wrapped(key, paths) for key in keys}


def _wrapped_paths(source: Manifest) -> dict[Place, set[Place]]:
    """For each path of segments, what stands in the file up to the segment after it."""
    paths: dict[Place, set[Place]] = {}
    for spec in source.values():
        kept, raw = tuple(spec.key.split(".")), tuple(spec.stored_key.split("."))
        at = len(raw)
        for length in reversed(range(len(kept))):  # from the end: wrappers stand before the segment that they wrap
            at = next(i for i in reversed(range(at)) if raw[i] == kept[length])
            paths.setdefault(kept[:length], set()).add(raw[:at])
    return paths


def _wrapped(key: str, paths: Mapping[Place, set[Place]]) -> str:
    parts = tuple(key.split("."))
    length = next(n for n in reversed(range(len(parts))) if parts[:n] in paths)
    raw = paths[parts[:length]]
    if len(raw) > 1:
        forms = " and ".join(sorted(".".join(form) or "(nothing)" for form in raw))
        raise KeyCollision(
            f"the file wraps {'.'.join(parts[:length]) or 'its keys'} in two ways ({forms}): which one is {key} to have?",
            keys=(key,),
            hint="write the output without wrapper segments: --unwrap",
        )
    return ".".join((*next(iter(raw)), *parts[length:]))
