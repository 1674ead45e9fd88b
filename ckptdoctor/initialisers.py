"""What `init` of a fresh key may say: `INITIALISERS` is the table of all, `parse_init` reads one from a YAML value.

A new one is a class below and one line in the table: a frozen dataclass whose arguments are declared by `argument(...)`, as
those of ops are. Whether it suits a tensor is judged by `check`, without torch; torch is imported by `make`.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ckptdoctor.model import DType, Family, TensorSpec
from ckptdoctor.ops.arguments import ArgumentKind, OpError, argument
from ckptdoctor.patterns import Pattern, PatternError
from ckptdoctor.text import did_you_mean, listing, shape_text

if TYPE_CHECKING:
    import torch

_NUMBERS: frozenset[Family] = frozenset(("float", "complex", "integer", "bool"))
_STORED_ONLY = ("float4_", "float6_", "float8_e8m0", "complex32")
"""torch keeps these and does not compute in them."""
_LARGEST = {
    **{"float64": 1.7976931348623157e308, "float32": 3.4028234663852886e38, "bfloat16": 3.3895313892515355e38},
    **{"float16": 65504.0, "float8_e4m3fn": 448.0, "float8_e4m3fnuz": 240.0},
    **{"float8_e5m2": 57344.0, "float8_e5m2fnuz": 57344.0},
    **{"complex128": 1.7976931348623157e308, "complex64": 3.4028234663852886e38},
}


def _read_number(value: object) -> float | int | bool:
    if not isinstance(value, bool | int | float) or not (isinstance(value, int) or isfinite(value)):
        raise OpError("is not a number", hint="write 0.001 or 1.0e-3 (YAML takes 1e-3 for a text)")
    return value


def _read_std(value: object) -> float:
    number = _read_number(value)
    if isinstance(value, bool) or not 0 < number <= _LARGEST["float64"]:
        raise OpError("is not a number above 0", hint="write {normal: {std: 0.02, seed: 1}}")
    return float(number)


def _read_seed(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise OpError("is not a whole number of 0 or more", hint="write {normal: {std: 0.02, seed: 1}}")
    return value


def _read_pattern(value: object) -> Pattern:
    if not isinstance(value, str):
        raise OpError("is not a key of the checkpoint", hint='quote it: {copy: "blocks.{i}.old"}')
    try:
        return Pattern.parse(value)
    except PatternError as error:
        raise OpError(f"is no pattern: {error.message}", hint=error.hint) from None


_NUMBER = ArgumentKind({"type": ["number", "boolean"]}, _read_number)
_STD = ArgumentKind({"type": "number", "exclusiveMinimum": 0}, _read_std)
_SEED = ArgumentKind({"type": "integer", "minimum": 0}, _read_seed)
_KEY = ArgumentKind({"type": "string", "minLength": 1}, _read_pattern)


@dataclass(frozen=True, slots=True)
class Initialiser(ABC):
    """A way to give a new tensor its first values. `families` are the dtypes that it can be asked for."""

    name: ClassVar[str]
    families: ClassVar[frozenset[Family]] = _NUMBERS

    def check(self, target: TensorSpec) -> None:
        """Raise OpError where such a tensor cannot be initialised so."""
        if target.dtype.family not in self.families or target.dtype.name.startswith(_STORED_ONLY):
            raise OpError(f"{self.name} makes no {target.dtype} numbers", hint="choose another init, or leave it out")

    def make(self, target: TensorSpec) -> torch.Tensor:
        """The values of a tensor that `check` let pass, in its dtype, the same at every call and on every machine."""
        raise ValueError(f"{self.name} takes the values of {target.key} from elsewhere")

    @classmethod
    def parse(cls, arguments: object) -> Self:
        """From the plain YAML value after the name. Raises OpError."""
        known = {each.name: each for each in fields(cls)}
        if not known and arguments is not None:
            raise OpError(f"{cls.name} takes no arguments", hint=f"write init: {cls.name}")
        if len(known) > 1 and not isinstance(arguments, Mapping):
            raise OpError(f"{cls.name}: arguments need names", hint=f"{cls.name} takes {listing(known)}")
        given = arguments if isinstance(arguments, Mapping) and len(known) > 1 else dict.fromkeys(known, arguments)
        for name in given:
            if name not in known:
                hint = did_you_mean(str(name), known) or f"{cls.name} takes {listing(known)}"
                raise OpError(f"{cls.name}: unknown argument {name}", hint=hint, at=(str(name),))
        for name, each in known.items():
            if name not in given and each.default is MISSING:
                raise OpError(f"{cls.name}: {name} is missing", hint=f"{name} is {each.metadata['about']}")
        return cls(**{name: _read(cls.name, name, known[name].metadata["kind"], given[name]) for name in given})

    def describe(self) -> str:
        """Short text for people and receipts: `normal(std=0.02, seed=1)`."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        texts = [str(value) if len(values) == 1 else f"{name}={value}" for name, value in values.items()]
        return f"{self.name}({', '.join(texts)})" if texts else self.name

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """JSON Schema (draft 7) of what `parse` takes, for one with arguments."""
        properties = {
            each.name: {**each.metadata["kind"].schema, "description": each.metadata["about"]} for each in fields(cls)
        }
        if len(properties) == 1:
            return next(iter(properties.values()))
        required = [each.name for each in fields(cls) if each.default is MISSING]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _read(init: str, name: str, kind: ArgumentKind, value: object) -> object:
    try:
        return kind.read(value)
    except OpError as error:
        what = init if init == "constant" else f"{init}: {name}"
        raise OpError(f"{what} {error.message}", hint=error.hint, at=(name,)) from None


