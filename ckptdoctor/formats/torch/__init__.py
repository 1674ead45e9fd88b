"""What torch.save writes since 1.6, Lightning's .ckpt among it: a zip file with one pickle and one record a storage.

reader.py opens such a file, envelope.py decides what the pickle of the output says, writer.py writes pickle and storages.
"""
