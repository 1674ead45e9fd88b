"""The output against a target: what load_state_dict would say of it, and then what it does say.

Keys and shapes are compared as `diff` compares them, wrapper segments taken out on both sides. If they agree and the target is
code, the module that was built (without memory for its weights) takes the very tensors of the file, so no memory is doubled.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ckptdoctor.plan import Plan, make_plan
from ckptdoctor.text import listing, plural, shape_text
from ckptdoctor.verification.evidence import Evidence
from ckptdoctor.verification.types import Check, Problem, judged, skipped
from ckptdoctor.wrappers import align

if TYPE_CHECKING:
    from ckptdoctor.model import TensorSpec

LARGEST = 2_000_000_000
"""Bytes of weights up to which a model is really loaded."""


def load(evidence: Evidence) -> Check:
    """The target takes the output: strictly, but for what the receipt says stays random."""
    if evidence.target is None:
        return skipped("load", "no target was named")
    aligned = align(evidence.output.manifest, evidence.target, evidence.strip)
    plan = make_plan(aligned.source, aligned.target)
    declared = set(evidence.record.random) if evidence.record is not None else set()
    left_out = {step.target.key for step in plan.steps if step.status == "missing" and step.target.key in declared}
    problems = list(_misfits(plan, left_out))
    name, kinds = evidence.target.origin.reference, _kinds(problems)
    notes = list(_notes(plan, left_out))
    if problems:
        return judged("load", len(plan.steps), problems, "", f"{name} would refuse it: {kinds}", notes=notes)
    how = f"{plural(len(plan.source), 'tensor')} fit {name} in key and shape"
    if evidence.module is None:
        return judged("load", len(plan.steps), (), how, "", notes=notes)
    if plan.target.nbytes > LARGEST:
        notes.append("compared by the lists only: the model is too large to be loaded for a check")
        return judged("load", len(plan.steps), (), how, "", notes=notes)
    from ckptdoctor.verification.loading import taken_by

    outcome = taken_by(evidence.module, evidence.output, plan)
    notes += [outcome.note] if outcome.note else []
    good = f"{how}; {outcome.call} took them" if outcome.call else how
    return judged("load", len(plan.steps), outcome.problems, good, f"{name} refuses it", notes=notes)


def _misfits(plan: Plan, left_out: set[str]) -> Iterator[Problem]:
    """In PyTorch's words."""
    for step in plan.steps:
        key = step.target.key
        if step.status == "missing" and key not in left_out:
            yield Problem(key, f"missing key: the target wants {shape_text(step.target.shape)}")
        elif step.status == "mismatched" and step.given is not None:
            yield Problem(
                key, f"size mismatch: {_shape(step.given)} in the checkpoint, {_shape(step.target)} in the target"
            )
    for rest in plan.unused("unexpected"):
        yield Problem(rest.source.key, "unexpected key")


def _shape(spec: TensorSpec) -> str:
    return shape_text(spec.shape)


def _kinds(problems: list[Problem]) -> str:
    counts = {kind: sum(problem.text.startswith(kind) for problem in problems) for kind in _KINDS}
    return ", ".join(plural(count, kind).replace("mismatchs", "mismatches") for kind, count in counts.items() if count)


_KINDS = ("missing key", "unexpected key", "size mismatch")


def _notes(plan: Plan, left_out: set[str]) -> Iterator[str]:
    if left_out:
        yield f"left random, as the receipt says: {listing(sorted(left_out))}"
    if tied := [step.target.key for step in plan.steps if step.status == "tied"]:
        yield f"filled through the memory they share, and no keys of the file: {listing(tied)}"
    if other := [step.target.key for step in plan.steps if step.other_dtype]:
        yield f"of another dtype than the target's, which loading converts: {listing(other)}"
