"""Sweeps with a real Ray: one whose metric is minimised and whose bound nothing keeps, and one whose winner by score
alone misses a bound."""

from __future__ import annotations

import json

import pytest
from sweeps import TINY, Place, killed, reported, rows, trials_of

from tune_app.results.finding import confirmed_order, read_confirmation
from tune_app.results.sweep import Sweep
from tune_app.search.study import open_study

pytestmark = [pytest.mark.ray, pytest.mark.timeout(1200)]

LEAST = (
    *TINY,
    "trainer.epochs=2",
    "trainer.iterations_per_epoch=3",
    "family=seesaw",
    "search=random",
    "search.num_samples=3",
    "scheduler.name=none",
    "objective.metric=val_loss",
)
FIGURE = "sigmoid/nuc/mean"
TOO_MUCH = "objective.at_least.support.nuc=1e9"
"""The voxels of a class are the same for all trials: each misses this by as much, and the loss decides."""


@pytest.fixture(scope="module")
def told(place: Place) -> str:
    """What the run of the sweep `least` said."""
    return place.run("run", *LEAST, TOO_MUCH, "name=least")


@pytest.fixture(scope="module")
def least(place: Place, told: str) -> Sweep:
    return Sweep(place.sweep("least"))


def test_where_nothing_keeps_the_bounds_the_run_says_so_and_names_the_nearest(least: Sweep, told: str) -> None:
    nearest, said = least.leaderboard()["name"].iloc[0], " ".join(told.split())
    assert "objective the lowest val loss, with support/nuc ≥ 1e+09" in said
    assert f"No trial keeps the bounds support/nuc ≥ 1e+09: the nearest is {nearest}, with support/nuc" in said
    assert f"nearest {nearest}: " in said
    assert all(max(trial.constraints.values()) > 0 for trial in trials_of(least.folder))
    with pytest.raises(ValueError, match="feasible"):
        _ = open_study(least.folder, "least", least.objective).best_trial


def test_a_loss_is_minimised_from_the_engine_to_the_study_and_the_leaderboard(least: Sweep) -> None:
    board = least.leaderboard()
    assert board["val_loss"].is_monotonic_increasing
    for trial in least.trials:
        assert trial.best["val_loss"] == min(row["val_loss"] for row in trial.history)
        assert trial.history[-1]["best_epoch"] == trial.best["epoch"]
    values = {trial.user_attrs["name"]: trial.value for trial in trials_of(least.folder)}
    assert min(values, key=lambda name: values[name]) == board["name"].iloc[0]


@pytest.mark.slow
def test_a_bound_makes_another_one_win_everywhere_killed_or_not(place: Place, least: Sweep) -> None:
    """The bound parts the winner from the rest: its figure in every epoch lies on one side of it."""
    winner = least.trial(least.leaderboard()["name"].iloc[0])
    own = [row[FIGURE] for row in winner.history]
    rest = [row[FIGURE] for trial in least.trials if trial is not winner for row in trial.history]
    side = "at_least" if max(rest) > max(own) else "at_most"
    bound = (max(rest) + max(own)) / 2 if side == "at_least" else (min(rest) + min(own)) / 2
    folder = place.sweep("bounded")
    run = place.start("run", *LEAST, f"objective.{side}.{FIGURE.replace('/', '.')}={bound}", "name=bounded")
    run.until(lambda: reported(folder) >= 2)
    killed(run, folder)
    place.run("run", "resume=bounded")

    sweep = Sweep(folder)
    assert sweep.trial(winner.name).violation > 0
    kept = [trial for trial in sweep.trials if not trial.violation]
    expected = min(kept, key=lambda trial: trial.best["val_loss"])
    assert sweep.leaderboard()["name"].iloc[0] == expected.name
    feasible = [trial for trial in trials_of(folder) if max(trial.constraints.values()) <= 0]
    assert min(feasible, key=lambda trial: trial.value).user_attrs["name"] == expected.name
    for trial in sweep.trials:
        logged = rows(trial.folder / "result.json")
        assert [row["val_loss"] for row in logged] == [row["val_loss"] for row in least.trial(trial.name).history]

    place.run("confirm", "sweep=bounded", "top=1", "replicates=2")
    found = read_confirmation(folder)
    assert found["source"]["metric"] == "val_loss"
    assert {arm["name"] for arm in found["arms"]} == {expected.label, "weight_uniform"}
    assert all(arm["low"] < arm["mean"] < arm["high"] for arm in found["arms"] if arm["low"] is not None)
    place.run("export", "sweep=bounded", "top=1", "out=out")
    manifest = json.loads((place.folder / "out" / "1" / "manifest.json").read_text())
    assert sweep.trial(manifest["trial"]).label == confirmed_order(found)[0]
    assert manifest["bounds"] == sweep.objective.bounds
