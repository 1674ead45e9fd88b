"""The zip files that torch.save writes: read strictly, written in exactly torch's layout.

The rules of reading: the archive begins at byte 0 and its end record is the last thing in the file; entries do not overlap,
their names are unique (torch ignores case, so we do) and lie in one top folder; storages are stored, not compressed. A zip64
record stands wherever torch writes one. Source of the layout: caffe2/serialize/inline_container.cc and measurement.
"""
