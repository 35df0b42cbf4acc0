"""Swin UNETR in 2D and 3D: attention within shifted windows at four levels, and a convolutional decoder; MONAI's.

Hatamizadeh et al. 2022, arXiv:2201.01266; use_v2: He et al. 2023, a residual convolution before each stage. It follows
the patch: one slice thick is 2D. Five halvings, the first of them the embedding of 2 × 2 (× 2) voxels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainables.models import spatial_dims_of
from trainables.settings import ModelSettings, from_mapping, require, require_in

HALVINGS = 5
STRIDE = 2**HALVINGS
STAGES = HALVINGS - 1


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of the Swin UNETR."""

    depths: Sequence[int] = (2, 2, 2, 2)
    """Transformer blocks of each of the four stages."""
    num_heads: Sequence[int] = (3, 6, 12, 24)
    """Attention heads of each stage; stage i has width · 2^i channels, i from 0."""
    window_size: int = 7
    """Side of an attention window, in tokens."""
    use_v2: bool = False
    """A residual convolution before each stage."""
    drop_path: float = 0.0
    """Probability with which the last block is skipped for a sample; it rises linearly from 0 at the first."""

    def __post_init__(self) -> None:
        for name, values in (("depths", self.depths), ("num_heads", self.num_heads)):
            require(
                isinstance(values, Sequence)
                and len(values) == STAGES
                and all(isinstance(n, int) and n > 0 for n in values),
                f"model.options.{name}",
                values,
                f"{STAGES} positive whole numbers are needed, one per stage",
                f"For example model.options.{name}={[*getattr(type(self), name)]}".replace(" ", ""),
            )
        require_in(self, "model.options.", window_size="[2, 64]", drop_path="[0, 1)")


class _ReadableNumbers(TorchFunctionMode):
    """Makes the one tensor that SwinUNETR reads back while it is built on the CPU: the meta device holds no numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        place = {"device": "cpu"} if func is torch.linspace else {}
        return func(*args, **(kwargs or {}), **place)


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> nn.Module:
    """The Swin UNETR for patches (D, H, W), 2D where D = 1.

    SettingsError for a side that is not divisible by 32, a depth that is not 5, a width that 12 or the heads do not
    divide, an unknown option, or an invalid value of one.
    """
    from monai.networks.nets import SwinUNETR  # takes seconds to import, and leaves a folder in the user's home

    options = from_mapping(Options, settings.options, "model.options")
    width, heads = settings.width, options.num_heads
    require(
        settings.depth == HALVINGS,
        "model.depth",
        settings.depth,
        f"a Swin UNETR halves its image {HALVINGS} times",
        f"Use model.depth={HALVINGS}",
    )
    require(
        width % 12 == 0,
        "model.width",
        width,
        "a Swin UNETR needs a multiple of 12",
        f"Use {max(1, round(width / 12)) * 12}",
    )
    require(
        all(width * 2**stage % number == 0 for stage, number in enumerate(heads)),
        "model.options.num_heads",
        list(heads),
        f"each must divide the channels of its stage, {[width * 2**stage for stage in range(STAGES)]}",
        "Use [3,6,12,24], or another model.width",
    )
    dims = spatial_dims_of(patch, STRIDE, f"{STRIDE} for a Swin UNETR", norm_fix=" or larger")
    with _ReadableNumbers():
        network = SwinUNETR(
            in_channels=in_channels,
            out_channels=num_classes,
            depths=tuple(options.depths),
            num_heads=tuple(heads),
            window_size=options.window_size,
            feature_size=width,
            dropout_path_rate=options.drop_path,
            spatial_dims=dims,
            use_v2=options.use_v2,
        )
    network._check_input_size = _sizes_were_checked
    network.swinViT.register_forward_hook(_contiguous_in_a_program)
    network.spatial_dims, network.stride = dims, STRIDE
    # How many windows there are, and which of them are cut, is worked out in Python from the sides.
    network.fixed_size = tuple(patch[3 - dims :])
    return network


def _sizes_were_checked(space: Sequence[int]) -> None:
    """In place of SwinUNETR's own check, whose NumPy would break the graph."""


def _contiguous_in_a_program(module: nn.Module, given: Any, features: list[Tensor]) -> list[Tensor]:
    """The features of each level; torch.export would ask for more than one image where their channels come last."""
    return [feature.contiguous() for feature in features] if torch.compiler.is_exporting() else features


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Its transformer blocks, and the convolutional ones of encoder and decoder, which are as large as the image."""
    from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
    from monai.networks.nets.swin_unetr import SwinTransformerBlock

    kinds = (SwinTransformerBlock, UnetrBasicBlock, UnetrUpBlock)
    yield from (module for module in network.modules() if isinstance(module, kinds))
