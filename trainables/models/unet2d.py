"""UNet 2D as in the CellMap challenge: BatchNorm, transposed convolutions; 31 036 741 parameters as published.

Ronneberger et al. 2015, arXiv:1505.04597, with same-size padding. Shapes: N batch, H W space, w width (channels of the
first level); level l has w·2^l channels and H/2^l × W/2^l pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainables.settings import ModelSettings, require


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Twice 3 × 3 convolution, BatchNorm, ReLU; size kept. No convolution bias: BatchNorm subtracts it again."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class Up(nn.Module):
    """Double the size by a transposed convolution, join the encoder's features of that size, two convolutions."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
        self.convs = double_conv(in_channels, in_channels // 2)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """below (N, c, H, W) and skip (N, c/2, 2H, 2W) give (N, c/2, 2H, 2W)."""
        joined: Tensor = self.convs(torch.cat([skip, self.up(below)], dim=1))
        return joined


class UNet2D(nn.Module):
    """UNet of `depth` poolings: images (N, in_channels, H, W) to logits (N, num_classes, H, W)."""

    spatial_dims = 2

    def __init__(self, *, in_channels: int, num_classes: int, width: int, depth: int) -> None:
        super().__init__()
        self.stride = 2**depth
        self.first = double_conv(in_channels, width)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(double_conv(width * 2**i, width * 2 ** (i + 1)) for i in range(depth))
        self.up = nn.ModuleList(Up(width * 2**i) for i in range(depth, 0, -1))
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N, in_channels, H, W), H and W divisible by 2**depth; logits (N, num_classes, H, W)."""
        features = self.first(image)
        skips = []
        for level in self.down:
            skips.append(features)
            features = level(self.pool(features))
        for level, skip in zip(self.up, reversed(skips)):
            features = level(features, skip)
        logits: Tensor = self.head(features)
        return logits


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> UNet2D:
    """The UNet for patches (1, H, W); SettingsError where the patch is thick or not divisible by 2**depth."""
    depth, factor = settings.depth, 2**settings.depth
    require(
        patch[0] == 1,
        "data.patch",
        list(patch),
        "model.name=unet2d takes patches one slice thick",
        "For example data.patch=[1,256,256]",
    )
    require(
        patch[1] % factor == 0 and patch[2] % factor == 0,
        "data.patch",
        list(patch),
        f"height and width must be divisible by 2**model.depth = {factor}",
        "Choose another patch or a smaller depth",
    )
    return UNet2D(in_channels=in_channels, num_classes=num_classes, width=settings.width, depth=depth)
