"""Files without surprises: reading that notices truncation and change, writing that leaves the old file or the new one.

A `SourceFile` is read at offsets (never through a mapping: a mapped file that shrinks kills the process), a `Span` is bytes
of one. An `OutputFile` takes bytes and spans; spans go through the kernel. `staged` is the only way in which anything is
written: into a hidden folder beside the output, fsync, rename, fsync of the folder. All calls to the system are in system.py.
"""

from ckptdoctor.files.folders import OutputFolder, new_folder
from ckptdoctor.files.kernel import PAGE
from ckptdoctor.files.output import OutputFile, new_file
from ckptdoctor.files.places import check_output, check_output_folder, check_rewritable, same_file
from ckptdoctor.files.publishing import once_in_place, replacing, rewrite_text, write_text
from ckptdoctor.files.source import CHUNK, TRUNCATED, Progress, SourceFile, Span, head_of, unnoticed
from ckptdoctor.files.staging import Staging, staged

__all__ = [
    "CHUNK",
    "PAGE",
    "TRUNCATED",
    "OutputFile",
    "OutputFolder",
    "Progress",
    "SourceFile",
    "Span",
    "Staging",
    "check_output",
    "check_output_folder",
    "check_rewritable",
    "head_of",
    "new_file",
    "new_folder",
    "once_in_place",
    "replacing",
    "rewrite_text",
    "same_file",
    "staged",
    "unnoticed",
    "write_text",
]
