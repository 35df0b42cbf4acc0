"""focal_tversky: a focal and a Tversky loss, and the share of the first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Float


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"focal": share, "focal_gamma": γ, "focal_alpha": weight of positives, "fp_weight": α}; β = 1 − α."""
    share, fp_weight = point["focal"], point["fp_weight"]
    return {"name": "composite", "params": {**point, "tversky": 1.0 - share, "fn_weight": 1.0 - fp_weight}}


FAMILY = Family(
    name="focal_tversky",
    space={
        "focal": Float(0.0, 1.0, help="share of the focal loss, the rest is Tversky"),
        "focal_gamma": Float(0.0, 5.0, symbol="γ", help="focus on voxels that are predicted badly"),
        "focal_alpha": Float(0.05, 0.95, help="weight of positives in the focal loss"),
        "fp_weight": Float(
            0.1, 0.9, symbol="α", help="Tversky weight of false positives; that of missed ones is 1 − α"
        ),
    },
    presets={
        "focal_tversky_published": {"focal": 0.7, "focal_gamma": 2.0, "focal_alpha": 0.25, "fp_weight": 0.7},
        "focal_alone": {"focal": 1.0, "focal_gamma": 2.0, "focal_alpha": 0.25, "fp_weight": 0.5},
        "tversky_alone": {"focal": 0.0, "focal_gamma": 2.0, "focal_alpha": 0.25, "fp_weight": 0.7},
    },
    loss=loss,
    baseline="bce",
    in_all=False,
    cite="Lin et al. 2017, arXiv:1708.02002; Salehi et al. 2017, arXiv:1706.05721",
    help="focal and Tversky loss",
)
