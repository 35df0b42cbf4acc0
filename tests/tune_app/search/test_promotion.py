"""Trials that pause at rungs: which one goes on, what the study is told, and that a killed driver's successor goes on.

Ray is played by `Driver`, in its order: a free slot is offered to the searcher, then to the scheduler.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from driven import DICE, dice, searcher_of, study_of
from optuna.trial import TrialState
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from tune_app.results.trial import PROMOTED, is_paused, read_trial
from tune_app.search.promotion import Promotion, Rank
from tune_app.search.recovery import reconcile, recorded_curves
from tune_app.search.scheduler import PromotingAsha
from tune_app.search.study import as_told

RUNGS, ETA, EPOCHS = (2, 6, 18), 3.0, 27
WORDS = ("family=seesaw", "search=random", "search.num_samples=20", f"trainer.epochs={EPOCHS}", "search.baseline=false")


def promotable(curves: dict[str, list[float]], gone_on: set[tuple[int, str]]) -> str | None:
    """Algorithm 2 of Li et al. 2018, by its words: the best of the top 1/η of a rung that has not gone on from it."""
    for rung in reversed(RUNGS):
        come = [name for name, values in curves.items() if len(values) >= rung]
        best = sorted(come, key=lambda name: (-curves[name][rung - 1], name))[: int(len(come) / ETA)]
        left = [name for name in best if (rung, name) not in gone_on and len(curves[name]) == rung]
        if left:
            return left[0]
    return None


@pytest.mark.parametrize("seed", range(6))
def test_the_best_paused_trial_among_the_best_of_its_rung_goes_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    promotion, curves, gone_on = Promotion(RUNGS, ETA), {}, set()  # type: ignore[var-annotated]
    for number in range(60):
        name = promotion.next()
        assert name == promotable(curves, gone_on)
        if name is None:
            name = f"{number:04d}"
            curves[name] = []
        else:
            gone_on.add((len(curves[name]), name))
            promotion.promote(name)
        pauses = False
        while not pauses and len(curves[name]) < EPOCHS:
            curves[name].append(round(float(rng.uniform()), 1))  # rounded: equal values occur
            pauses = promotion.take(name, len(curves[name]), (0.0, curves[name][-1]))
            assert pauses == (len(curves[name]) in RUNGS)
    assert len(gone_on) > 10


def test_what_keeps_the_bounds_goes_on_before_what_is_better_and_misses_them() -> None:
    promotion = Promotion([1], 2.0)
    ranks: dict[str, Rank] = {"best": (-0.1, 0.9), "worst": (-0.5, 0.99), "keeps": (0.0, 0.1), "nearly": (-0.01, 0.2)}
    for name, value in ranks.items():
        promotion.take(name, 1, value)
    order = []
    while name := promotion.next():
        order.append(name)
        promotion.promote(name)
    assert order == ["keeps", "nearly"], "and the other half stays"


def test_the_best_of_a_small_search_trains_to_the_end_once_nothing_else_is_left() -> None:
    promotion = Promotion(RUNGS, ETA)
    assert promotion.take("a", 2, (0.0, 0.5))
    assert promotion.next() is None
    assert promotion.next(nothing_else=True) == "a"
    assert promotion.take("b", 2, (0.0, 0.6))
    promotion.end("b")
    assert promotion.next(nothing_else=True) is None, "a is not the best there"


class Driver:
    """A searcher with a promoting scheduler over a folder, as one driver has them; `events` is what happens."""

    def __init__(self, folder: Path, slots: int) -> None:
        self.folder, self.events = folder, []
        study = study_of(folder)
        reconcile(study, folder, DICE, EPOCHS)
        known = {t.user_attrs["name"]: t for t in study.get_trials(deepcopy=False)}

        def note(name: str, rung: int) -> None:
            study._storage.set_trial_user_attr(known_id(study, name), PROMOTED, rung)

        self.scheduler = PromotingAsha(
            objective=DICE,
            max_epochs=EPOCHS,
            grace_period=RUNGS[0],
            reduction_factor=ETA,
            curves=recorded_curves(study, folder, DICE),
            promoted={name: t.user_attrs[PROMOTED] for name, t in known.items() if PROMOTED in t.user_attrs},
            ended=[name for name, t in known.items() if t.state.is_finished()],
            on_promote=note,
        )
        self.searcher = searcher_of(folder, *WORDS, promoting=self.scheduler)
        self.searcher.allow(slots)
        self.trials: list[Any] = []

    def get_live_trials(self) -> list[Any]:
        return [trial for trial in self.trials if trial.status != Trial.TERMINATED]

    def stop_trial(self, trial: Any) -> None:
        self.scheduler.on_trial_remove(self, trial)
        self.searcher.on_trial_complete(trial.trial_id)
        trial.status = Trial.TERMINATED

    def run(self, steps: int = 10**6) -> bool:
        """As many steps as asked for; True where the search is over before."""
        finished = False
        for _ in range(steps):
            while not finished and (config := self.searcher.suggest(f"ray{len(self.trials)}")) is not None:
                if finished := config == Searcher.FINISHED:
                    break
                config["run"]["dir"] = str(self.folder / "trials" / config["run"]["name"])
                trial = SimpleNamespace(
                    trial_id=f"ray{len(self.trials)}", config=config, status=Trial.PENDING, last_result={}
                )
                trial.init_local_path = lambda: None
                trial.set_status = lambda status, trial=trial: setattr(trial, "status", status)
                trial.update_last_result = lambda row, trial=trial: setattr(trial, "last_result", row)
                self.scheduler.on_trial_add(self, trial)
                self.trials.append(trial)
            while chosen := self.scheduler.choose_trial_to_run(self):
                chosen.status = Trial.RUNNING
            running = [trial for trial in self.trials if trial.status == Trial.RUNNING]
            if not running and finished:
                return True
            if running:
                self.epoch(min(running, key=lambda trial: trial.last_result.get("epoch", 0)))
        return False

    def epoch(self, trial: Any) -> None:
        name, epoch = trial.config["run"]["name"], trial.last_result.get("epoch", self.reported(trial)) + 1
        row = {"epoch": epoch, "mean_dice": dice(trial.config, epoch), "best_mean_dice": dice(trial.config, epoch)}
        decision = TrialScheduler.STOP if epoch == EPOCHS else self.scheduler.on_trial_result(self, trial, row)
        self.events.append((name, epoch, decision))
        path = Path(trial.config["run"]["dir"]) / "result.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(row | {"done": decision == TrialScheduler.STOP}) + "\n")
        trial.last_result = row
        if decision == TrialScheduler.STOP:
            self.scheduler.on_trial_complete(self, trial, row)
            self.searcher.on_trial_complete(trial.trial_id, row)
            trial.status = Trial.TERMINATED
        else:
            self.searcher.on_trial_result(trial.trial_id, row)
            trial.status = Trial.PAUSED if decision == TrialScheduler.PAUSE else Trial.RUNNING

    @staticmethod
    def reported(trial: Any) -> int:
        path = Path(trial.config["run"]["dir"]) / "result.json"
        return len(path.read_text().splitlines()) if path.is_file() else 0


def known_id(study: Any, name: str) -> int:
    return next(t._trial_id for t in study.get_trials(deepcopy=False) if t.user_attrs["name"] == name)


def test_a_whole_search(tmp_path: Path) -> None:
    driver = Driver(tmp_path, slots=3)
    assert driver.run()
    trials = study_of(tmp_path).get_trials()
    assert len(trials) == 20
    ends = {TrialState.COMPLETE: [EPOCHS], TrialState.PRUNED: list(RUNGS)}
    assert all(max(t.intermediate_values) in ends[t.state] for t in trials)
    assert sum(t.state == TrialState.COMPLETE for t in trials) >= 1
    come = {rung: sum(max(t.intermediate_values) >= rung for t in trials) for rung in RUNGS}
    assert come[2] == 20
    assert 20 / ETA - 1 < come[6] < 20
    assert come[18] < come[6]
    assert all(is_paused(t.user_attrs) == (t.state == TrialState.PRUNED) for t in trials)
    for trial in trials:
        folder = tmp_path / "trials" / trial.user_attrs["name"]
        read = read_trial(folder, trial, number=trial.number, objective=DICE, driver_runs=False)
        assert read.status == ("finished" if trial.state == TrialState.COMPLETE else "paused")
    most = max(sum(1 for _ in names) for names in alive(driver.events))
    assert most == 3, "no more trials at once than slots"


def alive(events: list[tuple[str, int, str]]) -> list[set[str]]:
    """After each event, the trials that have begun or gone on, and have not paused or ended since."""
    running: set[str] = set()
    found = []
    for name, _, decision in events:
        running |= {name}
        found.append(set(running))
        if decision != TrialScheduler.CONTINUE:
            running -= {name}
    return found


@pytest.mark.parametrize("after", [1, 7, 8, 20, 33, 60])
def test_a_killed_search_goes_on_with_the_same_decisions(tmp_path: Path, after: int) -> None:
    """Nothing of the first driver is left but the folder; it is killed between two epochs."""
    (tmp_path / "once").mkdir()
    (tmp_path / "twice").mkdir()
    whole = Driver(tmp_path / "once", slots=1)
    assert whole.run()
    first = Driver(tmp_path / "twice", slots=1)
    assert not first.run(after)
    second = Driver(tmp_path / "twice", slots=1)
    assert second.run()
    assert first.events + second.events == whole.events
    assert second.scheduler.rungs() == whole.scheduler.rungs()
    once, twice = (
        [(t.number, t.params, t.state, t.intermediate_values, t.user_attrs) for t in study_of(folder).get_trials()]
        for folder in (tmp_path / "once", tmp_path / "twice")
    )
    assert once == twice


def test_a_trial_that_went_on_before_the_kill_goes_on_and_no_other_takes_its_place(tmp_path: Path) -> None:
    driver = Driver(tmp_path, slots=1)
    while not driver.scheduler.next():
        driver.run(1)
    name = driver.scheduler.next()
    assert name is not None
    trial = next(t for t in driver.trials if t.config["run"]["name"] == name)
    assert driver.scheduler.choose_trial_to_run(driver) is trial  # killed now, before its next epoch
    assert not Driver(tmp_path, slots=1).scheduler.promotion.is_paused(name)


def test_a_process_that_dies_while_its_trial_pauses_takes_it_to_the_next_rung(tmp_path: Path) -> None:
    """Ray runs the trial again without asking; what it trains then is not thrown away."""
    driver = Driver(tmp_path, slots=1)
    driver.run(RUNGS[0])
    (trial,) = driver.trials
    assert driver.scheduler.promotion.is_paused(name := trial.config["run"]["name"])
    trial.status = Trial.PENDING
    driver.scheduler.on_trial_add(driver, trial)
    assert not driver.scheduler.promotion.is_paused(name)
    assert study_of(tmp_path).get_trials()[0].user_attrs[PROMOTED] == RUNGS[0]


def test_a_failed_trial_gives_its_slot_back_and_never_goes_on(tmp_path: Path) -> None:
    driver = Driver(tmp_path, slots=1)
    driver.run(1)
    (trial,) = driver.trials
    assert not driver.scheduler.has_slot()
    driver.searcher.on_trial_complete(trial.trial_id, error=True)
    assert driver.scheduler.has_slot()
    assert study_of(tmp_path).get_trials()[0].state == TrialState.FAIL


def test_the_sampler_is_told_of_a_paused_trial_as_pruned(tmp_path: Path) -> None:
    driver = Driver(tmp_path, slots=1)
    driver.run(RUNGS[0])
    (trial,) = study_of(tmp_path).get_trials()
    assert trial.state == TrialState.RUNNING
    (told,) = as_told([trial])
    told._validate()
    assert told.state == TrialState.PRUNED
    assert told.intermediate_values == trial.intermediate_values
