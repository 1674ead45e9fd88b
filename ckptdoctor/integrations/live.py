"""What a live model holds: each tensor once, with all its names and the sha256 of its values, whatever wraps or shards it.

One tensor at a time is whole and on the CPU. Where tensors are sharded, reading one takes all ranks: so every rank reads all
of them, in the order of the model, and judges afterwards.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from ckptdoctor.execution.values import bytes_of
from ckptdoctor.formats.tensors import chunks_of, sha256_of
from ckptdoctor.integrations.filling import entries_of
from ckptdoctor.integrations.modules import unwrapped
from ckptdoctor.model import DTYPES
from ckptdoctor.ops.numbers import LARGEST
from ckptdoctor.targets.building.contents import memory_of
from ckptdoctor.wrappers import EVERYWHERE, without_wrappers

if TYPE_CHECKING:
    from torch import Tensor, nn

EXTRA_STATE = "_extra_state"


class LiveTensor(NamedTuple):
    """A tensor of a model. `names` are all that it has, without wrapper segments.

    `sha256` is over the values as receipts hold it; where there is none, `fault` says why. `constant` is the one value that
    all elements have, if there are several.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    sha256: str | None = None
    constant: str | None = None
    fault: str | None = None
    on_meta: bool = False


def live_tensors(model: nn.Module) -> list[LiveTensor]:
    """The parameters and persistent buffers of a model, and what else its state dict holds; no `_extra_state`."""
    import torch

    with torch.no_grad():
        return [_read(tuple(names), tensor) for batch in _batches(model) for names, tensor in batch]


def is_sharded(model: nn.Module) -> bool:
    """Whether reading the model takes all ranks."""
    return set(_places(model)) != {None} or any(map(_is_sharded, entries_of(unwrapped(model)).values()))


def _batches(model: nn.Module) -> Iterator[Iterable[tuple[list[str], Tensor]]]:
    """Tensors with their names. Those of a batch are there while it is the current one: FSDP1 frees them afterwards."""
    places = _places(model)
    if set(places) == {None}:
        entries = entries_of(unwrapped(model))  # of FSDP2, it shards again what a forward has left whole
        yield _grouped([*_own(places[None]), *_others(places[None], entries)])
        return
    for unit, modules in places.items():
        with _whole(unit):
            yield _grouped(_own(modules))


