"""The map language, field by field: what a map may say, what each field means, and what it becomes.

This is the only definition: `load.py` reads maps by it, and `map_schema` hands it to editors. A new field is one
`Field` line in the table where it belongs, and one line where its value is taken up.
"""

from __future__ import annotations

from typing import Any, Literal

from ckptdoctor.initialisers import Copy
from ckptdoctor.keymap import document
from ckptdoctor.keymap.document import Node, Scalar
from ckptdoctor.keymap.kinds import Field, Kind, Log, Schema, list_of, one_or_more, table, text, whole_number
from ckptdoctor.keymap.types import Declaration, EnvelopeEdit, KeyMap, Rule
from ckptdoctor.keymap.values import INIT, OP, PATH, PATTERNS, PLACE, PLACES, SEGMENT, SOURCES, VERSION_NUMBER
from ckptdoctor.ops import ops_schema
from ckptdoctor.patterns import Pattern, PatternError, pair


def _build_rule(values: dict[str, Any], node: document.Mapping) -> Rule:
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
        pairing=values.get("pairing"),
        text=f"{_short(sources)} -> {_short(targets)}",
    )


def _derive_pairing(values: dict[str, Any], node: document.Mapping, at: str, log: Log) -> None:
    """How the two sides of a rule belong together, where there is one pattern on each."""
    if not {"from", "to"} <= values.keys():
        return
    (_, sources), targets = values["from"], values["to"]
    if len(sources) > 1 or len(targets) > 1:
        return
    try:
        values["pairing"] = pair(sources[0], targets[0])
    except PatternError as error:
        log.add(_first(node.items["to"]).at(error.offset), f"{at}.to", error.message, error.hint)


def _first(node: Node) -> Scalar:
    """The scalar of a field that holds one pattern."""
    while isinstance(node, document.Sequence):
        node = node.items[0]
    assert isinstance(node, Scalar)
    return node


def _short(patterns: tuple[Pattern, ...]) -> str:
    texts = ", ".join(pattern.text for pattern in patterns)
    return texts if len(patterns) == 1 else f"[{texts}]"


def _build_declaration(values: dict[str, Any], node: document.Mapping) -> Declaration:
    return Declaration(node.location, values["keys"], values["why"], values.get("optional"), values.get("init"))


def _check_copy(values: dict[str, Any], node: document.Mapping, at: str, log: Log) -> None:
    """What the key of `init: {copy: ...}` captures is captured by `keys`, which then is one pattern."""
    init, patterns = values.get("init"), values.get("keys")
    if not isinstance(init, Copy) or patterns is None or init.key.literal:
        return
    where = node.items["init"].location
    if len(patterns) > 1:
        log.add(where, f"{at}.init", f"{init.key} captures, and keys are several patterns", "write an entry for each")
        return
    try:
        unbound = pair(patterns[0], init.key).fan_out
    except PatternError as error:
        log.add(where, f"{at}.init", error.message, error.hint)
        return
    for axis in unbound[:1]:
        log.add(where, f"{at}.init", f"{axis.text} stands in copy, and not in keys", "name one key for each of keys")


def _check_tie(values: dict[str, Any], node: document.Mapping, at: str, log: Log) -> None:
    """An entry of `tie` names two keys at least for each frame of captures, and all of its patterns have the same."""
    patterns: tuple[Pattern, ...] = values.get("keys", ())
    where = node.items["keys"].location if patterns else node.location
    if len(patterns) == 1 and not patterns[0].groups:
        log.add(where, f"{at}.keys", f"{patterns[0]} names one key at a time", "name the keys that share its memory")
    for other in patterns[1:]:
        if other.captures.keys() != patterns[0].captures.keys():
            message = f"{patterns[0]} and {other} do not capture the same"
            log.add(where, f"{at}.keys", message, "write the same captures in each, or an entry for each")


def _build_source(values: dict[str, Any], _node: document.Mapping) -> dict[str, Any]:
    return values


def _build_envelope(values: dict[str, Any], _node: document.Mapping) -> tuple[EnvelopeEdit, ...]:
    actions: tuple[Literal["set", "add", "drop"], ...] = ("set", "add", "drop")
    return tuple(
        EnvelopeEdit(where, action, path, value) for action in actions for where, path, value in values.get(action, ())
    )


