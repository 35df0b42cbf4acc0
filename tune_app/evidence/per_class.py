"""Every class on its own: means with intervals, and differences with Holm's correction over all of them.

Shapes: A arms, S seeds, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune_app.evidence.critical import range_probability, t_probability
from tune_app.evidence.intervals import difference_interval, mean_interval
from tune_app.evidence.layout import fit_paired, fit_unpaired


@dataclass(frozen=True, kw_only=True)
class ClassMean:
    """Mean Dice of one arm on one class over new seeds, with its interval."""

    arm: str
    class_name: str
    mean: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class ClassDifference:
    """arm − reference on one class. low, high: of this difference alone. p_holm: p corrected over all arms and classes.

    `distinct` says whether p_holm is below the error: only that may be called a difference.
    """

    arm: str
    reference: str
    class_name: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    distinct: bool


def compare_classes(
    scores: np.ndarray,
    arms: Sequence[str],
    classes: Sequence[str],
    reference: int,
    *,
    chosen_before: bool,
    paired: bool,
    error: float,
) -> tuple[list[ClassMean], list[ClassDifference]]:
    """Fit every class of (A, S, C) alone and compare each arm with `reference`.

    chosen_before: the reference was fixed before the runs (the baseline), so Student's t holds for each difference.
    Else it is the leader, chosen by the same scores: p values are then Tukey's, which hold for any pair.
    Holm 1979 (Scand. J. Statist. 6:65) over all (A − 1) · C differences together.
    """
    means: list[ClassMean] = []
    rows: list[dict[str, float | str]] = []
    for c, name in enumerate(classes):
        fit = (fit_paired if paired else fit_unpaired)(scores[:, :, c])
        ends = zip(fit.means, *mean_interval(fit, error))
        means += [
            ClassMean(arm=arm, class_name=name, mean=float(m), low=float(lo), high=float(hi))
            for arm, (m, lo, hi) in zip(arms, ends)
        ]
        low, high = difference_interval(fit, np.asarray(reference), error)
        t = fit.lead(np.asarray(reference))
        k = int((fit.counts > 0).sum())
        p = t_probability(t, fit.dof) if chosen_before else [range_probability(float(x), k, float(fit.dof)) for x in t]
        rows += [
            {
                "arm": arm,
                "class_name": name,
                "difference": float(fit.means[a] - fit.means[reference]),
                "low": float(low[a]),
                "high": float(high[a]),
                "p": float(p[a]),
            }
            for a, arm in enumerate(arms)
            if a != reference
        ]
    corrected = holm(np.array([row["p"] for row in rows], float))
    return means, [
        ClassDifference(**row, reference=arms[reference], p_holm=float(q), distinct=bool(q <= error))  # type: ignore[arg-type]
        for row, q in zip(rows, corrected)
    ]


def holm(p: np.ndarray) -> np.ndarray:
    """Holm's step-down adjusted p values, same order; NaN stays NaN and does not count."""
    adjusted = np.full(len(p), math.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * factors))
    return adjusted
