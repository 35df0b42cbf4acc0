"""l40s_losses: strength of the logit adjustment and share of cross-entropy, for the network of `model=`.

The published loss of the comparison on L40S (τ = 1, Tversky 0.6/0.4) lost to plain cross-entropy when its authors ran
it on more classes: mean Dice .2385 against .4755. So both ends and the original's sum of Dice and BCE are tried first.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Float

LOSSES: dict[str, dict[str, Any]] = {
    "published": {"tau": 1.0, "cross_entropy": 0.0},
    "bce": {"tau": 0.0, "cross_entropy": 1.0},
    "dice_bce": {"tau": 0.0, "cross_entropy": 0.5, "fp_weight": 0.5, "fn_weight": 0.5},
}
"""The arms of the comparison, as points of this family; Dice + BCE has weights of its own."""


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"tau": τ, "cross_entropy": λ}, and on request fp_weight and fn_weight, 0.6 and 0.4 if absent."""
    return {"name": "mixture", "params": {"fp_weight": 0.6, "fn_weight": 0.4, "frequency": "share", **point}}


FAMILY = Family(
    name="l40s_losses",
    space={
        "tau": Float(0.0, 2.0, symbol="τ", help="strength of the logit adjustment"),
        "cross_entropy": Float(0.0, 1.0, symbol="λ", help="share of cross-entropy, the rest is Tversky"),
    },
    presets={f"l40s_{name}": point for name, point in LOSSES.items()},
    loss=loss,
    searched=lambda point: None if "fp_weight" in point else dict(point),
    baseline="l40s_bce",
    in_all=False,
    cite="Menon et al. 2021, arXiv:2007.07314; Taghanaki et al. 2019, arXiv:1805.02798",
    help="logit adjustment and share of cross-entropy",
)
