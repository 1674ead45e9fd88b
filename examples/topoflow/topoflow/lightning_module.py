"""How the networks are trained: one LightningModule for all of them, so that their keys in checkpoints are `net.…`."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from topoflow.model import VARIANTS
from topoflow.variables import TARGETS

Batch = tuple[Tensor, Tensor, Tensor, Tensor]


class AirQuality(LightningModule):
    """Trains VARIANTS[variant](**network) on the squared error of the standardised target variables, with AdamW.

    `targets` are the output channels that count; the head has the others all the same, because checkpoints have them.
    Scalar parameters (elevation_alpha, H_scale) learn at a rate of their own: at the other one, which suits weights of
    some hundredths, they would need thousands of steps to matter. The arguments are plain values and stand in the
    checkpoint as its hyper-parameters.
    """

    def __init__(
        self,
        variant: str = "baseline",
        network: dict[str, Any] | None = None,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-5,
        scalar_learning_rate: float = 1e-2,
        targets: Sequence[int] = TARGETS,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = VARIANTS[variant](**(network or {}))
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.scalar_learning_rate = scalar_learning_rate
        self.targets = list(targets)

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        loss = self.losses(batch).mean()
        self.log("train_loss", loss)
        return loss

    def losses(self, batch: Batch) -> Tensor:
        """The mean squared error of each sample, [B], over its target variables and places."""
        fields, lead_time, elevation, outcome = batch
        forecast = self.net(fields, lead_time, elevation)
        error = F.mse_loss(forecast[:, self.targets], outcome[:, self.targets], reduction="none")
        return error.flatten(1).mean(1)

    def on_validation_epoch_start(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # of losses, of samples

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        losses = self.losses(batch).double()
        self.sums += torch.stack([losses.sum(), torch.ones_like(losses).sum()])

    def on_validation_epoch_end(self) -> None:
        """The mean over all samples, however many each process had; logged at the steps taken so far."""
        loss, samples = self.all_gather(self.sums).reshape(-1, 2).sum(0)
        self.log_dict({"val_loss": loss / samples, "step": float(self.trainer.global_step)}, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learning = [parameter for parameter in self.parameters() if parameter.requires_grad]
        weights, scalars = ([p for p in learning if (p.ndim == 0) is scalar] for scalar in (False, True))
        groups = [{"params": weights}]
        if scalars:
            groups.append({"params": scalars, "lr": self.scalar_learning_rate, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, lr=self.learning_rate, weight_decay=self.weight_decay)
