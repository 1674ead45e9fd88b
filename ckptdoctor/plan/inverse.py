"""`invert`: the plan that goes back, from the target of a plan to its source, as far as there is a way.

It is the concrete plan that is inverted, tensor by tensor, and never a pattern. What does not come back is said, with the
rule and the op that it got lost in; the rest is a plan like any other: judged, carried out and verified in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import Location, PlanError
from ckptdoctor.ops.copying import Repeat
from ckptdoctor.plan.balance import balance_of
from ckptdoctor.plan.tying import share
from ckptdoctor.plan.types import Expression, Plan, Remainder, Status, Step, Take, ops_of, taken_keys
from ckptdoctor.plan.warn import warnings_for
from ckptdoctor.plan.ways import Way, Ways, ways_back
from ckptdoctor.text import listing, printable

if TYPE_CHECKING:
    from ckptdoctor.keymap import KeyMap
    from ckptdoctor.model import TensorSpec

FRESH = "fresh on the way there"
"""How the reason begins why a tensor is dropped that the plan did not make: the file may be without it."""


class Lost(NamedTuple):
    """Source keys that do not come back, because the op `op` of the rule at `rule` cannot be undone, for a `reason`.

    Without keys it is something around the weights.
    """

    keys: tuple[str, ...]
    rule: Location | None
    op: str
    reason: str

    @property
    def place(self) -> str:
        """`x.yaml:14 (interpolate)`."""
        return f"{self.rule.file}:{self.rule.line} ({self.op})" if self.rule is not None else f"({self.op})"


@dataclass(frozen=True)
class Inversion:
    """`plan` goes from the target of a plan to its source; `lost` is what was used there and does not come back."""

    plan: Plan
    lost: tuple[Lost, ...]

    @property
    def bijective(self) -> int:
        """How many tensors of the source come back bit for bit, there and back again."""
        return sum(step.filled for step in self.plan.steps)

    @property
    def total(self) -> int:
        """How many tensors the source has."""
        return len(self.plan.steps)

    def check(self) -> None:
        """Raise PlanError, with all problems at once, where something that was used does not come back."""
        if self.lost:
            raise PlanError.of([_refused(lost) for lost in self.lost])


def invert(plan: Plan) -> Inversion:
    """The inverse of a plan.

    What the plan dropped is fresh, and what it left unused is missing; what it did not fill is dropped, or unexpected. Of a
    tensor that has several copies one is taken, by preference one of the same name, and the others are dropped.
    """
    ways = ways_back(plan)
    rules = {step.target.key: step.rule for step in plan.steps}
    made = {key: _step(spec, ways.known.get(Take(key)), rules) for key, spec in plan.source.items()}
    _leave_unfilled(plan, made)
    share(made, {}, plan.target, [])
    lost = _lost(plan, made, ways)
    reasons = {key: each for each in lost for key in each.keys}
    for key, each in reasons.items():
        made[key] = made[key]._replace(rule=each.rule, why=f"{each.place} cannot be undone: {each.reason}")
    maps, edits = _maps_back(plan.maps)
    steps = tuple(made.values())
    rest = _remainders(plan, steps, reasons)
    back = Plan(plan.target, plan.source, maps, steps, rest, has_target=True, reverse=not plan.reverse)
    balance_of(back)
    return Inversion(replace(back, warnings=(*warnings_for(back), *_chosen(plan, made))), (*lost, *edits))


def _chosen(plan: Plan, made: Mapping[str, Step]) -> Iterator[str]:
    """A sentence on the tensors that come back from one of several copies, which may no longer be equal."""
    copies: dict[Expression, dict[str, str]] = {}
    for step in plan.steps:
        if step.filled and step.expression is not None:
            copies.setdefault(step.expression, {})[step.target.key] = step.memory
    chosen: dict[str, None] = {}
    for expression, memory in copies.items():
        if len(set(memory.values())) > 1 or any(isinstance(op, Repeat) for op in ops_of(expression)):
            taken = ((key, used) for key in taken_keys(expression) for used in made[key].sources if used in memory)
            chosen |= dict.fromkeys(f"{key} from {used}" for key, used in taken)
    if chosen:
        yield f"of several copies one is taken: {listing(chosen)}; whether the others are still equal to it, nobody looks"


def _step(source: TensorSpec, way: Way | None, rules: Mapping[str, Location | None]) -> Step:
    if way is None:
        return Step(source, "missing")
    first = next(taken_keys(way.expression))
    status: Status = "computed"
    if isinstance(way.expression, Take):
        status = "loaded" if first == source.key else "renamed"
    given = way.spec._replace(key=source.key, tied_to=None, raw_key=None)
    return Step(source, status, way.expression, given, rules[first] if status != "loaded" else None)


def _leave_unfilled(plan: Plan, made: dict[str, Step]) -> None:
    """What the plan dropped or could not use, as the inverse has it: fresh, or of another shape here too."""
    for rest in plan.remainders:
        key = rest.source.key
        if rest.status == "dropped":
            why = f"dropped on the way there: {rest.why}"
            made[key] = made[key]._replace(status="fresh", rule=rest.rule, why=why)
        elif rest.status == "mismatched":
            made[key] = made[key]._replace(status="mismatched", expression=Take(key), given=plan.target[key])


def _lost(plan: Plan, made: Mapping[str, Step], ways: Ways) -> tuple[Lost, ...]:
    """What the plan uses and does not give back, by rule, op and reason, in the order of the source."""
    missing = {key for key, step in made.items() if step.status == "missing"}
    reads: dict[str, Step] = {}
    for step in plan.steps:
        if step.has_values:
            for key in missing.intersection(step.sources):
                reads.setdefault(key, step)
    found: dict[tuple[Location | None, str, str], list[str]] = {}
    for key in made:
        if key in reads:
            step = reads[key]
            assert step.expression is not None
            op, reason = ways.blame(step.expression, key)
            found.setdefault((step.rule, op.name, reason), []).append(key)
    return tuple(Lost(tuple(keys), *why) for why, keys in found.items())


def _remainders(plan: Plan, steps: Iterable[Step], lost: Mapping[str, Lost]) -> tuple[Remainder, ...]:
    steps = tuple(steps)
    used = {key for step in steps if step.filled for key in step.sources}
    mismatched = {step.target.key for step in steps if step.status == "mismatched"}
    return tuple(_remainder(step, lost, mismatched) for step in plan.steps if step.target.key not in used)


def _remainder(step: Step, lost: Mapping[str, Lost], mismatched: set[str]) -> Remainder:
    """What becomes of a target tensor of the plan that nothing is made of on the way back."""
    if step.status in ("missing", "mismatched"):
        return Remainder(step.target, "mismatched" if step.target.key in mismatched else "unexpected")
    if step.status in ("fresh", "tied"):
        why = f"{FRESH if step.status == 'fresh' else 'tied on the way there'}: {step.why}"
    elif gone := [lost[key] for key in step.sources if key in lost]:
        why = f"{gone[0].place} cannot be undone"
    else:
        why = f"{listing(step.sources)} comes back from another tensor"
    return Remainder(step.target, "dropped", step.rule, why)


def _maps_back(maps: Iterable[KeyMap]) -> tuple[tuple[KeyMap, ...], tuple[Lost, ...]]:
    """The maps with what they change around the weights undone, and what of that cannot be: an old value is not known."""
    back, lost = [], []
    for key_map in maps:
        edits = tuple(replace(edit, action="drop", value=None) for edit in key_map.envelope if edit.action == "add")
        back.append(replace(key_map, envelope=edits))
        for edit in key_map.envelope:
            if edit.action != "add":
                reason = f"nothing says what stood at {printable('/'.join(edit.path))} before"
                lost.append(Lost((), edit.location, f"envelope {edit.action}", reason))
    return tuple(back), tuple(lost)


def _refused(lost: Lost) -> PlanError:
    gone = f"; {listing(lost.keys)} would not come back" if lost.keys else ""
    return PlanError(
        f"{lost.op} cannot be undone: {lost.reason}{gone}",
        rule=lost.rule,
        keys=lost.keys,
        hint="ckptdoctor map invert writes a map for all the rest, to be completed by hand",
    )
