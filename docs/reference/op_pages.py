"""What the reference says of the ops: a row of the overview and a section for each, from the table of ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

import yaml
from marks import code, flow, kind_of, listed, lower, sentence, shortest, table

from ckptdoctor.model import DTYPES, TensorSpec
from ckptdoctor.ops import OPS, Op, parse_op
from ckptdoctor.text import shape_text


def overview() -> str:
    """One row for each op."""
    rows = (
        (f"[`{name}`](#{name})", _counted(op), _elements(op), _inverse(op)[0], _moments(op)[0])
        for name, op in OPS.items()
    )
    return table(("op", "tensors", "numbers", "inverse", "moments"), rows)


def sections() -> str:
    """A section for each op."""
    return "\n\n".join(map(_section, OPS.values()))


def joining() -> str:
    """The ops that take several tensors."""
    return listed(name for name, op in OPS.items() if op.fan_in or op.input_names)


def parting() -> str:
    """The ops that give several."""
    return listed(name for name, op in OPS.items() if op.fan_out)


def rule_of(op: type[Op]) -> str:
    """The example of an op as an entry of `rules`, a field on each line."""
    rule = yaml.safe_load(op.example.rule)
    return "  - " + "\n    ".join(f"{name + ':':<5} {flow(value)}" for name, value in rule.items())


def specs(shapes: Mapping[str, tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """float32 parameters of these shapes."""
    return tuple(TensorSpec(key, shape, DTYPES["float32"], "parameter") for key, shape in shapes.items())


def _section(op: type[Op]) -> str:
    before, after = (
        ", ".join(f"`{key}` {shape_text(shape)}" for key, shape in each.items()) for each in op.example[1:]
    )
    facts = [f"Shape: {lower(sentence(op.out_specs.__doc__))}", f"Inverse: {_inverse(op)[1]}", _moments(op)[1]]
    parts = (
        f"### `{op.name}`",
        sentence(op.__doc__),
        *([_arguments(op)] if fields(op) else []),
        f"```yaml\nrules:\n{rule_of(op)}\n```",
        f"{before} → {after}",
        "\n".join(f"- {fact}" for fact in facts),
    )
    return "\n\n".join(parts)


def _named(op: type[Op]) -> dict[str, Field[Any]]:
    """The fields of an op by the names that a map gives them."""
    return {each.name.removesuffix("_"): each for each in fields(op)}


def _arguments(op: type[Op]) -> str:
    rows = (
        (code(name), kind_of(each.metadata["kind"].schema), each.metadata["about"], _left_out(op, name, each))
        for name, each in _named(op).items()
    )
    return table(("argument", "is", "says", "left out"), rows)


def _left_out(op: type[Op], name: str, each: Field[Any]) -> str:
    """What an argument is when it is left out."""
    if name in op.one_of:
        return f"one of {listed(op.one_of)} is needed"
    if each.default is MISSING:
        return "it is needed"
    return "" if each.default is None else code(flow(each.default))


def _of_example(op: type[Op]) -> Op:
    """The op as its example writes it, with what it takes from the target."""
    made = parse_op(yaml.safe_load(op.example.rule)["op"])
    return made.fitted(specs(op.example.before), specs(op.example.after))


def _counted(op: type[Op]) -> str:
    """How many tensors go in, and how many come out."""
    into = " and ".join(op.input_names) or ("several" if op.fan_in else "one")
    return f"{into} → {'several' if op.fan_out else 'one'}"


def _elements(op: type[Op]) -> str:
    """Which numbers of the input stand in the output."""
    adds, leaves = "fill" in _named(op), op.selected is not Op.selected
    if op.moves:
        return "each once"
    return ("all or some" if leaves and adds else "some" if leaves else "all" if adds else "") + ", new ones" * adds


def _inverse(op: type[Op]) -> tuple[str, str]:
    """In a word, and in a sentence: what undoes it."""
    back, says = _of_example(op).inverse(specs(op.example.before)), sentence(op.inverse.__doc__, 1)
    if says.startswith("None: "):
        return "none", f"none; {says.removeprefix('None: ')}"
    if isinstance(back, str):
        return "at times", f"{lower(says)} The example has none: {back}."
    here = "" if code(shortest(back)) in says else f" Here `{shortest(back)}`."
    return code(back.name), lower(says) + here


def _moments(op: type[Op]) -> tuple[str, str]:
    """In a word, and in a sentence: what becomes of an optimizer's states."""
    made, says = _of_example(op), sentence(op.for_moments.__doc__)
    first, second = made.for_moments(1), made.for_moments(2)
    if first is None or second is None:
        return "start anew", f"Moments start anew: {says.removeprefix('None: ')}"
    if op.moves:
        return "the same way", "Each number of the input stands in the output once, so its moments go with it."
    if not first:
        return "stay", f"Moments stay as they are: {says.removeprefix('No op: ')}"
    if first == second:
        return "the same way", f"Moments go the same way: {says.rsplit(': ', 1)[-1]}"
    return "scaled", f"Moments are scaled: {lower(says)}"
