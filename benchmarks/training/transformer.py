"""A small vision transformer (Dosovitskiy et al. 2021, "An image is worth 16x16 words").

Adapted: two convolutions make the tokens (Xiao et al. 2021, "Early convolutions help transformers see better"), and the
head gets the mean of all tokens instead of a class token. Both make training from scratch on few images faster.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH, HEAD_WIDTH, WIDENING = 4, 32, 2
"""Pixels per token along each side; channels of an attention head; hidden over outer width of the perceptron."""


class Attention(nn.Module):
    """Self-attention of several heads over all tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        query, key, value = (
            part.unflatten(2, (self.heads, HEAD_WIDTH)).transpose(1, 2) for part in self.project_in(x).chunk(3, dim=2)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        projected: Tensor = self.project_out(mixed.transpose(1, 2).flatten(2))
        return projected


class TransformerBlock(nn.Module):
    """Attention and a perceptron with GELU, each after a layer norm and around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width)
        self.norm2 = nn.LayerNorm(width)
        self.perceptron = nn.Sequential(
            nn.Linear(width, WIDENING * width), nn.GELU(), nn.Linear(WIDENING * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, width) -> (N, T, width)."""
        attended = x + self.attention(self.norm1(x))
        changed: Tensor = attended + self.perceptron(self.norm2(attended))
        return changed


class VisionTransformer(nn.Module):
    """A transformer over 8x8 tokens of images of 32x32.

    Args:
        width: channels of a token, a multiple of `HEAD_WIDTH`.
        depth: number of blocks.
        classes: number of classes, K.
    """

    def __init__(self, width: int, depth: int, classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 2, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width // 2),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 3, stride=2, padding=1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(1, (32 // PATCH) ** 2, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width) for _ in range(depth)))
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) normalised images -> (N, classes) logits."""
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.last(self.blocks(tokens)).mean(dim=1))
        return logits


def vision_transformer(width: int, depth: int, classes: int = 10) -> nn.Module:
    """Make a new vision transformer of this width and depth."""
    return VisionTransformer(width, depth, classes)
