"""What torch.save wrote before 1.6, and still writes with `_use_new_zipfile_serialization=False`: a row of pickles, then the
bytes of the storages.

The pickles are a magic number, a protocol version, facts about the machine, the object, and the keys of the storages in the
order in which these follow; each storage is its number of elements (eight bytes) and its values. row.py parses the pickles and
brings the graph into the form that the zip files of today have, so that it can be written as one; reader.py finds the storages.
Source: `_legacy_save` and `_legacy_load` in torch/serialization.py, `THPStorage_writeFileRaw` in torch/csrc/serialization.cpp.
"""
