"""EmberFormer-like: from a series of frames of rasters the next mask; 1.07 M parameters at the published size.

After the description of EmberFormer, not its code: attention over time in every patch of the map by itself, then a
head like that of SegFormer-B0 (Xie et al. 2021, arXiv:2105.15203), then a decoder that refines its features to full
resolution, beside the newest frame. Ours, since the description leaves them open: the decoder's widths and
convolutions, batch norm, GELU between a projection and the head, and that a token is told when it is but not where,
since crops are taken from anywhere. 1 068 993 parameters at one class and frames of six channels.

An image is T frames of C channels, the oldest first, K = T·C: channel t·C + c. Shapes: N batch, H W space, p side of a
patch, h w = H/p W/p the map, d = model.width channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from trainables.models import spatial_dims_of
from trainables.settings import ModelSettings, from_mapping, require, require_in

PATCHES = (2, 4, 8, 16, 32)


@dataclass(frozen=True, kw_only=True)
class Options:
    """model.options of this architecture; model.width is the channels of a token, model.depth the temporal layers."""

    steps: int = 5
    """Frames of an image, of which its channels are a multiple."""
    fire: int = 0
    """Which channel of a frame holds what is predicted of the next one."""
    wind: Sequence[int] = (1, 2)
    """Which channels of a frame change with time, beside `fire`; all others are taken from the newest frame."""
    patch: int = 8
    """Side of a patch in pixels, a power of two: of what the sides of an image must be multiples."""
    heads: int = 4
    """Attention heads of a temporal layer, which share the channels of a token."""
    widths: Sequence[int] = (32, 64, 160, 256)
    """Channels of the head's levels; each level is half as fine as the one before."""
    head_width: int = 256
    """Channels that the head puts out; the decoder halves them each time that it doubles the size."""

    def __post_init__(self) -> None:
        section = "model.options."
        require_in(self, section, steps="[1, 1000]", heads="[1, 1024]", head_width="[1, 4096]")
        rule = f"choose one of {', '.join(map(str, PATCHES))}"
        require(self.patch in PATCHES, f"{section}patch", self.patch, rule, "The published one is 8")
        for name, least, example in (("wind", 0, "[1,2]"), ("widths", 1, "[32,64,160,256]")):
            given = getattr(self, name)
            require(
                isinstance(given, Sequence) and all(type(n) is int and n >= least for n in given),
                f"{section}{name}",
                given,
                f"a list of whole numbers of at least {least} is needed",
                f"For example {section}{name}={example}",
            )
        require(len(self.widths) > 0, f"{section}widths", [], "at least one level is needed", "The published are four")
        decoder = 2 * self.patch
        require(
            self.head_width % decoder == 0,
            f"{section}head_width",
            self.head_width,
            f"must be a multiple of {decoder} at {section}patch={self.patch}, for the decoder halves it to the end",
            f"Use {math.ceil(self.head_width / decoder) * decoder}",
        )


