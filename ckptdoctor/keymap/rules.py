"""One entry of `rules`: how its sides belong together, and what its ops need them to be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ckptdoctor.keymap import document
from ckptdoctor.keymap.arithmetic import Arithmetic
from ckptdoctor.keymap.document import Node, Scalar
from ckptdoctor.keymap.kinds import Log
from ckptdoctor.keymap.types import Rule
from ckptdoctor.patterns import Pairing, Pattern, PatternError, pair
from ckptdoctor.text import listing


def build_rule(values: dict[str, Any], node: document.Mapping) -> Rule:
    """The rule of these fields."""
    names, sources = values["from"]
    targets = values["to"]
    return Rule(
        location=node.location,
        sources=sources,
        input_names=names,
        targets=targets,
        ops=values.get("op", ()),
        expect=values.get("expect"),
        optional=values.get("optional"),
        excepts=values.get("except", ()),
        where=values.get("where", ()),
        pairings=values.get("pairings", ()),
        text=f"{_short(sources)} -> {_short(targets)}",
    )


def derive_pairings(values: dict[str, Any], node: document.Mapping, at: str, log: Log) -> None:
    """How each pattern of one side belongs to the one of the other; then what `where` and a list ask of them."""
    if not {"from", "to"} <= values.keys():
        return
    (_, sources), targets = values["from"], values["to"]
    if len(sources) > 1 and len(targets) > 1:
        if not all(pattern.literal for pattern in (*sources, *targets)):
            message = "several patterns on both sides"
            log.add(node.items["to"].location, f"{at}.to", message, "write one rule for each pattern of to")
        return
    pairings = []
    for number, target in enumerate(targets):
        for source in sources:
            try:
                pairings.append(pair(source, target))
            except PatternError as error:
                place = _scalar(node.items["to"], number).at(error.offset)
                log.add(place, f"{at}.to", error.message, error.hint)
    values["pairings"] = tuple(pairings)
    for field, message, hint in (*_check_list(pairings), *_check_where(pairings, dict(values.get("where", ())))):
        log.add(node.items[field].location, f"{at}.{field}", message, hint)


_Problems = Iterator[tuple[str, str, str]]


def _check_list(pairings: list[Pairing]) -> _Problems:
    """Patterns in a list are an axis already; whatever else they hold must stand on the other side."""
    if len(pairings) < 2:
        return
    for pairing in pairings:
        for axis in (*pairing.fan_in, *pairing.fan_out)[:1]:
            field = "from" if axis in pairing.fan_in else "to"
            yield field, f"{axis.text} stands on one side only, in a list", "write the list as a group, {a,b}, instead"
            return


def _check_where(pairings: list[Pairing], where: dict[str, Arithmetic]) -> _Problems:
    """`where` gives each capture that only the source has, by those that the target has."""
    if not where or not pairings:
        return
    if len(pairings) > 1:
        yield "where", "where needs one pattern on each side", "write one rule for each pattern"
        return
    numbers = [name for name, kind in pairings[0].target.captures.items() if kind == "int"]
    yield from list(_misnamed(pairings[0], where, numbers)) or _unbound(pairings[0], where, numbers)


def _misnamed(pairing: Pairing, where: dict[str, Arithmetic], numbers: list[str]) -> _Problems:
    """Names in `where` that are no numbers of the side that they are looked for on."""
    free = {str(axis.key) for axis in pairing.fan_in if isinstance(axis.key, str)}
    for name, expression in where.items():
        if name not in free or pairing.source.captures[name] != "int":
            hint = (
                f'where says what {{{name}:int}} of from is: write from: "...{{{name}:int}}..." and leave it out of to'
            )
            yield "where", f"{name} is no number that stands in from alone", hint
        for unknown in sorted(expression.names.difference(numbers)):
            hint = f"the numbers of to are {listing(numbers)}" if numbers else 'write to: "...{j:int}..."'
            yield "where", f"{name}: {unknown} is no number of to", hint


def _unbound(pairing: Pairing, where: dict[str, Arithmetic], numbers: list[str]) -> _Problems:
    """Groups and captures that stand on one side only, and that `where` says nothing of."""
    for axis in (*pairing.fan_in, *pairing.fan_out):
        if isinstance(axis.key, int) or (axis.key not in where and axis.key not in numbers):
            yield "where", f"{axis.text} stands on one side only", "where says what numbers are: write it on both sides"


def _scalar(node: Node, number: int) -> Scalar:
    """The scalar of the pattern of this number in a field that holds one or a list."""
    found = node.items[number] if isinstance(node, document.Sequence) else node
    assert isinstance(found, Scalar)
    return found


def _short(patterns: tuple[Pattern, ...]) -> str:
    texts = ", ".join(pattern.text for pattern in patterns)
    return texts if len(patterns) == 1 else f"[{texts}]"
