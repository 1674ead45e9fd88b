"""How torch writes tensors into a pickle: as calls of a few `torch._utils._rebuild_*` functions over persistent storages.

Source: torch/_utils.py (`_rebuild_tensor`, `_v2`, `_v3`, `_rebuild_parameter`, `_rebuild_parameter_with_state`) and
torch/serialization.py (`persistent_id`: `("storage", type, key, location, numel)`). Nothing is called: the arguments are read.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

from ckptdoctor.model import DTYPES, DType, Layout
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.nodes import CallNode, GlobalNode, Node, PersistentNode, mapping_pairs
from ckptdoctor.text import shortened

_STORAGE_DTYPES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
}
_OPAQUE_STORAGES = {
    "QInt8Storage": 1,
    "QUInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}
"""Storages of quantized tensors, which are not read: bytes of one element."""
_DTYPE_STORAGES = {dtype: name for name, dtype in _STORAGE_DTYPES.items()}
_TOO_LARGE = 1 << 63
_ARGUMENTS = {"_rebuild_tensor": (4,), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}
"""How many arguments torch's functions take; the last of the longer rows are flags (`conj`, `neg`)."""
_PARAMETERS = {"_rebuild_parameter": 3, "_rebuild_parameter_with_state": 4}
_VALUES = ("data", "real", "imag")
"""Attributes of a tensor that can be set, and are its values."""


class StorageNode(NamedTuple):
    """A storage as the pickle refers to it. `dtype` is None for an untyped one, whose `numel` counts bytes."""

    key: str
    dtype: DType | None
    numel: int

    @property
    def nbytes(self) -> int:
        """Bytes that the storage claims to have."""
        return self.numel * (self.dtype.itemsize if self.dtype else 1)


class TensorView(NamedTuple):
    """A tensor as a view of a storage. `parameter` says that it was saved as an nn.Parameter."""

    storage: StorageNode
    layout: Layout
    parameter: bool = False


def view_of(node: Node) -> TensorView | None:
    """The dense tensor that torch would rebuild from this node; None for anything else.

    Raises PickleError where it is malformed.
    """
    if type(node) is not CallNode or type(node.function) is not GlobalNode:
        return None
    view = _called_view(node.function, node.arguments)
    if view is not None and node.edits:
        raise PickleError("a tensor that is changed after it is made")
    return view


def _called_view(function: GlobalNode, arguments: Any) -> TensorView | None:
    if function.module != "torch._utils":
        attributed = function.module == "torch._tensor" and function.name == "_rebuild_from_type_v2"
        return _attributed_view(arguments) if attributed else None
    if function.name in _PARAMETERS:
        inner = arguments[0] if len(arguments) == _PARAMETERS[function.name] else None
        view = _dense_view(inner.function, inner.arguments) if type(inner) is CallNode else None
        if view is not None and len(arguments) > 3:
            _check_attributes(arguments[3])
        return None if view is None else view._replace(parameter=True)
    return _dense_view(function, arguments)


def _attributed_view(arguments: tuple[Any, ...]) -> TensorView | None:
    """A tensor that had attributes when it was saved (an nn.Buffer has): how it is made, its type, the arguments, these."""
    if len(arguments) != 4 or type(arguments[1]) is not GlobalNode or not isinstance(arguments[2], tuple):
        return None
    view = _dense_view(arguments[0], arguments[2]) if arguments[1].path == "torch.Tensor" else None
    if view is not None:
        _check_attributes(arguments[3])
    return view


def _check_attributes(state: Node) -> None:
    """Attributes that torch sets on a tensor once it is made: a dict, and one of slots; some would give it other values."""
    for part in state if isinstance(state, tuple) else (state,):
        pairs = [] if part is None else mapping_pairs(part)
        if pairs is None or any(_word(key) in _VALUES for key, _ in pairs):
            raise PickleError("a tensor whose attributes would change its values")


def _dense_view(function: Node, arguments: tuple[Any, ...]) -> TensorView | None:
    if type(function) is not GlobalNode or function.module != "torch._utils":
        return None
    if function.name not in _ARGUMENTS:
        return None
    if len(arguments) not in _ARGUMENTS[function.name]:
        raise PickleError(f"a tensor made of {len(arguments)} arguments")
    if function.name == "_rebuild_tensor_v3":
        return _view(arguments, _named_dtype(arguments[6]), arguments[7] if len(arguments) > 7 else None)
    return _view(arguments, None, arguments[6] if len(arguments) > 6 else None)


