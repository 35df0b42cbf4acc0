"""ASHA decides as Ray's own does, and its rungs follow from the recorded curves alone."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler

from trainables.objective import Objective
from tune_app.planning.epochs import quantile_without
from tune_app.search.scheduler import ResumableAsha, RunToTheEnd, has_no_score, trial_name

MAX_EPOCHS, GRACE = 27, 2
Event = tuple[str, int, float]

DICE = Objective(metric="mean_dice")


def named(name: str) -> Any:
    return SimpleNamespace(trial_id=f"id of {name}", config={"run": {"name": name}}, status=Trial.RUNNING)


def row(epoch: int, value: float) -> dict[str, Any]:
    return {"epoch": epoch, "mean_dice": value}


def asha(eta: float = 3.0, **more: Any) -> ResumableAsha:
    return ResumableAsha(objective=DICE, max_epochs=MAX_EPOCHS, grace_period=GRACE, reduction_factor=eta, **more)


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
def test_the_decisions_at_the_rungs_are_those_of_ray(seed, eta):
    mine = play(seed, asha(eta, recheck=False))
    assert mine == play(seed, stock(eta))
    stops = [event for event, decision in mine if decision == TrialScheduler.STOP]
    assert len(stops) == 25
    assert any(epoch < MAX_EPOCHS for _, epoch, _ in stops)


def curves_of(events: list[tuple[Event, str]]) -> dict[str, list[dict[str, Any]]]:
    curves: dict[str, list[dict[str, Any]]] = {}
    for (name, epoch, value), _ in events:
        curves.setdefault(name, []).append(row(epoch, value))
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


def judged(scheduler: ResumableAsha, name: str, epoch: int, value: float) -> str:
    return scheduler.on_trial_result(None, named(name), row(epoch, value))


def test_a_trial_that_was_first_at_a_rung_is_stopped_once_better_ones_have_come_by():
    scheduler = asha()
    assert judged(scheduler, "first", 2, 0.3) == TrialScheduler.CONTINUE
    assert judged(scheduler, "first", 3, 0.4) == TrialScheduler.CONTINUE
    assert judged(scheduler, "second", 2, 0.5) == TrialScheduler.CONTINUE
    assert judged(scheduler, "first", 4, 0.9) == TrialScheduler.STOP  # by what it had at epoch 2, as the second is
    assert judged(scheduler, "second", 3, 0.0) == TrialScheduler.CONTINUE


def test_a_trial_is_held_to_its_last_rung_alone():
    scheduler = asha()
    assert judged(scheduler, "slow", 2, 0.3) == TrialScheduler.CONTINUE
    for epoch in (6, 7):
        assert judged(scheduler, "slow", epoch, 0.8) == TrialScheduler.CONTINUE
    assert judged(scheduler, "fast", 2, 0.5) == TrialScheduler.CONTINUE
    assert judged(scheduler, "slow", 8, 0.8) == TrialScheduler.CONTINUE
    assert judged(scheduler, "fast", 6, 0.7) == TrialScheduler.STOP


@pytest.mark.parametrize("eta", [2.0, 3.0, 4.0])
@pytest.mark.parametrize("seed", range(6))
def test_whoever_goes_on_is_among_the_best_of_its_last_rung(seed, eta):
    """Of the others there, as NumPy's percentile has it: Ray's own rule, applied at every epoch."""
    scheduler = asha(eta)
    checked = 0

    class Watched:
        def on_trial_add(self, *_: Any) -> None: ...
        def on_trial_complete(self, *_: Any) -> None: ...
        def on_trial_result(self, controller: Any, trial: Any, result: Any) -> str:
            nonlocal checked
            decision = scheduler.on_trial_result(controller, trial, result)
            name, rungs = trial_name(trial), scheduler.rungs()
            mine = [rungs[epoch] for epoch in rungs if name in rungs[epoch]]
            others = [score for other, (_, score) in mine[-1].items() if other != name] if mine else []
            if others:
                cutoff = np.percentile(others, 100 * (1 - 1 / eta))
                assert (decision == TrialScheduler.STOP) == (mine[-1][name][1] < cutoff - 1e-12)
                checked += 1
            return decision

    play(seed, Watched())  # type: ignore[arg-type]
    assert checked > 25


def test_one_after_the_other_a_trial_is_judged_as_by_ray():
    """Nobody comes to a rung while a trial is on its way to the next: looking again changes nothing."""
    assert play(3, asha(), slots=1) == play(3, stock(), slots=1)


@pytest.mark.parametrize("share", [0.5, 2 / 3, 0.75])
def test_quantile_without_one_value_is_that_of_the_others(share):
    values = np.random.default_rng(0).uniform(size=20).round(1)  # with ties
    for index, value in enumerate(values):
        others = np.delete(values, index)
        assert quantile_without(sorted(values.tolist()), value, share) == pytest.approx(np.quantile(others, share))
    assert quantile_without([0.4], 0.4, share) == 0.4


def test_a_trial_is_known_by_its_name_after_a_restart():
    """Ray draws a new id for it: a row that is reported again must not enter a rung twice."""
    first = asha(curves={"a": [row(1, 0.5), row(2, 0.6)]})
    first.on_trial_result(None, SimpleNamespace(trial_id="new", config={"run": {"name": "a"}}), row(2, 0.1))
    assert first.rungs()[2] == {"a": (0, 0.6)}


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
    assert scheduler.rungs()[2] == asha(curves={"nan": [row(1, 0.5), row(2, math.nan)]}).rungs()[2] == {"nan": (0, 0)}
    for number, value in enumerate((0.9, 0.8, 0.7)):
        scheduler.on_trial_result(None, named(str(number)), row(2, value))
    assert scheduler.on_trial_result(None, named("bad"), row(2, 0.1)) == TrialScheduler.STOP
    assert scheduler.on_trial_result(None, named("good"), row(2, 0.95)) == TrialScheduler.CONTINUE


def test_without_early_stopping_every_number_goes_on():
    scheduler = RunToTheEnd(metric="mean_dice")
    for epoch in range(1, 20):
        assert scheduler.on_trial_result(None, named("a"), row(epoch, 0.0)) == TrialScheduler.CONTINUE


def waiting(number: int, status: str) -> Any:
    return SimpleNamespace(status=status, config={"run": {"number": number}})


@pytest.mark.parametrize("scheduler", [asha, lambda: RunToTheEnd(metric="mean_dice")], ids=["asha", "none"])
def test_the_waiting_trial_with_the_lowest_number_is_next(scheduler):
    """As Ray's own chooses, but only trials that have not ended are looked at. Nothing pauses here."""
    live = {3: Trial.PENDING, 1: Trial.RUNNING, 2: Trial.PENDING, 0: Trial.PAUSED, 4: Trial.ERROR}
    trials = {number: waiting(number, status) for number, status in live.items()}
    controller = SimpleNamespace(get_live_trials=lambda: set_of(trials))
    chosen = []
    while (trial := scheduler().choose_trial_to_run(controller)) is not None:
        chosen.append(trial.config["run"]["number"])
        trial.status = Trial.RUNNING
    assert chosen == [2, 3]


