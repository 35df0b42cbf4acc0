"""class_balanced: weights 1/E(n_c) by the effective number of samples, recomputed from the counts of a window.

Searched in b = 1 − β on a log scale: at voxel counts E saturates at 1/b, so the knob lives where b ~ 1/n. The three
published β are presets; at millions of voxels they are all uniform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Choice, Float
from trainables.losses import FREQUENCIES


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"one_minus_beta": b} or {"beta": β}, and `frequency` on request."""
    return {"name": "class_balanced", "params": dict(point)}


def searched(point: Mapping[str, Any]) -> dict[str, Any]:
    """β as b = 1 − β, rid of the rounding of 1 − 0.99 so that it stays inside the range."""
    rest = {key: value for key, value in point.items() if key != "beta"}
    return {"one_minus_beta": round(1.0 - point["beta"], 12)} | rest if "beta" in point else rest


FAMILY = Family(
    name="class_balanced",
    space={
        "one_minus_beta": Float(1e-8, 1e-2, log=True, symbol="1 − β", help="1/voxels at which a class counts as full")
    },
    optional={"frequency": Choice(FREQUENCIES, help="raw counts, or counts as if all classes were annotated alike")},
    presets={"cb_beta_0.99": {"beta": 0.99}, "cb_beta_0.999": {"beta": 0.999}, "cb_beta_0.9999": {"beta": 0.9999}},
    loss=loss,
    searched=searched,
    cite="Cui et al. 2019, arXiv:1901.05555",
    help="weights by the effective number of samples",
)
