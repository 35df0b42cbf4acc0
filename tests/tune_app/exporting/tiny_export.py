"""An export of a network with drawn weights, made without a sweep."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from trainables.inference import Inference, save_program

CLASSES = ("nuc", "pm")
CUT = (0.4, -0.3)
PATCH = {2: [1, 32, 32], 3: [8, 16, 12]}


class Context(torch.nn.Module):
    """A network that sees seven voxels along each axis: two convolutions with drawn weights."""

    stride = 2

    def __init__(self, spatial_dims: int, in_channels: int = 1, num_classes: int = 2) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims
        conv = torch.nn.Conv2d if spatial_dims == 2 else torch.nn.Conv3d
        generator = torch.Generator().manual_seed(1)
        self.layers = torch.nn.Sequential(
            conv(in_channels, 4, 5, padding=2), torch.nn.ReLU(), conv(4, num_classes, 3, padding=1)
        )
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(generator=generator)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layers(image)
        return logits


NETWORKS = {dims: Inference(Context(dims), [0.1, -0.1]).eval() for dims in (2, 3)}


def exported(
    folder: Path,
    network: Inference,
    patch: list[int],
    classes: Sequence[str] = CLASSES,
    data: str = "cellmap",
    **more: Any,
) -> Path:
    """The parts of an export that `predict` reads. more: other sections of its config."""
    folder.mkdir(parents=True)
    save_program(network, folder / "model.pt2")
    about = {"classes": list(classes), "logit": list(CUT[: len(classes)]), "patch": patch, "stride": 2, "least_side": 2}
    about |= {"spatial_dims": network.spatial_dims, "in_channels": network.in_channels}
    (folder / "model.json").write_text(json.dumps(about))
    config = {"data": {"name": data, "classes": list(classes), "patch": patch}, **more}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"kind": "tune_app export", "sha256": digests}))
    return folder
