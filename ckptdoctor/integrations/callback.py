"""`LoadedWeights`: Lightning calls `assert_loaded` before the first step. The one module that imports Lightning.

    Trainer(callbacks=[LoadedWeights("start.ckpt")]).fit(module, data, ckpt_path="start.ckpt")

Importing it without Lightning raises MissingDependency.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ckptdoctor.errors import MissingDependency
from ckptdoctor.integrations.proving import ReceiptLike, assert_loaded, receipt_of
from ckptdoctor.receipt import Receipt
from ckptdoctor.text import plural


def _home() -> str:
    """The Lightning that the process uses, or else one that is installed: it has had two names."""
    names = ("lightning.pytorch", "pytorch_lightning")
    found = [name for name in names if find_spec(name.partition(".")[0]) is not None]
    if not found:
        raise MissingDependency("LoadedWeights needs Lightning", hint="pip install lightning")
    return next((name for name in found if name in sys.modules), found[0])


if TYPE_CHECKING:
    from lightning.pytorch import Callback, LightningModule, Trainer
else:
    Callback = import_module(_home()).Callback


class LoadedWeights(Callback):
    """Raises WeightsNotLoaded when a fit begins and the module does not hold what `receipt` says; see `assert_loaded`.

    It looks when all is restored, under every strategy, and before the sanity check and the first step; on all ranks. With a
    `prefix`, the file is of a part of the module: `prefix="net."`.

    A run that goes on from a later checkpoint (`ckpt_path` is another file, as for a job that was requeued), or after
    steps of the same trainer, is let be, and the log says so. A copy of the file counts as the file by its name and size.
    """

    def __init__(self, receipt: ReceiptLike, *, prefix: str = "", allow_random: str | Iterable[str] = ()) -> None:
        super().__init__()
        found = receipt_of(receipt)
        self._receipt = found._replace(path=os.path.realpath(found.path))
        self._prefix = prefix
        self._allow_random = (allow_random,) if isinstance(allow_random, str) else tuple(allow_random)
        self._waits = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Under some strategies the weights are restored after this: so it is done at what comes next."""
        self._waits = True

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first thing after all is restored, where there is a sanity check."""
        self._prove(trainer, pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first thing where there is none."""
        self._prove(trainer, pl_module)

    def _prove(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._waits:
            return
        self._waits = False
        if (why := _why_not(trainer, self._receipt)) is not None:
            _say(trainer, logging.WARNING, f"not looked whether {self._receipt.path} is loaded: {why}")
            return
        part = pl_module.get_submodule(self._prefix.rstrip(".")) if self._prefix else trainer.strategy.model
        proof = assert_loaded(part or pl_module, self._receipt, allow_random=self._allow_random)
        _say(trainer, logging.INFO, str(proof))


def _why_not(trainer: Trainer, receipt: Receipt) -> str | None:
    """Why the weights cannot be those of the file any more, if they cannot."""
    path = trainer.ckpt_path
    if path is None:
        return f"this trainer has made {plural(trainer.global_step, 'step')}" if trainer.global_step else None
    return None if _is_file_of(receipt, path) else f"the run goes on from {path}"


def _is_file_of(receipt: Receipt, path: str | os.PathLike[str]) -> bool:
    """Whether a path is the file that a receipt is of, or a copy."""
    given = Path(path)
    if os.path.realpath(given) == receipt.path:
        return True
    same_name = given.name == Path(receipt.path).name
    return same_name and given.is_file() and given.stat().st_size == receipt.output["bytes"]


def _say(trainer: Trainer, level: int, text: str) -> None:
    """Where Lightning's own lines go, once."""
    if trainer.is_global_zero:
        logging.getLogger(f"{Callback.__module__.partition('.callbacks')[0]}.ckptdoctor").log(level, text)
