"""Load a checkpoint into a module for real: torch reads the file, and the module takes the very tensors (`assign=True`)."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdoctor.formats.torch.renames import renamed_modules
from ckptdoctor.plan import Plan
from ckptdoctor.text import listing, printable
from ckptdoctor.verification.evidence import Side
from ckptdoctor.verification.types import Problem

if TYPE_CHECKING:
    from torch import nn

    from ckptdoctor.formats.base import Checkpoint, Place

MAX_HASH_COST = 10_000
"""Elements of one key that torch.load may have to hash."""


class Outcome(NamedTuple):
    """What was called and took the tensors, or what it refused; or, in `note`, why it was not called."""

    call: str = ""
    problems: tuple[Problem, ...] = ()
    note: str = ""


def taken_by(module: nn.Module, side: Side, plan: Plan) -> Outcome:
    """Load what lies at the place of the weights; the module is as it was afterwards. Raises nothing for what torch says."""
    from ckptdoctor.targets.building.guard import summary, user_code

    if _costly(side):
        return Outcome(
            note="not loaded for real: it has keys that are deeply nested tuples, on which torch.load dies or hangs"
        )
    try:
        tensors = _read(side)
    except UnpicklingError as error:
        paths = (name.path for pickle in side.opened.envelope.source.pickles for name in pickle.globals)
        named = [path for path in dict.fromkeys(paths) if f" {path} " in str(error)]
        others = listing(named) or "what else is in the file"
        return Outcome(note=f"not loaded for real: torch.load(weights_only=True) refuses {others}")
    except Exception as error:
        return Outcome(problems=(Problem(side.manifest.origin.reference, f"cannot be read: {summary(error)}"),))
    absent = {step.target.stored_key for step in plan.steps if step.status in ("missing", "tied")}
    call = f"load_state_dict(strict={not absent})"
    try:
        with user_code(), _put_back(module):
            result = module.load_state_dict(_renamed(tensors, plan), strict=not absent, assign=True)
    except (Exception, SystemExit) as error:
        if _is_about_how(str(error)):
            return Outcome(note=f"not loaded for real: {summary(error)}")
        return Outcome(problems=(Problem(call, printable(f"{type(error).__name__}: {' '.join(str(error).split())}")),))
    missing = [Problem(key, "missing key, says load_state_dict") for key in result.missing_keys if key not in absent]
    return Outcome(call, (*missing, *(Problem(key, "unexpected key") for key in result.unexpected_keys)))


def _costly(side: Side) -> bool:
    pickles = side.opened.envelope.source.pickles
    if not pickles:
        return False
    from ckptdoctor.unpickling import hash_cost

    return any(hash_cost(pickle) > MAX_HASH_COST for pickle in pickles)


def _is_about_how(message: str) -> bool:
    """Whether it is our way of loading that a model does not bear: tensors without memory, and `assign=True`."""
    return not message.startswith("Error(s) in loading") and re.search(r"\bmeta\b|\bassign\b", message) is not None


def _read(side: Side) -> Mapping[Any, Any]:
    """The mapping at the place of the weights, as torch or safetensors reads it."""
    checkpoint, place = side.opened.envelope
    parts = checkpoint.parts
    if parts[0].format == "safetensors":
        return _read_safetensors(side)
    if len(parts) == 1:
        return _read_torch(parts[0], place)
    return {key: value for part in parts for key, value in _read_torch(part, place).items()}


def _read_torch(checkpoint: Checkpoint, place: Place) -> Mapping[Any, Any]:
    import torch

    found = torch.load(checkpoint.path, map_location="cpu", weights_only=True, mmap=checkpoint.format == "torch")
    for name in place:
        found = found[name] if isinstance(found, Mapping) and name in found else found[int(name)]
    return found  # type: ignore[no-any-return]


def _read_safetensors(side: Side) -> Mapping[str, Any]:
    """The tensors of the file, and those that `__metadata__` ties to them."""
    if find_spec("safetensors") is None:
        from ckptdoctor.execution.values import tensor_of

        checkpoint, stored = side.opened.envelope.source, side.stored
        return {key: tensor_of(checkpoint, stored[spec.stored_key]) for key, spec in side.manifest.items()}
    from safetensors.torch import load_file

    parts = side.opened.envelope.source.parts
    tensors = {key: tensor for part in parts for key, tensor in load_file(part.path).items()}
    return {key: tensors[spec.tied_to or key] for key, spec in side.manifest.items()}


def _renamed(tensors: Mapping[Any, Any], plan: Plan) -> dict[str, Any]:
    """The tensors under the keys of the module itself, its versions too; what is no tensor (`_extra_state`) as it is."""
    names = {
        plan.source[step.sources[0]].stored_key: step.target.stored_key
        for step in plan.steps
        if step.status == "loaded"
    }
    renamed = OrderedDict((names.get(key, key), value) for key, value in tensors.items() if isinstance(key, str))
    if isinstance(versions := getattr(tensors, "_metadata", None), Mapping):
        paths = renamed_modules(versions, names)
        renamed._metadata = {paths.get(path, path): of for path, of in versions.items()}  # type: ignore[attr-defined]
    return renamed


@contextmanager
def _put_back(module: nn.Module) -> Iterator[None]:
    """A target may be an instance that somebody still uses: its tensors are its own again afterwards."""
    kept = [(each, dict(each._parameters), dict(each._buffers)) for each in module.modules()]
    try:
        yield
    finally:
        for each, parameters, buffers in kept:
            each._parameters.update(parameters)
            each._buffers.update(buffers)
