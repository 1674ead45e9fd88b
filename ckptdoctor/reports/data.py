"""The JSON of a comparison: one schema for diff, gate, verify and a dry remap. Only additions are allowed to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptdoctor import __version__
from ckptdoctor.errors import Location
from ckptdoctor.model import Manifest
from ckptdoctor.plan import Plan, Remainder, Step, balance_of

if TYPE_CHECKING:
    from ckptdoctor.policy import Finding, Verdict

SCHEMA = "ckptdoctor/report/1"


def comparison_data(command: str, plan: Plan, verdict: Verdict | None, exit_status: int) -> dict[str, Any]:
    """The report object, ready for json.dumps."""
    allowed = verdict.allowed if verdict else frozenset()
    keys = [_step(step, step.target.key in allowed) for step in plan.steps]
    keys += [_remainder(rest, rest.source.key in allowed) for rest in plan.remainders if rest.status != "mismatched"]
    return {
        "schema": SCHEMA,
        "tool": __version__,
        "command": command,
        "source": source_data(plan.source),
        "target": target_data(plan.target) if plan.has_target else None,
        "maps": [{"path": key_map.path, "sha256": key_map.sha256} for key_map in plan.maps],
        "reverse": plan.reverse,
        "summary": summary(plan),
        "balance": balance_data(plan),
        "keys": sorted(keys, key=lambda row: (row["target"] or "", row["sources"])),
        "checks": sorted(map(_check, verdict.findings), key=lambda row: row["id"]) if verdict else [],
        "warnings": list(plan.warnings),
        "passed": verdict.passed if verdict else None,
        "exit_status": exit_status,
    }


def source_data(manifest: Manifest) -> dict[str, Any]:
    """What the reports say of a checkpoint."""
    origin = manifest.origin
    return {
        "path": origin.reference,
        "format": origin.kind,
        "tensors": len(manifest),
        "parameters": manifest.parameters,
        "bytes": origin.nbytes,
        "files": origin.files,
        "fingerprint": manifest.fingerprint,
        "selected": origin.selected,
        "stripped": sorted(origin.stripped),
    }


def target_data(manifest: Manifest) -> dict[str, Any]:
    """What the reports say of a target."""
    return {
        "reference": manifest.origin.reference,
        "kind": manifest.origin.kind,
        "tensors": len(manifest),
        "parameters": manifest.parameters,
        "fingerprint": manifest.fingerprint,
    }


def summary(plan: Plan) -> dict[str, Any]:
    """The counts: parameters and tensors of the target, then tensors of the source, then buffers."""
    unexpected = plan.unused("unexpected")
    statuses = ("loaded", "renamed", "computed", "tied", "fresh", "missing", "mismatched")
    return {
        "parameters_total": plan.parameters,
        "parameters_loaded": plan.parameters - plan.random_parameters,
        "parameters_random": plan.random_parameters,
        "random_share": plan.random_share,
        "parameters_fresh": plan.fresh_parameters,
        **{status: plan.counts[status] for status in statuses},
        "unexpected": len(unexpected),
        "dropped": len(plan.unused("dropped")),
        "parameters_unexpected": sum(rest.source.counted for rest in unexpected),
        "buffers_random": plan.random_buffers,
    }


def balance_data(plan: Plan) -> dict[str, Any]:
    """Tensors, elements and bytes of each class; tied tensors count as often as they stand in a manifest."""
    balance = balance_of(plan)
    return {
        side: {name: amount._asdict() for name, amount in classes.items()}
        for side, classes in balance._asdict().items()
    }


def _step(step: Step, allowed: bool) -> dict[str, Any]:
    return {
        "status": step.status,
        "target": step.target.key,
        "sources": list(step.sources),
        "shape": list(step.target.shape),
        "source_shape": list(step.given.shape) if step.given is not None and step.sources else None,
        "dtype": step.target.dtype.name,
        "source_dtype": step.given.dtype.name if step.given is not None and step.sources else None,
        "kind": step.target.kind,
        "parameters": step.target.counted,
        "rule": _place(step.rule),
        "allowed": allowed,
        "why": step.why,
        "init": step.init.describe() if step.init is not None else None,
    }


def _remainder(rest: Remainder, allowed: bool) -> dict[str, Any]:
    spec = rest.source
    return {
        "status": rest.status,
        "target": None,
        "sources": [spec.key],
        "shape": None,
        "source_shape": list(spec.shape),
        "dtype": None,
        "source_dtype": spec.dtype.name,
        "kind": spec.kind,
        "parameters": spec.counted,
        "rule": _place(rest.rule),
        "allowed": allowed,
        "why": rest.why,
        "init": None,
    }


def _check(finding: Finding) -> dict[str, Any]:
    return {
        "id": finding.id,
        "limit": finding.limit,
        "found": finding.found,
        "unit": finding.unit,
        "passed": finding.passed,
        "keys": sorted(finding.keys),
        "where": None,
    }


def _place(location: Location | None) -> dict[str, Any] | None:
    return None if location is None else {"file": location.file, "line": location.line}
