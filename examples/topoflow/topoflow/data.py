"""Random weather, made as it is asked for: enough to have a real trainer take real steps."""

import torch
from torch import Tensor
from torch.utils.data import Dataset

from topoflow.model import Baseline


class RandomDays(Dataset[tuple[Tensor, ...]]):
    """`days` samples that fit `net`; sample i depends on `seed` and i alone.

    A sample is (fields [V, H, W], lead time [] in days, elevation [H, W] in metres, what came of it [V_out, H, W]).
    """

    def __init__(self, net: Baseline, days: int, seed: int) -> None:
        self.net, self.days, self.seed = net, days, seed

    def __len__(self) -> int:
        return self.days

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        if index >= self.days:
            raise IndexError(index)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + index)
        fields, outcome = (
            torch.randn(variables, *self.net.img_size, generator=generator)
            for variables in (self.net.in_variables, self.net.out_variables)
        )
        lead_time = torch.randint(1, 5, (), generator=generator).float()
        return fields, lead_time, 3000.0 * torch.rand(self.net.img_size, generator=generator), outcome