def _build_map(values: dict[str, Any], _node: document.Mapping) -> KeyMap:
    source = values.get("source", {})
    return KeyMap(
        path="",
        sha256="",
        description=values.get("description", ""),
        select=source.get("select"),
        strip=source.get("strip"),
        rules=values.get("rules", ()),
        fresh=values.get("fresh", ()),
        drop=values.get("drop", ()),
        envelope=values.get("envelope", ()),
        tie=values.get("tie", ()),
    )


_REASON = text("a text that says why", "say it for the next one to read this, in a few words")
_OPTIONAL = Field("optional", _REASON, "why this need not match anything; without it, matching nothing is an error")

SOURCE = table(
    "a mapping",
    (
        Field(
            "select",
            PATH,
            "where the weights lie in the file, a path with slashes (the root is .); left out: found, and said",
        ),
        Field(
            "strip",
            list_of(SEGMENT, "a list of segments"),
            "wrapper segments to take out of the keys; left out: found, and said",
        ),
    ),
    _build_source,
)
RULE = table(
    "a rule",
    (
        Field("from", SOURCES, "the source keys: a pattern, a list of them, or inputs by name", required=True),
        Field("to", PATTERNS, "the target keys that they become", required=True),
        Field("op", one_or_more(OP), "what is done to the tensors; several are done in their order"),
        Field("expect", whole_number(), "how many target keys the rule must make"),
        _OPTIONAL,
        Field("except", PATTERNS, "source keys that this rule leaves alone"),
    ),
    _build_rule,
    _derive_pairing,
)
FRESH = table(
    "an entry of fresh",
    (
        Field("keys", PATTERNS, "the target keys that keep what their constructor gave them", required=True),
        Field("why", _REASON, "why they may", required=True),
        Field("init", INIT, "how they get the values that are written; without it they are left out"),
        _OPTIONAL,
    ),
    _build_declaration,
    _check_copy,
)
TIE = table(
    "an entry of tie",
    (
        Field(
            "keys", PATTERNS, "the target keys that share memory, one set for each choice of captures", required=True
        ),
        Field("why", _REASON, "why they do", required=True),
        _OPTIONAL,
    ),
    _build_declaration,
    _check_tie,
)
DROP = table(
    "an entry of drop",
    (
        Field("keys", PATTERNS, "the source keys that are left out", required=True),
        Field("why", _REASON, "why they may be", required=True),
        _OPTIONAL,
    ),
    _build_declaration,
)
ENVELOPE = table(
    "a mapping",
    (
        Field("set", PLACES, "new values for what is there: {hyper_parameters/kind: new}"),
        Field("add", PLACES, "values for what is not there yet"),
        Field("drop", list_of(PLACE, "a list of paths"), "what is left out: [hyper_parameters/old]"),
    ),
    _build_envelope,
)
MAP: Kind[KeyMap] = table(
    "a map",
    (
        Field("ckptdoctor", VERSION_NUMBER, "the version of the map language: 1", required=True),
        Field("description", text(), "what the map is for, in a sentence or two"),
        Field("source", SOURCE, "where the weights lie, and what wraps their keys"),
        Field(
            "rules",
            list_of(RULE, "a list of rules"),
            "which source keys become which target keys; the order means nothing",
        ),
        Field(
            "fresh",
            list_of(FRESH, "a list of keys and whys"),
            "target keys that may stay at their random initialisation",
        ),
        Field("drop", list_of(DROP, "a list of keys and whys"), "source keys that are left out"),
        Field("tie", list_of(TIE, "a list of keys and whys"), "target keys that share memory in the output"),
        Field("envelope", ENVELOPE, "changes to plain values around the weights, by their path in the file"),
    ),
    _build_map,
)


def map_schema() -> Schema:
    """The map language as JSON Schema, draft 7, which the YAML servers of editors read."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "ckptdoctor map",
        **MAP.schema,
        "definitions": {
            "pattern": {
                "type": "string",
                "minLength": 1,
                "description": "whole keys: {name} is a segment, {*name} several, {name:int} a number, {a,b} one of these",
            },
            "op": ops_schema(),
        },
    }
