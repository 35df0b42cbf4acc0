"""UNet in 2D and 3D; in 2D that of the CellMap challenge, 31 036 741 parameters as published.

It follows the patch: one slice thick is 2D, more is 3D. Same-size padding, transposed convolutions.
Ronneberger et al. 2015, arXiv:1505.04597; Çiçek et al. 2016, arXiv:1606.06650. Shapes: N batch, S space (H W or D H W),
w width (channels of the first level); level l has w·2^l channels and sides of S/2^l.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.settings import ModelSettings, from_mapping, require, require_choice

NORMS = {"batch": ("BatchNorm", {}), "instance": ("InstanceNorm", {"affine": True})}


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of the UNet."""

    norm: str = "batch"
    """batch, or instance: every sample by itself."""

    def __post_init__(self) -> None:
        require_choice("model.options.norm", self.norm, tuple(NORMS))


def layer(kind: str, spatial_dims: int, *args: int, **options: object) -> nn.Module:
    """torch's layer of this kind for 2 or 3 dimensions, for example Conv and 3 give nn.Conv3d(…)."""
    module: nn.Module = getattr(nn, f"{kind}{spatial_dims}d")(*args, **options)
    return module


def double_conv(spatial_dims: int, in_channels: int, out_channels: int, norm: str) -> nn.Sequential:
    """Twice convolution with a side of 3, norm, ReLU; size kept. No convolution bias: the norm subtracts it again."""
    parts: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        parts.append(layer("Conv", spatial_dims, channels, out_channels, 3, padding=1, bias=False))
        parts.append(layer(NORMS[norm][0], spatial_dims, out_channels, **NORMS[norm][1]))
        parts.append(nn.ReLU(inplace=True))
    return nn.Sequential(*parts)


class Up(nn.Module):
    """Double the size by a transposed convolution, join the encoder's features of that size, two convolutions."""

    def __init__(self, spatial_dims: int, in_channels: int, norm: str) -> None:
        super().__init__()
        self.up = layer("ConvTranspose", spatial_dims, in_channels, in_channels // 2, 2, stride=2)
        self.convs = double_conv(spatial_dims, in_channels, in_channels // 2, norm)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """below (N, c, S/2) and skip (N, c/2, S) give (N, c/2, S)."""
        joined: Tensor = self.convs(torch.cat([skip, self.up(below)], dim=1))
        return joined


class UNet(nn.Module):
    """UNet of `depth` poolings: images (N, in_channels, S) to logits (N, num_classes, S)."""

    def __init__(
        self, *, spatial_dims: int, in_channels: int, num_classes: int, width: int, depth: int, norm: str = "batch"
    ) -> None:
        super().__init__()
        self.spatial_dims, self.stride = spatial_dims, 2**depth
        self.first = double_conv(spatial_dims, in_channels, width, norm)
        self.pool = layer("MaxPool", spatial_dims, 2)
        self.down = nn.ModuleList(
            double_conv(spatial_dims, width * 2**i, width * 2 ** (i + 1), norm) for i in range(depth)
        )
        self.up = nn.ModuleList(Up(spatial_dims, width * 2**i, norm) for i in range(depth, 0, -1))
        self.head = layer("Conv", spatial_dims, width, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N, in_channels, S), sides divisible by 2**depth; logits (N, num_classes, S)."""
        features = self.first(image)
        skips = []
        for level in self.down:
            skips.append(features)
            features = level(self.pool(features))
        for level, skip in zip(self.up, reversed(skips)):
            features = level(features, skip)
        logits: Tensor = self.head(features)
        return logits


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> UNet:
    """The UNet for patches (D, H, W), 2D where D = 1; by its earlier name, unet2d, in 2D only.

    SettingsError for a side that is not divisible by 2**depth, for an unknown option, or an invalid value of one.
    """
    norm = from_mapping(Options, settings.options, "model.options").norm
    spatial_dims, factor = (2 if patch[0] == 1 else 3), 2**settings.depth
    require(
        spatial_dims == 2 or settings.name != "unet2d",
        "data.patch",
        list(patch),
        "model.name=unet2d takes patches one slice thick",
        "Use model.name=unet, which is 3D there, or for example data.patch=[1,256,256]",
    )
    sides = patch[3 - spatial_dims :]
    fitting = [1, *(math.ceil(side / factor) * factor for side in sides)][-3:]
    require(
        all(side % factor == 0 for side in sides),
        "data.patch",
        list(patch),
        f"{'y and x' if spatial_dims == 2 else 'z, y and x'} must be divisible by 2**model.depth = {factor}",
        f"For example data.patch=[{','.join(map(str, fitting))}], or a smaller depth",
    )
    require(
        norm != "instance" or any(side > factor for side in sides),
        "data.patch",
        list(patch),
        f"model.options.norm=instance needs more than one voxel at the lowest level, a side above {factor}",
        "Choose a larger patch, a smaller model.depth, or model.options.norm=batch",
    )
    return UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        num_classes=num_classes,
        width=settings.width,
        depth=settings.depth,
        norm=norm,
    )
