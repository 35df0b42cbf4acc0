"""How many epochs a sweep will train: the rungs of ASHA, and how many trials pass each.

The model, in words: trials come to a rung one after the other and go on where they are among the best 1/η of those that
came before, so nothing is known of the first ones. Which trial is how good does not depend on when it comes (random
search); the searcher's proposals get better with time, which lets more of them pass. The truth lies between.

Legend: g grace period, η reduction factor.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IMPROVING = 1.0
"""By how many standard deviations of all trials the mean of the proposals rises from the first to the last one."""
NUM_SWEEPS, MOST_DRAWN = 64, 200


@dataclass(frozen=True)
class Range:
    """An expected value with the range it is expected to lie in."""

    expected: float
    low: float
    high: float

    def times(self, factor: Range | float) -> Range:
        """The product, taking the worst of both ranges."""
        other = factor if isinstance(factor, Range) else Range(factor, factor, factor)
        return Range(self.expected * other.expected, self.low * other.low, self.high * other.high)

    def plus(self, amount: float) -> Range:
        return Range(self.expected + amount, self.low + amount, self.high + amount)


def rung_epochs(epochs: int, grace_period: int, reduction_factor: float) -> tuple[int, ...]:
    """The epochs below `epochs` at which a trial may be stopped: g, g·η, g·η², … (Li et al. 2018, arXiv:1810.05934)."""
    rungs = []
    milestone = float(grace_period)
    while milestone < epochs:
        rungs.append(math.ceil(milestone))
        milestone *= reduction_factor
    return tuple(rungs)


@dataclass(frozen=True)
class Work:
    """What a sweep trains. trials: their number. epochs: of all of them. per_trial: epochs at full budget."""

    trials: int
    epochs: Range
    per_trial: int

    def rounds(self, slots: int) -> Range:
        """Epochs, one after the other, until the last slot is done.

        A list of equal trials takes whole rounds. Unequal ones fill the slots evenly but for the end, where up to one
        trial's length more is waited for (Graham 1969, SIAM J. Appl. Math. 17).
        """
        busy = max(1, min(slots, self.trials))
        if self.epochs.low == self.epochs.high:
            exact = float(math.ceil(self.trials / busy) * self.per_trial)
            return Range(exact, exact, exact)
        tail = self.per_trial * (1 - 1 / busy)
        even = self.epochs.times(1 / busy)
        return Range(even.expected + tail / 2, even.low, even.high + tail)


def expected_work(
    trials: int, epochs: int, rungs: Sequence[int], reduction_factor: float, *, improving: bool, exempt: int = 0
) -> Work:
    """The epochs that `trials` trials will take.

    rungs: () where none is stopped early. improving: whether the searcher learns from the trials before. exempt: trials
    that are never stopped. The range is that of 9 in 10 sweeps under two assumptions: the searcher learns nothing, and
    it learns twice as fast as expected.
    """
    if not rungs:
        full = float(trials * epochs)
        return Work(trials, Range(full, full, full), epochs)
    judged = max(0, trials - exempt)
    drifts = (0.0, IMPROVING, 2 * IMPROVING) if improving else (0.0, 0.0, 0.0)
    low, middle, high = (_simulated(judged, epochs, rungs, reduction_factor, drift) for drift in drifts)
    own = Range(float(np.mean(middle)), float(np.quantile(low, 0.05)), float(np.quantile(high, 0.95)))
    return Work(trials, own.plus(float((trials - judged) * epochs)), epochs)


def _simulated(
    trials: int, epochs: int, rungs: Sequence[int], reduction_factor: float, drift: float
) -> NDArray[np.float64]:
    """Epochs of sweeps whose trials have qualities drawn from normal distributions with rising means; seeded.

    A sweep of very many trials is drawn as one of MOST_DRAWN and scaled: the share that passes has settled by then.
    """
    drawn = min(trials, MOST_DRAWN)
    generator = np.random.default_rng(0)
    rise = np.linspace(0, drift, drawn) if drawn else np.zeros(0)
    sums = [sum(epochs_of(generator.normal(rise).tolist(), epochs, rungs, reduction_factor)) for _ in range(NUM_SWEEPS)]
    return np.array(sums, dtype=np.float64) * (trials / drawn if drawn else 1.0)


def epochs_of(qualities: Sequence[float], epochs: int, rungs: Sequence[int], reduction_factor: float) -> list[int]:
    """Epochs of each trial under ASHA's rule, for trials that come one after the other and keep their quality.

    At a rung a trial is stopped below the (1 − 1/η) quantile of the trials recorded there before it.
    """
    recorded: list[list[float]] = [[] for _ in rungs]
    found = []
    for quality in qualities:
        found.append(epochs)
        for rung, before in zip(rungs, recorded):
            stops = bool(before) and quality < _quantile(before, 1 - 1 / reduction_factor)
            insort(before, quality)
            if stops:
                found[-1] = rung
                break
    return found


def _quantile(ascending: Sequence[float], share: float) -> float:
    """Linear interpolation between the values, as NumPy does it, in constant time."""
    position = share * (len(ascending) - 1)
    below = int(position)
    above = min(below + 1, len(ascending) - 1)
    return ascending[below] + (position - below) * (ascending[above] - ascending[below])
