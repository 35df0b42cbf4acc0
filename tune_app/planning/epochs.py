"""How many epochs a sweep will train: the rungs of ASHA, and how many trials pass each.

The model, in words: trials fill the slots in turn, and at a rung one goes on where it is among the best 1/η of those
that have come there, so nothing is known of the first ones; with recheck they are stopped once better ones have come.
Where trials pause (promote) the rule itself is played.
Which trial is how good does not depend on when it comes (random search); the searcher's proposals get better with
time, which lets more of them pass. The truth lies between.

Legend: g grace period, η reduction factor.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tune_app.search.promotion import Promotion
from tune_app.settings.schema import FEWEST_FORETELLING

IMPROVING = 1.0
"""By how many standard deviations of all trials the mean of the proposals rises from the first to the last one."""
NUM_SWEEPS, MOST_DRAWN = 64, 200


T = TypeVar("T", float, tuple[float, float])


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
    trials: int,
    epochs: int,
    rungs: Sequence[int],
    reduction_factor: float,
    *,
    improving: bool,
    exempt: int = 0,
    slots: int = 1,
    recheck: bool = False,
    promote: bool = False,
    early: int = 0,
) -> Work:
    """The epochs that `trials` trials will take.

    rungs: () where none is stopped early. improving: whether the searcher learns from the trials before. exempt: trials
    that are never stopped. slots: trials at once. recheck: as the scheduler's. promote: whether trials pause at rungs
    instead of being stopped. early: a rung before the first that may come to count, 0 without one. The range is that of
    9 in 10 sweeps under two assumptions: the searcher learns nothing and the early rung counts as soon as it can, and
    the searcher learns twice as fast as expected and the early rung never counts.
    """
    if not rungs:
        full = float(trials * epochs)
        return Work(trials, Range(full, full, full), epochs)
    judged = max(0, trials - exempt)
    drifts = (0.0, IMPROVING, 2 * IMPROVING) if improving else (0.0, 0.0, 0.0)
    rule = partial(
        epochs_of, epochs=epochs, rungs=rungs, reduction_factor=reduction_factor, slots=slots, recheck=recheck
    )
    if promote:
        rule = partial(promoted_epochs_of, epochs=epochs, rungs=rungs, reduction_factor=reduction_factor)
    rules = (rule if promote else partial(rule, early=early), rule, rule)
    low, middle, high = (_simulated(judged, drift, each) for drift, each in zip(drifts, rules))
    own = Range(float(np.mean(middle)), float(np.quantile(low, 0.05)), float(np.quantile(high, 0.95)))
    return Work(trials, own.plus(float((trials - judged) * epochs)), epochs)


def _simulated(trials: int, drift: float, rule: Callable[[list[float]], list[int]]) -> NDArray[np.float64]:
    """Epochs of sweeps whose trials have qualities drawn from normal distributions with rising means; seeded.

    A sweep of very many trials is drawn as one of MOST_DRAWN and scaled: the share that passes has settled by then.
    """
    drawn = min(trials, MOST_DRAWN)
    generator = np.random.default_rng(0)
    rise = np.linspace(0, drift, drawn) if drawn else np.zeros(0)
    sums = [sum(rule(generator.normal(rise).tolist())) for _ in range(NUM_SWEEPS)]
    return np.array(sums, dtype=np.float64) * (trials / drawn if drawn else 1.0)


def epochs_of(
    qualities: Sequence[float],
    epochs: int,
    rungs: Sequence[int],
    reduction_factor: float,
    *,
    slots: int = 1,
    recheck: bool = False,
    early: int = 0,
) -> list[int]:
    """Epochs of each trial under ASHA's rule, for trials that fill the slots in turn, are equally fast, and keep their
    quality.

    At a rung a trial is stopped below the (1 − 1/η) quantile of the trials recorded there before it; with recheck at
    every later epoch, too, below that of all others that have come to its last rung. early: the rung before the first,
    0 without one; who keeps its quality proves that ranks there foretell those at the first rung, so it counts once
    FEWEST_FORETELLING have come to both.
    """
    recorded: dict[int, list[float]] = {rung: [] for rung in ((early, *rungs) if early else rungs)}
    share = 1 - 1 / reduction_factor
    found, last = [0] * len(qualities), [0] * len(qualities)
    running, begun = list(range(min(slots, len(qualities)))), min(slots, len(qualities))
    while running:
        going_on = []
        for trial in running:
            found[trial] += 1
            stops, quality = found[trial] == epochs, qualities[trial]
            foretold = not early or len(recorded[rungs[0]]) >= FEWEST_FORETELLING
            if found[trial] in recorded:
                last[trial] = found[trial]
                before = recorded[last[trial]]
                stops |= bool(before) and quality < quantile(before, share) and (foretold or last[trial] != early)
                insort(before, quality)
            elif recheck and last[trial] and (foretold or last[trial] != early):
                stops |= quality < quantile_without(recorded[last[trial]], quality, share)
            if not stops:
                going_on.append(trial)
        free = min(slots - len(going_on), len(qualities) - begun)
        running = [*going_on, *range(begun, begun + free)]
        begun += free
    return found


def promoted_epochs_of(
    qualities: Sequence[float], epochs: int, rungs: Sequence[int], reduction_factor: float
) -> list[int]:
    """Epochs of each trial where it pauses at rungs and the best go on, in one slot, for trials that keep their
    quality."""
    promotion, found = Promotion(rungs, reduction_factor), [0] * len(qualities)
    names = [f"{number:06d}" for number in range(len(qualities))]
    begun = 0
    while True:
        name = promotion.next(nothing_else=begun == len(qualities))
        if name is not None:
            promotion.promote(name)
        elif begun < len(qualities):
            name, begun = names[begun], begun + 1
        else:
            return found
        trial = int(name)
        found[trial] = next((rung for rung in rungs if rung > found[trial]), epochs)
        if found[trial] < epochs:
            promotion.take(name, found[trial], (0.0, qualities[trial]))


def quantile(ascending: Sequence[T], share: float) -> T:
    """np.quantile of values in order, interpolated linearly, to the last bit; of tuples, place by place."""
    place = share * (len(ascending) - 1)
    return _between(ascending[int(place)], ascending[min(int(place) + 1, len(ascending) - 1)], place % 1)


def quantile_without(ascending: Sequence[T], value: T, share: float) -> T:
    """The quantile of the values without one that equals `value`; `value` where none is left.

    In logarithmic time: it is asked for at every epoch of every trial.
    """
    left_out, last = bisect_left(ascending, value), len(ascending) - 2
    if last < 0:
        return value
    place = share * last
    low, high = (ascending[i + (i >= left_out)] for i in (int(place), min(int(place) + 1, last)))
    return _between(low, high, place % 1)


def _between(low: Any, high: Any, share: float) -> Any:
    """As NumPy interpolates: from the nearer of the two. Between −∞ and a number lies −∞."""
    if isinstance(low, tuple):
        return tuple(_between(a, b, share) for a, b in zip(low, high))
    if low == -math.inf:
        return low
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
