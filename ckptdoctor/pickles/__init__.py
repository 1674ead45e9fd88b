"""Pickles as data: parsed into inert nodes, written back, never run.

`parse` turns a stream into a graph of nodes (nodes.py); nothing that the stream names is imported, called or hashed.
`emit` writes a graph as a stream again; `view_of` reads a node as the tensor that torch would rebuild from it. To teach the
reader a new opcode, add it to the table in parse.py; a new way in which torch rebuilds a tensor goes into tensors.py.
"""
