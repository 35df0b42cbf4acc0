"""Simulated confirmations, many at once: what is true is known, so error rates can be counted.

Shapes: R repetitions, A arms, S seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tune_app.confirmation.equivalence import remaining
from tune_app.confirmation.intervals import AUTO_INTERVAL_ERROR, INTERVAL_ERROR, difference_interval, mean_interval
from tune_app.confirmation.layout import Fit, fit_paired
from tune_app.confirmation.stages import plan_stages, replay

SD = 0.0127
"""Seed to seed noise of mean Dice in the published five runs of one configuration."""
ALL_EQUAL = (0, 0, 0, 0, 0)
TWO_TIED = {gap: (0, 0, -gap, -gap, -gap) for gap in (0.01, 0.02, 0.03, 0.05)}
THREE_TIED = {gap: (0, 0, 0, -gap, -gap) for gap in (0.01, 0.02, 0.03, 0.05)}
ONE_BETTER = (0.03, 0, 0, 0, 0)
SEED_EFFECTS = (0.0, 1.5)
"""Standard deviation of the seeds' own effect, in units of SD: off and on."""


@dataclass(frozen=True)
class Outcome:
    """Rates over the repetitions. named: any winner; right: the truly best. keeps_all: no truly best arm was lost."""

    named: float
    right: float
    keeps_best: float
    keeps_all: float
    mean_coverage: float
    difference_coverage: float
    runs: float


def scores(means: Sequence[float], seeds: int, repetitions: int, seed_effect: float, seed: int) -> np.ndarray:
    """(R, A, S): means + seed effect + noise."""
    random = np.random.default_rng([seed, round(10 * seed_effect)])
    noise = random.normal(0, SD, (repetitions, len(means), seeds))
    return np.array(means)[:, None] + noise + seed_effect * random.normal(0, SD, (repetitions, 1, seeds))


def fixed(
    means: Sequence[float], *, repetitions: int, seed_effect: float, replicates: int = 5, seed: int = 1
) -> Outcome:
    """Every arm with the same number of replicates."""
    fit = fit_paired(scores(means, replicates, repetitions, seed_effect, seed))
    kept = remaining(fit, np.ones(fit.means.shape, bool))
    return outcome(means, fit, kept, np.full(repetitions, replicates * len(means)), INTERVAL_ERROR)


def auto(means: Sequence[float], *, repetitions: int, seed_effect: float, budget: float, seed: int = 2) -> Outcome:
    """replicates=auto with as many runs as the budget buys at one GPU-hour each."""
    design = plan_stages([1.0] * len(means), budget)
    drawn = scores(means, design.most_rounds(), repetitions, seed_effect, seed)
    stages, fit = replay(drawn, np.ones(drawn.shape, bool), design)
    assert stages.done.all()
    runs = stages.planned.sum((1, 2))
    assert (runs <= budget).all()
    return outcome(means, fit, stages.kept, runs, AUTO_INTERVAL_ERROR)


def outcome(means: Sequence[float], fit: Fit, kept: np.ndarray, runs: np.ndarray, error: float) -> Outcome:
    true = np.array(means, float)
    best = true == true.max()
    named = kept.sum(1) == 1
    low, high = mean_interval(fit, error)
    last = np.full(len(kept), len(true) - 1)
    from_last, to_last = difference_interval(fit, last, error)
    difference = true - true[-1]
    return Outcome(
        named=named.mean(),
        right=(named & kept[:, best].any(1) & (best.sum() == 1)).mean(),
        keeps_best=kept[:, best].any(1).mean(),
        keeps_all=kept[:, best].all(1).mean(),
        mean_coverage=((low <= true) & (true <= high)).mean(),
        difference_coverage=((from_last <= difference) & (difference <= to_last))[:, :-1].mean(),
        runs=runs.mean(),
    )