def storage_of(node: Node) -> StorageNode | None:
    """The storage that a persistent reference names; None for a reference of another kind."""
    pid = node.pid if type(node) is PersistentNode else None
    if not isinstance(pid, tuple) or len(pid) < 5 or _word(pid[0]) != "storage":
        return None
    kind, key, numel = pid[1], _word(pid[2]), pid[4]
    if type(kind) is not GlobalNode or key is None:
        raise PickleError("a storage without a type or a key")
    count = _count(numel, "size of a storage")
    if kind.name in _OPAQUE_STORAGES and kind.module == "torch":
        return StorageNode(key, None, count * _OPAQUE_STORAGES[kind.name])
    return StorageNode(key, _storage_dtype(kind), count)


def tensor_node(storage_key: str, layout: Layout) -> CallNode:
    """A node for a dense tensor on the CPU that fills its storage, as torch.save writes one."""
    dtype, numel = layout.dtype, prod(layout.shape)
    legacy = _DTYPE_STORAGES.get(dtype.name)
    kind = GlobalNode("torch", legacy) if legacy else GlobalNode("torch.storage", "UntypedStorage")
    size = numel if legacy else numel * dtype.itemsize
    storage = PersistentNode(("storage", kind, storage_key, "cpu", size))
    hooks = CallNode("reduce", GlobalNode("collections", "OrderedDict"), ())
    arguments: tuple[Node, ...] = (storage, 0, layout.shape, layout.stride, False, hooks)
    if legacy:
        return CallNode("reduce", GlobalNode("torch._utils", "_rebuild_tensor_v2"), arguments)
    arguments += (GlobalNode("torch", dtype.name),)
    return CallNode("reduce", GlobalNode("torch._utils", "_rebuild_tensor_v3"), arguments)


def _view(arguments: tuple[Any, ...], dtype: DType | None, metadata: Node) -> TensorView:
    storage = storage_of(arguments[0])
    if storage is None:
        raise PickleError("a tensor without a storage")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise PickleError("a tensor on an untyped storage without an element type")
    shape, stride = _sizes(arguments[2], "shape"), _sizes(arguments[3], "stride")
    if len(shape) != len(stride):
        raise PickleError("a tensor whose shape and stride differ in length")
    offset = _count(arguments[1], "offset of a tensor")
    conj, neg = (False, False) if metadata is None else (_flag(metadata, "conj"), _flag(metadata, "neg"))
    return TensorView(storage, Layout(dtype, shape, stride, offset, conj, neg))


def _storage_dtype(kind: GlobalNode) -> DType | None:
    if kind.module == "torch.storage" and kind.name == "UntypedStorage":
        return None
    name = _STORAGE_DTYPES.get(kind.name) if kind.module in ("torch", "torch.cuda") else None
    if name is None:
        raise PickleError(f"a storage of the unknown type {shortened(kind.path)}")
    return DTYPES[name]


def _named_dtype(node: Node) -> DType:
    dtype = DTYPES.get(node.name) if type(node) is GlobalNode and node.module == "torch" else None
    if dtype is None or dtype.bits < 8:  # torch has no elements of parts of bytes
        raise PickleError("a tensor of an unknown element type")
    return dtype


def _sizes(node: Node, what: str) -> tuple[int, ...]:
    if type(node) is CallNode and node.is_call_of("torch", "Size") and node.arguments:
        node = node.arguments[0]
    if not isinstance(node, tuple):  # a list could have become another one since
        raise PickleError(f"a tensor whose {what} is no tuple")
    for size in node:
        if type(size) is not int or not 0 <= size < _TOO_LARGE:
            raise PickleError(f"a {what} that is no count")
    return tuple(node)


def _count(value: Node, what: str) -> int:
    if type(value) is not int or not 0 <= value < _TOO_LARGE:
        raise PickleError(f"a {what} that is no count")
    return value


def _flag(metadata: Node, name: str) -> bool:
    pairs = mapping_pairs(metadata)
    if pairs is None or not all(value is True for _, value in pairs):  # any other value means True to torch, too
        raise PickleError("a tensor whose metadata are no flags")
    return any(_word(key) == name for key, _ in pairs)


def _word(node: Node) -> str | None:
    if isinstance(node, str):
        return node
    return node.decode("utf-8", "replace") if isinstance(node, bytes) else None
