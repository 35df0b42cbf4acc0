"""Replays in which configurations differ in what an epoch costs, on a tiny table made up here."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from benchmarks.cost_aware import BUDGETS, POLICIES, SECONDS, CostlyReplay, regrets, with_models
from benchmarks.learning_curves import Table
from search_spaces import Float

ROWS, EPOCHS = 40, 9


def made(seed: int = 0) -> Table:
    """Curves that keep their order: row r ends at (r + 1) / ROWS."""
    final = (np.arange(ROWS) + 1) / ROWS
    scores = final[:, None] * np.linspace(0.2, 1.0, EPOCHS)
    table = Table(
        name="made up",
        space={"x": Float(0.0, 1.0)},
        points=[{"x": x} for x in np.linspace(0.0, 1.0, ROWS).tolist()],
        scores=scores[:, None],
        validation=-scores,
        test=-scores,
    )
    return with_models(table, seed)


def test_every_row_has_a_model_and_the_mean_cost_is_a_second() -> None:
    table = made()
    assert {point["model"] for point in table.points} == set(SECONDS) == set(table.space["model"].options)
    assert np.mean(list(SECONDS.values())) == pytest.approx(1.0)
    assert made(1).points != table.points, "drawn by the seed"


@pytest.mark.parametrize("name", POLICIES)
def test_rows_say_how_long_they_took_and_models_decide_it(name: str) -> None:
    table = made()
    replay = CostlyReplay(POLICIES[name](table, 0), table, seed=0)
    plain = replay.seconds / [SECONDS[point["model"]] for point in table.points]
    assert plain.max() / plain.min() < 4 < replay.seconds.max() / replay.seconds.min()
    steps = list(islice(replay.steps(), 60))
    assert len({step.trial for step in steps}) > 4
    assert {table.points[step.row]["model"] for step in steps} == set(SECONDS)


def test_of_two_tables_the_dearer_one_is_known_less_of_after_the_same_seconds() -> None:
    table = made()
    cheap = regrets(CostlyReplay(POLICIES["ours, at epochs"](table, 0), table, seed=0))
    dear = CostlyReplay(POLICIES["ours, at epochs"](table, 0), table, seed=0)
    dear.seconds = dear.seconds * 20  # the order in which epochs end is the same
    late = regrets(dear)
    assert len(cheap) == len(BUDGETS)
    assert (np.diff(cheap) <= 0).all()
    assert (late >= cheap).all()
    assert late[0] > cheap[0]
