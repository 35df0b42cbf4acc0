"""Critical values: Student's t, the studentised range, and the threshold that keeps ties ties.

k arms have independent normal means of one variance σ²/n; s estimates σ with ν degrees of freedom (`dof`, which need
not be whole). Thresholds are in standard errors of a *difference* of two arms, s·√(2/n), so that for two arms all of
them are Student's two-sided t. Probabilities are integrated numerically; thresholds have a relative error below 1e-5
for ν ≥ 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
from scipy import optimize, special

_X = np.linspace(-8.0, 8.0, 97)
_DENSITY = np.exp(-(_X**2) / 2) / math.sqrt(2 * math.pi) * (_X[1] - _X[0])
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)


PRIOR = 6.0
"""Variance of the differences that are looked for, in σ²: that of 2.4 standard deviations, .03 where they are .0127."""


def t_critical(dof: np.ndarray | float, error: float) -> np.ndarray:
    """Two-sided quantile of Student's t, t(1 − error/2, dof); shape of `dof`, NaN where dof ≤ 0."""
    dof = np.asarray(dof, float)
    return special.stdtrit(np.where(dof > 0, dof, np.nan), 1 - error / 2)


def combined_t(parts: np.ndarray, dof: np.ndarray, error: float) -> np.ndarray:
    """Two-sided critical value for a variance that is a sum of `parts` (…, P) with `dof` (…, P) each; (…).

    The mean of their t quantiles, weighted by the parts (Cochran & Cox 1950, Experimental Designs, 4.14): it holds the
    error where few degrees of freedom carry much of the variance, and Satterthwaite's approximation does not.
    """
    weighted = np.where(parts == 0, 0.0, parts * t_critical(dof, error)).sum(-1)
    total = parts.sum(-1)
    return np.divide(weighted, total, out=np.full(np.shape(total), np.nan), where=total > 0)


def anytime_critical(dof: np.ndarray, unit: np.ndarray, error: float) -> np.ndarray:
    """Threshold on |t| of a difference that is looked at after every round, for ever; broadcast, ∞ where none will do.

    With probability ≥ 1 − error a true difference of 0 never exceeds it. dof: ν of σ̂; unit: v, the variance of the
    difference in σ². Under difference ~ N(0, σ²·`PRIOR`), and the priors that make the ratio free of σ and of all other
    means, the evidence against 0 is an e-process:

        e = √r · [(1 + t²/ν) / (1 + r t²/ν)]^((ν + 1)/2),   r = v/(v + PRIOR)

    and the threshold is the t with e = 1/error (Ville's inequality). Lindon, Ham, Tingley & Bojinov 2022,
    arXiv:2210.08589; Pérez-Ortiz, Lardy, de Heide & Grünwald 2024, arXiv:2208.07610.
    """
    dof, ratio = np.asarray(dof, float), unit / (unit + PRIOR)
    needed = (1 / (error * np.sqrt(np.where(ratio > 0, ratio, 1)))) ** (2 / (dof + 1))
    reachable = (ratio * needed < 1) & (dof > 0)
    return np.where(reachable, np.sqrt(dof * (needed - 1) / np.where(reachable, 1 - ratio * needed, 1)), np.inf)


def dof_of(t: np.ndarray, error: float) -> np.ndarray:
    """The degrees of freedom with which t is the two-sided quantile of Student's t: the inverse of `t_critical`."""
    return special.stdtridf(1 - error / 2, t)


def t_probability(t: np.ndarray | float, dof: np.ndarray | float) -> np.ndarray:
    """Two-sided p value of Student's t: P(|T| > |t|), broadcast; NaN where dof ≤ 0."""
    dof = np.asarray(dof, float)
    return 2 * special.stdtr(np.where(dof > 0, dof, np.nan), -np.abs(t))


