"""A trained network as one program that needs nothing of ours: grey values as they lie on disk in, logits out.

Shapes: N batch, K input channels, C classes, *S space: H W for a 2D network, D H W for a 3D one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torch.fx.experimental import _config as fx_config

from trainables import models
from trainables.data.sources import open_source
from trainables.errors import CheckpointError
from trainables.settings import TrialSettings
from trainables.steps import normalise
from trainables.tasks import get_task


class Inference(nn.Module):
    """Normalisation, network, and the shift that validation adds to the logits of each class."""

    shift: Tensor

    def __init__(
        self, network: nn.Module, shift: Sequence[float], *, in_channels: int = 1, intensity: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.intensity = tuple(intensity)
        self.in_channels = in_channels
        shape: Any = network
        self.network, self.spatial_dims, self.stride = network, int(shape.spatial_dims), int(shape.stride)
        fixed = getattr(network, "fixed_size", None)
        self.fixed_size: tuple[int, ...] | None = None if fixed is None else tuple(fixed)
        self.per_image = bool(getattr(network, "per_image", False))
        """One label for an image, the class of the largest logit: logits are (N, C, 1, 1, 1)."""
        self.register_buffer("shift", torch.tensor(shift).view(1, -1, *(1,) * self.spatial_dims))

    def forward(self, em: Tensor) -> Tensor:
        """em uint8 (N, K, *S), S the fixed size or multiples of the stride: logits float32 (N, C, *S), to threshold."""
        logits: Tensor = self.network(normalise(em, self.intensity)).float() + self.shift
        return logits


class PerClass(nn.Module):
    """Several networks on one image, one pass through each: the logit of class c is that of network `source[c]`."""

    per_image = False

    def __init__(self, members: Sequence[Inference], source: Sequence[int]) -> None:
        super().__init__()
        self.members, self.source = nn.ModuleList(members), tuple(source)
        self.in_channels, self.spatial_dims = members[0].in_channels, members[0].spatial_dims
        self.stride = math.lcm(*(one.stride for one in members))
        self.fixed_size = next((one.fixed_size for one in members if one.fixed_size), None)

    def forward(self, em: Tensor) -> Tensor:
        """As `Inference` takes and gives."""
        logits = [member(em) for member in self.members]
        return torch.stack([logits[member][:, c] for c, member in enumerate(self.source)], dim=1)


def inference(settings: TrialSettings, weights: Mapping[str, Tensor], shift: Sequence[float]) -> Inference:
    """The network of these settings with trained weights, in evaluation mode, on the CPU. shift: one per class.

    Raises CheckpointError where the weights are not those of such a network.
    """
    data, in_channels = settings.data, open_source(settings.data).in_channels
    outputs = get_task(settings.task.name, settings.task.options).outputs(data.classes)
    with torch.device("meta"):
        network = models.build(settings.model, in_channels=in_channels, num_classes=len(outputs), patch=data.patch)
    try:
        network.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        difference = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"its weights are not those of its model ({difference})") from None
    return Inference(network, shift, in_channels=in_channels, intensity=data.intensity).eval()


def save_program(model: Inference | PerClass, path: Path) -> None:
    """Write `model` by torch.export; `torch.export.load(path).module()` is it again, without its source.

    The program takes any batch, and any sides that are multiples of the network's stride; where the network has a fixed
    size, that alone.
    """
    stride, dims, fixed = model.stride, model.spatial_dims, model.fixed_size
    sides = {} if fixed else {2 + axis: stride * torch.export.Dim(f"side{axis}", min=1) for axis in range(dims)}
    example = torch.zeros(2, model.in_channels, *(fixed or (4 * stride,) * dims), dtype=torch.uint8)
    # Else a side of one stride, which is 1 voxel at the lowest level, would be a size of its own.
    with torch.no_grad(), fx_config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(model, (example,), dynamic_shapes=({0: torch.export.Dim("batch"), **sides},))
    torch.export.save(program, path)


def load_program(path: Path, device: torch.device) -> nn.Module:
    """What `save_program` wrote, on `device`: a program has its own written in, which `Module.to` does not change."""
    return cast(nn.Module, move_to_device_pass(torch.export.load(path), device).module())