def _places(model: nn.Module) -> dict[nn.Module | None, list[tuple[str, nn.Module]]]:
    """Modules with their paths, less what wraps them, by the unit of FSDP1 that they are sharded in (None: in none)."""
    from torch.nn import DataParallel
    from torch.nn.parallel import DistributedDataParallel

    fsdp = _fsdp1()
    seen: dict[str, tuple[nn.Module, str, nn.Module | None]] = {}
    places: dict[nn.Module | None, list[tuple[str, nn.Module]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        above, _, segment = path.rpartition(".")
        outer, prefix, unit = seen[above] if path else (model, "", None)
        wraps = segment == "module" and isinstance(outer, DistributedDataParallel | DataParallel)
        short = prefix if not path or wraps or segment in EVERYWHERE else f"{prefix}{segment}."
        unit = module if fsdp is not None and isinstance(module, fsdp) else unit
        seen[path] = (module, short, unit)
        places.setdefault(unit, []).append((short, module))
    return places


def _fsdp1() -> Any:
    """The class of FSDP1, if the process uses it."""
    return getattr(sys.modules.get("torch.distributed.fsdp"), "FullyShardedDataParallel", None)


def _whole(unit: nn.Module | None) -> AbstractContextManager[None]:
    """While it is open, the parameters of this unit, and of none inside, are whole."""
    if unit is None:
        return nullcontext()
    whole: AbstractContextManager[None] = _fsdp1().summon_full_params(unit, recurse=False, writeback=False)
    return whole


def _own(modules: Iterable[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """The parameters and persistent buffers of the modules themselves."""
    for prefix, module in modules:
        left_out = getattr(module, "_non_persistent_buffers_set", ())
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            yield prefix + name, parameter
        for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
            if name not in left_out:
                yield prefix + name, buffer


def _others(modules: Iterable[tuple[str, nn.Module]], entries: Mapping[str, object]) -> Iterator[tuple[str, Tensor]]:
    """What the state dict holds under other names: a hook's names for the same tensors, and state of other kinds."""
    import torch

    own = {name for name, _ in _own(modules)}
    for name, value in zip(without_wrappers(entries), entries.values(), strict=True):
        if isinstance(value, torch.Tensor) and name not in own and not name.endswith(EXTRA_STATE):
            yield name, value


def _grouped(named: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[list[str], Tensor]]:
    """Each tensor once, with its names; two that share all their memory are one."""
    groups: dict[object, tuple[list[str], Tensor]] = {}
    for name, tensor in named:
        # By its identity where it is sharded: the memory of a part says nothing, and ranks have to agree.
        identity = id(tensor) if _is_sharded(tensor) or _is_lazy(tensor) else memory_of(tensor)
        names, _ = groups.setdefault(identity, ([], tensor))
        if name not in names:
            names.append(name)
    return groups.values()


def _read(names: tuple[str, ...], tensor: Tensor) -> LiveTensor:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if _is_lazy(tensor):
        return LiveTensor(names, (), dtype, fault="without a shape yet, in a lazy module")
    shape = tuple(tensor.shape)
    if (fault := _fault(_local(tensor), dtype)) is not None:
        return LiveTensor(names, shape, dtype, fault=fault, on_meta=tensor.is_meta)
    data = bytes_of(_gathered(tensor).to("cpu", copy=True))  # numpy would fix the size of the model's own memory
    return LiveTensor(names, shape, dtype, sha256_of(chunks_of([data])), _constant(data, dtype))


def _fault(tensor: Tensor, dtype: str) -> str | None:
    """Why a tensor, or this rank's part of it, has no values that could be compared."""
    import torch

    if tensor.is_meta:
        return "on the meta device, without values"
    if tensor.layout != torch.strided:
        return f"not dense but {str(tensor.layout).removeprefix('torch.')}, which is not compared"
    if tensor.is_quantized:
        return f"quantised ({dtype}), which is not compared"
    if hasattr(type(tensor), "__tensor_flatten__"):
        return f"a {type(tensor).__name__}, which is not compared"
    return None if dtype in DTYPES else f"of {dtype}, which ckptdoctor does not know"


def _local(tensor: Any) -> Tensor:
    """This rank's part of a sharded tensor; any other as it is."""
    return tensor.to_local() if _is_sharded(tensor) else tensor  # type: ignore[no-any-return]


def _gathered(tensor: Any) -> Tensor:
    """A sharded tensor whole; any other as it is. What was moved to the CPU is gathered where its ranks talk."""
    if not _is_sharded(tensor):
        return tensor  # type: ignore[no-any-return]
    there = tensor.device_mesh.device_type
    return (tensor if tensor.device.type == there else tensor.to(there)).full_tensor()  # type: ignore[no-any-return]


def _constant(data: memoryview, dtype: str) -> str | None:
    """The value of all elements, where it is one and a plain number."""
    import numpy
    import torch

    if dtype not in LARGEST:
        return None
    size = DTYPES[dtype].itemsize
    elements = numpy.frombuffer(data, f"u{size}")
    if len(elements) < 2 or elements[0] != elements[-1] or (elements != elements[0]).any():
        return None
    return f"{torch.frombuffer(bytearray(data[:size]), dtype=getattr(torch, dtype)).item():g}"


def _is_sharded(tensor: object) -> bool:
    return hasattr(tensor, "full_tensor")


def _is_lazy(tensor: Tensor) -> bool:
    from torch.nn.parameter import is_lazy

    return is_lazy(tensor)
