"""The optimizer's states, and averaged copies of the weights, on their way through a plan: values only, nothing is written.

`read_optimizers` finds the states in a file's graph; `assign` says which weight each of them belongs to; `follow` says what
becomes of each; `find_copies` finds the averaged copies of the weights that go the same way.
"""

from ckptdoctor.optimizer.assigning import assign, changes_places, parameter_steps
from ckptdoctor.optimizer.copies import WeightCopy, averages_in_lists, find_copies
from ckptdoctor.optimizer.following import Followed, NewState, follow
from ckptdoctor.optimizer.moments import Moment, spec_of, unchanged
from ckptdoctor.optimizer.states import Member, OptimizerProblem, OptimizerState, read_optimizers

__all__ = [
    "Followed",
    "Member",
    "Moment",
    "NewState",
    "OptimizerProblem",
    "OptimizerState",
    "WeightCopy",
    "assign",
    "averages_in_lists",
    "changes_places",
    "find_copies",
    "follow",
    "parameter_steps",
    "read_optimizers",
    "spec_of",
    "unchanged",
]
