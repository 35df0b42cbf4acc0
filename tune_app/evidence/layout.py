"""The two-way model of a confirmation: score = arm + seed + noise, fitted by least squares.

    y[a, s] = μ_a + b_s + e[a, s],   e ~ N(0, σ²) independent

Every seed is a block: all arms of a round use the same seed, so a difference of two arms is free of b_s. Cells may be
missing (NaN): seeds in which an arm was not run, or failed.

Shapes: A arms, S seeds, … any leading axes (repetitions of a simulation; none in a real confirmation).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_TINY_SD = 1e-9
"""Below this, scores do not differ at all between seeds: no noise was measured."""


@dataclass(frozen=True)
class Fit:
    """What the model says of the arms.

    means (…, A): least-squares means over the seeds that were used. unit (…, A, A): Var(μ̂_a − μ̂_b)/σ². variance (…):
    σ̂², the pooled residual variance, with `dof` (…) degrees of freedom; NaN where dof is 0. mean_parts (…, A, 2): the
    variance of a mean as an estimate for *new* seeds, in what comes from σ̂² and what from the mean square between
    seeds, with parts_dof (…, A, 2) degrees of freedom; unpaired the first alone, (…, A, 1). seed_variance (…): estimate
    of Var(b), 0 at least. counts (…, A): scores per arm. connected (…): whether every difference could be estimated
    within seeds.
    """

    means: np.ndarray
    unit: np.ndarray
    variance: np.ndarray
    dof: np.ndarray
    mean_parts: np.ndarray
    parts_dof: np.ndarray
    seed_variance: np.ndarray
    counts: np.ndarray
    connected: np.ndarray

    @property
    def mean_variance(self) -> np.ndarray:
        """Of a mean as an estimate for new seeds, (…, A)."""
        return self.mean_parts.sum(-1)

    @property
    def measured(self) -> np.ndarray:
        """Whether there is an estimate of the noise at all, (…)."""
        return (self.dof > 0) & (self.variance > _TINY_SD**2)

    def standard_error(self, reference: np.ndarray) -> np.ndarray:
        """Of μ̂_reference − μ̂_a, (…, A); reference: (…) int. 0 at the reference itself."""
        row = np.take_along_axis(self.unit, reference[..., None, None], axis=-2)[..., 0, :]
        return np.sqrt(self.variance[..., None] * row)

    def lead(self, reference: np.ndarray) -> np.ndarray:
        """(μ̂_reference − μ̂_a) in standard errors, (…, A); NaN at the reference and where no noise was measured."""
        difference = np.take_along_axis(self.means, reference[..., None], axis=-1) - self.means
        error = self.standard_error(reference)
        usable = (error > 0) & self.measured[..., None]
        return np.where(usable, difference / np.where(usable, error, 1), np.nan)


def fit_paired(scores: np.ndarray) -> Fit:
    """Fit (…, A, S), NaN where missing.

    Seeds are eliminated first: C α = Q with C = diag(n_a) − N diag(1/n_s) Nᵀ, N the 0/1 table of what is known
    (Searle 1971, Linear Models, ch. 7). Var(α̂) = σ² C⁺; σ̂² = residual sum of squares / (runs − seeds − arms + 1).
    An arm without any score has mean NaN. Where no chain of shared seeds links all other arms, `connected` is false,
    the means are plain means, and all variances NaN.
    """
    known = np.isfinite(scores)
    table, values = known.astype(float), np.where(known, scores, 0.0)
    arm_counts, seed_counts = table.sum(-1), table.sum(-2)
    linked = _is_connected(table)
    per_seed = _reciprocal(seed_counts)
    seed_means = values.sum(-2) * per_seed
    information = _diagonal(arm_counts) - (table * per_seed[..., None, :]) @ table.swapaxes(-1, -2)
    inverse = _pseudo_inverse(information, arm_counts > 0, linked)
    effects = (inverse @ (values.sum(-1) - (table @ seed_means[..., None])[..., 0])[..., None])[..., 0]
    blocks = seed_means - (effects[..., None, :] @ table)[..., 0, :] * per_seed
    residuals = np.where(known, values - effects[..., None] - blocks[..., None, :], 0.0)
    seeds = np.maximum((seed_counts > 0).sum(-1), 1)
    runs, arms = arm_counts.sum(-1), (arm_counts > 0).sum(-1)
    residual_ss = (residuals**2).sum((-1, -2))
    dof = np.where(linked, runs - seeds - arms + 1, 0.0)
    variance = _divide(residual_ss, dof)
    seed_square = np.where(linked, _divide(_within_arms_ss(values, known) - residual_ss, seeds - 1), np.nan)
    seed_weight = _divide(runs - arms, seeds - 1)
    unit_mean = _unit_mean_variance(inverse, table, per_seed, seeds)
    mean_parts = _mean_parts(unit_mean, variance, seed_square, seeds, seed_weight)
    means = np.where(linked[..., None], effects + (blocks.sum(-1) / seeds)[..., None], _plain_means(values, arm_counts))
    return Fit(
        means=np.where(arm_counts > 0, means, np.nan),
        unit=_of_differences(inverse),
        variance=variance,
        dof=dof,
        mean_parts=mean_parts,
        parts_dof=np.broadcast_to(np.stack([dof, seeds - 1.0], axis=-1)[..., None, :], mean_parts.shape),
        seed_variance=np.clip(_divide(seed_square - np.nan_to_num(variance), seed_weight), 0, None),
        counts=arm_counts,
        connected=linked,
    )


def fit_unpaired(scores: np.ndarray) -> Fit:
    """Fit (…, A, S) without a seed effect: every score is a run of its own, its position means nothing."""
    known = np.isfinite(scores)
    counts = known.sum(-1).astype(float)
    values = np.where(known, scores, 0.0)
    dof = counts.sum(-1) - (counts > 0).sum(-1)
    variance = _divide(_within_arms_ss(values, known), dof)
    return Fit(
        means=np.where(counts > 0, _plain_means(values, counts), np.nan),
        unit=_of_differences(_diagonal(_reciprocal(counts))),
        variance=variance,
        dof=dof,
        mean_parts=(variance[..., None] * _reciprocal(counts))[..., None],
        parts_dof=np.broadcast_to(dof[..., None, None], (*counts.shape, 1)).astype(float),
        seed_variance=np.zeros_like(variance),
        counts=counts,
        connected=np.ones_like(variance, bool),
    )


def _mean_parts(
    unit_mean: np.ndarray, variance: np.ndarray, seed_square: np.ndarray, seeds: np.ndarray, seed_weight: np.ndarray
) -> np.ndarray:
    """Variance of the means for new seeds, σ² · unit_mean + Var(b)/S, from two mean squares, (…, A, 2).

    E[seed_square] = σ² + seed_weight · Var(b), so the sum is a combination of both with positive weights and needs no
    truncation of a negative Var(b).
    """
    share = _divide(1.0, seed_weight * seeds)[..., None]
    weight = unit_mean - share
    # Exactly zero for a single arm, whose seeds are all the noise there is: σ̂² is NaN then.
    noise = np.where(np.abs(weight) < 1e-12, 0.0, weight * variance[..., None])
    between = share * seed_square[..., None]
    return np.stack(np.broadcast_arrays(noise, between), axis=-1)


def _unit_mean_variance(inverse: np.ndarray, table: np.ndarray, per_seed: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Var(μ̂_a | seeds)/σ², (…, A): μ̂_a = (e_a − w)·α̂ + mean over seeds of their means, w the arms' mean share."""
    share = (table @ per_seed[..., None])[..., 0] / seeds[..., None]
    weights = np.eye(table.shape[-2]) - share[..., None, :]
    return ((weights @ inverse) * weights).sum(-1) + (per_seed.sum(-1) / seeds**2)[..., None]


