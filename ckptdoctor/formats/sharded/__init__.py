"""Folders of shards as Hugging Face writes them: files of tensors, and an index that says which tensor lies in which file.

layout.py finds the files in a folder, index.py reads and checks an index, reader.py opens the shards as one checkpoint,
writer.py writes such a folder. The shards themselves are files of the other formats.
"""
