"""The health of the numbers: NaN, infinities, constants, what a narrower dtype could not hold, and tensors with the same bytes.

`health_of` (tally.py) reads one tensor, a chunk at a time, `survey` (survey.py) a checkpoint. What the bits of a dtype mean
stands in the tables of numbers.py; counting.py counts what reaches a threshold, exactly, with neither torch nor numpy.
"""

from ckptdoctor.health.numbers import FLOATS, can_be_nan, narrower
from ckptdoctor.health.survey import Health, identical, survey
from ckptdoctor.health.tally import Loss, Specials, TensorHealth, health_of

__all__ = [
    "FLOATS",
    "Health",
    "Loss",
    "Specials",
    "TensorHealth",
    "can_be_nan",
    "health_of",
    "identical",
    "narrower",
    "survey",
]
