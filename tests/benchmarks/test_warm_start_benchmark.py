"""The ratios of the benchmark, by hand, and its guards on a small table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.learning_curves import Table
from benchmarks.warm_start import CASES, KINDS, MOST_EPOCHS, epochs_to, guard_from, ratio_interval, ratios
from search_spaces import Float

VALIDATION = np.linspace(2.0, 1.0, 40)[:, None] - np.linspace(0.0, 0.1, 9)[None]
TABLE = Table(
    name="t",
    space={"x": Float(0.0, 1.0)},
    points=[{"x": i / 39} for i in range(40)],
    scores=np.exp(-VALIDATION)[:, None],
    validation=VALIDATION,
    test=VALIDATION,
)


def test_a_ratio_is_that_of_the_means_per_table() -> None:
    epochs = np.full((2, 3, 1 + len(KINDS) * len(CASES)), 100.0)
    epochs[0, :, 1], epochs[1, :, 1] = [10, 20, 30], 200
    found = list(ratios(epochs, ["a", "b"]))
    assert len(found) == len(KINDS) * len(CASES)
    assert found[0].values == (0.2, 2.0)
    assert found[0].claim == "epochs to the old best, box, related: with ÷ without, ratio of each table"
    assert all(one.values == (1.0, 1.0) for one in found[1:])
    low, high = ratio_interval(epochs[:, :, 1], epochs[:, :, 0])
    assert low < np.mean([20, 200]) / 100 < high


def test_epochs_are_counted_until_the_loss_is_as_low() -> None:
    assert epochs_to(3.0, TABLE, 0, "random") == 1
    assert epochs_to(0.0, TABLE, 0, "random") == MOST_EPOCHS, "never"
    assert 1 < epochs_to(0.95, TABLE, 0, "random") < MOST_EPOCHS


@pytest.mark.parametrize("kind", KINDS)
def test_a_guard_is_of_the_points_that_are_believed(kind: str) -> None:
    guard = guard_from([TABLE.points[row] for row in (39, 38, 30, 2)], kind, TABLE, best=3)
    if kind == "prior":
        assert (guard.prior, guard.box) == ({"x": 1.0}, {})
    else:
        assert guard.box["x"].grid(2) == [30 / 39, 1.0]
