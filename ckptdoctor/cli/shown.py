"""What comparing commands show besides the result: the keys that were asked for, and the obvious next step."""

from __future__ import annotations

from ckptdoctor.cli.options import MatchOptions
from ckptdoctor.plan import Plan


def shown_keys(plan: Plan, options: MatchOptions) -> frozenset[str] | None:
    """The keys of both sides that --match names; None: all."""
    if not options.match:
        return None
    from ckptdoctor.policy import matches_any, parse_pattern

    patterns = [parse_pattern(text) for text in options.match]
    keys = {*plan.source, *plan.target}
    return frozenset(key for key in keys if matches_any(patterns, key))


def next_after_diff(plan: Plan, source: str, target: str | None) -> str | None:
    """What one would do after a diff."""
    import shlex

    words = " ".join(shlex.quote(word) for word in (source, target) if word is not None)
    if not plan.has_target:
        return None
    if any(step.status in ("missing", "mismatched") for step in plan.steps):
        return f"say in a map what belongs together, then: ckptdoctor diff {words} --map MAP.yaml"
    if plan.maps:
        maps = " ".join(f"-m {shlex.quote(key_map.path)}" for key_map in plan.maps)
        return f"ckptdoctor remap {words} {maps} -o OUT"
    return None
