"""How the networks are trained: one LightningModule for all of them, so that their keys in checkpoints are `net.…`."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from topoflow.model import VARIANTS


class AirQuality(LightningModule):
    """Trains VARIANTS[variant](**network) on the squared error of the standardised target variables, with AdamW.

    The arguments are plain values and stand in the checkpoint as its hyper-parameters.
    """

    def __init__(
        self,
        variant: str = "baseline",
        network: dict[str, Any] | None = None,
        learning_rate: float = 5e-4,
        weight_decay: float = 1e-5,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = VARIANTS[variant](**(network or {}))
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def training_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], batch_index: int) -> Tensor:
        fields, lead_time, elevation, outcome = batch
        loss = F.mse_loss(self.net(fields, lead_time, elevation), outcome)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
