"""What is allowed, and the judgement: a `Policy` applied to a plan gives a `Verdict` of `Finding`s. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ckptdoctor.errors import UsageError
from ckptdoctor.plan import Plan, Remainder, Step, torn
from ckptdoctor.text import did_you_mean

if TYPE_CHECKING:
    from ckptdoctor.patterns import Pattern

FAIL_ON = ("mismatched", "dtype", "tied", "unexpected", "buffers", "unsafe")


class Limit(NamedTuple):
    """At most so many, or at most such a share (an exact fraction). `text` is what the user wrote."""

    text: str
    number: int | None = None
    share: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Limit:
        """`2`, `10_000` or `0.1%`; raises UsageError for anything else."""
        plain = text.strip()
        if re.fullmatch(r"[0-9]{1,18}|[0-9]{1,3}(_[0-9]{3}){1,5}|[0-9]{1,3}(,[0-9]{3}){1,5}", plain):
            return cls(plain, number=int(plain.replace("_", "").replace(",", "")))
        percent = re.fullmatch(r"([0-9]{1,3})(?:\.([0-9]{1,18}))?\s*%", plain)
        if percent is not None:
            digits = percent[2] or ""
            numerator, denominator = int(percent[1] + digits), 100 * 10 ** len(digits)
            if numerator <= denominator:
                return cls(plain, share=(numerator, denominator))
        raise UsageError(f"{text!r} is no limit", hint="write a number of parameters (2) or a percentage (0.1%)")

    def allows(self, found: int, total: int) -> bool:
        """Whether `found` of `total` is within the limit."""
        if self.number is not None:
            return found <= self.number
        if self.share is None:
            return False
        numerator, denominator = self.share
        return found * denominator <= numerator * total


@dataclass(frozen=True, slots=True)
class Policy:
    """What is allowed. Without `max_random` nothing may be random but what is fresh or allowed by a pattern."""

    max_random: Limit | None = None
    max_unexpected: Limit | None = None
    allow_random: tuple[Pattern, ...] = ()
    allow_unexpected: tuple[Pattern, ...] = ()
    fail_on: frozenset[str] = frozenset()


class Finding(NamedTuple):
    """The result of one check. `found` and `limit` count what `unit` says; `keys` are those (globals, for `unsafe`) that made
    it fail."""

    id: str
    found: int
    limit: str
    passed: bool
    unit: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """A policy applied to a plan. It passes if every finding does. `allowed` are keys that a pattern allows."""

    plan: Plan
    policy: Policy
    findings: tuple[Finding, ...]
    allowed: frozenset[str]

    @property
    def passed(self) -> bool:
        """Whether all checks passed."""
        return all(finding.passed for finding in self.findings)


def make_policy(
    *,
    max_random: str | None = None,
    max_unexpected: str | None = None,
    allow_random: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    fail_on: Iterable[str] = (),
) -> Policy:
    """A policy from what a command line or a configuration file says; raises UsageError."""
    names = [name.strip() for name in fail_on if name.strip()]
    for name in names:
        if name not in FAIL_ON:
            hint = did_you_mean(name, FAIL_ON) or f"choose from {', '.join(FAIL_ON)}"
            raise UsageError(f"there is no check {name!r} to fail on", hint=hint)
    return Policy(
        Limit.parse(max_random) if max_random is not None else None,
        Limit.parse(max_unexpected) if max_unexpected is not None else None,
        tuple(map(parse_pattern, allow_random)),
        tuple(map(parse_pattern, allow_unexpected)),
        frozenset(names),
    )


def parse_pattern(text: str) -> Pattern:
    """A pattern from a command line; raises UsageError with the place of the problem."""
    from ckptdoctor.patterns import Pattern, PatternError

    try:
        return Pattern.parse(text)
    except PatternError as error:
        raise UsageError(f"pattern {text!r}, character {error.offset + 1}: {error}", hint=error.hint) from None


def matches_any(patterns: Sequence[Pattern], key: str) -> bool:
    """Whether one of the patterns names the key; a key that is named in two ways is named."""
    return any(_matches(pattern, key) for pattern in patterns)


def _matches(pattern: Pattern, key: str) -> bool:
    from ckptdoctor.patterns import AmbiguousKey

    try:
        return pattern.match(key) is not None
    except AmbiguousKey:
        return True


def evaluate(plan: Plan, policy: Policy) -> Verdict:
    """Judge a plan. Every check of the policy gives a finding, passed or not.

    Raises UsageError for `unsafe` where the source is no checkpoint: it does not say what that would run.
    """
    allowed = {
        step.target.key for step in plan.steps if step.random and matches_any(policy.allow_random, step.target.key)
    }
    unused = plan.unused("unexpected")
    allowed |= {rest.source.key for rest in unused if matches_any(policy.allow_unexpected, rest.source.key)}
    findings = [_random(plan, policy, allowed)]
    findings += [check(plan) for name, check in _CHECKS.items() if name in policy.fail_on]
    if policy.max_unexpected is not None or "unexpected" in policy.fail_on:
        findings.append(_unexpected(plan, policy, [rest for rest in unused if rest.source.key not in allowed]))
    return Verdict(plan, policy, tuple(findings), frozenset(allowed))


def _random(plan: Plan, policy: Policy, allowed: set[str]) -> Finding:
    if policy.max_random is not None:
        found = plan.random_parameters
        passed = policy.max_random.allows(found, plan.parameters)
        keys = () if passed else _keys(step for step in plan.steps if step.random_parameters)
        return Finding("max-random", found, policy.max_random.text, passed, "parameters", keys)
    undeclared = [s for s in plan.steps if not s.filled and s.status != "fresh" and s.target.key not in allowed]
    found = sum(step.random_parameters for step in undeclared)
    if undeclared and not found:  # buffers, or tied to what is counted elsewhere
        return _finding("random", undeclared, "tensors")
    return _finding("random", undeclared, "parameters", found)


def _mismatched(plan: Plan) -> Finding:
    return _finding("mismatched", [step for step in plan.steps if step.status == "mismatched"], "tensors")


def _dtype(plan: Plan) -> Finding:
    return _finding("dtype", [step for step in plan.steps if step.other_dtype], "tensors")


def _buffers(plan: Plan) -> Finding:
    buffers = [
        step for step in plan.steps if not step.filled and step.target.kind == "buffer" and step.status != "fresh"
    ]
    return _finding("buffers", buffers, "tensors")


def _tied(plan: Plan) -> Finding:
    """Tensors that share memory in the target and would get values that are not shared in the source."""
    return _finding("tied", [step for group in torn(plan) for step in group], "tensors")


def _unsafe(plan: Plan) -> Finding:
    """Globals that would do harm if the checkpoint were unpickled, as torch.load(weights_only=False) does."""
    harm = plan.source.origin.dangerous
    if harm is None:
        raise UsageError(
            f"{plan.source.origin.reference} does not say what the checkpoint would run if it were unpickled",
            hint="give the checkpoint itself, or leave unsafe out of --fail-on",
        )
    return Finding("unsafe", len(harm), "0", not harm, "globals", harm)


_CHECKS: dict[str, Callable[[Plan], Finding]] = {
    "mismatched": _mismatched,
    "dtype": _dtype,
    "tied": _tied,
    "buffers": _buffers,
    "unsafe": _unsafe,
}


def _unexpected(plan: Plan, policy: Policy, rest: Sequence[Remainder]) -> Finding:
    keys = tuple(remainder.source.key for remainder in rest)
    found = sum(remainder.source.counted for remainder in rest)
    if policy.max_unexpected is None:
        return Finding("unexpected", len(keys), "0", not keys, "tensors", keys)
    passed = policy.max_unexpected.allows(found, plan.source.parameters)
    return Finding("max-unexpected", found, policy.max_unexpected.text, passed, "parameters", () if passed else keys)


def _finding(name: str, steps: Sequence[Step], unit: str, found: int | None = None) -> Finding:
    return Finding(name, len(steps) if found is None else found, "0", not steps, unit, _keys(steps))


def _keys(steps: Iterable[Step]) -> tuple[str, ...]:
    return tuple(step.target.key for step in steps)
