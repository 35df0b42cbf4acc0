"""The rung before the first one: it stops trials only where ranks there surely foretell those at the first rung."""

from __future__ import annotations

import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from driven import study_of
from planned import dataset_in_memory, settings_of
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from scipy.stats import spearmanr

from trainables.objective import Objective
from tune_app.search.scheduler import Cost, ResumableAsha, foretells
from tune_app.settings.schema import early_rung, model_of
from tune_app.settings.stored import stored_settings
from tune_app.sweep.prepare import prepare
from tune_app.sweep.tuner import build_scheduler

DICE = Objective(metric="mean_dice")
EPOCHS, GRACE, EARLY, ETA = 18, 5, 2, 3.0
STOP, CONTINUE = TrialScheduler.STOP, TrialScheduler.CONTINUE
Event = tuple[str, int, float]


def asha(*, early: bool = True, **more: Any) -> ResumableAsha:
    settings = {"max_epochs": EPOCHS, "grace_period": GRACE, "reduction_factor": ETA, **more}
    return ResumableAsha(objective=DICE, early=early, **settings)


def judged(scheduler: Any, name: str, epoch: int, value: float, model: str = "unet") -> str:
    trial = SimpleNamespace(
        trial_id=name, config={"run": {"name": name}, "model": {"name": model}}, status=Trial.RUNNING
    )
    result = {"epoch": epoch, "mean_dice": value, "seconds_epoch": 1.0}
    decision = scheduler.on_trial_result(None, trial, result) if epoch < EPOCHS else STOP
    if decision == STOP:
        scheduler.on_trial_complete(None, trial, result)
    return decision


def pairs_of(first: list[float], second: list[float]) -> list[Any]:
    return [((0.0, a), (0.0, b)) for a, b in zip(first, second, strict=True)]


