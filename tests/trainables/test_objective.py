"""The order of rows: bounds first, then the score."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import dataclass
from typing import Any

import pytest

from trainables.errors import SettingsError
from trainables.objective import Objective, waited


@dataclass
class Loss:
    metric: str = "val_loss"
    mode: str = "min"


BOUNDED = Objective(metric="f1", at_least={"precision": 0.8}, at_most={"fg_pred": 0.1})


def row(f1: float, precision: float = 1.0, fg_pred: float = 0.0) -> dict[str, Any]:
    return {"f1": f1, "precision": precision, "fg_pred": fg_pred}


def test_without_a_section_the_task_decides_and_a_metric_of_ones_own_is_maximised() -> None:
    assert Objective.from_config(None, Loss()) == Objective.from_config({}, Loss())
    assert Objective.from_config({}, Loss()) == Objective(metric="val_loss", mode="min")
    assert Objective.from_config({"metric": "f1"}, Loss()) == Objective(metric="f1", mode="max")
    assert Objective.from_config({"metric": "loss"}, Loss(metric="f1", mode="max")).mode == "min", "losses are not"
    bounds = {"at_least": {"recall": 0.5}, "at_most": None}
    assert Objective.from_config(bounds, Loss()).at_least == {"recall": 0.5}


def test_a_feasible_row_beats_any_infeasible_one_and_a_nan_metric_is_worst() -> None:
    better_first = [
        row(0.2),  # feasible
        row(0.1),
        row(0.9, precision=0.76),  # misses by 5 %
        row(0.9, precision=0.4),  # by half
        row(0.9, precision=0.8, fg_pred=0.2),  # by its whole bound
        row(0.9, precision=math.nan),
        row(math.nan),
    ]
    shuffled = random.Random(0).sample(better_first, len(better_first))
    assert sorted(shuffled, key=BOUNDED.key, reverse=True) == better_first
    assert [BOUNDED.violation(r) == 0 for r in better_first[:3]] == [True, True, False]


def test_violations_are_shares_of_their_bounds_and_add_up() -> None:
    assert BOUNDED.violation(row(1.0, precision=0.4, fg_pred=0.15)) == pytest.approx(0.5 + 0.5)
    assert BOUNDED.violation(row(1.0, precision=0.9, fg_pred=0.05)) == 0
    assert BOUNDED.violation({"f1": 1.0, "precision": None, "fg_pred": 0.0}) == math.inf
    assert Objective(metric="x", at_most={"y": 0}).violation({"y": 0.25}) == 0.25
    assert Objective(metric="x", at_least={"y": -2}).violation({"y": -3}) == 0.5


def test_the_order_is_total_and_better_follows_it_for_both_modes() -> None:
    values = (0.1, 0.5, math.nan)
    rows = [row(*v) for v in itertools.product(values, repeat=3)]
    for objective in (BOUNDED, Objective(metric="f1", mode="min", at_least={"precision": 0.3})):
        for a, b in itertools.product(rows, repeat=2):
            assert (objective.key(a) < objective.key(b)) + (objective.key(b) < objective.key(a)) <= 1
            assert objective.better(a, b) == (objective.key(a) > objective.key(b))
            assert objective.better(a, None) == (not math.isnan(a["f1"]))
    assert Objective(metric="f1", mode="min").better(row(0.1), row(0.5))


@pytest.mark.parametrize(
    "section",
    [
        {"mode": "highest"},
        {"mode": "max"},
        {"at_least": {"f1": 0.9}, "at_most": {"f1": 0.5}},
        {"at_least": {"f1": "much"}},
        {"at_most": {"f1": math.nan}},
        {"atleast": {"f1": 0.5}},
    ],
)
def test_an_invalid_objective_is_refused(section: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=r"^objective"):
        Objective.from_config(section, Loss())


@pytest.mark.parametrize(
    ("scores", "min_delta", "epochs"),
    [
        ([], 0.0, 0),
        ([0.1], 0.0, 0),
        ([0.1, 0.2, 0.2, 0.1], 0.0, 2),
        ([0.5, 0.50005, 0.5001, 0.5002], 1e-3, 3),
        ([0.5, 0.5004, 0.5008, 0.502], 1e-3, 0),
        ([math.nan, 0.1, math.nan, 0.2], 0.0, 0),
    ],
)
def test_patience_counts_from_the_last_epoch_that_was_enough_better(scores, min_delta, epochs) -> None:
    """Many small steps count together: each is compared with the last one that counted."""
    rows = [{"score": score} for score in scores]
    assert waited(rows, Objective(metric="score"), min_delta) == epochs
    turned = [{"score": -score} for score in scores]
    assert waited(turned, Objective(metric="score", mode="min"), min_delta) == epochs


def test_patience_counts_a_bound_that_is_kept_better() -> None:
    rows = [{"score": 0.5, "precision": p} for p in (0.1, 0.2, 0.3, 0.3)]
    assert waited(rows, Objective(metric="score", at_least={"precision": 0.9}), 0.1) == 1
