"""Two networks on the same crops: the difference of their Dice, and how much it hangs on the crops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t

from tune_app.evidence.crops import difference_over_crops

RNG = np.random.default_rng(0)


def counts(crops: int, classes: int, truth: np.ndarray) -> np.ndarray:
    """TP, FP, FN (3, K, C) of a network on crops with these positive voxels."""
    tp = np.floor(truth * RNG.uniform(0.3, 0.9, (crops, classes)))
    return np.stack([tp, np.floor(truth * RNG.uniform(0.1, 0.5, (crops, classes))), truth - tp])


def dice(parts: np.ndarray) -> float:
    tp, fp, fn = parts.sum(axis=1)
    return 2 * tp / (2 * tp + fp + fn)


def test_it_is_the_jackknife_over_crops() -> None:
    crops, classes = 6, 3
    truth = RNG.integers(50, 500, (crops, classes)).astype(float)
    a, b = counts(crops, classes, truth), counts(crops, classes, truth)
    difference, half = difference_over_crops(a, b)
    shares = truth / truth.sum(axis=0)
    for c in range(classes):
        without = []
        for left_out in range(crops):
            kept = [k for k in range(crops) if k != left_out]
            without.append(dice(b[:, kept, c]) - dice(a[:, kept, c]))
        deviation = math.sqrt((crops - 1) / crops * sum((x - np.mean(without)) ** 2 for x in without))
        dof = 1 / sum(share**2 for share in shares[:, c]) - 1
        assert difference[c] == pytest.approx(dice(b[:, :, c]) - dice(a[:, :, c]))
        assert half[c] == pytest.approx(t.ppf(0.975, dof) * deviation)
    assert difference[-1] == pytest.approx(difference[:-1].mean())
    assert 0 < half[-1] < half[:-1].max()
    backwards = difference_over_crops(b, a)
    assert backwards[0] == pytest.approx(-difference)
    assert backwards[1] == pytest.approx(half)


def test_a_network_against_itself_differs_nowhere() -> None:
    a = counts(4, 2, np.full((4, 2), 100.0))
    difference, half = difference_over_crops(a, a)
    assert difference.tolist() == [0, 0, 0]
    assert half.tolist() == [0, 0, 0]


def test_a_class_in_one_crop_has_no_interval_and_one_in_none_no_difference() -> None:
    truth = np.array([[90.0, 50.0, 0.0], [80.0, 0.0, 0.0], [70.0, 0.0, 0.0]])
    a, b = (np.stack([truth * share, truth * 0.1, truth * (1 - share)]) for share in (0.5, 0.7))
    difference, half = difference_over_crops(a, b)
    assert np.isfinite(difference).tolist() == [True, True, False, True]
    assert np.isfinite(half).tolist() == [True, False, False, True]
    assert difference[-1] == pytest.approx(difference[:2].mean())


def test_most_intervals_hold_the_difference_of_all_crops() -> None:
    """Crops of one size, drawn from many: of 300 draws of 8, at least 88 and at most 99 of 100 intervals."""
    population = 4000
    truth = np.full((population, 1), 1000.0)
    a, b = counts(population, 1, truth), counts(population, 1, truth)
    true = dice(b[:, :, 0]) - dice(a[:, :, 0])
    held = 0
    for _ in range(300):
        drawn = RNG.choice(population, 8, replace=False)
        difference, half = difference_over_crops(a[:, drawn], b[:, drawn])
        held += abs(difference[0] - true) <= half[0]
    assert 0.88 <= held / 300 <= 0.99
