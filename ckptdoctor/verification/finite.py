"""No NaN and no infinity where there was none: what the source has may stay (a mask of -inf), what an op makes may not."""

from __future__ import annotations

from ckptdoctor.health import can_be_nan
from ckptdoctor.text import plural
from ckptdoctor.verification.evidence import Evidence
from ckptdoctor.verification.origins import is_copy
from ckptdoctor.verification.types import Check, Problem, judged


def finite(evidence: Evidence) -> Check:
    """Every number of a floating-point tensor is finite, or was none in the source either."""
    side = evidence.output
    looked_at = [key for key, spec in side.manifest.items() if can_be_nan(spec.dtype)]
    odd = {key: side.values[key].specials.text for key in looked_at if any(side.values[key].specials)}
    copies = _proven_copies(evidence)
    problems = [Problem(key, f"holds {text}") for key, text in odd.items() if copies is None or key not in copies]
    wrong = {problem.key for problem in problems}
    notes = [f"{key} holds {text}, as in the source" for key, text in odd.items() if key not in wrong]
    good = f"{plural(len(looked_at), 'floating-point tensor')}, "
    good += f"{len(odd):,} with NaN or infinities that the source has too" if odd else "all finite"
    unknown = "; whether the source has these too is not known" if copies is None else ""
    bad = f"{plural(len(problems), 'tensor')} with NaN or infinities{unknown}"
    return judged("finite", len(looked_at), problems, good, bad, notes=notes)


def _proven_copies(evidence: Evidence) -> set[str] | None:
    """Tensors that are as the source has them, by the source itself or by the digest taken on the way. None: not known."""
    checks = [evidence.found[name] for name in ("source", "digests") if evidence.found[name].passed is not None]
    if evidence.record is None or not checks:
        return None
    others = {problem.key for check in checks for problem in check.problems}
    rows = evidence.record.tensors
    return {row.key for row in rows if (is_copy(row) or row.status == "tied") and row.key not in others}
