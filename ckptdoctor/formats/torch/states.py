"""Optimizer states inside the source's graph: other parameters in the groups, and their states under other numbers or names."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ckptdoctor.formats.base import OptimizerOutput, StateOutput
from ckptdoctor.formats.tensors import OutputTensor
from ckptdoctor.formats.torch.edits import Pairs, Replacements
from ckptdoctor.pickles.contents import TensorGraph, child
from ckptdoctor.pickles.nodes import Node, mapping_pairs, with_pairs

NodeOf: TypeAlias = Callable[[OutputTensor], Node]
"""Makes a node on a new storage for a tensor that the source does not have in this form."""


def replace_states(source: TensorGraph, output: OptimizerOutput, replacements: Replacements, node_of: NodeOf) -> None:
    """Note what stands for the states and the groups of one optimizer, where they differ from the source's."""
    optimizer = source.pickle.root
    for name in output.way:
        optimizer = child(optimizer, name)
    old = child(optimizer, "state")
    new = _states(old, output, node_of)
    if {key: id(value) for key, value in new} != {key: id(value) for key, value in mapping_pairs(old) or []}:
        replacements.put(old, with_pairs(old, new))
    for group, members in zip(child(optimizer, "param_groups"), output.groups, strict=True):
        pairs = [(key, _listed(key, value, members)) for key, value in mapping_pairs(group) or []]
        if any(ours is not theirs for (_, ours), (_, theirs) in zip(pairs, mapping_pairs(group) or [], strict=True)):
            replacements.put(group, with_pairs(group, pairs))


def _states(old: Node, output: OptimizerOutput, node_of: NodeOf) -> Pairs:
    states = {key: value for key, value in mapping_pairs(old) or [] if type(key) in (int, str)}
    return [
        (member.id, _state(states[member.origin], member, node_of))
        for members in output.groups
        for member in members
        if member.origin is not None
    ]


def _state(node: Node, member: StateOutput, node_of: NodeOf) -> Node:
    """The source's own state, or one like it with some tensors replaced."""
    if not member.tensors:
        return node
    pairs = [
        (key, node_of(member.tensors[key]) if key in member.tensors else value)
        for key, value in mapping_pairs(node) or []
    ]
    return with_pairs(node, pairs)


def _listed(key: Node, value: Node, members: tuple[StateOutput, ...]) -> Node:
    """The list of the group's parameters, or of their names; every other entry as it is."""
    new: list[int | str | None] = []
    if isinstance(key, str) and key == "params":
        new = [member.id for member in members]
    elif isinstance(key, str) and key == "param_names":
        new = [member.name for member in members]
    else:
        return value
    return value if new == value else new