def range_probability(t: float, k: int, dof: float) -> float:
    """P(some two of k equal arms differ by more than t standard errors): Tukey's p value of one difference."""
    if not (math.isfinite(t) and dof > 0):
        return 0.0 if t == math.inf and dof > 0 else math.nan
    return float(min(1.0, max(0.0, 1 - _mean_over_s(lambda s: _within_range(abs(t) * math.sqrt(2) * s, k), dof))))


@functools.lru_cache(maxsize=4096)
def range_critical(k: int, dof: float, error: float) -> float:
    """Threshold on every difference among k arms at once, q(1 − error; k, dof)/√2 (Tukey; Kramer where n differs)."""
    if k <= 2:
        return float(t_critical(dof, error))
    return _root(lambda t: range_probability(t, k, dof) - error, float(t_critical(dof, error)))


@functools.lru_cache(maxsize=4096)
def drop_critical(k: int, dof: float, error: float) -> float:
    """Threshold r above which the worst of k arms is told from their best, beside the rule that names a winner.

    The winner's rule (best more than c = t(1 − error/2) above the runner-up) already spends part of `error` when k
    arms tie: all of it for k = 2, less for more. r spends the rest:

        P(best − runner-up > c  or  best − worst > r  |  k equal arms) = error

    so that both rules together wrongly part k tied arms with probability `error`, whatever k. inf for k ≤ 2.
    """
    if k <= 2:
        return math.inf
    gap = float(t_critical(dof, error))
    return _root(lambda t: _parted(gap, t, k, dof) - error, gap)


def _parted(gap: float, spread: float, k: int, dof: float) -> float:
    """P(best − runner-up > gap or best − worst > spread), both in standard errors of a difference, spread ≥ gap."""

    def together(s: np.ndarray) -> np.ndarray:
        """P(within the spread) − P(within the spread, and a gap): what parts nothing."""
        low, high = special.ndtr(_X - spread * math.sqrt(2) * s), special.ndtr(_X - gap * math.sqrt(2) * s)
        lone = k * (np.clip(high - low, 0, None) ** (k - 1) @ _DENSITY)
        return _within_range(spread * math.sqrt(2) * s, k) - lone

    return 1 - _mean_over_s(together, dof)


def _within_range(width: np.ndarray, k: int) -> np.ndarray:
    """P(range of k standard normals ≤ width) = k ∫ φ(x) [Φ(x) − Φ(x − width)]^(k−1) dx, width (…, 1) → (…)."""
    return k * ((special.ndtr(_X) - special.ndtr(_X - width)) ** (k - 1) @ _DENSITY)


def _mean_over_s(probability: Callable[[np.ndarray], np.ndarray], dof: float) -> float:
    """E over s/σ ~ √(χ²_ν/ν) of `probability(s)`, which takes s of shape (32, 1) and gives (32,)."""
    half = (_NODES + 1) / 2
    quantile = half**3  # nodes crowd at small s, where large thresholds are decided
    s = np.sqrt(2 * special.gammaincinv(dof / 2, quantile) / dof)[:, None]
    return float((1.5 * half**2 * _WEIGHTS) @ probability(s))


def _root(excess: Callable[[float], float], low: float) -> float:
    """Where `excess`, which falls, crosses zero above `low`."""
    high = 2 * low
    while excess(high) > 0:
        low, high = high, 2 * high
    return float(optimize.brentq(excess, low, high, xtol=1e-8))


def for_sizes(
    critical: Callable[[int, float, float], float], sizes: np.ndarray, dof: np.ndarray, error: float, unknown: float
) -> np.ndarray:
    """A threshold for every (size, dof), computed once each; `unknown` where dof is 0 or there is but one arm."""
    pairs = np.stack(np.broadcast_arrays(sizes, dof), axis=-1).astype(float)
    distinct, index = np.unique(pairs.reshape(-1, 2), axis=0, return_inverse=True)
    values = [critical(int(k), float(nu), error) if nu > 0 and k > 1 else unknown for k, nu in distinct]
    return np.array(values)[index.reshape(pairs.shape[:-1])]