@dataclass(frozen=True, slots=True)
class Model(Initialiser):
    """What the target's own constructor gives it, with a seed."""

    name: ClassVar[str] = "model"

    def check(self, target: TensorSpec) -> None:
        """Whatever a constructor made can be written."""


@dataclass(frozen=True, slots=True)
class Zeros(Initialiser):
    """Zeros."""

    name: ClassVar[str] = "zeros"

    def make(self, target: TensorSpec) -> torch.Tensor:
        """Zeros."""
        return _full(target, 0)


@dataclass(frozen=True, slots=True)
class Ones(Initialiser):
    """Ones."""

    name: ClassVar[str] = "ones"

    def make(self, target: TensorSpec) -> torch.Tensor:
        """Ones."""
        return _full(target, 1)


@dataclass(frozen=True, slots=True)
class Constant(Initialiser):
    """One number everywhere: a whole one for integers, true or false for bool."""

    name: ClassVar[str] = "constant"
    value: float = field(metadata=argument(_NUMBER, "the number"))

    def check(self, target: TensorSpec) -> None:
        """Refuses a number that the dtype cannot hold."""
        Initialiser.check(self, target)
        if not _holds(target.dtype, self.value):
            raise OpError(f"{target.dtype} does not hold {self.value}", hint="choose another constant")

    def make(self, target: TensorSpec) -> torch.Tensor:
        """The number, rounded to the dtype once."""
        return _full(target, int(self.value) if target.dtype.family == "integer" else self.value)


@dataclass(frozen=True, slots=True)
class Normal(Initialiser):
    """Normally distributed around 0, drawn for each tensor from the seed and its key: order means nothing."""

    name: ClassVar[str] = "normal"
    families: ClassVar[frozenset[Family]] = frozenset(("float",))
    std: float = field(metadata=argument(_STD, "the standard deviation"))
    seed: int = field(default=0, metadata=argument(_SEED, "the seed; 0 if it is left out"))

    def check(self, target: TensorSpec) -> None:
        """Refuses numbers that the dtype cannot hold, as far out as anything will ever be drawn."""
        Initialiser.check(self, target)
        if 10 * self.std > _LARGEST[target.dtype.name]:
            raise OpError(f"std {self.std} is too large for {target.dtype}", hint="choose a smaller one")

    def make(self, target: TensorSpec) -> torch.Tensor:
        """Drawn by numpy's ziggurat, which gives the same bits on every CPU; torch's `randn` does not."""
        from hashlib import sha256

        import numpy as np
        import torch

        text = f"{self.seed}:{target.key}".encode("utf-8", "surrogatepass")
        generator = np.random.Generator(np.random.PCG64(int.from_bytes(sha256(text).digest(), "big")))
        kind = np.float64 if target.dtype.name == "float64" else np.float32
        drawn = generator.standard_normal(target.numel, dtype=kind) * kind(self.std)
        return torch.from_numpy(drawn).to(getattr(torch, target.dtype.name)).reshape(target.shape)


