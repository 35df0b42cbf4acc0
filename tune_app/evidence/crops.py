"""The second level: validation crops. Would the same hold on other crops?

Replicates tell the noise of training. All of them are scored on the same few crops, so an interval over seeds says
nothing of other tissue. Here one crop at a time is left out (delete-one jackknife on the summed counts), and the
variance over crops is added to that over seeds.

Shapes: A arms, S seeds, K validation crops, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune_app.evidence.critical import combined_t, dof_of, t_critical
from tune_app.evidence.layout import Fit, fit_paired, fit_unpaired, nan_mean


@dataclass(frozen=True, kw_only=True)
class CropArm:
    """One arm with an interval over seeds *and* crops. difference: to the reference, NaN for the reference itself."""

    arm: str
    mean: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float


@dataclass(frozen=True, kw_only=True)
class CropLevel:
    """What the few validation crops add to the uncertainty.

    effective_crops: how many crops of equal size would weigh as much, 1/Σ share², mean over classes. share_of_variance:
    of the variance of a difference of two arms, the part that is due to crops (mean over pairs). single_crop_classes:
    classes that only one crop holds; crops cannot vary there, so the intervals are too narrow for them.
    holds_on_other_crops: whether the leader is told from every other arm though crops vary, at the same error.
    """

    num_crops: int
    effective_crops: float
    share_of_variance: float
    single_crop_classes: list[str]
    reference: str
    arms: list[CropArm]
    holds_on_other_crops: bool


def dice_scores(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """2TP/(2TP + FP + FN) of counts, any shape; NaN where there is no positive voxel, or no count."""
    total = 2 * tp + fp + fn
    known = (tp + fn > 0) & np.isfinite(total)
    return np.where(known, 2 * tp / np.where(known, total, 1), np.nan)


def leave_one_out(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice (…, C) on all crops, and (…, K, C) without each crop; counts (…, K, C), NaN = no run.

    A class that loses its last positive voxel with a crop keeps its value on all crops.
    """
    counts = [np.asarray(x, float) for x in (tp, fp, fn)]
    sums = [x.sum(axis=-2) for x in counts]
    full = dice_scores(*sums)
    without = dice_scores(*(s[..., None, :] - x for s, x in zip(sums, counts)))
    return full, np.where(np.isnan(without), full[..., None, :], without)


def difference_over_crops(a: np.ndarray, b: np.ndarray, *, error: float = 0.05) -> tuple[np.ndarray, np.ndarray]:
    """Dice of b minus that of a, and half the width of its interval over crops; (C + 1,), the mean of the classes last.

    a, b: TP, FP, FN (3, K, C) of two networks on the same crops. Variance by the jackknife, `effective_crops` − 1
    degrees of freedom. NaN half where fewer than two crops hold a class. It says nothing of the noise of training.
    """
    (whole_a, without_a), (whole_b, without_b) = leave_one_out(*a), leave_one_out(*b)
    difference = np.append(whole_b - whole_a, nan_mean(whole_b - whole_a, axis=-1))
    moved = without_b - without_a
    moved = np.concatenate([moved, nan_mean(moved, axis=-1)[:, None]], axis=1)  # (K, C + 1)
    truth = np.column_stack([a[0] + a[2], (a[0] + a[2]).sum(axis=1)])
    num_crops = len(truth)
    total = truth.sum(axis=0)
    shares = truth / np.where(total > 0, total, np.nan)
    effective = 1 / (shares**2).sum(axis=0)
    effective[-1] = nan_mean(effective[:-1], axis=0)
    variance = (num_crops - 1) / num_crops * ((moved - moved.mean(axis=0)) ** 2).sum(axis=0)
    several = (truth > 0).sum(axis=0) > 1
    half = t_critical(np.maximum(effective - 1, 0.1), error) * np.sqrt(variance)
    return difference, np.where(several, half, np.nan)


