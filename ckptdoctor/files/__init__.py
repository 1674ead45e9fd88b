"""Files without surprises: reading that notices truncation and change, writing that leaves the old file or the new one.

A `SourceFile` is read at offsets (never through a mapping: a mapped file that shrinks kills the process), a `Span` is bytes
of one. An `OutputFile` takes bytes and spans; spans go through the kernel. `replacing` is the only way in which anything is
written: a temporary file beside the output, fsync, rename, fsync of the folder. `replacing_folder` does so for many files.
"""

from ckptdoctor.files.folders import OutputFolder, check_output_folder, replacing_folder
from ckptdoctor.files.kernel import PAGE
from ckptdoctor.files.output import OutputFile
from ckptdoctor.files.publishing import check_output, check_rewritable, replacing, rewrite_text, write_text
from ckptdoctor.files.source import CHUNK, TRUNCATED, Progress, SourceFile, Span, unnoticed

__all__ = [
    "CHUNK",
    "PAGE",
    "TRUNCATED",
    "OutputFile",
    "OutputFolder",
    "Progress",
    "SourceFile",
    "Span",
    "check_output",
    "check_output_folder",
    "check_rewritable",
    "replacing",
    "replacing_folder",
    "rewrite_text",
    "unnoticed",
    "write_text",
]
