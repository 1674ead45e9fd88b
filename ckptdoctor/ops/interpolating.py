"""`interpolate: {to: [16, 32]}`: position embeddings of a grid of patches for another grid, as timm resamples them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import isqrt
from typing import TYPE_CHECKING, ClassVar, Literal

from ckptdoctor.model import TensorSpec
from ckptdoctor.ops.arguments import FLAG, INTEGER, LIKE, SIZE, ArgumentKind, OpError, argument, read_integers, word
from ckptdoctor.ops.base import Example, Op, OutSpec, only, target_size
from ckptdoctor.ops.numbers import narrowed, need_float
from ckptdoctor.text import shape_text

if TYPE_CHECKING:
    import torch


def _read_grid(value: object) -> tuple[int, ...]:
    grid = read_integers(value)
    if len(grid) != 2 or min(grid) < 1:
        raise OpError("is not a height and a width", hint="write [14, 14]")
    return grid


_GRID = ArgumentKind(
    {"type": "array", "items": {**INTEGER, "minimum": 1}, "minItems": 2, "maxItems": 2},
    _read_grid,
)


@dataclass(frozen=True, slots=True)
class Interpolate(Op):
    """Position embeddings (one row a patch) of one grid resampled for another; prefix tokens stay as they are.

    The same as `resample_abs_pos_embed` of timm 1.0: computed in float32, `align_corners=False`, and rounded back.
    """

    name: ClassVar[str] = "interpolate"
    one_of: ClassVar[tuple[str, ...]] = ("to", "like")
    example: ClassVar[Example] = Example(
        '{from: "pos_embed", to: "pos_embed", op: {interpolate: {to: [3, 4], prefix_tokens: 1}}}',
        {"pos_embed": (1, 5, 8)},
        {"pos_embed": (1, 13, 8)},
    )
    to: tuple[int, int] | None = field(default=None, metadata=argument(_GRID, "height and width of the new grid"))
    like: str | None = field(default=None, metadata=argument(LIKE, "target: the square grid of the target's tensor"))
    from_: tuple[int, int] | None = field(
        default=None, metadata=argument(_GRID, "height and width of the old grid; left out: it is a square")
    )
    prefix_tokens: int = field(
        default=0, metadata=argument(SIZE, "rows before the grid that stay (class token, registers)")
    )
    mode: str = field(default="bicubic", metadata=argument(word("bicubic", "bilinear"), "how to interpolate"))
    antialias: bool = field(default=True, metadata=argument(FLAG, "whether to smooth before making a grid smaller"))

    def fitted(self, inputs: tuple[TensorSpec, ...], targets: tuple[TensorSpec | None, ...]) -> Op:
        """With `like: target`, the square grid that the target has."""
        if self.like is None:
            return self
        tokens = target_size(self, -2, targets[0] if targets else None) - self.prefix_tokens
        side = isqrt(max(tokens, 0))
        if not tokens or side * side != tokens:
            message = f"{self.describe()}: the {tokens:,} tokens of the target are no square grid"
            raise OpError(message, hint="write the grid instead of like: to: [height, width]; or set prefix_tokens")
        return replace(self, like=None, to=(side, side))

    def out_specs(self, inputs: tuple[TensorSpec, ...]) -> tuple[OutSpec, ...]:
        """The input's shape with the tokens of the new grid. Refuses what is not 1 x tokens x channels, or another grid."""
        spec = only(self, inputs)
        need_float(self, spec)
        if self.to is None:
            target_size(self, -2, None)
        *batch, tokens, channels = spec.shape if len(spec.shape) in (2, 3) else (0, 0, 0)
        if batch not in ([], [1]) or not channels:
            message = f"{self.describe()}: {shape_text(spec.shape)} is no position embedding"
            raise OpError(message, hint="it takes tokens x channels, or 1 x tokens x channels")
        self._grid(tokens)
        height, width = self.to or (0, 0)
        return (((*batch, self.prefix_tokens + height * width, channels), spec.dtype),)

    def _grid(self, tokens: int) -> tuple[int, int]:
        """The old grid."""
        patches = tokens - self.prefix_tokens
        prefix = f" and {self.prefix_tokens} before them" if self.prefix_tokens else ""
        if self.from_ is None:
            side = isqrt(max(patches, 0))
            if patches < 1 or side * side != patches:
                message = f"{self.describe()}: {tokens:,} tokens are no square grid{prefix}"
                raise OpError(
                    message, hint="write the grid, from: [height, width], and how many prefix_tokens there are"
                )
            return side, side
        height, width = self.from_
        if height * width != patches:
            message = f"{self.describe()}: {tokens:,} tokens are not {height} x {width}{prefix}"
            raise OpError(message, hint="correct from, or prefix_tokens")
        return height, width

    def apply(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The embedding resampled; the same values if the grid is the same."""
        import torch

        (tensor,) = inputs
        height, width = self._grid(tensor.shape[-2])
        if (height, width) == self.to:
            return (tensor.contiguous(),)
        rows = tensor.reshape(-1, tensor.shape[-1])
        prefix, patches = rows[: self.prefix_tokens], rows[self.prefix_tokens :]
        image = patches.float().reshape(1, height, width, -1).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            image, size=self.to, mode=self.mode, align_corners=False, antialias=self.antialias
        )
        grown = resized.permute(0, 2, 3, 1).reshape(-1, rows.shape[-1])
        made = torch.cat([prefix, narrowed(self, grown, (tensor,))])
        return (made.reshape(*tensor.shape[:-2], *made.shape).contiguous(),)

    def inverse(self, inputs: tuple[TensorSpec, ...]) -> Op | str:
        """None: interpolating back gives other values."""
        self.out_specs(inputs)
        return f"{self.describe()} computes new values; interpolating back does not give the old ones"

    def for_moments(self, order: Literal[1, 2]) -> tuple[Op, ...] | None:
        """None: the moments of new positions are not known."""
        return None