def crop_level(
    tp: np.ndarray,
    fp: np.ndarray,
    fn: np.ndarray,
    *,
    arms: Sequence[str],
    classes: Sequence[str],
    reference: int,
    leader: int,
    paired: bool,
    interval_error: float,
    error: float,
) -> CropLevel | None:
    """Intervals over seeds and crops from counts (A, S, K, C); None for fewer than two crops or without noise.

    Var = Var over seeds + (K − 1)/K Σ_k (θ̂_(k) − mean)², dof by Satterthwaite with S-side dof of the fit and
    `effective_crops` − 1. Noise that differs from crop to crop *and* seed to seed counts in both, so the intervals are
    a little wide: 95 to 98 % coverage measured with 4 to 20 crops.
    """
    of_classes, without_each = leave_one_out(tp, fp, fn)
    whole, without = nan_mean(of_classes, axis=-1), np.moveaxis(nan_mean(without_each, axis=-1), 2, 0)
    fitted = fit_paired if paired else fit_unpaired
    fit = fitted(whole)
    truth = np.nanmax(np.where(np.isnan(tp + fn), -1, tp + fn), axis=(0, 1))  # the same in every run, (K, C)
    sizes = truth / np.where(truth.sum(0) > 0, truth.sum(0), np.nan)
    effective = float(np.nanmean(1 / (sizes**2).sum(0))) if np.isfinite(sizes).any() else math.nan
    num_crops = int((truth.max(1) > 0).sum())
    if num_crops < 2 or not fit.measured:
        return None
    moved = fitted(without).means
    moved = moved - moved.mean(0)
    covariance = (num_crops - 1) / num_crops * np.einsum("ka,kb->ab", moved, moved)
    mean_dof = dof_of(combined_t(fit.mean_parts, fit.parts_dof, interval_error), interval_error)
    of_mean = _with_crops(fit.mean_variance, mean_dof, np.diag(covariance), effective, interval_error)
    between = np.diag(covariance)[:, None] + np.diag(covariance)[None, :] - 2 * covariance
    of_difference = _half_widths(fit, between, effective, interval_error)
    lead = fit.means[leader] - fit.means
    others = (np.arange(len(arms)) != leader) & (fit.counts > 0)
    ahead = lead > _half_widths(fit, between, effective, error)[leader]
    return CropLevel(
        num_crops=num_crops,
        effective_crops=effective,
        share_of_variance=_share(fit, between),
        single_crop_classes=[name for name, here in zip(classes, (truth > 0).sum(0)) if here == 1],
        reference=arms[reference],
        arms=[_crop_arm(a, name, fit.means, of_mean, of_difference, reference) for a, name in enumerate(arms)],
        holds_on_other_crops=bool(others.any() and ahead[others].all()),
    )


def _crop_arm(
    a: int, name: str, means: np.ndarray, of_mean: np.ndarray, of_difference: np.ndarray, reference: int
) -> CropArm:
    difference = float(means[a] - means[reference]) if a != reference else math.nan
    half = float(of_difference[reference, a])
    return CropArm(
        arm=name,
        mean=float(means[a]),
        low=float(means[a] - of_mean[a]),
        high=float(means[a] + of_mean[a]),
        difference=difference,
        difference_low=difference - half,
        difference_high=difference + half,
    )


def _half_widths(fit: Fit, between: np.ndarray, effective: float, error: float) -> np.ndarray:
    """Of the interval of every difference, (A, A); between: variance of the differences over crops."""
    return _with_crops(fit.variance * fit.unit, fit.dof, between, effective, error)


def _with_crops(seeds: np.ndarray, dof: np.ndarray, crops: np.ndarray, effective: float, error: float) -> np.ndarray:
    """t · √(variance over seeds + variance over crops), Satterthwaite's dof; same shape as `seeds`."""
    total = seeds + crops
    parts = seeds**2 / dof + crops**2 / max(effective - 1, 0.1)
    return t_critical(np.where(parts > 0, total**2 / np.where(parts > 0, parts, 1), dof), error) * np.sqrt(total)


def _share(fit: Fit, between: np.ndarray) -> float:
    """Mean share of crops in the variance of a difference, over all pairs of arms that have scores."""
    present = fit.counts > 0
    pairs = np.triu(present[:, None] & present[None, :], k=1)
    total = between + fit.variance * fit.unit
    return float((between[pairs] / total[pairs]).mean()) if pairs.any() else math.nan
