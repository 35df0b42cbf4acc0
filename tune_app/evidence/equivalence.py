"""Which arms cannot be told from the best, and whether one of them may be named the winner.

Two rules share one error probability, the probability of parting arms that truly tie for the best:

1. The leader wins where it lies more than c = t(1 − error/2) standard errors of the difference above *every* other
   arm. For any number of arms this names a wrong or a tied arm with probability ≤ error (Gutmann & Maymin 1987, Annals
   of Statistics 15:456; Hung & Fithian 2019, arXiv:1610.03944). It is exact where two arms tie and the rest are far
   below, which is why no smaller threshold can do: one calibrated on arms that are *all* equal fails there.
2. Else the worst arm leaves the set as long as it lies more than `drop_critical(k)` below the leader, k the arms still
   in the set (step-down, as a model confidence set: Hansen, Lunde & Nason 2011, Econometrica 79:453).

So the set holds *all* truly best arms with probability ≥ 1 − error, and has one member exactly where a winner is named.

Shapes: A arms, … any leading axes.
"""

from __future__ import annotations

import numpy as np

from tune_app.evidence.critical import drop_critical, for_sizes, t_critical
from tune_app.evidence.layout import Fit

ERROR = 0.043
"""Probability of parting two arms that tie for the best. Below 0.05, so that 95 % still holds with mild departures from
the model; above 0.040, where five arms × five seeds no longer find an arm that is better by 0.03 in 80 %."""


def leader(fit: Fit, candidates: np.ndarray) -> np.ndarray:
    """Index of the candidate with the highest mean, (…); candidates: (…, A) bool."""
    return np.where(candidates, fit.means, -np.inf).argmax(-1)


def remaining(fit: Fit, candidates: np.ndarray, error: float = ERROR, *, drop_error: float | None = None) -> np.ndarray:
    """The candidates (…, A) that cannot be told from the best at this `error`; at least the leader.

    drop_error: what the second rule alone may use, where that is less than `error`.
    Where no noise was measured (`fit.measured` is false) all of them remain. A leader with a single score never wins.
    """
    candidates = candidates & (fit.counts > 0)
    best = leader(fit, candidates)
    lead = np.where(candidates, fit.lead(best), np.nan)
    is_best = np.arange(candidates.shape[-1]) == best[..., None]
    runner_up = np.where(candidates & ~is_best, lead, np.inf).min(-1)
    repeated = np.take_along_axis(fit.counts, best[..., None], axis=-1)[..., 0] >= 2
    wins = fit.measured & repeated & (runner_up > t_critical(fit.dof, error))
    drop_error = error if drop_error is None else drop_error
    kept = _drop_the_worst(lead, candidates & fit.measured[..., None], fit.dof, drop_error) | (candidates & is_best)
    kept = np.where(fit.measured[..., None], kept, candidates)
    return np.where(wins[..., None], is_best, kept)


def _drop_the_worst(lead: np.ndarray, kept: np.ndarray, dof: np.ndarray, error: float) -> np.ndarray:
    """Step-down: as long as the largest lead exceeds the threshold for that many arms, that arm goes."""
    positions = np.arange(kept.shape[-1])
    for _ in range(kept.shape[-1] - 2):
        below = np.where(kept, np.nan_to_num(lead, nan=-np.inf), -np.inf)
        worst = below.argmax(-1)
        furthest = below.max(-1)
        likely = furthest > t_critical(dof, error)  # the threshold is above this one
        sizes = np.where(likely, kept.sum(-1), 2)
        goes = likely & (furthest > for_sizes(drop_critical, sizes, dof, error, np.inf))
        if not goes.any():
            break
        kept = kept & ~(goes[..., None] & (positions == worst[..., None]))
    return kept
