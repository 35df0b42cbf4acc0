"""Formulas that turn class counts into class weights and logit shifts. Tensors in, tensors out, no state, no sync.

Shapes: C classes. positive (n): voxels of the class; known: annotated voxels of the class; both (C,) float64.
A class with n = 0 was not seen: it gets the neutral value and is left out of every median, mean, sum and maximum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainables.settings import require

STATIC_RULES = ("uniform", "inv_freq", "sqrt_inv", "log_inv", "effective_num")
EFFECTIVE_NUM_ONE_MINUS_BETA = 1e-3
"""1 − β of the published effective_num vector, β = 0.999."""


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of (C,) over mask (C,), 0-d; 0 where the mask is empty."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def masked_median(values: Tensor, mask: Tensor) -> Tensor:
    """Median of (C,) over mask (C,), 0-d; the mean of the middle two for an even number, 1 where the mask is empty."""
    ordered = torch.where(mask, values, torch.inf).sort().values
    number = mask.sum().clamp_min(1)
    # gather, because ordered[0-d tensor] reads the index back to the host.
    middle = ordered.gather(0, torch.stack([(number - 1) // 2, number // 2]))
    return torch.where(mask.any(), middle.mean(), 1.0)


def comparable_counts(positive: Tensor, known: Tensor, frequency: str) -> Tensor:
    """The n that a rule uses, (C,): raw counts, or counts as if every class were annotated equally.

    frequency=count: n_c (the published form; unequal annotation then acts like unequal frequency).
    frequency=share: f_c · mean(known) over the seen classes, f_c = n_c / known_c the share of the class among its own
    annotated voxels; equal to n_c where all classes are annotated alike.
    """
    if frequency == "count":
        return positive
    share = torch.where(known > 0, positive / known.clamp_min(1.0), 0.0)
    return share * masked_mean(known, positive > 0)


def effective_number(n: Tensor, one_minus_beta: float) -> Tensor:
    """E(n) = (1 − βⁿ)/(1 − β) in expm1/log1p with b = 1 − β, so b = 1e-12 loses no digits; shape of n.

    b in (0, 1]; b = 1 gives 1, b → 0 gives n, n ≫ 1/b gives 1/b. Cui et al. 2019, arXiv:1901.05555.
    """
    log_beta = math.log1p(-one_minus_beta) if one_minus_beta < 1 else -math.inf
    return -torch.expm1(n * log_beta) / one_minus_beta


def neutral_where_unseen(values: Tensor, seen: Tensor, neutral: float = 1.0) -> Tensor:
    return torch.where(seen, values, neutral)


def class_balanced_weights(n: Tensor, one_minus_beta: float) -> Tensor:
    """w_c = 1/E(n_c), scaled so that Σw = C, (C,). b → 0: inverse frequency; b = 1: uniform.

    n: (C,) float64 voxels per count window. Unseen classes get 1 and the rest sum to their own number.
    """
    seen = n > 0
    inverse = 1.0 / effective_number(torch.where(seen, n, 1.0), one_minus_beta)
    return neutral_where_unseen(inverse / masked_mean(inverse, seen).clamp_min(torch.finfo(n.dtype).tiny), seen)


def log_count_offsets(n: Tensor) -> Tensor:
    """ln n_c − mean(ln n) over the seen classes, (C,), positive for frequent ones; 0 for an unseen class."""
    seen = n > 0
    log_n = torch.log(torch.where(seen, n, 1.0))
    return neutral_where_unseen(log_n - masked_mean(log_n, seen), seen, 0.0)


def mitigation(n: Tensor, p: float) -> Tensor:
    """(median(n)/n_c)^p over the seen classes, (C,), > 1 for rare ones; 1 for an unseen class."""
    seen = n > 0
    return neutral_where_unseen((masked_median(n, seen) / torch.where(seen, n, 1.0)).pow(p), seen)


def scaled_to_max(values: Tensor, seen: Tensor) -> Tensor:
    """(C,) values over their largest seen one; 1 where unseen."""
    largest = torch.where(seen, values, 0.0).max()
    return neutral_where_unseen(values / torch.where(largest > 0, largest, 1.0), seen)


def power_weights(n: Tensor, kappa: float) -> Tensor:
    """w_c ∝ n_c^−κ with max = 1, (C,): κ = 0 uniform, ½ `sqrt_inv`, 1 `inv_freq`.

    The maximum is 1 as in the published vectors, so those lie on this curve to the last bit.
    """
    seen = n > 0
    return scaled_to_max(torch.where(seen, n, 1.0).pow(-kappa), seen)


def log_inverse_weights(n: Tensor) -> Tensor:
    """w_c = 1/ln(1 + g_c), max = 1, (C,). g_c = n_c/Σn is the share among all *positive* voxels, not f (published)."""
    seen = n > 0
    g = torch.where(seen, n / n.sum().clamp_min(1.0), 1.0)
    return scaled_to_max(1.0 / torch.log1p(g), seen)


def effective_number_weights(n: Tensor) -> Tensor:
    """w_c = 1/E(n_c) at β = 0.999, max = 1, (C,): exactly 1 once every n is in the tens of thousands."""
    seen = n > 0
    number = effective_number(torch.where(seen, n, 1.0), EFFECTIVE_NUM_ONE_MINUS_BETA)
    return scaled_to_max(1.0 / number, seen)


def static_vector(rule: str, n: Tensor) -> Tensor:
    """The fixed weights of one named rule, (C,) with max = 1; SettingsError for an unknown rule.

    n: (C,) float64, see `comparable_counts`. uniform 1; inv_freq 1/n; sqrt_inv 1/√n; log_inv 1/ln(1 + n/Σn);
    effective_num 1/E(n).
    """
    require(rule in STATIC_RULES, "weights", rule, f"choose one of {', '.join(STATIC_RULES)}", "For example inv_freq")
    if rule == "log_inv":
        return log_inverse_weights(n)
    if rule == "effective_num":
        return effective_number_weights(n)
    return power_weights(n, {"uniform": 0.0, "sqrt_inv": 0.5, "inv_freq": 1.0}[rule])
