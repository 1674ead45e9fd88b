"""`verify`: open what there is, run every check of the table, in its order: later ones may build on what earlier ones found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptdoctor.files import Progress, unnoticed
from ckptdoctor.model import Manifest
from ckptdoctor.verification.container import container
from ckptdoctor.verification.evidence import Evidence, check_unchanged, gather
from ckptdoctor.verification.finite import finite
from ckptdoctor.verification.fitting import load
from ckptdoctor.verification.health import health
from ckptdoctor.verification.origins import source
from ckptdoctor.verification.records import digests, receipt
from ckptdoctor.verification.ties import ties
from ckptdoctor.verification.types import Check, Verification

if TYPE_CHECKING:
    from torch import nn

CHECKS: Mapping[str, Callable[[Evidence], Check]] = {
    "container": container,
    "receipt": receipt,
    "digests": digests,
    "source": source,
    "ties": ties,
    "finite": finite,
    "load": load,
}


def verify(
    output: str | os.PathLike[str],
    target: str | os.PathLike[str] | Manifest | None = None,
    *,
    against: str | os.PathLike[str] | None = None,
    selected: str | None = None,
    strip: Sequence[str] | None = None,
    target_config: str | os.PathLike[str] | None = None,
    target_arguments: Mapping[str, Any] | None = None,
    search_path: Path | None = None,
    progress: Progress = unnoticed,
) -> Verification:
    """Read a checkpoint again and compare it with its receipt, with the source that this names, and with a target.

    `against` names the source where it has moved. `selected` is the place of the weights in the output and `strip` its wrapper
    segments; left out, they are found. `target`, `target_config`, `target_arguments` and `search_path` are as for
    `resolve_target`; with a manifest as target, and with a file, only the lists are compared, a model is loaded as well.
    `progress` is told how many bytes were read.

    What is wrong is in the result; what cannot be done is raised: CheckpointError for an output (or `against`) that is no
    sound checkpoint, UsageError for `against` without a receipt, and what `resolve_target` raises.
    """
    with gather(output, against, selected, progress) as evidence:
        evidence.strip = strip
        if target is not None or target_config is not None:
            evidence.target, evidence.module = _built(target, target_config, target_arguments, search_path)
        for name, check in CHECKS.items():
            evidence.found[name] = check(evidence)
        numbers = health(evidence)
        check_unchanged(evidence)
        return Verification(
            evidence.output.manifest,
            evidence.receipt,
            evidence.source.manifest if evidence.source is not None else None,
            evidence.target,
            tuple(evidence.found.values()),
            numbers,
        )


def _built(
    target: str | os.PathLike[str] | Manifest | None,
    config: str | os.PathLike[str] | None,
    arguments: Mapping[str, Any] | None,
    search_path: Path | None,
) -> tuple[Manifest, nn.Module | None]:
    if isinstance(target, Manifest):
        return target, None
    from ckptdoctor.targets import build_target_module

    return build_target_module(target, config=config, arguments=arguments, search_path=search_path)
