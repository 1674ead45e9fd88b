"""What the state dict of a built model holds: its keys in order, shapes, dtypes, what is a parameter, what is tied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ckptdoctor.errors import TargetNotBuildable
from ckptdoctor.model import DTYPES, Kind, Manifest, Origin, TensorSpec
from ckptdoctor.text import listing, plural

from .guard import not_buildable

if TYPE_CHECKING:
    from torch import Tensor, nn


def manifest_of_object(built: object, origin: Origin) -> Manifest:
    """The manifest of what a recipe made: a module, a state dict, or something that has a `state_dict()`.

    Raises TargetNotBuildable for anything else, and where `manifest_of_module` does.
    """
    from torch import nn

    if isinstance(built, nn.Module):
        return manifest_of_module(built, origin=origin)
    if isinstance(built, Mapping):
        return _manifest(dict(built), {}, origin)
    if callable(getattr(built, "state_dict", None)) and not isinstance(built, type):
        return _manifest(_state_dict(built, origin), {}, origin)
    what = f"the class {built.__name__}" if isinstance(built, type) else f"an object of type {type(built).__name__}"
    raise TargetNotBuildable(
        f"{origin.reference}: got {what}, which has no state dict",
        reference=origin.reference,
        hint="name a torch.nn.Module, a class or function that makes one, or a dict of tensors",
    )


def manifest_of_module(module: nn.Module, *, origin: Origin | None = None) -> Manifest:
    """The manifest of a module, on whatever device it is, in the order of its state dict.

    Buffers that are not persistent are absent, as from a checkpoint. `tied_to` is the first key that is the same
    tensor. Raises TargetNotBuildable for parameters without a shape (lazy modules) and for dtypes that are not in
    `DTYPES`.
    """
    origin = origin or Origin(type(module).__name__, "module")
    _refuse_lazy(module, origin)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    kinds = _witnesses(buffers, "buffer") | _witnesses(parameters, "parameter")
    return _manifest(_state_dict(module, origin), kinds, origin)


def _witnesses(named: Mapping[str, Tensor], kind: Kind) -> dict[object, Kind]:
    """Both the names and the tensors themselves: a hook of the module may have renamed keys, or replaced tensors."""
    return dict.fromkeys((*named, *map(memory_of, named.values())), kind)


def _refuse_lazy(module: nn.Module, origin: Origin) -> None:
    from torch.nn.parameter import is_lazy

    tensors = (*module.named_parameters(), *module.named_buffers())
    lazy = [name for name, tensor in tensors if is_lazy(tensor)]
    if lazy:
        raise TargetNotBuildable(
            f"{origin.reference}: {plural(len(lazy), 'tensor')} of lazy modules have no shape yet: {listing(lazy)}",
            reference=origin.reference,
            hint="name a function that makes the model and runs one batch through it",
        )


def _state_dict(holder: Any, origin: Origin) -> dict[str, object]:
    try:
        try:
            return dict(holder.state_dict(keep_vars=True))
        except TypeError:  # an override without the argument
            return dict(holder.state_dict())
    except (Exception, SystemExit) as error:
        raise not_buildable(origin.reference, "its state_dict() raised", error) from error


def _manifest(entries: Mapping[str, object], kinds: Mapping[object, Kind], origin: Origin) -> Manifest:
    import torch

    tensors = {str(key): value for key, value in entries.items() if isinstance(value, torch.Tensor)}
    others = [str(key) for key, value in entries.items() if not isinstance(value, torch.Tensor)]
    if others and not tensors:
        raise TargetNotBuildable(
            f"{origin.reference}: there are no tensors in it, only {listing(others)}", reference=origin.reference
        )
    if others:
        origin = origin._replace(notes=(*origin.notes, f"left out, no tensors: {listing(others)}"))
    return Manifest(_specs(tensors, kinds, origin), origin)


def _specs(tensors: Mapping[str, Tensor], kinds: Mapping[object, Kind], origin: Origin) -> Iterable[TensorSpec]:
    first: dict[object, str] = {}
    for key, tensor in tensors.items():
        tied_to = first.setdefault(memory_of(tensor), key)
        dtype = DTYPES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None:
            raise TargetNotBuildable(
                f"{origin.reference}: {key} is of {tensor.dtype}, which ckptdoctor does not know",
                reference=origin.reference,
            )
        kind = kinds.get(memory_of(tensor)) or kinds.get(key) or _kind_of(tensor)
        yield TensorSpec(key, tuple(tensor.shape), dtype, kind, None if tied_to == key else tied_to)


def _kind_of(tensor: Tensor) -> Kind:
    from torch.nn import Parameter

    return "parameter" if isinstance(tensor, Parameter) else "unknown"


def memory_of(tensor: Tensor) -> object:
    """What tied tensors have in common. Storages have an identity on the meta device too, where `data_ptr()` is 0."""
    try:
        storage = tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):  # sparse tensors and some subclasses have none
        return id(tensor)
    layout = tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
    return storage, *layout, tensor.is_conj(), tensor.is_neg()
