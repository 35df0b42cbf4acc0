"""SegResNet in 2D and 3D: residual blocks, strided convolutions down, linear interpolation up; MONAI's.

Myronenko 2018, arXiv:1810.11654, without its autoencoder branch. It follows the patch: one slice thick is 2D. Level l
has width·2^l channels and sides of 1/2^l of the image's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from trainables.models import spatial_dims_of
from trainables.settings import ModelSettings, from_mapping, require, require_in


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of the SegResNet."""

    blocks_down: Sequence[int] = (1, 2, 2, 4)
    """Residual blocks of each level on the way down, model.depth + 1 numbers; on the way up each has one."""
    dropout: float = 0.0
    """Probability with which a value of the first convolution's output is dropped."""

    def __post_init__(self) -> None:
        blocks = self.blocks_down
        require(
            isinstance(blocks, Sequence) and all(isinstance(n, int) and n > 0 for n in blocks),
            "model.options.blocks_down",
            blocks,
            "a list of positive whole numbers is needed",
            "For example model.options.blocks_down=[1,2,2,4]",
        )
        require_in(self, "model.options.", dropout="[0, 1)")


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> nn.Module:
    """The SegResNet for patches (D, H, W), 2D where D = 1.

    SettingsError for a side that is not divisible by 2**depth, a depth that is not that of blocks_down, an unknown
    option, or an invalid value of one.
    """
    from monai.networks.nets import SegResNet  # takes seconds to import, and leaves a folder in the user's home

    options = from_mapping(Options, settings.options, "model.options")
    levels = len(options.blocks_down)
    require(
        settings.depth == levels - 1,
        "model.depth",
        settings.depth,
        f"model.options.blocks_down={list(options.blocks_down)} has {levels} levels, which is {levels - 1} halvings",
        f"Use model.depth={levels - 1}, or give {settings.depth + 1} numbers",
    )
    stride = 2**settings.depth
    dims = spatial_dims_of(
        patch,
        stride,
        f"2**model.depth = {stride}",
        alternative=", or fewer levels (model.depth and model.options.blocks_down)",
        norm_fix=", or fewer levels (model.depth and model.options.blocks_down)",
    )
    network = SegResNet(
        spatial_dims=dims,
        init_filters=settings.width,
        in_channels=in_channels,
        out_channels=num_classes,
        dropout_prob=options.dropout or None,
        norm=("INSTANCE", {"affine": True}),  # its group norm would want widths that are multiples of 8
        blocks_down=tuple(options.blocks_down),
        blocks_up=(1,) * settings.depth,
    )
    network.spatial_dims, network.stride = dims, stride
    return network


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Its residual blocks, and norm and activation before the last convolution, which are as large as the image."""
    from monai.networks.blocks.segresnet_block import ResBlock

    yield from (module for module in network.modules() if isinstance(module, ResBlock))
    yield network.get_submodule("conv_final")
