"""The least time a training step can take on a device that computes and moves data at given rates, layer by layer.

Each pass of each layer (forward, gradient of its input, gradient of its weights) takes at least the time of its
arithmetic and at least the time of its memory traffic; the roofline is the sum of the larger of the two. Counted is
what cannot be avoided when one layer follows the other:

- convolutions: operands once, result once; two operations per multiply-add;
- batch norm: its input twice (statistics are complete before the first value can be written), its output once; in the
  gradient both input and incoming gradient twice, its own once. ReLU rides along;
- pooling: operand once, result once. Concatenation and the sum of two gradients ride along;
- loss: five passes (logits and target twice, gradient once). AdamW: gradient twice (its norm, then the step), weight
  and two moments read and written.

Pure: shapes come from a copy of the model on the meta device. Shapes: N batch, C channels, H W space.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

FLOAT32_BYTES = 4
LOSS_PASSES = 5
ADAMW_PASSES = 8


@dataclass(frozen=True)
class Work:
    """One pass of one layer."""

    name: str
    flops: float
    bytes: float

    def seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The larger of the time for the arithmetic and the time for the traffic."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)


def roofline_seconds(work: Iterable[Work], flops_per_s: float, bytes_per_s: float) -> float:
    """Least seconds for all of `work`, one after the other."""
    return sum(w.seconds(flops_per_s, bytes_per_s) for w in work)


def training_work(model: nn.Module, image: Sequence[int], *, num_classes: int, value_bytes: int) -> list[Work]:
    """The passes of one optimiser step on a batch of `image` (N, C, H, W): network, loss, AdamW.

    value_bytes: size of an activation or of a weight as it is multiplied (2 under autocast, 4 in float32). The loss and
    the optimiser work in float32. ValueError for a layer this page has no rule for.
    """
    logits = image[0] * num_classes * math.prod(image[2:])
    weights = sum(p.numel() for p in model.parameters())
    return [
        *network_work(model, image, value_bytes),
        Work("loss", 0.0, LOSS_PASSES * logits * FLOAT32_BYTES),
        Work("AdamW", 0.0, ADAMW_PASSES * weights * FLOAT32_BYTES),
    ]


def network_work(model: nn.Module, image: Sequence[int], value_bytes: int) -> list[Work]:
    """Forward and backward of the network, in the order of its forward pass. The image itself needs no gradient."""
    twin = copy.deepcopy(model).to("meta")
    work: list[Work] = []

    def record(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            work.extend(layer_work(name, layer, inputs[0], output, value_bytes, first=not work))

        return hook

    for name, layer in twin.named_modules():
        if not list(layer.children()):
            layer.register_forward_hook(record(name))
    with torch.no_grad():
        twin(torch.empty(tuple(image), device="meta"))
    return work


def layer_work(name: str, layer: nn.Module, x: Tensor, y: Tensor, value_bytes: int, *, first: bool) -> list[Work]:
    """The passes of one layer with input x and output y. first: its input needs no gradient."""
    read, written = x.numel() * value_bytes, y.numel() * value_bytes
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        flops = convolution_flops(layer, x, y)
        everything = read + written + layer.weight.numel() * value_bytes
        passes = [f"{name} forward", f"{name} weight gradient"] + ([] if first else [f"{name} input gradient"])
        return [Work(which, flops, everything) for which in passes]
    if isinstance(layer, nn.BatchNorm2d):
        return [Work(f"{name} forward", 0.0, 2 * read + written), Work(f"{name} gradient", 0.0, 4 * read + written)]
    if isinstance(layer, nn.MaxPool2d):
        return [Work(f"{name} forward", 0.0, read + written), Work(f"{name} gradient", 0.0, read + written)]
    if isinstance(layer, nn.ReLU):
        return []
    raise ValueError(f"{name}: there is no rule for the traffic of {type(layer).__name__}; add one here")


def convolution_flops(layer: nn.Conv2d | nn.ConvTranspose2d, x: Tensor, y: Tensor) -> float:
    """Two per multiply-add. Every weight is used once per position of the output; of the input, where transposed."""
    positions = x[:, 0].numel() if isinstance(layer, nn.ConvTranspose2d) else y[:, 0].numel()
    return 2.0 * positions * layer.weight.numel()
