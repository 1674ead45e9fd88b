"""Small models whose checkpoints the shipped maps take or make, where no dev dependency has the model.

Written for these tests from the papers and the published names: Meta's Llama, timm's vision transformer, ClimaX's two patch
embeddings.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def meta_llama_logits(
    weights: dict[str, torch.Tensor], tokens: torch.Tensor, *, head: int, eps: float, theta: float
) -> torch.Tensor:
    """What Llama computes of weights with Meta's names: RoPE turns neighbouring pairs as complex numbers."""
    length = tokens.shape[1]
    angles = torch.outer(torch.arange(length).float(), theta ** (-torch.arange(0, head, 2).float() / head))
    turns = torch.polar(torch.ones_like(angles), angles)[:, None]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weights[name]

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return (x @ weights[name].T).unflatten(-1, (-1, head))

    def turned(x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    x = weights["tok_embeddings.weight"][tokens]
    layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers."))
    for at in (f"layers.{number}." for number in range(layers)):
        normed = norm(x, at + "attention_norm.weight")
        query, key, value = (heads(normed, f"{at}attention.{name}.weight") for name in ("wq", "wk", "wv"))
        query, key, value = (each.transpose(1, 2) for each in (turned(query), turned(key), value))
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        x = x + seen.transpose(1, 2).flatten(-2) @ weights[at + "attention.wo.weight"].T
        normed = norm(x, at + "ffn_norm.weight")
        gate, up = (normed @ weights[f"{at}feed_forward.{name}.weight"].T for name in ("w1", "w3"))
        x = x + (functional.silu(gate) * up) @ weights[at + "feed_forward.w2.weight"].T
    return norm(x, "norm.weight") @ weights["output.weight"].T


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(seen.transpose(1, 2).flatten(-2))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = _Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(x))))


class TimmViT(nn.Module):
    """A vision transformer with the names and the meaning of timm's `VisionTransformer`."""

    def __init__(self, *, width: int, depth: int, heads: int, image: int, patch: int, classes: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, (image // patch) ** 2 + 1, width))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, classes) if classes else nn.Identity()

    def forward_features(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed["proj"](images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], 1) + self.pos_embed
        return self.norm(self.blocks(x))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.forward_features(images)[:, 0])


class _PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(1, width, patch, patch)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class VariableEmbeds(nn.Module):
    """ClimaX's tokens of several variables: one patch embedding for each, (B, V, H, W) to (B, V, L, D)."""

    def __init__(self, variables: int, width: int, patch: int) -> None:
        super().__init__()
        self.token_embeds = nn.ModuleList(_PatchEmbed(width, patch) for _ in range(variables))
        self.var_embed = nn.Parameter(torch.zeros(1, variables, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = [embed(x[:, number : number + 1]) for number, embed in enumerate(self.token_embeds)]
        return torch.stack(tokens, 1) + self.var_embed.unsqueeze(2)


class _ParallelEmbed(nn.Module):
    def __init__(self, variables: int, width: int, patch: int) -> None:
        super().__init__()
        self.proj_weights = nn.Parameter(torch.zeros(variables, width, 1, patch, patch))
        self.proj_biases = nn.Parameter(torch.zeros(variables, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weights, biases = self.proj_weights.flatten(0, 1), self.proj_biases.flatten()
        maps = functional.conv2d(x, weights, biases, stride=weights.shape[-1], groups=x.shape[1])
        return maps.unflatten(1, self.proj_biases.shape).flatten(3).transpose(2, 3)


class ParallelEmbeds(nn.Module):
    """The same with all patch embeddings in one grouped convolution, as ClimaX's ParallelVarPatchEmbed keeps them."""

    def __init__(self, variables: int, width: int, patch: int) -> None:
        super().__init__()
        self.token_embeds = _ParallelEmbed(variables, width, patch)
        self.var_embed = nn.Parameter(torch.zeros(1, variables, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.token_embeds(x) + self.var_embed.unsqueeze(2)
