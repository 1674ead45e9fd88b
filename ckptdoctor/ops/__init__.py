"""The ops of the map language: `OPS` is the table of all, `parse_op` reads one from a YAML value.

A new op is a class in a file of its family and one line in the table. Importing this needs no torch; applying does.
"""

from __future__ import annotations

from collections.abc import Mapping

from ckptdoctor.ops.arguments import OpError
from ckptdoctor.ops.arithmetic import Mean, Scale
from ckptdoctor.ops.base import Op, OutSpec
from ckptdoctor.ops.cast import Cast
from ckptdoctor.ops.copying import Broadcast, Repeat, Same
from ckptdoctor.ops.extending import Pad, ResizeVocab
from ckptdoctor.ops.interpolating import Interpolate
from ckptdoctor.ops.joining import Concat, Split, Stack, Unstack
from ckptdoctor.ops.layout import Permute, Reshape, Transpose
from ckptdoctor.ops.rearrange import Rearrange
from ckptdoctor.ops.selecting import Index
from ckptdoctor.ops.slicing import Slice
from ckptdoctor.ops.weight_norm import WeightNorm, WeightNormParts
from ckptdoctor.text import did_you_mean, listing

__all__ = ["OPS", "Op", "OpError", "OutSpec", "ops_schema", "parse_op"]

_ALL: tuple[type[Op], ...] = (
    Broadcast,
    Cast,
    Concat,
    Index,
    Interpolate,
    Mean,
    Pad,
    Permute,
    Rearrange,
    Repeat,
    Reshape,
    ResizeVocab,
    Same,
    Scale,
    Slice,
    Split,
    Stack,
    Transpose,
    Unstack,
    WeightNorm,
    WeightNormParts,
)
OPS: Mapping[str, type[Op]] = {op.name: op for op in _ALL}


def parse_op(value: object) -> Op:
    """The op that a YAML value writes: `{name: arguments}`, or `name` where no argument is needed.

    Raises OpError; its `.at` leads to the offending part of `value`.
    """
    name, arguments = _split(value)
    if name not in OPS:
        hint = did_you_mean(name, OPS) or f"there are {listing(OPS, limit=len(OPS))}"
        raise OpError(f"unknown op {name}", hint=hint, at=(name,))
    try:
        return OPS[name].parse(arguments)
    except OpError as error:
        raise OpError(error.message, hint=error.hint, at=(name, *error.at)) from None


def _split(value: object) -> tuple[str, object]:
    if isinstance(value, str):
        return value, None
    if not isinstance(value, Mapping):
        raise OpError("an op is a name with its arguments", hint="write {cast: {to: float16}}")
    if len(value) != 1:
        raise OpError(f"an op has one name, not {len(value)}", hint="write several ops as a list: [{...}, {...}]")
    ((name, arguments),) = value.items()
    return str(name), arguments


def ops_schema() -> dict[str, object]:
    """JSON Schema (draft 7) of what `parse_op` takes."""
    alone = [name for name, op in OPS.items() if op.stands_alone()]
    return {"anyOf": [*map(_op_schema, OPS.values()), {"enum": alone, "description": "an op without arguments"}]}


def _op_schema(op: type[Op]) -> dict[str, object]:
    return {
        "type": "object",
        "description": op.__doc__,
        "properties": {op.name: op.schema()},
        "required": [op.name],
        "additionalProperties": False,
    }