@pytest.mark.parametrize("seed", range(40))
def test_it_counts_where_the_lower_end_of_the_interval_lies_above_a_half(seed: int) -> None:
    """Against SciPy's coefficient, with ties: Bonett and Wright's interval of it."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(8, 33))
    first = rng.uniform(size=n).round(1)
    second = (first + rng.normal(0, rng.uniform(0.05, 0.4), n)).round(1)
    rho = spearmanr(first, second).statistic
    lower = math.tanh(math.atanh(rho) - 1.96 * math.sqrt((1 + rho**2 / 2) / (n - 3)))
    assert abs(lower - 0.5) > 1e-9, "nothing hangs on the last bit"
    assert foretells(pairs_of(first.tolist(), second.tolist())) == (lower > 0.5)


def test_it_is_unsure_of_few_trials_of_equal_ones_and_of_ranks_that_turn_round() -> None:
    rising = [float(n) for n in range(8)]
    assert foretells(pairs_of(rising, rising))
    assert not foretells(pairs_of(rising[:7], rising[:7]))
    assert not foretells(pairs_of(rising, rising[::-1]))
    assert not foretells(pairs_of(rising, [0.5] * 8))
    assert not foretells(pairs_of([0.5] * 8, [0.5] * 8))
    middling = [0.0, 2.0, 1.0, 5.0, 3.0, 4.0, 7.0, 6.0]
    assert not foretells(pairs_of(rising, middling)), "ρ = .88 of eight leaves too much open"
    thrice = [place + 8 * block for block in range(4) for place in middling]
    assert foretells(pairs_of([float(n) for n in range(32)], thrice))


def test_a_trial_that_kept_no_bound_ranks_below_one_that_did() -> None:
    kept = [(-1.0, 0.9), *((0.0, n / 10) for n in range(7))]
    assert foretells(list(zip(kept, kept)))
    assert not foretells(list(zip(kept, [(0.0, score) for _, score in kept])))


@pytest.mark.parametrize(
    ("epochs", "grace", "eta", "expected"),
    [
        (50, 3, 4.0, 1),
        (9, 5, 4.0, 2),
        (60, 6, 4.0, 2),
        (50, 2, 1.5, 0),  # ⌈2/1.5⌉ = 2
        (50, 1, 4.0, 0),
        (9, 9, 4.0, 0),  # no rung at all
        (50, 8, 4.0, 2),
    ],
)
def test_where_the_early_rung_lies(epochs: int, grace: int, eta: float, expected: int) -> None:
    assert early_rung(epochs, grace, eta) == expected
    rungs = asha(max_epochs=epochs, grace_period=grace, reduction_factor=eta).rungs()
    assert (min(rungs) < grace) == (expected > 0)
    assert min(asha(early=False, max_epochs=epochs, grace_period=grace, reduction_factor=eta).rungs()) == grace


def play(seed: int, scheduler: Any, *, kind: str, slots: int = 4, trials: int = 60) -> list[tuple[Event, str]]:
    """Trials in a random order of arrival, as a controller feeds them; every event with its decision.

    kind: whether curves keep their order, turn it round before the first rung, or begin with noise alone.
    """
    rng = np.random.default_rng(seed)
    levels = rng.uniform(0.2, 0.8, trials)
    sign = {"keep": 1.0, "reverse": -1.0, "noise": 0.0}[kind]
    running: dict[int, int] = {}
    waiting, decisions = list(range(trials)), []
    while waiting or running:
        while waiting and len(running) < slots:
            running[waiting.pop(0)] = 0
        number = int(rng.choice(sorted(running)))
        running[number] += 1
        epoch = running[number]
        before = 0.5 + sign * (levels[number] - 0.5) + rng.normal(0, 0.01 if sign else 0.2)
        value = round(abs(float(before if epoch < GRACE else levels[number] + rng.normal(0, 0.01))), 2)
        decision = judged(scheduler, f"{number:04d}_any", epoch, value)
        decisions.append(((f"{number:04d}_any", epoch, value), decision))
        if decision == STOP:
            del running[number]
    return decisions


def before_the_first_rung(decisions: list[tuple[Event, str]]) -> list[Event]:
    return [event for event, decision in decisions if decision == STOP and event[1] < GRACE]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["reverse", "noise"])
def test_where_early_ranks_say_nothing_every_decision_is_that_of_a_sweep_without_it(seed: int, kind: str) -> None:
    decisions = play(seed, asha(), kind=kind)
    assert decisions == play(seed, asha(early=False), kind=kind)
    assert not before_the_first_rung(decisions)
    assert any(decision == STOP and event[1] < EPOCHS for event, decision in decisions)


@pytest.mark.parametrize("seed", range(6))
def test_where_they_foretell_the_worse_trials_are_stopped_there(seed: int) -> None:
    decisions = play(seed, asha(), kind="keep")
    stopped = before_the_first_rung(decisions)
    assert len(stopped) > 10
    assert min(epoch for _, epoch, _ in stopped) == EARLY
    arrived = {name for (name, epoch, _), _ in decisions if epoch == GRACE}
    first = min(place for place, (event, decision) in enumerate(decisions) if decision == STOP and event[1] < GRACE)
    assert len({name for (name, epoch, _), _ in decisions[:first] if epoch == GRACE}) >= 8
    assert arrived.isdisjoint(name for name, _, _ in stopped)
    assert len(decisions) < len(play(seed, asha(early=False), kind="keep"))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", ["keep", "reverse", "noise"])
def test_without_it_decisions_are_those_of_ray(seed: int, kind: str) -> None:
    stock = AsyncHyperBandScheduler(
        time_attr="epoch", metric="mean_dice", mode="max", max_t=EPOCHS, grace_period=GRACE, reduction_factor=ETA
    )

    class Known:
        """Ray's own knows a trial by an id that it is told of when the trial is added."""

        def on_trial_result(self, _: Any, trial: Any, result: Any) -> str:
            if result["epoch"] == 1:
                stock.on_trial_add(None, trial)
            return stock.on_trial_result(None, trial, result)

        def on_trial_complete(self, _: Any, trial: Any, result: Any) -> None:
            stock.on_trial_complete(None, trial, result)

    assert play(seed, asha(early=False, recheck=False), kind=kind) == play(seed, Known(), kind=kind)


