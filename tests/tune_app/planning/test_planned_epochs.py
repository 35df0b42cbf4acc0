"""The model of ASHA against the scheduler itself, and rounds against slots filled by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from trainables.objective import Objective
from tune_app.planning.epochs import Range, Work, epochs_of, expected_work, promoted_epochs_of, rung_epochs
from tune_app.search.scheduler import ResumableAsha
from tune_app.settings.schema import early_rung

SHAPES = [(9, 3, 3.0), (60, 6, 3.0), (60, 1, 4.0), (10, 1, 2.5), (9, 9, 3.0), (5, 1, 2.0)]

DICE = Objective(metric="mean_dice")


class FakeTrial:
    def __init__(self, name: str) -> None:
        self.config = {"run": {"name": name}}


def scheduler_of(epochs: int, grace: int, eta: float, *, recheck: bool = False, early: bool = False) -> ResumableAsha:
    return ResumableAsha(
        objective=DICE, max_epochs=epochs, grace_period=grace, reduction_factor=eta, recheck=recheck, early=early
    )


@pytest.mark.parametrize(("epochs", "grace", "eta"), SHAPES)
def test_rungs_are_the_schedulers(epochs: int, grace: int, eta: float) -> None:
    real = [epoch for epoch in scheduler_of(epochs, grace, eta).rungs() if epoch < epochs]
    found = rung_epochs(epochs, grace, eta)
    assert len(found) == len(real)
    assert all(int(r) in (e, e - 1) for r, e in zip(real, found)), "a rung between two epochs is met at the later one"


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("recheck", [False, True])
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize(("epochs", "grace", "eta"), SHAPES)
def test_the_model_stops_trials_where_the_scheduler_does(
    epochs: int, grace: int, eta: float, slots: int, recheck: bool, early: bool
) -> None:
    qualities = np.random.default_rng(0).normal(size=60).tolist()
    scheduler = scheduler_of(epochs, grace, eta, recheck=recheck, early=early)
    waiting, running, real = list(range(60)), [], [0] * 60
    while waiting or running:
        running += [waiting.pop(0) for _ in range(min(slots - len(running), len(waiting)))]
        for number in tuple(running):
            real[number] += 1
            row = {"epoch": real[number], "mean_dice": 0.5 + 0.05 * qualities[number]}  # a Dice
            said = scheduler.on_trial_result(None, FakeTrial(f"{number:04d}_t"), row)
            if said == "STOP" or real[number] == epochs:
                running.remove(number)
    rungs = rung_epochs(epochs, grace, eta)
    own = early_rung(epochs, grace, eta) if early else 0
    assert epochs_of(qualities, epochs, rungs, eta, slots=slots, recheck=recheck, early=own) == real
    assert (len(set(real)) > 1) == bool(rungs)
    assert any(trained < grace for trained in real) == bool(own)


def test_without_early_stopping_all_is_known() -> None:
    work = expected_work(15, 60, (), 3.0, improving=True)
    assert work.epochs == Range(900, 900, 900)
    assert work.rounds(4) == Range(240, 240, 240), "four rounds of sixty epochs"
    assert work.rounds(100) == Range(60, 60, 60)


def test_many_random_trials_pass_a_rung_by_one_in_eta() -> None:
    epochs = epochs_of(np.random.default_rng(1).normal(size=3000).tolist(), 100, (1,), 4.0)
    assert epochs.count(100) / 3000 == pytest.approx(0.25, abs=0.02)


def test_a_searcher_that_learns_lets_more_trials_pass() -> None:
    random = expected_work(40, 60, (6, 18), 3.0, improving=False)
    learning = expected_work(40, 60, (6, 18), 3.0, improving=True)
    assert learning.epochs.expected > random.epochs.expected
    for work in (random, learning):
        assert 40 * 6 < work.epochs.low < work.epochs.expected < work.epochs.high < 40 * 60


def test_rechecking_stops_the_first_ones_too() -> None:
    once, again = (expected_work(15, 60, (6, 24), 4.0, improving=False, slots=4, recheck=r) for r in (False, True))
    assert again.epochs.expected < 0.8 * once.epochs.expected


def test_exempt_trials_run_to_the_end() -> None:
    work = expected_work(3, 60, (6,), 3.0, improving=True, exempt=3)
    assert work.epochs == Range(180, 180, 180)


def test_the_same_plan_twice_and_a_large_one_in_proportion() -> None:
    assert expected_work(30, 9, (3,), 3.0, improving=True) == expected_work(30, 9, (3,), 3.0, improving=True)
    small, large = (expected_work(n, 60, (6, 18), 3.0, improving=False).epochs.expected / n for n in (200, 4000))
    assert large == pytest.approx(small, rel=1e-9)


def test_trials_filled_into_slots_end_within_the_rounds() -> None:
    generator = np.random.default_rng(2)
    for slots, trials in itertools.product((1, 2, 3, 8), (1, 2, 7, 30)):
        lengths = generator.choice([6, 18, 60], trials)
        ends = [0] * slots
        for length in lengths:
            ends[int(np.argmin(ends))] += length
        total = float(lengths.sum())
        rounds = Work(trials, Range(total, total - 1e-9, total), 60).rounds(slots)
        assert rounds.low - 1e-6 <= max(ends) <= rounds.high + 1e-6, (slots, trials)


def test_of_pausing_trials_the_best_share_of_each_rung_goes_on() -> None:
    best_first = [-float(number) for number in range(16)]
    assert promoted_epochs_of(best_first, 16, (1, 4), 4.0) == [16, 4, 4, 4, *[1] * 12]
    assert promoted_epochs_of(best_first[:2], 16, (1, 4), 4.0) == [16, 1], "the best of a small search ends"
    stopping, pausing = (
        expected_work(16, 16, (1, 4), 4.0, improving=False, slots=4, recheck=True, promote=promote)
        for promote in (False, True)
    )
    assert 16 + 3 * 4 + 12 <= pausing.epochs.low <= pausing.epochs.high
    assert pausing.epochs.expected < stopping.epochs.expected
