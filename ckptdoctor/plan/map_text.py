"""Maps as text: rules and declarations that name literal keys, written as YAML that reads back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TypeAlias

from ckptdoctor.ops import Op
from ckptdoctor.patterns import Pattern, PatternError
from ckptdoctor.text import printable

Entry: TypeAlias = dict[str, object]


def entry(sources: Sequence[str], targets: Sequence[str], ops: Sequence[Op]) -> Entry:
    """An entry of `rules`, of patterns."""
    sides: Entry = {"from": _one_or_more(sources), "to": _one_or_more(targets)}
    return sides | ({"op": _one_or_more([{op.name: op.arguments()} for op in ops])} if ops else {})


def _one_or_more(items: Sequence[object]) -> object:
    return items[0] if len(items) == 1 else list(items)


def escaped(key: str) -> str:
    """The pattern that names this key and no other."""
    return key.replace("{", "{{").replace("}", "}}")


def declared(keys: Iterable[tuple[str, str]], more: Callable[[str], Entry] = lambda _: {}) -> Iterator[Entry]:
    """Entries of `fresh` or `drop` for keys with reasons, one for each reason, with what `more` adds for that reason.

    Keys that no pattern names are left out.
    """
    by_reason: dict[str, list[str]] = {}
    seen: set[str] = set()
    for key, why in keys:
        if key not in seen and _has_name(key):
            by_reason.setdefault(printable(why), []).append(escaped(key))
            seen.add(key)
    for why, names in by_reason.items():
        yield {"keys": _one_or_more(names), "why": why, **more(why)}


def _has_name(key: str) -> bool:
    """Whether a pattern can name a key: with an empty segment or a star in it, none can; nor can YAML hold half a character."""
    try:
        return Pattern.parse(escaped(key)).literal and key.encode() is not None
    except (PatternError, UnicodeEncodeError):
        return False


def dumped(document: Mapping[str, object]) -> str:
    """The YAML of a map, an entry a line; what is empty is left out."""
    one_line = _one_line()
    lines = []
    for name, value in document.items():
        if isinstance(value, list) and value:
            lines += [f"{name}:", *(f"  - {one_line(item)}" for item in value)]
        elif value:
            lines.append(f"{name}: {one_line(value)}")
    return "\n".join(lines) + "\n"


@cache
def _one_line() -> Callable[[object], str]:
    """A function that writes a plain value as YAML without a line break."""
    import yaml

    class Dumper(yaml.SafeDumper):
        """Quotes what would break the line, so that it is escaped."""

    def represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')

    def one_line(value: object) -> str:
        written: str = yaml.dump(
            value, Dumper=Dumper, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True
        )
        return written.removesuffix("...\n").rstrip("\n")

    Dumper.add_representer(str, represent)
    return one_line
