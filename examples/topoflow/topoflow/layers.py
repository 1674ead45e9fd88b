"""The parts of the networks: attention with and without elevation, the two spellings of the MLP, the transformer block.

Letters in shapes: B batch, N patches, D width of a token. Activations are dimensionless; elevations are in metres.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two layers with named children: keys `fc1.*` and `fc2.*`; [..., D] -> [..., D]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class SequentialMlp(nn.Sequential):
    """The same function as `Mlp`, with the keys `0.*` and `2.*`: enough for a checkpoint not to fit."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))


class Attention(nn.Module):
    """Multi-head self-attention; never holds the N x N weights unless a bias asks for them."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, N, D] -> [B, N, D]; `bias`, broadcast to [B, heads, N, N], is added to the logits before the softmax."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.proj(attended.transpose(1, 2).flatten(2))


class ElevationAttention(Attention):
    """Attention that looks less at patches which lie higher: air, and what it carries, seldom flows uphill.

    Two scalars are new against `Attention`: `elevation_alpha` (dimensionless, 0 at the start, so that the network
    begins as exactly the function of the baseline) and `H_scale` (metres, 1000 at the start).
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.elevation_alpha = nn.Parameter(torch.zeros(()))
        self.H_scale = nn.Parameter(torch.full((), 1000.0))

    def forward(self, x: Tensor, height: Tensor) -> Tensor:
        """[B, N, D] and the patches' mean elevation [B, N] in metres -> [B, N, D]."""
        return super().forward(x, self.elevation_bias(height))

    def elevation_bias(self, height: Tensor) -> Tensor:
        """[B, N] in metres -> [B, 1, N, N] for the logits of query i and key j, in [-10, 10].

        `-alpha * relu((h_j - h_i) / H_scale)`. The bounds are the same on both sides of 0, where alpha begins, so that it
        can learn in either direction: between -10 and 0 its gradient would vanish as soon as it was negative.
        At 8192 patches this is 268 MB in float32, and a bias that needs a gradient costs the CPU the fused kernel.
        """
        climb = (height[:, None, :] - height[:, :, None]) / self.H_scale
        return (-self.elevation_alpha * F.relu(climb)).clamp(-10.0, 10.0).unsqueeze(1)


class DropPath(nn.Module):
    """Stochastic depth: in training leaves a sample's branch out with probability `rate`, and scales the others up."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """A pre-norm transformer block around an attention and an MLP; [B, N, D] -> [B, N, D]."""

    def __init__(self, dim: int, attn: Attention, mlp: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        """`context` is what this block's attention wants besides the tokens (elevations, or nothing)."""
        x = x + self.drop_path(self.attn(self.norm1(x), *context))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def sincos_1d(dim: int, positions: Tensor) -> Tensor:
    """[N] -> [N, dim] in float64: sines and cosines at dim/2 wavelengths, geometric from 2 pi to nearly 20,000 pi."""
    frequencies = 10_000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2))
    angles = positions.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(dim: int, rows: int, columns: int) -> Tensor:
    """[rows * columns, dim] in float64, row by row: one half of a vector says the row, the other the column."""
    row, column = sincos_1d(dim // 2, torch.arange(rows)), sincos_1d(dim // 2, torch.arange(columns))
    return torch.cat([row.repeat_interleave(columns, dim=0), column.repeat(rows, 1)], dim=1)
