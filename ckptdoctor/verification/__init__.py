"""Prove what was written: read the output again, and compare it with its receipt, its source and its target.

`verify` (making.py) runs the checks of one explicit table over one `Evidence` (evidence.py: the opened files, and what was
read of them); each check is a function that gives a `Check`. To add one: a function in a file of its family, and a line in
`CHECKS`. Nothing is written, and torch is imported only to recompute what an op made and to load into a model.
"""

from ckptdoctor.verification.making import CHECKS, verify
from ckptdoctor.verification.types import Check, Problem, Verification

__all__ = ["CHECKS", "Check", "Problem", "Verification", "verify"]
