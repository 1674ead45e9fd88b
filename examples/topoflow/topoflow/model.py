"""The networks: `Baseline`, and three states of TopoFlow that all start from its checkpoint, with more or less luck.

All take the same arguments; the defaults are the full size (`configs/full.yaml`). Letters in shapes: B batch,
V variables, H x W pixels, P pixels along a patch, N = H/P * W/P patches, D width of a token.
"""

import torch
from torch import Tensor, nn

from topoflow.layers import Attention, Block, ElevationAttention, Mlp, SequentialMlp, sincos_1d, sincos_2d


class Baseline(nn.Module):
    """A ClimaX-like forecaster: each variable is cut into patches, the variables of a patch become one token, a vision
    transformer works on the tokens, and a head turns each token back into the pixels of its patch.

    `embed_dim` must be a multiple of `num_heads` and of 4, `img_size` (height, width) of `patch_size`.
    """

    first_attention: type[Attention] = Attention  # block 0 is where the descendants differ
    first_mlp: type[nn.Module] = Mlp

    def __init__(
        self,
        in_variables: int = 15,
        out_variables: int = 15,
        img_size: tuple[int, int] = (128, 256),
        patch_size: int = 2,
        embed_dim: int = 768,
        depth: int = 6,
        decoder_depth: int = 2,
        num_heads: int = 8,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
    ) -> None:
        super().__init__()
        self.in_variables, self.out_variables = in_variables, out_variables
        self.img_size, self.patch_size = (img_size[0], img_size[1]), patch_size
        self.grid = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.token_embeds = nn.ModuleList(PatchEmbed(patch_size, embed_dim) for _ in range(in_variables))
        self.var_embed = nn.Parameter(torch.zeros(1, in_variables, embed_dim))
        self.var_query = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.var_agg = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True)
        self.pos_embed = nn.Parameter(torch.zeros(1, self.grid[0] * self.grid[1], embed_dim))
        self.lead_time_embed = nn.Linear(1, embed_dim)
        # timm's way to spell the rates. The .item() is why this cannot be built under torch.device("meta").
        rates = [x.item() for x in torch.linspace(0, drop_path_rate, depth)]
        self.blocks = nn.ModuleList(self.make_block(i, embed_dim, num_heads, mlp_ratio, r) for i, r in enumerate(rates))
        self.norm = nn.LayerNorm(embed_dim)
        self.head = self.make_head(embed_dim, out_variables * patch_size**2, decoder_depth)
        self.initialize_weights()

    def make_block(self, index: int, dim: int, num_heads: int, mlp_ratio: float, drop_path: float) -> Block:
        attention, mlp = (self.first_attention, self.first_mlp) if index == 0 else (Attention, Mlp)
        return Block(dim, attention(dim, num_heads), mlp(dim, int(dim * mlp_ratio)), drop_path)

    def make_head(self, dim: int, outputs: int, decoder_depth: int) -> nn.Module:
        """[B, N, D] -> [B, N, outputs], `decoder_depth` hidden layers: at 2, the layers with weights are 0, 2 and 4."""
        hidden = [layer for _ in range(decoder_depth) for layer in (nn.Linear(dim, dim), nn.GELU())]
        return nn.Sequential(*hidden, nn.Linear(dim, outputs))

    def initialize_weights(self) -> None:
        """Linear maps: normal, deviation 0.02, cut at 0.04. Variables and positions: sines and cosines."""
        self.apply(initialize_linear)
        dim = self.var_embed.shape[-1]
        self.var_embed.data.copy_(sincos_1d(dim, torch.arange(self.in_variables))[None])
        self.pos_embed.data.copy_(sincos_2d(dim, *self.grid)[None])

    def forward(self, x: Tensor, lead_time: Tensor, elevation: Tensor | None = None) -> Tensor:
        """Standardised fields [B, V, H, W] and lead times [B] in days -> standardised forecast [B, V_out, H, W].

        `elevation` [B, H, W] in metres is taken so that all networks are called alike; the baseline has no use for it.
        """
        return self.unpatchify(self.head(self.norm(self.run_blocks(self.embed(x, lead_time), elevation))))

    def embed(self, x: Tensor, lead_time: Tensor) -> Tensor:
        """[B, V, H, W] and days [B] -> tokens [B, N, D]."""
        patches = [embed(x[:, v : v + 1]) for v, embed in enumerate(self.token_embeds)]
        per_variable = torch.stack(patches, dim=2) + self.var_embed  # [B, N, V, D]
        tokens = self.aggregate(per_variable.flatten(0, 1)).unflatten(0, (x.shape[0], -1))
        return tokens + self.pos_embed + self.lead_time_embed(lead_time[:, None])[:, None]

    def aggregate(self, x: Tensor) -> Tensor:
        """[B*N, V, D] -> [B*N, D]: one learned query attends to the variables of each patch."""
        return self.var_agg(self.var_query.expand(x.shape[0], -1, -1), x, x, need_weights=False)[0].squeeze(1)

    def run_blocks(self, tokens: Tensor, elevation: Tensor | None) -> Tensor:
        """[B, N, D] -> [B, N, D]."""
        for block in self.blocks:
            tokens = block(tokens)
        return tokens

    def unpatchify(self, tokens: Tensor) -> Tensor:
        """[B, N, P*P*V_out] -> [B, V_out, H, W]; within a token the variable runs fastest."""
        p = self.patch_size
        grid = tokens.unflatten(2, (p, p, self.out_variables)).unflatten(1, self.grid)  # [B, H/P, W/P, P, P, V_out]
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class TopoFlow(Baseline):
    """The baseline with elevation in block 0; keys as the baseline's, and two scalars. Only these two start anew."""

    first_attention = ElevationAttention

    def run_blocks(self, tokens: Tensor, elevation: Tensor | None) -> Tensor:
        """[B, N, D] and metres [B, H, W], which must be given here -> [B, N, D]."""
        if elevation is None:
            raise ValueError("TopoFlow needs the elevation, [B, H, W] in metres")
        height = nn.functional.avg_pool2d(elevation[:, None], self.patch_size).flatten(1)  # [B, N], order of the tokens
        tokens = self.blocks[0](tokens, height)
        for block in self.blocks[1:]:
            tokens = block(tokens)
        return tokens


class TopoFlowSequential(TopoFlow):
    """The same function, but block 0's MLP is called `mlp.0` and `mlp.2`: `strict=False` leaves it random, silently."""

    first_mlp = SequentialMlp


class TopoFlowFirst(TopoFlowSequential):
    """As it was first written: the head, too, is one linear layer, whatever `decoder_depth` says. Another function."""

    def make_head(self, dim: int, outputs: int, decoder_depth: int) -> nn.Module:
        return nn.Linear(dim, outputs)


class PatchEmbed(nn.Module):
    """One variable's patches, each as a token: [B, 1, H, W] -> [B, N, D]."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def initialize_linear(module: nn.Module) -> None:
    """For `Module.apply`; a patch embedding is a linear map of the patch, too. Norms keep PyTorch's ones and zeros."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=0.02, a=-0.04, b=0.04)
        nn.init.zeros_(module.bias)


VARIANTS: dict[str, type[Baseline]] = {
    "baseline": Baseline,
    "first": TopoFlowFirst,
    "sequential": TopoFlowSequential,
    "fixed": TopoFlow,
}
