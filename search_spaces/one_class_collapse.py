"""one_class_collapse: what keeps a classifier of rare and frequent classes from calling everything by one name.

Class weights and label smoothing of a softmax cross-entropy, the head, from which epoch on the encoder is trained, and
the learning rates of head and encoder. The weights follow from the counts of the training labels, once per sweep, so
that all ranks of all trials have the same. `from_scratch` is for an encoder that knows nothing yet; the published
settings are for a pretrained one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from search_spaces._counts import ClassCounts
from search_spaces._family import Family
from search_spaces._parameters import Choice, Float
from trainables.losses.weights import class_balanced_weights

EPSILON = 0.05
ONE_MINUS_BETA = 1e-3
NEVER = -1
HEADS = ("linear", "mlp")


def weights(weighting: str, counts: ClassCounts, one_minus_beta: float = ONE_MINUS_BETA) -> list[float]:
    """Weights (C,): 1; total / (C · count); or 1 / E(count) at β = 1 − one_minus_beta, scaled to a mean of 1 (Cui et
    al. 2019, arXiv:1901.05555). 1 for a class that was never seen."""
    n = torch.tensor(counts.positive, dtype=torch.float64)
    if weighting == "inverse_frequency":
        return torch.where(n > 0, n.sum() / (len(n) * n.clamp_min(1e-12)), 1.0).tolist()
    return class_balanced_weights(n, one_minus_beta).tolist() if weighting == "effective_number" else [1.0] * len(n)


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Of the point {"weighting", "smoothing", and on request "epsilon" and "one_minus_beta"}."""
    found = weights(point["weighting"], counts, point.get("one_minus_beta", ONE_MINUS_BETA))
    if point["smoothing"] == "none":
        return {"name": "cross_entropy", "params": {"weights": found}}
    smoothing = {"epsilon": point.get("epsilon", EPSILON), "smoothing": point["smoothing"]}
    return {"name": "cross_entropy", "params": {"weights": found, **smoothing}}


def settings(point: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Head, learning rates and the epoch from which on the encoder is trained."""
    trainer = {"lr": point["lr_head"], "lr_encoder": point["lr_encoder"], "unfreeze_epoch": point["unfreeze_epoch"]}
    return {"model": {"options": {"head": point["head"]}}, "trainer": trainer}


def label(point: Mapping[str, Any]) -> str:
    """linear_inverse_frequency_unfreeze3_lr0.003_1e-05"""
    begins = "frozen" if point["unfreeze_epoch"] == NEVER else f"unfreeze{point['unfreeze_epoch']}"
    rates = f"lr{point['lr_head']:.2g}_{point['lr_encoder']:.2g}"
    return f"{point['head']}_{point['weighting']}_{point['smoothing']}_{begins}_{rates}"


ORIGINAL = {
    "weighting": "none",
    "smoothing": "none",
    "head": "linear",
    "unfreeze_epoch": NEVER,
    "lr_head": 1e-3,
    "lr_encoder": 3e-5,
}
FIX = ORIGINAL | {"weighting": "inverse_frequency", "smoothing": "seed", "lr_head": 3e-3, "lr_encoder": 1e-5}

FAMILY = Family(
    name="one_class_collapse",
    space={
        "weighting": Choice(("none", "inverse_frequency", "effective_number"), help="class weights"),
        "smoothing": Choice(("none", "seed", "torch"), help="label smoothing of 0.05, by which formula"),
        "head": Choice(HEADS, help="what stands on the encoder"),
        "unfreeze_epoch": Choice((0, 3, NEVER), help="epoch from which on the encoder is trained; -1: never"),
        "lr_head": Float(3e-4, 1e-2, log=True, help="learning rate of the head"),
        "lr_encoder": Float(1e-6, 1e-2, log=True, help="learning rate of the encoder"),
    },
    optional={
        "epsilon": Float(0.0, 0.3, symbol="ε", help="share of the target that smoothing takes from the true class"),
        "one_minus_beta": Float(1e-4, 1e-1, log=True, symbol="1 − β", help="of effective_number"),
    },
    presets={
        "collapse_original": ORIGINAL,
        "collapse_weights": FIX,
        "collapse_weights_mlp": FIX | {"head": "mlp"},
        "collapse_published_fix": FIX | {"head": "mlp", "unfreeze_epoch": 3},
        "collapse_from_scratch": FIX | {"head": "mlp", "unfreeze_epoch": 0, "lr_encoder": 3e-3},
    },
    loss=loss,
    settings=settings,
    label=label,
    baseline="collapse_original",
    cite="label smoothing: Szegedy et al. 2016, arXiv:1512.00567; effective number: Cui et al. 2019, arXiv:1901.05555",
    help="weights, smoothing, head and unfreezing against the collapse to one class",
)
