"""What an op is: one small change to tensors, whose effect on shapes is known before a byte is read.

To add one: a frozen dataclass that inherits `Op`, in a file of its family, with its arguments declared by
`argument(...)`; then one line in the table of `__init__.py`. What the YAML may say, its JSON Schema and its text for
people all come from these fields, and `tests/contracts/test_ops.py` covers the op from then on. `import torch` stands
inside `apply`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from ckptdoctor.model import DType, TensorSpec
from ckptdoctor.text import did_you_mean, listing, plural

if TYPE_CHECKING:
    import torch

OutSpec: TypeAlias = tuple[tuple[int, ...], DType]


class OpError(ValueError):
    """An op was written wrongly, or cannot take these tensors.

    `.hint` says what to do. `.at` is the way to the offending place in the YAML value, from the op's name inwards.
    """

    def __init__(self, message: str, *, hint: str | None = None, at: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.at = at


@dataclass(frozen=True, slots=True)
class ArgumentKind:
    """What an argument may be: in words, in JSON Schema, and as the function that reads it.

    `read` gets the plain YAML value and gives the field's value; it raises OpError where the value will not do, with a
    message that goes on after the argument's name ("is not a list of whole numbers").
    """

    schema: Mapping[str, object]
    read: Callable[[object], object]


def argument(kind: ArgumentKind, about: str) -> dict[str, object]:
    """The metadata that makes a dataclass field an argument of an op; `about` describes it for people.

    Write `field(metadata=argument(...))`, with a `default` if the argument may be left out.
    """
    return {"kind": kind, "about": about}


class Example(NamedTuple):
    """A rule as a map would write it (YAML, one entry of `rules`), the shapes it begins with, and those it makes."""

    rule: str
    before: Mapping[str, tuple[int, ...]]
    after: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Op(ABC):
    """One change to tensors, as `{name: {argument: value}}` in a map.

    `fan_in` says that an op takes several tensors along one axis, `fan_out` that it gives several. `input_names` are
    the names that an op for several unlike tensors asks for, in the order in which it takes them. Else an op makes one
    tensor of one. `moves` says that every element of the inputs stands in the outputs exactly once, unchanged; what
    belongs to each element (the moments of an optimizer) then moves with it. `example` is a rule that uses the op.
    """

    name: ClassVar[str]
    fan_in: ClassVar[bool] = False
    fan_out: ClassVar[bool] = False
    input_names: ClassVar[tuple[str, ...]] = ()
    moves: ClassVar[bool] = False
    example: ClassVar[Example]

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """The op with everything filled in that it takes from the target (`like: target`, how many copies to make).

        `targets` has an item for each output, None where nothing is known of its shape: there is no target, or other ops
        follow. It is empty where even their number is unknown. Raises OpError where that is not enough, or does not fit.
        """
        return self

    @abstractmethod
    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """Shape and dtype of what `apply` would give for such inputs. Pure; raises OpError where it would not fit."""

    @abstractmethod
    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The new tensors, contiguous. The inputs are left alone, but an output may share their memory.

        Raises OpError where the values (not the shapes: those were judged before) do not survive.
        """

    @abstractmethod
    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """The op that makes such inputs again, bit for bit, of what this one gives, or the reason why there is none."""

    def new_elements(self, inputs: tuple[TensorSpec, ...], new: tuple[int, ...]) -> tuple[int, ...]:
        """How many elements of each output come from no checkpoint, where so many of each input do. Pure.

        Raises OpError where that cannot be told: an op that chooses among elements, some of which are new.
        """
        outputs = len(self.out_specs(inputs))
        if not any(new):
            return (0,) * outputs
        if outputs == 1 and self.moves:
            return (sum(new),)
        raise OpError(
            f"{self.describe()} comes after an op that adds elements, and which of them remain cannot be told",
            hint="let the op that adds elements be the last one",
        )

    def selected(self, spec: TensorSpec) -> tuple[int, Sequence[int]] | None:
        """Of an op that takes only some elements: the dimension (from 0), and which of its indices. None if it takes all."""
        return None

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """The ops that make the moments of the outputs of those of the inputs; None where moments must start anew.

        `order` is 1 for averages of gradients (`exp_avg`, `momentum_buffer`), 2 for those of their squares (`exp_avg_sq`).
        """
        return (self,) if self.moves else None

    def note(self, inputs: tuple[torch.Tensor, ...], outputs: tuple[torch.Tensor, ...]) -> str | None:
        """What the receipt should say of this application (a rounding error); None for nothing."""
        return None

    @classmethod
    def parse(cls, arguments: object) -> Self:
        """The op with these plain arguments: a mapping by name, None for none, or the value of the only argument.

        Raises OpError for arguments that are unknown, missing or wrong.
        """
        given = cls._named(arguments)
        known = {each.name: each for each in fields(cls)}
        for name in given:
            if name not in known:
                hint = did_you_mean(str(name), known) or f"{cls.name} takes {listing(known) or 'no arguments'}"
                raise OpError(f"{cls.name}: unknown argument {name}", hint=hint, at=(str(name),))
        values = {name: cls._read(known[name], value) for name, value in given.items()}
        for name, each in known.items():
            if name not in values and each.default is MISSING:
                raise OpError(f"{cls.name}: {name} is missing", hint=f"{name} is {each.metadata['about']}")
        return cls(**values)

    @classmethod
    def _named(cls, arguments: object) -> Mapping[str, object]:
        if arguments is None:
            return {}
        if isinstance(arguments, Mapping):
            return arguments
        names = [each.name for each in fields(cls)]
        if len(names) != 1:
            raise OpError(f"{cls.name}: arguments need names", hint=f"{cls.name} takes {listing(names) or 'none'}")
        return {names[0]: arguments}

    @classmethod
    def _read(cls, argument: Field[Any], value: object) -> object:
        kind: ArgumentKind = argument.metadata["kind"]
        try:
            return kind.read(value)
        except OpError as error:
            message = f"{cls.name}: {argument.name} {error.message}"
            raise OpError(message, hint=error.hint, at=(argument.name,)) from None

    def arguments(self) -> dict[str, object]:
        """The arguments as a map would write them; `parse` reads them back to an equal op."""
        return {each.name: _plain(getattr(self, each.name)) for each in fields(self)}

    def describe(self) -> str:
        """Short text for people: `transpose(0, 1)`."""
        values = self.arguments()
        if len(values) == 1:
            (only,) = values.values()
            return f"{self.name}({', '.join(map(str, only)) if isinstance(only, list) else only})"
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in values.items())})"

    @classmethod
    def schema(cls) -> dict[str, object]:
        """JSON Schema (draft 7) of what `parse` takes."""
        properties = {
            each.name: {**each.metadata["kind"].schema, "description": each.metadata["about"]} for each in fields(cls)
        }
        required = [each.name for each in fields(cls) if each.default is MISSING]
        by_name = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        return {"anyOf": [by_name, *properties.values()]} if len(properties) == 1 else by_name


def read_integers(value: object) -> tuple[int, ...]:
    """A list of whole numbers, for the arguments that are one. Raises OpError for anything else."""
    if not isinstance(value, list) or not all(type(each) is int for each in value):
        raise OpError("is not a list of whole numbers", hint="write a list such as [0, 1]")
    return tuple(value)


def only(op: Op, inputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The single input of an op that takes one. Raises OpError for another number."""
    if len(inputs) != 1:
        raise OpError(f"{op.describe()} takes one tensor, not {plural(len(inputs), 'tensor')}")
    return inputs[0]


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, DType) else value
