"""ASHA decides as Ray's own does, and its rungs follow from the recorded curves alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from tune_app.search.scheduler import ResumableAsha, RunToTheEnd, is_hopeless, trial_name

MAX_EPOCHS, GRACE = 27, 2
Event = tuple[str, int, float]


def named(name: str) -> Any:
    return SimpleNamespace(trial_id=f"id of {name}", config={"run": {"name": name}}, status=Trial.RUNNING)


def row(epoch: int, value: float) -> dict[str, Any]:
    return {"epoch": epoch, "mean_dice": value}


def asha(eta: float = 3.0, **more: Any) -> ResumableAsha:
    return ResumableAsha(metric="mean_dice", max_epochs=MAX_EPOCHS, grace_period=GRACE, reduction_factor=eta, **more)


def stock(eta: float = 3.0) -> AsyncHyperBandScheduler:
    return AsyncHyperBandScheduler(
        time_attr="epoch", metric="mean_dice", mode="max", max_t=MAX_EPOCHS, grace_period=GRACE, reduction_factor=eta
    )


def play(seed: int, scheduler: TrialScheduler, *, slots: int = 3, trials: int = 25) -> list[tuple[Event, str]]:
    """Random curves in a random order of arrival, as a controller feeds them; every event with its decision."""
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0, 1, trials).round(2)  # rounded: equal values occur
    running: dict[int, int] = {}
    waiting, decisions = list(range(trials)), []
    while waiting or running:
        while waiting and len(running) < slots:
            running[waiting.pop(0)] = 0
            scheduler.on_trial_add(None, named(f"{max(running):04d}"))
        number = int(rng.choice(sorted(running)))
        running[number] += 1
        epoch = running[number]
        value = round(float(levels[number] + rng.normal(0, 0.1)), 2)
        trial, result = named(f"{number:04d}"), row(epoch, value)
        decision = scheduler.on_trial_result(None, trial, result) if epoch < MAX_EPOCHS else TrialScheduler.STOP
        decisions.append(((trial.config["run"]["name"], epoch, value), decision))
        if decision == TrialScheduler.STOP:
            scheduler.on_trial_complete(None, trial, result)
            del running[number]
    return decisions


@pytest.mark.parametrize("eta", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("seed", range(8))
def test_the_decisions_are_those_of_ray(seed, eta):
    mine = play(seed, asha(eta))
    assert mine == play(seed, stock(eta))
    stops = [event for event, decision in mine if decision == TrialScheduler.STOP]
    assert len(stops) == 25
    assert any(epoch < MAX_EPOCHS for _, epoch, _ in stops)


def curves_of(events: list[tuple[Event, str]]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for (name, epoch, value), _ in events:
        curves.setdefault(name, []).append((epoch, value))
    return curves


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.2, 0.6, 1.0])
def test_rungs_rebuilt_from_curves_are_those_of_before(seed, share):
    events = play(seed, asha())
    events = events[: int(share * len(events))]
    live = asha()
    for (name, epoch, value), _ in events:
        live.on_trial_result(None, named(name), row(epoch, value))
    rebuilt = asha(curves=curves_of(events))
    assert rebuilt.rungs() == live.rungs()
    assert list(rebuilt.rungs()) == [2, 6, 18]
    assert len(rebuilt.rungs()[2]) > 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_a_restarted_scheduler_decides_as_an_uninterrupted_one(seed, share):
    events = play(seed, asha())
    cut = int(share * len(events))
    restarted = asha(curves=curves_of(events[:cut]))
    for (name, epoch, value), decision in events[cut:]:
        if epoch < MAX_EPOCHS:
            assert restarted.on_trial_result(None, named(name), row(epoch, value)) == decision
        restarted.on_trial_complete(None, named(name), row(epoch, value))


def test_a_trial_is_known_by_its_name_after_a_restart():
    """Ray draws a new id for it: a row that is reported again must not enter a rung twice."""
    first = asha(curves={"a": [(1, 0.5), (2, 0.6)]})
    first.on_trial_result(None, SimpleNamespace(trial_id="new", config={"run": {"name": "a"}}), row(2, 0.1))
    assert first.rungs()[2] == {"a": 0.6}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("epoch", [1, 2, 5])
@pytest.mark.parametrize("scheduler", [asha, lambda: RunToTheEnd(metric="mean_dice")], ids=["asha", "none"])
def test_a_value_that_is_no_number_stops_the_trial(scheduler, epoch, value):
    chosen = scheduler()
    assert chosen.on_trial_result(None, named("a"), row(epoch, value)) == TrialScheduler.STOP
    chosen.on_trial_complete(None, named("a"), row(epoch, value))


def test_a_nan_at_a_rung_counts_as_the_worst():
    """Otherwise numpy's percentile of the rung is NaN, and nothing is ever stopped there again."""
    scheduler = asha()
    scheduler.on_trial_result(None, named("nan"), row(2, math.nan))
    assert scheduler.rungs()[2] == asha(curves={"nan": [(1, 0.5), (2, math.nan)]}).rungs()[2] == {"nan": 0.0}
    for number, value in enumerate((0.9, 0.8, 0.7)):
        scheduler.on_trial_result(None, named(str(number)), row(2, value))
    assert scheduler.on_trial_result(None, named("bad"), row(2, 0.1)) == TrialScheduler.STOP
    assert scheduler.on_trial_result(None, named("good"), row(2, 0.95)) == TrialScheduler.CONTINUE


def test_without_early_stopping_every_number_goes_on():
    scheduler = RunToTheEnd(metric="mean_dice")
    for epoch in range(1, 20):
        assert scheduler.on_trial_result(None, named("a"), row(epoch, 0.0)) == TrialScheduler.CONTINUE


def test_a_row_without_the_metric_is_hopeless():
    assert is_hopeless({"epoch": 1}, "mean_dice")
    assert not is_hopeless(row(1, 0.0), "mean_dice")
    assert trial_name(named("0003_x")) == "0003_x"