def curves_of(events: list[tuple[Event, str]]) -> dict[str, list[dict[str, Any]]]:
    """Of trials in another order than that in which they reported."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for (name, epoch, value), _ in events:
        curves.setdefault(name, []).append({"epoch": epoch, "mean_dice": value})
    names = sorted(curves)
    random.Random(0).shuffle(names)
    return {name: curves[name] for name in names}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.8])
@pytest.mark.parametrize("kind", ["keep", "noise"])
def test_a_restarted_scheduler_decides_as_an_uninterrupted_one(seed: int, share: float, kind: str) -> None:
    events = play(seed, asha(), kind=kind)
    cut = int(share * len(events))
    restarted = asha(curves=curves_of(events[:cut]))
    for (name, epoch, value), decision in events[cut:]:
        assert judged(restarted, name, epoch, value) == decision
    assert restarted.rungs() == asha(curves=curves_of(events)).rungs()


def foretold(scheduler: ResumableAsha, model: str = "unet", *, first: int = 0) -> None:
    """Nine trials that keep their order, the best one first: none is stopped before the first rung."""
    for place in range(9):
        for epoch in (EARLY, GRACE):
            judged(scheduler, f"{first + place:04d}_{model}", epoch, 0.9 - place / 20, model)


def test_a_trial_between_the_two_rungs_is_held_to_the_early_one_once_it_counts() -> None:
    scheduler = asha()
    assert judged(scheduler, "0100_poor", EARLY, 0.1) == CONTINUE
    assert judged(scheduler, "0101_good", EARLY, 0.95) == CONTINUE
    foretold(scheduler)
    assert judged(scheduler, "0100_poor", EARLY + 1, 0.99) == STOP, "by what it had at the rung"
    assert judged(scheduler, "0101_good", EARLY + 1, 0.2) == CONTINUE
    assert judged(scheduler, "0102_late", EARLY, 0.3) == STOP


def test_it_ceases_to_count_where_the_latest_trials_turn_round() -> None:
    scheduler = asha()
    foretold(scheduler)
    assert judged(scheduler, "0020_poor", EARLY, 0.1) == STOP
    for number in range(21, 29):
        judged(scheduler, f"{number:04d}_any", EARLY, 0.9 + number / 1000)
        judged(scheduler, f"{number:04d}_any", GRACE, 0.9 - number / 100)
    assert judged(scheduler, "0030_poor", EARLY, 0.1) == CONTINUE


def test_the_baseline_is_not_stopped_there_and_proves_nothing() -> None:
    scheduler = asha(baseline="uniform")
    for place in range(7):
        for epoch in (EARLY, GRACE):
            judged(scheduler, f"{place + 1:04d}_any", epoch, 0.9 - place / 20)
    for epoch in (EARLY, GRACE):
        assert judged(scheduler, "0000_uniform", epoch, 0.01) == CONTINUE
    assert judged(scheduler, "0020_poor", EARLY, 0.02) == CONTINUE, "seven trials that count are too few"
    foretold(scheduler, first=30)
    assert judged(scheduler, "0050_poor", EARLY, 0.02) == STOP
    assert judged(scheduler, "0000_uniform", EARLY + 1, 0.0) == CONTINUE


def test_a_score_that_is_nan_before_the_first_rung_is_no_evidence() -> None:
    scheduler = asha()
    for place in range(7):
        for epoch in (EARLY, GRACE):
            judged(scheduler, f"{place:04d}_any", epoch, 0.9 - place / 20)
    assert judged(scheduler, "0007_nan", EARLY, 0.3) == CONTINUE
    assert judged(scheduler, "0007_nan", EARLY + 1, math.nan) == STOP
    assert judged(scheduler, "0008_nan", EARLY, math.nan) == STOP
    assert judged(scheduler, "0009_poor", EARLY, 0.1) == CONTINUE


def test_each_model_is_judged_by_its_own_trials_where_models_are_compared_by_cost() -> None:
    scheduler = asha(costs={})
    foretold(scheduler)
    assert judged(scheduler, "0020_poor", EARLY, 0.1) == STOP
    judged(scheduler, "0030_first", EARLY, 0.9, "other")
    assert judged(scheduler, "0031_poor", EARLY, 0.1, "other") == CONTINUE
    foretold(scheduler, "other", first=40)
    assert judged(scheduler, "0050_poor", EARLY, 0.1, "other") == STOP
    again = asha(curves={"0000_x": [{"epoch": EARLY, "mean_dice": 0.5}]}, costs={"0000_x": Cost(model_of({}), 1.0)})
    assert again.rungs()[EARLY] == {"0000_x": (0.0, 0.5)}


def test_an_older_sweep_goes_on_without_it(tmp_path: Path) -> None:
    values = settings_of("family=seesaw").as_dict()
    assert stored_early(tmp_path, values)
    values["scheduler"]["early"] = False
    assert not stored_early(tmp_path, values)
    del values["scheduler"]["early"]
    assert not stored_early(tmp_path, values)


@pytest.mark.parametrize(("words", "rungs"), [("", [2, 5]), ("scheduler.early=false", [5])])
def test_the_setting_reaches_the_scheduler_of_a_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, rungs: list[int]
) -> None:
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", dataset_in_memory)
    prepared = prepare(settings_of("family=seesaw", *words.split()), tmp_path / "new")
    scheduler = build_scheduler(prepared, study_of(tmp_path))
    assert isinstance(scheduler, ResumableAsha)
    assert list(scheduler.rungs()) == rungs


def stored_early(folder: Path, values: dict[str, Any]) -> bool:
    (folder / "sweep.yaml").write_text(yaml.safe_dump(values))
    return stored_settings(folder).scheduler.early
