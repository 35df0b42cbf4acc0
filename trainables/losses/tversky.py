"""The per-class Tversky loss and the cross-entropy beside it on partly annotated targets, as pure functions.

Shapes: N batch, C classes, *S any number of space axes, V voxels of a plane (one class of one sample).
Targets hold 0, 1, or NaN where not annotated (m = 0). Only `plane_sums` ever touches something of full size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

EPSILON = 1e-6
"""Added to numerator and denominator of the Tversky index, in voxels."""


class ClassSums(NamedTuple):
    """Sums over annotated space, voxels: Σm·p, Σm·t, Σm·p·t and Σm; each (N, C), or (C,) over the batch too.

    cross_entropy: Σm·(−t·ln p − (1−t)·ln(1−p)), nats, where it was asked for.
    """

    predicted: Tensor
    positive: Tensor
    overlap: Tensor
    known: Tensor
    cross_entropy: Tensor | None = None


def planes(x: Tensor) -> Tensor:
    """(N, C, *S) as rows (N·C, V), voxels next to each other; a copy where x lies otherwise (channels_last)."""
    rows, voxels = x.shape[0] * x.shape[1], x.shape[2:].numel()
    if x.is_contiguous():
        return x.view(rows, voxels)
    # as_strided, because Inductor folds a plain view of a copy into its readers: strided loads, ten times slower.
    return x.contiguous().as_strided((rows, voxels), (voxels, 1))


class PlaneSums(torch.autograd.Function):
    """The `ClassSums` of every plane, in one reading of logits and target; the gradient in a second.

    With g, h and b the gradients that arrive for Σm·p, Σm·p·t and the cross-entropy:
    ∂/∂z = m · ((g + h·t) · p · (1 − p) + b · (p − t)). So nothing of full size is kept but logits and target
    themselves, where automatic differentiation would keep p and masks.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, shift: Tensor, cross_entropy: bool) -> tuple[Tensor, ...]:
        """logits, target: (N, C, *S); shift: (C,). Four (N, C), or five with the cross-entropy, in the dtype of the
        logits."""
        z, t = planes(logits), planes(target).to(logits.dtype)
        row_shift = shift.to(logits.dtype).expand(logits.shape[:2]).reshape(-1, 1)
        ctx.save_for_backward(z, t, row_shift)
        ctx.shape = logits.shape
        known = t == t  # false for NaN; isnan does not vectorise on the CPU
        p = torch.where(known, torch.sigmoid(z + row_shift), 0.0)
        positive = torch.where(known, t, 0.0)
        summed = [p, positive, p * positive, known.to(z.dtype)]
        if cross_entropy:
            summed.append(torch.where(known, softplus(z + row_shift) - positive * (z + row_shift), 0.0))
        sums = tuple(x.sum(dim=1).view(logits.shape[:2]) for x in summed)
        ctx.mark_non_differentiable(sums[1], sums[3])
        return sums

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        z, t, row_shift = ctx.saved_tensors
        # as_strided makes Inductor compute these per row instead of per voxel
        g, h, *b = (x.contiguous().as_strided((z.shape[0], 1), (1, 1)) for x in (*gradients[0:3:2], *gradients[4:]))
        p = torch.sigmoid(z + row_shift)
        slope = (g + h * t) * p * (1.0 - p)
        if b:
            slope = slope + b[0] * (p - t)
        # t != t and not the mask of the forward pass, which would then be kept in memory
        return torch.where(t != t, 0.0, slope).view(ctx.shape), None, None, None


def plane_sums(logits: Tensor, target: Tensor, shift: Tensor, *, cross_entropy: bool = False) -> ClassSums:
    """Σmp, Σmt, Σmpt and Σm per sample and class, p = σ(logits + shift), (N, C), differentiable in the logits.

    logits: (N, C, *S), float32 or float64, also the dtype of the sums. target: (N, C, *S), NaN = not annotated.
    shift: (C,), added to the logits. cross_entropy: whether to sum that, too. Σmt and Σm are exact below 2**24 voxels
    per sample. NaN leaves by `where`: neither value nor gradient ever sees 0·NaN, whatever the logits are where nothing
    is annotated.
    """
    return ClassSums(*PlaneSums.apply(logits, target, shift, cross_entropy))


def over_batch(sums: ClassSums) -> ClassSums:
    """(N, C) to (C,)."""
    return ClassSums(*(x.sum(dim=0) for x in sums if x is not None))


def voxel_counts(sums: ClassSums) -> tuple[Tensor, Tensor]:
    """Positive and annotated voxels per class from `plane_sums`, each (C,) float64, detached; exact like those."""
    return sums.positive.double().sum(dim=0), sums.known.double().sum(dim=0)


def count_voxels(target: Tensor) -> tuple[Tensor, Tensor]:
    """Positive and annotated voxels per class of a batch, each (C,) float64, exact below 2**24 voxels per sample.

    target: (N, C, *S), NaN = not annotated. Pure; equal to `voxel_counts`, which comes for free beside the loss.
    """
    t = planes(target).float()
    known = t == t
    columns = (torch.where(known, t, 0.0), known.float())
    positive, annotated = (x.sum(dim=1).view(target.shape[:2]).double().sum(dim=0) for x in columns)
    return positive, annotated


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
