"""What a map would do to two manifests, decided without reading one byte of tensor data.

`make_plan` is the whole of it: it runs each map as a stage (stage.py: drop, rules, identity), composes the expressions, and
settles the state of every target and every source tensor (settle.py). The plan that goes back is made by `invert`, in
inverse.py. Everything here is pure.
"""

from ckptdoctor.plan.balance import Amount, Balance, balance_of
from ckptdoctor.plan.make import check_alone, make_plan
from ckptdoctor.plan.tying import memories, torn
from ckptdoctor.plan.types import (
    Apply,
    Expression,
    Plan,
    Remainder,
    Status,
    Step,
    Take,
    ops_of,
    over_firsts,
    taken_keys,
)

__all__ = [
    "Amount",
    "Apply",
    "Balance",
    "Expression",
    "Plan",
    "Remainder",
    "Status",
    "Step",
    "Take",
    "balance_of",
    "check_alone",
    "make_plan",
    "memories",
    "ops_of",
    "over_firsts",
    "taken_keys",
    "torn",
]