@dataclass(frozen=True, slots=True)
class Identity(Initialiser):
    """The identity matrix."""

    name: ClassVar[str] = "identity"
    families: ClassVar[frozenset[Family]] = frozenset(("float", "complex"))

    def check(self, target: TensorSpec) -> None:
        """Refuses everything but square matrices."""
        Initialiser.check(self, target)
        if len(target.shape) != 2 or target.shape[0] != target.shape[1]:
            hint = "choose another init for this tensor, as zeros or {normal: {std: 0.02, seed: 1}}"
            raise OpError(f"identity needs a square matrix, this is {shape_text(target.shape)}", hint=hint)

    def make(self, target: TensorSpec) -> torch.Tensor:
        """Ones on the diagonal."""
        import torch

        return torch.eye(target.shape[0]).to(getattr(torch, target.dtype.name))


@dataclass(frozen=True, slots=True)
class Copy(Initialiser):
    """The values of a tensor of the checkpoint; the captures of `keys` may stand in its key."""

    name: ClassVar[str] = "copy"
    key: Pattern = field(metadata=argument(_KEY, "a key of the checkpoint, with the captures of keys"))

    def check(self, target: TensorSpec) -> None:
        """What is copied is judged where the checkpoint is known."""


INITIALISERS: Mapping[str, type[Initialiser]] = {
    init.name: init for init in (Model, Zeros, Ones, Constant, Normal, Identity, Copy)
}


def parse_init(value: object) -> Initialiser:
    """The initialiser that a YAML value writes: `zeros`, `{constant: 0.5}`. Raises OpError; `.at` leads into `value`."""
    if isinstance(value, Mapping) and len(value) == 1:
        ((name, arguments),) = value.items()
    elif isinstance(value, str):
        name, arguments = value, None
    else:
        raise OpError("an init is a name, or one name with its arguments", hint="write zeros, or {constant: 0.5}")
    if name not in INITIALISERS:
        names = listing(INITIALISERS, limit=len(INITIALISERS))
        raise OpError(f"unknown init {name}", hint=did_you_mean(str(name), INITIALISERS) or f"there are {names}")
    try:
        return INITIALISERS[name].parse(arguments)
    except OpError as error:
        raise OpError(error.message, hint=error.hint, at=(name, *error.at)) from None


def init_schema() -> dict[str, Any]:
    """JSON Schema (draft 7) of what `parse_init` takes."""
    plain = [name for name, init in INITIALISERS.items() if not fields(init)]
    return {"anyOf": [{"enum": plain}, *(_schema(init) for init in INITIALISERS.values() if fields(init))]}


def _schema(init: type[Initialiser]) -> dict[str, Any]:
    properties = {init.name: {**init.schema(), "description": init.__doc__}}
    return {"type": "object", "properties": properties, "required": [init.name], "additionalProperties": False}


def _holds(dtype: DType, value: float) -> bool:
    """Whether a number is within the range of a dtype, and of its sort."""
    if isinstance(value, bool) or dtype.family == "bool":
        return isinstance(value, bool) and dtype.family == "bool"
    if dtype.family == "integer":
        low, high = (0, dtype.bits) if dtype.name.startswith("u") else (-1 << dtype.bits - 1, dtype.bits - 1)
        return value == int(value) and low <= value < 1 << high
    return abs(value) <= _LARGEST[dtype.name]


def _full(target: TensorSpec, value: float) -> torch.Tensor:
    import torch

    return torch.tensor(value, dtype=getattr(torch, target.dtype.name)).expand(target.shape).contiguous()
