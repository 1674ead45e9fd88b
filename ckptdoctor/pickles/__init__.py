"""Pickles as data: parsed into inert nodes, written back, never run.

`parse` turns a stream into a graph of nodes (nodes.py); nothing that the stream names is imported, called or hashed.
`emit` writes a graph as a stream again; `view_of` reads a node as the tensor that torch would rebuild from it. To teach the
reader a new opcode, add it to the table in parse.py; a new way in which torch rebuilds a tensor goes into tensors.py.
"""

from ckptdoctor.pickles.emit import emit
from ckptdoctor.pickles.machine import PickleError
from ckptdoctor.pickles.nodes import (
    ByteString,
    CallNode,
    DictNode,
    Edit,
    ExtensionNode,
    FrozenSetNode,
    GlobalNode,
    PersistentNode,
    SetNode,
    mapping_pairs,
    with_pairs,
)
from ckptdoctor.pickles.parse import Pickle, parse
from ckptdoctor.pickles.tensors import StorageNode, TensorView, storage_of, tensor_node, view_of

__all__ = [
    "ByteString",
    "CallNode",
    "DictNode",
    "Edit",
    "ExtensionNode",
    "FrozenSetNode",
    "GlobalNode",
    "PersistentNode",
    "Pickle",
    "PickleError",
    "SetNode",
    "StorageNode",
    "TensorView",
    "emit",
    "mapping_pairs",
    "parse",
    "storage_of",
    "tensor_node",
    "view_of",
    "with_pairs",
]
