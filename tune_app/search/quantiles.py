"""Quantiles of values that are kept in order, as NumPy gives them, without going through all values."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence


def quantile(ascending: Sequence[float], share: float) -> float:
    """np.quantile of values in order, interpolated linearly, to the last bit."""
    place = share * (len(ascending) - 1)
    return _between(ascending[int(place)], ascending[min(int(place) + 1, len(ascending) - 1)], place % 1)


def quantile_without(ascending: Sequence[float], value: float, share: float) -> float:
    """The quantile of the values without one that equals `value`; −∞ where none is left.

    In logarithmic time: it is asked for at every epoch of every trial.
    """
    left_out, last = bisect_left(ascending, value), len(ascending) - 2
    if last < 0:
        return -math.inf
    place = share * last
    low, high = (ascending[i + (i >= left_out)] for i in (int(place), min(int(place) + 1, last)))
    return _between(low, high, place % 1)


def _between(low: float, high: float, share: float) -> float:
    """As NumPy interpolates: from the nearer of the two."""
    return high - (high - low) * (1 - share) if share >= 0.5 else low + (high - low) * share
