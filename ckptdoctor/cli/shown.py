"""What comparing commands show besides the result: the keys that were asked for, and the obvious next step."""

from __future__ import annotations

from ckptdoctor.cli.guard import say
from ckptdoctor.cli.options import MatchOptions
from ckptdoctor.plan import Plan


def shown_keys(plan: Plan, options: MatchOptions) -> frozenset[str] | None:
    """The keys of both sides that --match names; None: all."""
    if not options.match:
        return None
    from ckptdoctor.policy import matches_any, parse_pattern

    patterns = [parse_pattern(text) for text in options.match]
    keys = {*plan.source, *plan.target}
    shown = frozenset(key for key in keys if matches_any(patterns, key))
    if not shown:
        say(f"warning: --match {' --match '.join(options.match)} names no key of either side")
    return shown


def next_command(name: str, *words: str | None) -> str:
    """A command line of ours, quoted for a shell; words that are None are left out."""
    import shlex

    return " ".join(["ckptdoctor", name, *(shlex.quote(word) for word in words if word is not None)])


def next_after_diff(plan: Plan, source: str, target: str | None) -> str | None:
    """What one would do after a diff."""
    if not plan.has_target:
        return None
    if plan.counts["missing"] or plan.counts["mismatched"]:
        return f"say in a map what belongs together, then: {next_command('diff', source, target)} --map MAP.yaml"
    if plan.maps:
        maps = (word for key_map in plan.maps for word in ("-m", key_map.path))
        return f"{next_command('remap', source, target, *maps)} -o OUT"
    return None
