"""Carry a plan out: `execute` streams tensors from file to file, `apply` does the same to a state dict in memory.

values.py computes what an op has to compute; it is the only place that needs torch.
"""

from ckptdoctor.execution.beside import check_harmless, keeps_parameter_order
from ckptdoctor.execution.file import execute
from ckptdoctor.execution.memory import apply
from ckptdoctor.execution.peak import Peak, memory_peak

__all__ = ["Peak", "apply", "check_harmless", "execute", "keeps_parameter_order", "memory_peak"]
