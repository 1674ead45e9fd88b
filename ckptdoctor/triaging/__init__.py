"""What a training log says about the start: `triage(log, expect=0.3557)` compares the first validation with what the
checkpoint promised, and tells the cases of `Case` apart.

The way of the data: `lines` cuts bytes into segments, a finder (`metric` for text, `tables` for CSV) sees the values in
them, `gathering` keeps what a judgement needs and no more, `expectation` says what was promised, `judging` compares; `run`
puts it together, `following` does so while the log still grows. A new way to write a loss goes into `metric`, a new sort of
failure into the table of `failures`.
"""

from ckptdoctor.triaging.run import triage
from ckptdoctor.triaging.types import Observation, Thresholds, Triage

__all__ = ["Observation", "Thresholds", "Triage", "triage"]
