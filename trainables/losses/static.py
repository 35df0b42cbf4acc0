"""Rules whose weights never change: a given vector, and the Tversky weights themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from trainables.losses.weighting import Counts, Factors, Rule, neutral_factors, read_number
from trainables.settings import require


@dataclass(frozen=True, kw_only=True)
class Static(Rule):
    """loss = mean_c(w_c · L_c) with w fixed. params: {"weights": C numbers ≥ 0, not all 0}."""

    weights: tuple[float, ...]
    choices: ClassVar[tuple[str, ...]] = ("weights",)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        weights = params.get("weights")
        fix = f"Give one number per class, in the order {', '.join(classes)}"
        is_list = isinstance(weights, Sequence) and not isinstance(weights, str)
        require(is_list, "loss.params.weights", weights, "must be a list of numbers", fix)
        assert isinstance(weights, Sequence)
        numbers = all(isinstance(w, int | float) and math.isfinite(w) and w >= 0 for w in weights)
        require(
            numbers and len(weights) == len(classes) and any(w > 0 for w in weights),
            "loss.params.weights",
            weights,
            f"must be {len(classes)} finite numbers ≥ 0, not all 0",
            fix,
        )
        return cls(num_classes=len(classes), weights=tuple(float(w) for w in weights))

    def factors(self, counts: Counts) -> Factors:
        weight = torch.tensor(self.weights, dtype=torch.float64, device=counts.positive.device)
        return neutral_factors(counts)._replace(weight=weight)


@dataclass(frozen=True, kw_only=True)
class FreeTversky(Rule):
    """Unit weights with α and β of one's own. params: {"fp_weight": α, "fn_weight": β}, both > 0; β is 1 − α if absent.

    α weighs false positives, β false negatives (the order of Salehi et al. 2017, arXiv:1706.05721, and of MONAI).
    """

    choices: ClassVar[tuple[str, ...]] = ("fp_weight", "fn_weight")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        fp_weight = read_number(params, "fp_weight", 1e-6, 100.0)
        fn_weight = read_number(params, "fn_weight", 1e-6, 100.0, default=1.0 - fp_weight)
        return cls(num_classes=len(classes), fp_weight=fp_weight, fn_weight=fn_weight)

    def factors(self, counts: Counts) -> Factors:
        return neutral_factors(counts)