def _pseudo_inverse(information: np.ndarray, present: np.ndarray, linked: np.ndarray) -> np.ndarray:
    """Of the arms' (…, A, A) information, whose null space is the constant over the arms that are present (…, A)."""
    constant = present[..., :, None] * present[..., None, :] / np.maximum(present.sum(-1), 1)[..., None, None]
    absent = _diagonal((~present).astype(float))
    regular = np.where(linked[..., None, None], information + constant + absent, np.eye(present.shape[-1]))
    return np.linalg.inv(regular) - constant - absent


def _is_connected(table: np.ndarray) -> np.ndarray:
    """Whether shared seeds link all arms that have a score, (…); table: (…, A, S) of 0 and 1."""
    reach = (table @ table.swapaxes(-1, -2)) > 0
    for _ in range(max(1, table.shape[-2].bit_length())):
        reach = (reach.astype(float) @ reach) > 0
    present = table.sum(-1) > 0
    return (reach | ~(present[..., :, None] & present[..., None, :])).all((-1, -2))


def _of_differences(covariance: np.ndarray) -> np.ndarray:
    """Var(a − b) = c_aa + c_bb − 2 c_ab, (…, A, A) → (…, A, A)."""
    diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
    return np.clip(diagonal[..., :, None] + diagonal[..., None, :] - 2 * covariance, 0, None)


def nan_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of what is not NaN along an axis; NaN where nothing is."""
    known = np.isfinite(values)
    return _divide(np.where(known, values, 0.0).sum(axis), known.sum(axis))


def _plain_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean score of each arm, (…, A); 0 for an arm without any."""
    return values.sum(-1) * _reciprocal(counts)


def _within_arms_ss(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Σ (y − mean of its arm)², (…)."""
    centred = values - _plain_means(values, known.sum(-1))[..., None]
    return (np.where(known, centred, 0.0) ** 2).sum((-1, -2))


def _reciprocal(counts: np.ndarray) -> np.ndarray:
    """1/n, 0 where n is 0."""
    return np.divide(1.0, counts, out=np.zeros(np.shape(counts)), where=counts > 0)


def _diagonal(values: np.ndarray) -> np.ndarray:
    return values[..., :, None] * np.eye(values.shape[-1])


def _divide(numerator: np.ndarray | float, denominator: np.ndarray | float) -> np.ndarray:
    """NaN where the denominator is not positive."""
    denominator = np.asarray(denominator, dtype=float)
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), np.nan)
