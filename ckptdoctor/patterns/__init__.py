"""The patterns of the map language, such as `blocks.{i}.mlp.{fc1,fc2}.{*p}`: how to read, match and fill one.

`Pattern.parse` reads one (`syntax.py` knows the notation), `Pattern.match` reads a key, `Pattern.fill` writes one.
`pair` settles how the two sides of a rule belong together. Nothing in here knows tensors, YAML or rules.
"""

from ckptdoctor.patterns.pairing import Axis, Pairing, pair
from ckptdoctor.patterns.pattern import AmbiguousKey, Match, Pattern
from ckptdoctor.patterns.syntax import Capture, CaptureKind, Group, PatternError

__all__ = [
    "AmbiguousKey",
    "Axis",
    "Capture",
    "CaptureKind",
    "Group",
    "Match",
    "Pairing",
    "Pattern",
    "PatternError",
    "pair",
]
