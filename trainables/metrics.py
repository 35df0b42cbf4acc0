"""Validation counts per crop and class, and the scores that follow from them.

Shapes: N batch, C classes, *S any number of space axes, K validation crops, B logit bins.
A voxel is predicted positive where its logit is > 0, i.e. σ(z) > ½. Unknown voxels (target NaN) count nowhere.
Scores are float64 tensors; they take tensors or numpy arrays, with any leading axes.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

_UPPER_EDGES = np.concatenate(
    [
        np.arange(0, 1 / 4, 1 / 128),
        np.arange(1 / 4, 2, 1 / 64),
        np.arange(2, 4, 1 / 16),
        np.arange(4, 16, 1 / 4),
        np.arange(16, 65),
    ]
)
LOGIT_EDGES = np.concatenate([-_UPPER_EDGES[:0:-1], _UPPER_EDGES])
"""(B + 1,) bin edges −64 … 0 … 64, exact in float32. Bin i is (edge i, edge i + 1]; the outer two take what is beyond.

Finer towards 0, so that the best Dice at an edge is that at any threshold whether logits spread over .05 or over 10.
"""
NUM_BINS = len(LOGIT_EDGES) - 1
CELLS_PER_LOGIT = 128
"""Every edge is a multiple of 1/128, and z · 128 is exact in floating point: no voxel crosses an edge by rounding."""
LAST_CELL = int(LOGIT_EDGES[-1]) * CELLS_PER_LOGIT

AT_ONCE = 1 << 20
"""Logits whose bins are counted at once."""


@cache
def _bin_of_cell(device: torch.device) -> Tensor:
    """Bin of each cell ((k − 1)/128, k/128] from the lowest bin's last to the highest bin's, int32."""
    upper = np.arange(1 - LAST_CELL, LAST_CELL + 1) / CELLS_PER_LOGIT
    return torch.from_numpy(np.searchsorted(LOGIT_EDGES, upper) - 1).to(device, torch.int32)


def logit_bin(logits: Tensor) -> Tensor:
    """The bin of each logit, int32, same shape: bins closed on the right, 0 in the lower bin, NaN in the lowest."""
    finite = torch.nan_to_num(logits.float(), nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    cell = torch.ceil(finite * CELLS_PER_LOGIT).clamp_(1 - LAST_CELL, LAST_CELL).add_(LAST_CELL - 1)
    return _bin_of_cell(logits.device).index_select(0, cell.to(torch.int32).flatten()).view(logits.shape)


def histogram(logits: Tensor, target: Tensor) -> Tensor:
    """Voxels per sample, class, side and bin: (N, C, 2, B) int64; side 0 negative, 1 positive. No sync.

    logits, target: (N, C, *S); target 0, 1, NaN = unknown. What it needs for a while are some 30 bytes for each of
    AT_ONCE logits, or for those of one sample and class where they are more: scatter_add_ takes 8-byte indices only.
    """
    (batch, classes), voxels = logits.shape[:2], math.prod(logits.shape[2:])
    samples, planes = max(1, AT_ONCE // (classes * voxels)), max(1, AT_ONCE // voxels)
    counts = torch.zeros(batch, classes, 2 * NUM_BINS + 1, dtype=torch.int64, device=logits.device)
    one = torch.ones((), dtype=torch.int64, device=logits.device)
    for n, c in itertools.product(range(0, batch, samples), range(0, classes, planes)):
        part = slice(n, n + samples), slice(c, c + planes)
        slot = logit_bin(logits[part]).add_(target[part] > 0.5, alpha=NUM_BINS)
        slot = slot.masked_fill_(torch.isnan(target[part]), 2 * NUM_BINS).flatten(2).long()
        counts[part].scatter_add_(2, slot, one.expand_as(slot))
    return counts[..., :-1].unflatten(2, (2, NUM_BINS))


@dataclass
class ValidationCounts:
    """Logit histograms of a validation pass, and every count that follows from them.

    bins: (K, C, 2, B) int64 on the device of the logits; side 0 negative, 1 positive voxels.
    """

    bins: Tensor

    @classmethod
    def zeros(cls, num_crops: int, num_classes: int, device: torch.device | str = "cpu") -> ValidationCounts:
        return cls(torch.zeros(num_crops, num_classes, 2, NUM_BINS, dtype=torch.int64, device=device))

    @torch.no_grad()
    def accumulate_(self, logits: Tensor, target: Tensor, crop: Tensor) -> None:
        """Add a batch in place, without sync.

        logits (any inference shift already added), target: (N, C, *S). crop: (N,) int64 in [0, K), same device.
        """
        self.bins.index_add_(0, crop, histogram(logits, target))

    @property
    def negative(self) -> Tensor:
        """Histograms of the negative voxels, (K, C, B)."""
        return self.bins[:, :, 0]

    @property
    def positive(self) -> Tensor:
        """Histograms of the positive voxels, (K, C, B)."""
        return self.bins[:, :, 1]

    @property
    def tp(self) -> Tensor:
        """True positives at logit 0, (K, C)."""
        return self.positive[..., NUM_BINS // 2 :].sum(-1)

    @property
    def fp(self) -> Tensor:
        """False positives at logit 0, (K, C)."""
        return self.negative[..., NUM_BINS // 2 :].sum(-1)

    @property
    def fn(self) -> Tensor:
        """False negatives at logit 0, (K, C)."""
        return self.positive[..., : NUM_BINS // 2].sum(-1)

    @property
    def known(self) -> Tensor:
        """Annotated voxels, (K, C)."""
        return self.bins.sum((2, 3))

    def numpy(self) -> dict[str, np.ndarray]:
        """tp, fp, fn, known (K, C) and hist_positive, hist_negative (K, C, B), int64, in one transfer."""
        host = ValidationCounts(self.bins.cpu())
        arrays = {name: getattr(host, name) for name in ("tp", "fp", "fn", "known")}
        arrays |= {"hist_positive": host.positive, "hist_negative": host.negative}
        return {name: value.contiguous().numpy() for name, value in arrays.items()}


def accumulate(logits: Tensor, target: Tensor, crop: Tensor, num_crops: int) -> ValidationCounts:
    """The counts of one batch: logits, target (N, C, *S), target NaN = unknown; crop (N,) int64. No sync."""
    counts = ValidationCounts.zeros(num_crops, logits.shape[1], logits.device)
    counts.accumulate_(logits, target, crop)
    return counts


def ratio(numerator: Any, denominator: Any, defined: Any) -> Tensor:
    """numerator/denominator in float64, 0 for 0/0, NaN where not `defined`; all of one shape."""
    top, bottom = (torch.as_tensor(x).to(torch.float64) for x in (numerator, denominator))
    value = torch.where(bottom > 0, top / torch.where(bottom > 0, bottom, 1.0), 0.0)
    return torch.where(torch.as_tensor(defined), value, torch.nan)


def dice(tp: Any, fp: Any, fn: Any) -> Tensor:
    """2TP/(2TP + FP + FN), in [0, 1]; NaN for a class with no positive voxel (TP + FN = 0): it has no Dice."""
    return ratio(2 * tp, 2 * tp + fp + fn, tp + fn > 0)


def iou(tp: Any, fp: Any, fn: Any) -> Tensor:
    """TP/(TP + FP + FN), in [0, 1]; NaN for a class with no positive voxel."""
    return ratio(tp, tp + fp + fn, tp + fn > 0)


def precision(tp: Any, fp: Any, fn: Any) -> Tensor:
    """TP/(TP + FP), in [0, 1]; 0 where nothing is predicted, NaN for a class with no positive voxel."""
    return ratio(tp, tp + fp, tp + fn > 0)


def recall(tp: Any, fp: Any, fn: Any) -> Tensor:
    """TP/(TP + FN), in [0, 1]; NaN for a class with no positive voxel."""
    return ratio(tp, tp + fn, tp + fn > 0)


def fg_pred(tp: Any, fp: Any, known: Any) -> Tensor:
    """Predicted foreground share of the annotated voxels, in [0, 1]; NaN where none is annotated."""
    return ratio(tp + fp, known, known > 0)


def fg_true(tp: Any, fn: Any, known: Any) -> Tensor:
    """True foreground share of the annotated voxels, in [0, 1]; NaN where none is annotated."""
    return ratio(tp + fn, known, known > 0)


def mean_over_known(scores: Tensor) -> Tensor:
    """Mean of (C,) over the classes that have a score, 0-d; NaN where none has."""
    return torch.nanmean(torch.as_tensor(scores))


def widened(mask: Tensor, radius: float) -> Tensor:
    """Voxels whose centre is at most `radius` voxels from one of `mask`: bool (N, C, *S), as it is. Exact."""
    sides, reach = mask.shape[2:], int(radius)
    padded, wide = torch.nn.functional.pad(mask, (reach, reach) * len(sides)), torch.zeros_like(mask)
    for steps in itertools.product(range(-reach, reach + 1), repeat=len(sides)):
        if sum(step * step for step in steps) <= radius * radius:
            at: tuple[Any, ...] = tuple(slice(reach + step, reach + step + n) for step, n in zip(steps, sides))
            wide |= padded[(..., *at)]
    return wide


def surface_voxels(mask: Tensor, known: Tensor) -> Tensor:
    """Voxels of `mask` that share a face with a known voxel outside of it: bool (N, C, *S), as both are.

    Where a patch or the annotation ends there is no surface: what lies beyond may belong to the mask, too.
    """
    outside, beside = known & ~mask, torch.zeros_like(mask)
    for axis in range(2, mask.dim()):
        length = mask.shape[axis] - 1
        beside.narrow(axis, 1, length).logical_or_(outside.narrow(axis, 0, length))
        beside.narrow(axis, 0, length).logical_or_(outside.narrow(axis, 1, length))
    return mask & beside


def surface_counts(logits: Tensor, target: Tensor, tolerance: float) -> Tensor:
    """Surface voxels of each sample, int64 (N, C, 4): predicted, those of them near the true surface, true, those of
    them near the predicted surface. Near is at most `tolerance` voxels away, centre to centre. No sync.

    logits, target: (N, C, *S); target 0, 1, NaN = unknown.
    """
    known = ~torch.isnan(target)
    predicted, true = (surface_voxels((values > cut) & known, known) for values, cut in ((logits, 0.0), (target, 0.5)))
    found = (predicted, predicted & widened(true, tolerance), true, true & widened(predicted, tolerance))
    return torch.stack([each.flatten(2).sum(2) for each in found], dim=-1)


def surface_dice(counts: Any) -> Tensor:
    """Share of both surfaces that is near the other one, in [0, 1], of counts (…, 4); NaN without a true surface.

    Nikolov et al. 2018, arXiv:1809.04430, counted in voxels and not in area.
    """
    predicted, near_true, true, near_predicted = torch.as_tensor(counts).unbind(-1)
    return ratio(near_true + near_predicted, predicted + true, true > 0)