def set_of(trials: dict[int, Any]) -> list[Any]:
    """In no order, as Ray's set of live trials."""
    return [trials[number] for number in sorted(trials, key=lambda number: -number)]


def test_a_row_without_the_metric_has_no_score():
    assert has_no_score({"epoch": 1}, "mean_dice")
    assert not has_no_score(row(1, 0.0), "mean_dice")
    assert trial_name(named("0003_x")) == "0003_x"


@pytest.mark.parametrize("seed", range(3))
def test_the_baseline_is_never_stopped_and_nothing_is_judged_by_it(seed):
    """The decisions over the others are those of a sweep without it, live and after a restart."""
    events = play(seed, asha())
    cut = len(events) // 2
    worst = {"0000_uniform": [row(epoch, 0.0) for epoch in range(1, MAX_EPOCHS)]}
    with_it = asha(baseline="uniform")
    for number, ((name, epoch, value), decision) in enumerate(events):
        if number == cut:
            with_it = asha(baseline="uniform", curves=curves_of(events[:cut]) | worst)
        if epoch < MAX_EPOCHS:
            assert with_it.on_trial_result(None, named("0000_uniform"), row(epoch, 0.0)) == TrialScheduler.CONTINUE
            assert with_it.on_trial_result(None, named(name), row(epoch, value)) == decision
        with_it.on_trial_complete(None, named(name), row(epoch, value))
    assert not any("0000_uniform" in rung for rung in with_it.rungs().values())


def test_a_baseline_that_is_no_number_is_stopped():
    assert asha(baseline="u").on_trial_result(None, named("0000_u"), row(3, math.nan)) == TrialScheduler.STOP