def convolution(in_channels: int, out_channels: int, side: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU. No convolution bias: the norm subtracts it again."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, side, stride=stride, padding=side // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def sinusoids(steps: int, width: int) -> Tensor:
    """Positions (steps, width) in [-1, 1] as in Vaswani et al. 2017, arXiv:1706.03762: sines, then cosines."""
    half = math.ceil(width / 2)
    angle = torch.arange(steps)[:, None] * torch.exp(torch.arange(half) * (-math.log(10_000.0) / half))
    return torch.cat([angle.sin(), angle.cos()], dim=1)[:, :width]


class Tokens(nn.Module):
    """A token for each patch and time: the means of fire, of the wind's channels and of the static ones, each through
    layers of its own, and the position in time; their sum."""

    positions: Tensor

    def __init__(self, channels: int, width: int, options: Options) -> None:
        super().__init__()
        self.fire, self.wind = options.fire, tuple(options.wind)
        self.static = tuple(c for c in range(channels) if c not in (self.fire, *self.wind))
        self.of_fire = nn.Linear(1, width)
        if self.wind:
            self.of_wind = nn.Sequential(nn.Linear(len(self.wind), width), nn.GELU(), nn.Linear(width, width))
        if self.static:
            self.of_static = nn.Linear(len(self.static), width)
        self.register_buffer("positions", sinusoids(options.steps, width))

    def forward(self, means: Tensor) -> Tensor:
        """means (N, T, C, h, w) give tokens (N, h, w, T, d)."""
        channels = means.permute(0, 3, 4, 1, 2).unbind(-1)  # not by index: no constants in an exported program
        tokens = self.of_fire(channels[self.fire].unsqueeze(-1)) + self.positions
        if self.wind:
            tokens = tokens + self.of_wind(torch.stack([channels[c] for c in self.wind], dim=-1))
        if self.static:
            newest = torch.stack([channels[c].select(-1, -1) for c in self.static], dim=-1)
            tokens = tokens + self.of_static(newest).unsqueeze(-2)
        return tokens


class TemporalLayer(nn.Module):
    """Self-attention over the times of each sequence, then two linear layers, each added to what went in, norm first.

    Written out: torch's fused kernels count sequences on a grid axis of a card, of 65 535 at most, and there is one
    for each patch of each image; what they save grows with the length of a sequence, which is T.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (S, T, d) of S sequences give (S, T, d)."""
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.queries_keys_values(self.norm(tokens)).chunk(3, dim=-1)
        )  # each (S, heads, T, d/heads)
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT
        tokens = tokens + self.joined((scores.softmax(dim=-1) @ values).transpose(1, 2).flatten(2))
        out: Tensor = tokens + self.feed_forward(tokens)
        return out


class Level(nn.Module):
    """The map averaged over squares of a side of `pool`, projected to a level's channels and on to the head's, and
    enlarged again. A square that reaches out of the map is averaged over what lies in it. No bias at the end: the norm
    behind the levels subtracts it again."""

    def __init__(self, in_channels: int, width: int, out_channels: int, pool: int) -> None:
        super().__init__()
        self.pool = pool
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, width, 1), nn.GELU(), nn.Conv2d(width, out_channels, 1, bias=False)
        )

    def forward(self, features: Tensor) -> Tensor:
        """features (N, d, h, w) give (N, head_width, h, w)."""
        if self.pool == 1:
            out: Tensor = self.layers(features)
            return out
        h, w = features.shape[2:]
        coarse = self.layers(F.avg_pool2d(features, self.pool, ceil_mode=True))
        return F.interpolate(coarse, scale_factor=self.pool, mode="bilinear", align_corners=False)[..., :h, :w]


class Refine(nn.Module):
    """Double the size by a transposed convolution, join the newest frame's features of that size, one convolution."""

    def __init__(self, in_channels: int, skip_channels: int) -> None:
        super().__init__()
        out_channels = in_channels // 2
        self.up = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.convolution = convolution(out_channels + skip_channels, out_channels, 3)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """below (N, c, ½S) and skip (N, c/4, S) give (N, c/2, S)."""
        joined: Tensor = self.convolution(torch.cat([skip, self.up(below)], dim=1))
        return joined


