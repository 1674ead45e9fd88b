"""What an op is: one small change to tensors, whose effect on shapes is known before a byte is read.

To add one: a frozen dataclass that inherits `Op`, in a file of its family, with its arguments declared by
`argument(...)`; then one line in the table of `__init__.py`, and one in `tests/contracts/op_cases.py` that says with which
arguments to try it. What the YAML may say, its JSON Schema and its text for people all come from these fields, and the
tests of all ops cover it from then on. `import torch` stands inside `apply`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

from ckptdoctor.model import DType, TensorSpec
from ckptdoctor.ops.arguments import ArgumentKind, OpError, plain, text
from ckptdoctor.ops.boxes import Box, whole
from ckptdoctor.text import did_you_mean, listing, plural

if TYPE_CHECKING:
    import torch

OutSpec: TypeAlias = tuple[tuple[int, ...], DType]


class Example(NamedTuple):
    """A rule as a map would write it (YAML, one entry of `rules`), the shapes it begins with, and those it makes."""

    rule: str
    before: Mapping[str, tuple[int, ...]]
    after: Mapping[str, tuple[int, ...]]


class Run(NamedTuple):
    """Elements of an input that stand in a row, in row-major order: from `begin` to before `end`."""

    input: int
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Op(ABC):
    """One change to tensors, as `{name: {argument: value}}` in a map.

    `fan_in` says that an op takes several tensors along one axis, `fan_out` that it gives several. `input_names` are
    the names that an op for several unlike tensors asks for, in the order in which it takes them. Else an op makes one
    tensor of one. `moves` says that every element of the inputs stands in the outputs exactly once, unchanged; what
    belongs to each element (the moments of an optimizer) then moves with it. `one_of` names arguments of which a map must
    give exactly one. `example` is a rule that uses the op.
    """

    name: ClassVar[str]
    fan_in: ClassVar[bool] = False
    fan_out: ClassVar[bool] = False
    input_names: ClassVar[tuple[str, ...]] = ()
    moves: ClassVar[bool] = False
    one_of: ClassVar[tuple[str, ...]] = ()
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

    def runs(self, inputs: tuple[TensorSpec, ...]) -> tuple[tuple[Run, ...], ...] | None:
        """Of an op that only puts whole runs of its inputs in a row: those of each output. Such an op needs no memory.

        None where elements have to be taken apart, or made.
        """
        return None

    def selected(self, spec: TensorSpec) -> tuple[int, Sequence[int]] | None:
        """Of an op that takes only some elements: the dimension (from 0), and which of its indices. None if it takes all."""
        return None

    def read(self, inputs: tuple[TensorSpec, ...], output: int, wanted: Box) -> tuple[Box | None, ...]:
        """Which elements of each input the wanted elements of an output are made of; None where that is no box of them.

        Unless an op says more, all are made of all, and some of nobody knows which.
        """
        every = wanted == whole(self.out_specs(inputs)[output][0])
        return tuple(whole(spec.shape) if every else None for spec in inputs)

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
        known = cls._arguments()
        for name in given:
            if name not in known:
                hint = did_you_mean(str(name), known) or f"{cls.name} takes {listing(known) or 'no arguments'}"
                raise OpError(f"{cls.name}: unknown argument {name}", hint=hint, at=(str(name),))
        values = {name: cls._read(known[name], value) for name, value in given.items()}
        for name, each in known.items():
            if name not in values and each.default is MISSING:
                raise OpError(f"{cls.name}: {name} is missing", hint=f"{name} is {each.metadata['about']}")
        if cls.one_of and sum(values.get(name) is not None for name in cls.one_of) != 1:
            hint = f"write {cls.one_of[0]}: {known[cls.one_of[0]].metadata['about']}"
            raise OpError(f"{cls.name}: exactly one of {listing(cls.one_of)} is needed", hint=hint)
        op = cls(**{known[name].name: value for name, value in values.items()})
        op.check()
        return op

    def check(self) -> None:  # noqa: B027 - most ops have nothing to refuse
        """Refuses arguments that are right one by one and do not go together. Raises OpError."""

    @classmethod
    def _arguments(cls) -> dict[str, Field[Any]]:
        """The fields by the names that a map gives them."""
        return {each.name.removesuffix("_"): each for each in fields(cls)}

    @classmethod
    def _named(cls, arguments: object) -> Mapping[str, object]:
        if arguments is None:
            return {}
        if isinstance(arguments, Mapping):
            return arguments
        names = list(cls._arguments())
        if len(names) != 1:
            raise OpError(f"{cls.name}: arguments need names", hint=f"{cls.name} takes {listing(names) or 'none'}")
        return {names[0]: arguments}

    @classmethod
    def _read(cls, argument: Field[Any], value: object) -> object:
        kind: ArgumentKind = argument.metadata["kind"]
        name = argument.name.removesuffix("_")
        try:
            return kind.read(value)
        except OpError as error:
            message = f"{cls.name}: {name} {error.message}"
            raise OpError(message, hint=error.hint, at=(name, *error.at)) from None

    def arguments(self) -> dict[str, object]:
        """The arguments as a map would write them, less those left out; `parse` reads them back to an equal op."""
        values = {name: (each, getattr(self, each.name)) for name, each in self._arguments().items()}
        return {
            name: plain(each.metadata["kind"], value) for name, (each, value) in values.items() if value is not None
        }

    def describe(self) -> str:
        """Short text for people: `transpose(0, 1)`."""
        values = self.arguments()
        if len(fields(self)) == 1:
            return f"{self.name}({', '.join(text(value).removeprefix('[').removesuffix(']') for value in values.values())})"
        return f"{self.name}({', '.join(f'{name}={text(value)}' for name, value in values.items())})"

    @classmethod
    def schema(cls) -> dict[str, object]:
        """JSON Schema (draft 7) of what `parse` takes."""
        known = cls._arguments()
        properties = {
            name: {**each.metadata["kind"].schema, "description": each.metadata["about"]}
            for name, each in known.items()
        }
        required = [name for name, each in known.items() if each.default is MISSING]
        by_name = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
        if cls.one_of:
            by_name["oneOf"] = [{"required": [name]} for name in cls.one_of]
        ways = [
            by_name,
            *(properties.values() if len(properties) == 1 else ()),
            *([{"type": "null"}] if cls.stands_alone() else ()),
        ]
        return {"anyOf": ways}

    @classmethod
    def stands_alone(cls) -> bool:
        """Whether a map may write the name alone, because no argument is needed."""
        return not cls.one_of and all(each.default is not MISSING for each in fields(cls))


def only(op: Op, inputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """The single input of an op that takes one. Raises OpError for another number."""
    if len(inputs) != 1:
        raise OpError(f"{op.describe()} takes one tensor, not {plural(len(inputs), 'tensor')}")
    return inputs[0]
