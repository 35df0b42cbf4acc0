"""UNETR in 2D and 3D: a vision transformer on patches of 16 voxels a side, and a convolutional decoder; MONAI's.

Hatamizadeh et al. 2021, arXiv:2103.10504. It follows the patch: one slice thick is 2D. Every token has a learnt
position, so that the network is tied to the size of the patch that it was trained on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from trainables.models import spatial_dims_of
from trainables.settings import ModelSettings, from_mapping, require, require_in

HALVINGS = 4
STRIDE = 2**HALVINGS


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of the UNETR, whose transformer has twelve blocks."""

    hidden_size: int = 768
    """Channels of a token."""
    mlp_dim: int = 3072
    """Channels between the two linear layers of a block."""
    num_heads: int = 12
    """Attention heads of a block, which share the channels of a token."""
    dropout: float = 0.0
    """Probability with which a value is dropped in the transformer: tokens, attention, linear layers."""

    def __post_init__(self) -> None:
        require_in(self, "model.options.", hidden_size="[1, inf)", mlp_dim="[1, inf)", num_heads="[1, inf)")
        require_in(self, "model.options.", dropout="[0, 1)")
        require(
            self.hidden_size % self.num_heads == 0,
            "model.options.num_heads",
            self.num_heads,
            f"must divide model.options.hidden_size={self.hidden_size}",
            "Use one head per 64 channels",
        )


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> nn.Module:
    """The UNETR for patches (D, H, W), 2D where D = 1.

    SettingsError for a side that is not divisible by 16, a depth that is not 4, an unknown option, or an invalid value
    of one.
    """
    from monai.networks.nets import UNETR  # takes seconds to import, and leaves a folder in the user's home

    options = from_mapping(Options, settings.options, "model.options")
    require(
        settings.depth == HALVINGS,
        "model.depth",
        settings.depth,
        f"a UNETR halves its image {HALVINGS} times, to tokens of 16 voxels a side",
        f"Use model.depth={HALVINGS}",
    )
    dims = spatial_dims_of(patch, STRIDE, f"{STRIDE} for a UNETR")
    space = tuple(patch[3 - dims :])
    network = UNETR(
        in_channels=in_channels,
        out_channels=num_classes,
        img_size=space,
        feature_size=settings.width,
        hidden_size=options.hidden_size,
        mlp_dim=options.mlp_dim,
        num_heads=options.num_heads,
        dropout_rate=options.dropout,
        spatial_dims=dims,
    )
    for name, parameter in network.named_parameters():
        if ".norm_cross_attn." in name:  # there is no cross-attention in it, so they never get a gradient
            parameter.requires_grad_(False)
    network.spatial_dims, network.stride, network.fixed_size = dims, STRIDE, space
    return network


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The blocks of its transformer, and the convolutional ones, of which the largest are as large as the image."""
    from monai.networks.blocks import TransformerBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock

    kinds = (TransformerBlock, UnetrBasicBlock, UnetrPrUpBlock, UnetrUpBlock)
    yield from (module for module in network.modules() if isinstance(module, kinds))
