"""Drives a StudySearcher as Ray Tune does, with curves from a formula instead of training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from planned import COUNTS, settings_of
from ray.tune.search import Searcher

from trainables.objective import Objective
from tune_app.search.arms import num_trials, planned_arms, searched_space
from tune_app.search.guard import guard_of
from tune_app.search.scheduler import PromotingAsha
from tune_app.search.searcher import Budget, StudySearcher
from tune_app.search.study import open_study

Config = dict[str, Any]
_trial_ids: Iterator[int] = itertools.count()


DICE = Objective(metric="mean_dice")


def searcher_of(
    folder: Path, *words: str, objective: Objective = DICE, promoting: PromotingAsha | None = None
) -> StudySearcher:
    """A searcher over the journal in `folder`, as a driver that has just started makes one."""
    settings = settings_of(*words)
    space = searched_space(settings)
    arms = planned_arms(settings, space)
    return StudySearcher(
        study=study_of(folder, objective),
        arms=arms,
        space=space,
        family=settings.family,
        kind=settings.search.name,
        seed=settings.seed,
        startup_trials=settings.search.startup_trials,
        budget=Budget(num_trials=num_trials(settings, arms, space, COUNTS, 1e9), epochs=settings.trainer.epochs),
        counts=COUNTS,
        configure=configure,
        objective=objective,
        promoting=promoting,
        guard=guard_of(settings, space),
    )


def study_of(folder: Path, objective: Objective = DICE) -> optuna.Study:
    return open_study(folder, "sweep", objective)


def configure(run: Mapping[str, Any], trial: Mapping[str, Any], seed: int) -> Config:
    return {"run": dict(run), **trial, "seed": seed}


def begin(searcher: StudySearcher) -> tuple[str, Config] | None:
    """(Ray's id, config) of the next trial; None where the searcher is finished."""
    trial_id = f"ray{next(_trial_ids)}"  # Ray draws a new id in every process
    config = searcher.suggest(trial_id)
    if config == Searcher.FINISHED:
        return None
    assert isinstance(config, dict)
    return trial_id, config


def dice(config: Config, epoch: int) -> float:
    """Deterministic, different for every configuration and rising with the epochs."""
    words = sorted((key, value) for key, value in config["loss"]["params"].items() if isinstance(value, float))
    return (0.1 + sum(value / (7 + i) for i, (_, value) in enumerate(words))) % 0.5 + 0.01 * epoch


def train(searcher: StudySearcher, trial_id: str, config: Config, epochs: int, *, first: int = 1) -> dict[str, Any]:
    """Epochs `first` to `epochs`, all reported as ones that go on; the last row."""
    row: dict[str, Any] = {}
    for epoch in range(first, epochs + 1):
        row = {"epoch": epoch, "mean_dice": dice(config, epoch), "best_mean_dice": dice(config, epoch)}
        searcher.on_trial_result(trial_id, row)
    return row


def finish_all(
    searcher: StudySearcher, epochs: int, until: Callable[[int], bool] = lambda number: False
) -> list[Config]:
    """Run one trial after the other to its end; stops before a trial for whose number `until` holds."""
    configs = []
    while True:
        begun = begin(searcher)
        if begun is None:
            return configs
        trial_id, config = begun
        configs.append(config)
        if until(config["run"]["number"]):
            return configs
        searcher.on_trial_complete(trial_id, train(searcher, trial_id, config, epochs))
