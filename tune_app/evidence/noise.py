"""Is one noise for all arms a fair assumption, what can be said without it, and noise borrowed from earlier runs.

Shapes: A arms, S seeds, … any leading axes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from tune_app.evidence.critical import t_probability
from tune_app.evidence.layout import Fit, fit_paired, fit_unpaired, nan_mean

OWN_ERROR, AUTO_OWN_ERROR = 0.05, 0.025
"""A winner that its own runs and its rival's alone do not show at this error gets a caution. Smaller where the runs
were chosen by their results, with several looks: so that 5 % of two-way ties at most are parted without a caution,
whatever the noise of the two."""
NOISIER, QUIETER = 0.1, 0.01
"""Levels of the two one-sided F-tests that refuse earlier noise: where these runs are noisier, and where they are less
so. The first refuses easily, since borrowing too small a noise names false winners; the second hardly ever, since runs
that only look quiet would then be judged by their own noise alone, which names false winners, too."""
_DRAWS = 2_000


@dataclass(frozen=True, kw_only=True)
class EarlierNoise:
    """The noise between runs of one arm in earlier confirmations, seeds' own effect taken out."""

    sd: float
    dof: float
    where: tuple[str, ...]
    """Their names."""


def pooled(fit: Fit, variance: np.ndarray | float, dof: np.ndarray | float) -> tuple[Fit, np.ndarray]:
    """The fit with its noise pooled with an earlier one, and where that was accepted, (…); elsewhere it is unchanged.

    (ν σ̂² + ν₀ s₀²)/(ν + ν₀) with ν + ν₀ degrees of freedom, unless an F-test of σ̂²/s₀² objects (`NOISIER`, `QUIETER`).
    """
    low, high = special.fdtri(fit.dof, dof, QUIETER), special.fdtri(fit.dof, dof, 1 - NOISIER)
    accepted = fit.measured & (low * variance <= fit.variance) & (fit.variance <= high * variance)
    together = np.where(accepted, (fit.dof * fit.variance + dof * variance) / (fit.dof + dof), fit.variance)
    degrees = np.where(accepted, fit.dof + dof, fit.dof)
    parts, parts_dof = fit.mean_parts.copy(), np.array(fit.parts_dof, float)
    parts[..., 0] *= np.where(accepted, together / np.where(accepted, fit.variance, 1), 1)[..., None]
    parts_dof[..., 0] = np.where(accepted[..., None], degrees[..., None], parts_dof[..., 0])
    return replace(fit, variance=together, dof=degrees, mean_parts=parts, parts_dof=parts_dof), accepted


def own_deviations(scores: np.ndarray) -> np.ndarray:
    """Standard deviation of each arm's own scores (A, S), seeds included; (A,), NaN for fewer than two."""
    known = np.isfinite(scores)
    counts = known.sum(-1)
    centred = np.where(known, scores - nan_mean(scores, axis=-1)[:, None], 0.0)
    return np.sqrt((centred**2).sum(-1) / np.where(counts > 1, counts - 1, np.nan))


def noisiest(scores: np.ndarray, *, paired: bool) -> tuple[int, float, float]:
    """The arm with the most noise, how many times the sd of the others it has, and the p value; NaN if unknown.

    The statistic is the largest share of the residual sum of squares that falls on one arm (Cochran's C); its p value
    is the share of 2 000 draws of equal normal noise, with the same cells missing, that exceed it.
    """
    known = np.isfinite(scores)
    squares = _residual_squares(scores, paired=paired)
    if scores.shape[0] < 3 or not squares.sum() > 0:
        return 0, math.nan, math.nan
    drawn = np.random.default_rng(0).standard_normal((_DRAWS, *scores.shape))
    expected = _residual_squares(np.where(known, drawn, np.nan), paired=paired)
    weight = expected.mean(0)  # what falls on an arm by its number of runs alone
    if not (weight > 0).all():
        return 0, math.nan, math.nan
    share, shares = squares / weight, expected / weight
    arm = int(share.argmax())
    others = np.delete(squares, arm).sum() / np.delete(weight, arm).sum()
    p = float((shares.max(-1) / expected.sum(-1) >= share.max() / squares.sum()).mean())
    return arm, math.sqrt(share[arm] / others) if others > 0 else math.inf, p


def own_pair_probability(scores: np.ndarray, first: int, second: int, *, paired: bool) -> float:
    """Two-sided p value of first − second from these two arms alone, whatever noise the others have; NaN if unknown.

    Paired: Student's t of the differences over the seeds that both have. Unpaired: Welch's t.
    """
    a, b = scores[first], scores[second]
    if paired:
        differences = (a - b)[np.isfinite(a - b)]
        n = len(differences)
        if n < 2 or differences.std() == 0:
            return math.nan
        return float(t_probability(differences.mean() / (differences.std(ddof=1) / math.sqrt(n)), n - 1))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    if min(len(a), len(b)) < 2 or a.std() + b.std() == 0:
        return math.nan
    parts = np.array([a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)])
    dof = parts.sum() ** 2 / (parts**2 / (np.array([len(a), len(b)]) - 1)).sum()
    return float(t_probability((a.mean() - b.mean()) / math.sqrt(parts.sum()), dof))


def _residual_squares(scores: np.ndarray, *, paired: bool) -> np.ndarray:
    """Residual sum of squares that falls on each arm, (…, A, S) → (…, A)."""
    fit = (fit_paired if paired else fit_unpaired)(scores)
    known = np.isfinite(scores)
    left = scores - fit.means[..., None]
    if paired:
        seeds = known.sum(-2)
        left = left - (np.where(known, left, 0.0).sum(-2) / np.where(seeds > 0, seeds, 1))[..., None, :]
    return (np.where(known, left, 0.0) ** 2).sum(-1)
