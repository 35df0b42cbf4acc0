"""The per-class Tversky loss on partly annotated targets, as pure functions.

Shapes: N batch, C classes, *S any number of space axes. Targets hold 0, 1, or NaN where not annotated (m = 0).
Everything a faster implementation (one fused kernel, a custom autograd function) has to replace is `class_sums`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPSILON = 1e-6
"""Added to numerator and denominator of the Tversky index, in voxels."""


class ClassSums(NamedTuple):
    """Sums over batch and annotated space, each (C,), voxels: Σm·p, Σm·t, Σm·p·t and Σm."""

    predicted: Tensor
    positive: Tensor
    overlap: Tensor
    known: Tensor


def space_axes(x: Tensor) -> list[int]:
    """The axes of (N, C, *S) that are neither batch nor class."""
    return list(range(2, x.ndim))


def class_sums(logits: Tensor, target: Tensor, shift: Tensor) -> ClassSums:
    """Σmp, Σmt, Σmpt and Σm per class, p = σ(logits + shift), in the dtype of the logits, differentiable in them.

    logits: (N, C, *S). target: (N, C, *S), NaN = not annotated. shift: (C,), added to the logits.
    NaN leaves by `where` before and after the sigmoid: neither value nor gradient ever sees 0·NaN.
    """
    axes = space_axes(logits)
    known = ~torch.isnan(target)
    shifted = logits + shift.to(logits.dtype).view(1, -1, *(1 for _ in axes))
    p = torch.where(known, torch.sigmoid(torch.where(known, shifted, 0.0)), 0.0)
    t = torch.where(known, target, 0.0).to(logits.dtype)
    m = known.to(logits.dtype)
    return ClassSums(*(x.sum(dim=axes).sum(dim=0) for x in (p, t, p * t, m)))


def count_voxels(target: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and annotated voxels per class of a batch, each (C,) float64, exact below 2**24 voxels per sample.

    target: (N, C, *S), NaN = not annotated. Pure: compiles into the training step.
    """
    axes = space_axes(target)
    known = ~torch.isnan(target)
    positive = torch.where(known, target, 0.0).float().sum(dim=axes)
    return positive.double().sum(dim=0), known.float().sum(dim=axes).double().sum(dim=0)


def tversky_index(sums: ClassSums, fp_weight: Tensor, fn_weight: Tensor) -> Tensor:
    """Per-class Tversky index (TP + ε) / (TP + α·FP + β·FN + ε), shape (C,), in [0, 1].

    fp_weight (α), fn_weight (β): 0-d, ≥ 0, dimensionless. α = β = 0.5 is soft Dice; a class without annotated voxels
    has index 1. TP = Σmpt, FP = Σmp − TP, FN = Σmt − TP. Salehi et al. 2017, arXiv:1706.05721.
    """
    false_positive = sums.predicted - sums.overlap
    false_negative = sums.positive - sums.overlap
    denominator = sums.overlap + fp_weight * false_positive + fn_weight * false_negative + EPSILON
    return (sums.overlap + EPSILON) / denominator


def compensation(sums: ClassSums, gate: Tensor, exponent: Tensor) -> Tensor:
    """Per-class factor 1 + gate · (FP / (FP + FN))^exponent of the batch's soft counts, detached, (C,), in [1, 2].

    gate: 0-d, 0 (off) or 1. exponent (q): 0-d, ≥ 0; q = 0 doubles every class. 0/0 is 0.
    """
    false_positive = (sums.predicted - sums.overlap).detach().clamp_min(0.0)
    false_negative = (sums.positive - sums.overlap).detach().clamp_min(0.0)
    wrong = false_positive + false_negative
    share = torch.where(wrong > 0, false_positive / torch.where(wrong > 0, wrong, 1.0), 0.0)
    return 1.0 + gate * share.pow(exponent)


def mean_over_annotated(per_class: Tensor, known: Tensor) -> Tensor:
    """Mean of (C,) over the classes with known (C,) > 0, 0-d; 0 where there is none."""
    annotated = known > 0
    return torch.where(annotated, per_class, 0.0).sum() / annotated.sum().clamp_min(1)
