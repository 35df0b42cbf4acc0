"""networks: eight architectures, each with the batch, patch, accumulation and GPUs of its file, under three losses.

Everything that a network brings along stands in trainables/conf/model/NAME.yaml, the file that `model=NAME` reads, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces import l40s_losses
from search_spaces._counts import ClassCounts
from search_spaces._family import Family, Sections
from search_spaces._parameters import Choice
from trainables.settings import network_preset

NETWORKS = tuple(f"{name}_{dims}" for dims in ("2d", "3d") for name in ("unet", "resnet", "swin", "vit"))


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"loss": a key of LOSSES}."""
    return l40s_losses.loss(l40s_losses.LOSSES[point["loss"]], counts)


def settings(point: Mapping[str, Any]) -> Sections:
    """Point {"network": NAME}, and on request `scale` (small: tiny networks and patches) and `gpus_per_trial`."""
    small = "_small" if point.get("scale") == "small" else ""
    sections = network_preset(point["network"] + small)
    if "gpus_per_trial" in point:
        sections["resources"] = {"gpus_per_trial": point["gpus_per_trial"]}
    return sections


FAMILY = Family(
    name="networks",
    space={
        "network": Choice(NETWORKS, help="architecture, in 2D or 3D"),
        "loss": Choice(tuple(l40s_losses.LOSSES), help="loss"),
    },
    optional={
        "scale": Choice(("full", "small"), help="networks as published, or tiny ones for trying out"),
        "gpus_per_trial": Choice((1, 2, 4), help="GPUs, instead of those of the network's file"),
    },
    presets={
        f"{network}_{loss}": {"network": network, "loss": loss} for loss in l40s_losses.LOSSES for network in NETWORKS
    },
    loss=loss,
    settings=settings,
    baseline="unet_2d_bce",
    label=lambda point: "_".join(str(value) for name, value in point.items() if name in ("network", "loss")),
    choices={"network": "model"},
    cite="Ronneberger et al. 2015, arXiv:1505.04597; Myronenko 2018, arXiv:1810.11654; Hatamizadeh et al. 2022, "
    "arXiv:2201.01266 and arXiv:2103.10504",
    help="UNet, SegResNet, SwinUNETR and UNETR in 2D and 3D, under three losses",
)
