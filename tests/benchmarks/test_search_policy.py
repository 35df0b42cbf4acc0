"""Regret and its intervals, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.learning_curves import Table
from benchmarks.replay import Step
from benchmarks.search_policy import BUDGETS, OTHERS, OURS, compared, interval, is_worse, regret, regret_scales
from search_spaces import Float

VALIDATION = np.array([[3.0, 1.0], [2.0, 4.0], [math.nan, math.nan], [5.0, 3.0], [math.nan, 9.0]])
TEST = np.array([[3.5, 1.5], [2.5, 4.5], [math.nan, math.nan], [5.5, 3.5], [math.nan, 9.5]])
TABLE = Table(
    name="t",
    space={"x": Float(0, 1)},
    points=[{"x": i / 4} for i in range(5)],
    scores=np.exp(-VALIDATION)[:, None],
    validation=VALIDATION,
    test=TEST,
)


def step(row: int, epoch: int) -> Step:
    return Step(trial=row, row=row, repeat=0, epoch=epoch, score=float(TABLE.scores[row, 0, epoch - 1]))


def test_scales_are_the_best_and_the_median_configuration_at_their_best_epochs() -> None:
    assert regret_scales(TABLE) == [(1.0, 3.0), (1.5, 3.5)]


def test_regret_is_one_at_the_median_and_zero_at_the_best() -> None:
    assert regret(TABLE, [step(3, 1), step(3, 2)]) == pytest.approx([1.0, 1.0])
    assert regret(TABLE, [step(3, 1), step(0, 2), step(4, 1)]) == pytest.approx([0.0, 0.0])


def test_the_test_loss_is_that_of_the_epoch_chosen_by_validation() -> None:
    assert regret(TABLE, [step(1, 1), step(1, 2)]) == pytest.approx([0.5, 0.5])


def test_a_search_that_saw_no_finite_loss_is_where_the_median_is() -> None:
    assert regret(TABLE, [step(2, 1), step(2, 2)]).tolist() == [1.0, 1.0]


def test_an_interval_holds_the_mean_and_narrows() -> None:
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.3, 1.0, 20), rng.normal(0.3, 1.0, 2000)
    assert interval(few)[0] < few.mean() < interval(few)[1]
    assert np.diff(interval(many)) < np.diff(interval(few))


@pytest.mark.parametrize(("shift", "worse"), [(0.5, True), (0.0, False), (-0.5, False)])
def test_worse_means_surely_larger(shift: float, worse: bool) -> None:
    values = np.random.default_rng(0).normal(0.0, 0.3, 40)
    assert is_worse(values - values.mean() + shift) is worse


def test_results_say_where_ours_is_worse() -> None:
    rng = np.random.default_rng(0)
    theirs = rng.uniform(0.2, 0.3, (2, 30, len(BUDGETS), 2))
    mine = theirs.copy()
    mine[0] -= 0.1
    mine[1, :, 1] += rng.uniform(0.05, 0.15, (30, 2))
    *differences, count = compared({OURS: mine, OTHERS[0]: theirs}, OTHERS[0], ["first", "second"])
    assert differences[0].values == pytest.approx((-0.1, 0.0))
    assert differences[0].reached
    assert count.values == (1.0,)
    assert not count.reached
    assert "second at 1000" in count.note
