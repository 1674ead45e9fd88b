"""What torch.save writes since 1.6, Lightning's .ckpt among it: a zip file with one pickle and one record a storage.

reader.py opens such a file, envelope.py decides what the pickle of the output says, writer.py writes pickle and storages.
"""

from ckptdoctor.formats.torch.reader import TorchCheckpoint, TorchReader
from ckptdoctor.formats.torch.writer import TorchWriter

__all__ = ["TorchCheckpoint", "TorchReader", "TorchWriter"]
