"""UNet in 2D and 3D; in 2D that of the CellMap challenge, 31 036 741 parameters as published.

It follows the patch: one slice thick is 2D, more is 3D. Same-size padding, transposed convolutions.
Ronneberger et al. 2015, arXiv:1505.04597; Çiçek et al. 2016, arXiv:1606.06650. Shapes: N batch, S space (H W or D H W),
w width (channels of the first level); level l has w·2^l channels and sides of S/2^l.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainables.models import spatial_dims_of
from trainables.settings import ModelSettings, from_mapping, require, require_choice, require_in

NORMS = {"batch": ("BatchNorm", {}), "instance": ("InstanceNorm", {"affine": True})}


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of the UNet."""

    norm: str = "batch"
    """batch, or instance: every sample by itself."""
    dropout: float = 0.0
    """Probability with which a value is dropped after each pair of convolutions."""

    def __post_init__(self) -> None:
        require_choice("model.options.norm", self.norm, tuple(NORMS))
        require_in(self, "model.options.", dropout="[0, 1)")


def layer(kind: str, spatial_dims: int, *args: int, **options: object) -> nn.Module:
    """torch's layer of this kind for 2 or 3 dimensions, for example Conv and 3 give nn.Conv3d(…)."""
    module: nn.Module = getattr(nn, f"{kind}{spatial_dims}d")(*args, **options)
    return module


def double_conv(spatial_dims: int, in_channels: int, out_channels: int, options: Options) -> nn.Sequential:
    """Twice convolution with a side of 3, norm, ReLU; dropout. No convolution bias: the norm subtracts it again."""
    norm, norm_options = NORMS[options.norm]
    parts: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        parts.append(layer("Conv", spatial_dims, channels, out_channels, 3, padding=1, bias=False))
        parts.append(layer(norm, spatial_dims, out_channels, **norm_options))
        parts.append(nn.ReLU(inplace=True))
    if options.dropout:
        parts.append(nn.Dropout(options.dropout))
    return nn.Sequential(*parts)


class Up(nn.Module):
    """Double the size by a transposed convolution, join the encoder's features of that size, two convolutions."""

    def __init__(self, spatial_dims: int, in_channels: int, options: Options) -> None:
        super().__init__()
        self.up = layer("ConvTranspose", spatial_dims, in_channels, in_channels // 2, 2, stride=2)
        self.convs = double_conv(spatial_dims, in_channels, in_channels // 2, options)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """below (N, c, S/2) and skip (N, c/2, S) give (N, c/2, S)."""
        joined: Tensor = self.convs(torch.cat([skip, self.up(below)], dim=1))
        return joined


class UNet(nn.Module):
    """UNet of `depth` poolings: images (N, in_channels, S) to logits (N, num_classes, S)."""

    def __init__(
        self,
        *,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        width: int,
        depth: int,
        options: Options | None = None,
    ) -> None:
        super().__init__()
        options = options or Options()
        self.spatial_dims, self.stride = spatial_dims, 2**depth
        self.first = double_conv(spatial_dims, in_channels, width, options)
        self.pool = layer("MaxPool", spatial_dims, 2)
        self.down = nn.ModuleList(
            double_conv(spatial_dims, width * 2**i, width * 2 ** (i + 1), options) for i in range(depth)
        )
        self.up = nn.ModuleList(Up(spatial_dims, width * 2**i, options) for i in range(depth, 0, -1))
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
    options = from_mapping(Options, settings.options, "model.options")
    factor, instance = 2**settings.depth, options.norm == "instance"
    dims = spatial_dims_of(
        patch,
        factor,
        f"2**model.depth = {factor}",
        alternative=", or a smaller depth",
        norm_fix=", a smaller model.depth, or model.options.norm=batch" if instance else "",
    )
    require(
        dims == 2 or settings.name != "unet2d",
        "data.patch",
        list(patch),
        "model.name=unet2d takes patches one slice thick",
        "Use model.name=unet, which is 3D there, or for example data.patch=[1,256,256]",
    )
    return UNet(
        spatial_dims=dims,
        in_channels=in_channels,
        num_classes=num_classes,
        width=settings.width,
        depth=settings.depth,
        options=options,
    )


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The pairs of convolutions of every level, on the way up with what joins them."""
    assert isinstance(network, UNet)
    yield from (network.first, *network.down, *network.up)
