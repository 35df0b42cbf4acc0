"""tversky: α on false positives and β on false negatives, unit class weights. β = 1 − α unless it is searched too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Float


def complement(fp_weight: float) -> float:
    """1 − α, rid of the rounding of 1 − 0.6."""
    return round(1.0 - fp_weight, 12)


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"fp_weight": α}, and {"fn_weight": β} on request (1 − α if absent)."""
    params = dict(point)
    if "fp_weight" in params and "fn_weight" not in params:
        params["fn_weight"] = complement(params["fp_weight"])
    return {"name": "tversky", "params": params}


def searched(point: Mapping[str, Any]) -> dict[str, Any] | None:
    on_the_line = point["fn_weight"] == complement(point["fp_weight"])
    return {"fp_weight": point["fp_weight"]} if on_the_line else None


FAMILY = Family(
    name="tversky",
    space={"fp_weight": Float(0.1, 0.9, symbol="α", help="weight of false positives; of false negatives 1 − α")},
    optional={"fn_weight": Float(0.1, 0.9, symbol="β", help="weight of false negatives, free of α")},
    presets={
        "tversky_0.6_0.4": {"fp_weight": 0.6, "fn_weight": 0.4},
        "tversky_0.5_0.5": {"fp_weight": 0.5, "fn_weight": 0.5},
        "tversky_0.3_0.7": {"fp_weight": 0.3, "fn_weight": 0.7},
    },
    loss=loss,
    searched=searched,
    cite="Salehi et al. 2017, arXiv:1706.05721",
    help="false positives against false negatives",
)
