"""bce_dice: binary cross-entropy and the root of Dice, and the share of the second."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Float


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"dice": λ}: (1 − λ) · BCE + λ · (1 − √Dice)."""
    share = point["dice"]
    return {"name": "composite", "params": {"cross_entropy": 1.0 - share, "sqrt_dice": share}}


FAMILY = Family(
    name="bce_dice",
    space={"dice": Float(0.0, 1.0, symbol="λ", help="share of 1 − √Dice, the rest is binary cross-entropy")},
    presets={"bce_dice_published": {"dice": 0.1}, "bce": {"dice": 0.0}, "bce_dice_half": {"dice": 0.5}},
    loss=loss,
    baseline="bce",
    in_all=False,
    cite="√Dice as in the published comparison of these two losses; Dice: Milletari et al. 2016, arXiv:1606.04797",
    help="cross-entropy and the root of Dice",
)