class EmberFormer(nn.Module):
    """Images (N, K, H, W) to logits (N, num_classes, H, W)."""

    spatial_dims = 2

    def __init__(self, *, in_channels: int, num_classes: int, width: int, depth: int, options: Options) -> None:
        super().__init__()
        self.stride, self.steps = options.patch, options.steps
        channels, final = in_channels // options.steps, options.head_width // options.patch
        halvings = range(1, options.patch.bit_length() - 1)
        self.tokens = Tokens(channels, width, options)
        self.temporal = nn.ModuleList(TemporalLayer(width, options.heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.levels = nn.ModuleList(
            Level(width, level, options.head_width, 2**i) for i, level in enumerate(options.widths)
        )
        self.fuse = convolution(len(options.widths) * options.head_width, options.head_width, 1)
        self.newest = nn.ModuleList([convolution(channels, final // 2, 3)])
        self.newest.extend(convolution(final // 2 * 2 ** (i - 1), final // 2 * 2**i, 3, stride=2) for i in halvings)
        self.refine = nn.ModuleList(Refine(2 * final * 2**i, final // 2 * 2**i) for i in (*reversed(halvings), 0))
        self.logits = nn.Conv2d(final, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """image (N, T·C, H, W), sides divisible by the patch's; logits (N, num_classes, H, W)."""
        tokens = self.tokens(F.avg_pool2d(image, self.stride).unflatten(1, (self.steps, -1)))
        sequences = tokens.flatten(0, 2)
        for layer in self.temporal:
            sequences = layer(sequences)
        features = self.norm(sequences[:, -1]).view(*tokens.shape[:3], -1).permute(0, 3, 1, 2)
        # Always a copy: one made where needed makes an exported program refuse a single image, or row of patches.
        features = features.clone(memory_format=torch.contiguous_format)
        features = self.fuse(torch.cat([level(features) for level in self.levels], dim=1))

        skips = [image[:, -(image.shape[1] // self.steps) :]]
        for layer in self.newest:
            skips.append(layer(skips[-1]))
        for layer in self.refine:
            features = layer(features, skips.pop())
        logits: Tensor = self.logits(features)
        return logits


def build(settings: ModelSettings, *, in_channels: int, num_classes: int, patch: Sequence[int]) -> EmberFormer:
    """The network for images of `in_channels` = steps · C channels, patches (1, H, W).

    SettingsError for a patch of several slices, a side that is not divisible by model.options.patch, channels that are
    not so many frames or not in a frame, a width that the heads do not share evenly, an unknown option, or an invalid
    value of one.
    """
    options = from_mapping(Options, settings.options, "model.options")
    require(
        patch[0] == 1,
        "data.patch",
        list(patch),
        "emberformer takes rasters, patches one slice thick; the frames of a series are channels",
        "For example data.patch=[1,64,64]",
    )
    spatial_dims_of(patch, options.patch, f"model.options.patch = {options.patch}", alternative=", or a smaller patch")
    divisors = [n for n in range(1, in_channels + 1) if in_channels % n == 0]
    require(
        options.steps in divisors,
        "model.options.steps",
        options.steps,
        f"must divide the number of channels of the data, {in_channels}: they are the frames of a series, one after "
        "another",
        f"Use data of {options.steps} frames, or what divides it: {', '.join(map(str, divisors))}",
    )
    channels, used = in_channels // options.steps, [options.fire, *options.wind]
    for name, value, indices in (("fire", options.fire, used[:1]), ("wind", list(options.wind), used[1:])):
        require(
            all(type(c) is int and 0 <= c < channels for c in indices),
            f"model.options.{name}",
            value,
            f"a frame has {channels} channels ({in_channels} of the data ÷ {options.steps} steps), 0 to {channels - 1}",
            "Choose among these",
        )
    require(
        len(set(used)) == len(used),
        "model.options.wind",
        list(options.wind),
        f"no channel may appear twice, nor that of model.options.fire={options.fire}",
        "Drop the repeated one",
    )
    require(
        settings.width % options.heads == 0,
        "model.options.heads",
        options.heads,
        f"must divide model.width={settings.width}",
        "The published are 4 heads at a width of 64",
    )
    return EmberFormer(
        in_channels=in_channels, num_classes=num_classes, width=settings.width, depth=settings.depth, options=options
    )


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Temporal layers, levels of the head, and what is as large as the image or half of it: the convolutions."""
    assert isinstance(network, EmberFormer)
    yield from (*network.temporal, *network.levels, *network.newest, *network.refine)
