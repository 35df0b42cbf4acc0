"""Regret at equal device-seconds where trials differ in cost: python -m benchmarks.cost_aware [--tables FOLDER].

The tables of TaskSet (see `benchmarks.search_policy`), each configuration given one of four made-up models, drawn by
the seed of the replay: an epoch of them takes 1, 2, 4 and 8 times as long, scaled so that the mean of the four is one
second. The model is an axis of the space; curves are as recorded, so it decides nothing but the cost. Three policies
are replayed on four slots of one device each, the real searchers and schedulers:

    ours              the settings of a run that says nothing about either: trials of a model are compared at epochs,
                      those of different models at what they have spent (docs/cost.md)
    ours, at epochs   the same with `scheduler.compare=epochs`
    Ray's             OptunaSearch() and AsyncHyperBandScheduler(time_attr="seconds"), with a max_t that cuts nothing
                      short

Regret after n device-seconds is that of `search_policy`, over the epochs that had ended when all of them together had
taken n seconds. About 10 minutes on one core.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from ray.tune.schedulers import AsyncHyperBandScheduler

from benchmarks.harness import Result, main
from benchmarks.learning_curves import Floats, Table, taskset
from benchmarks.policies import defaults, ours, stock
from benchmarks.replay import METRIC, Replay, Running, Search, Step
from benchmarks.search_policy import add_tables, found_tables, interval, regret
from search_spaces import Choice
from trainables.objective import Objective
from tune_app.search.scheduler import Cost, ResumableAsha

BUDGETS = (100, 250, 500)
"""Device-seconds: with models of mean cost, as many epochs."""
FACTORS = np.array([1.0, 2.0, 4.0, 8.0])
SECONDS = {f"model_{factor:g}": float(factor / FACTORS.mean()) for factor in FACTORS}
"""Of an epoch of each model."""


class CostlyReplay(Replay):
    """A replay in which an epoch takes as long as the row's model says, and rows say how long they took."""

    def __init__(self, search: Search, table: Table, seed: int) -> None:
        super().__init__(search, table, seed)
        self.seconds *= [SECONDS[point["model"]] for point in table.points]

    def result(self, trial: Running, score: float) -> dict[str, Any]:
        seconds = float(self.seconds[trial.row])
        return super().result(trial, score) | {"seconds_epoch": seconds, "seconds": seconds * trial.epoch}


class ByModel(ResumableAsha):
    """Ours, which finds a trial's model in the point that it trains."""

    def _cost(self, trial: Any) -> Cost | None:
        return Cost(trial.config["point"]["model"], 1.0) if self._by_cost else None


def by_seconds(table: Table, seed: int) -> Search:
    settings = defaults(table.epochs)
    scheduler = ByModel(
        objective=Objective(metric=METRIC),
        max_epochs=table.epochs,
        grace_period=settings.grace_period,
        reduction_factor=settings.scheduler.reduction_factor,
        early=settings.scheduler.early,
        costs={},
    )
    return replace(ours(table, seed), scheduler=scheduler)


def rays(table: Table, seed: int) -> Search:
    scheduler = AsyncHyperBandScheduler(
        time_attr="seconds", metric=METRIC, mode="max", max_t=2 * table.epochs * max(SECONDS.values())
    )
    return replace(stock(table, seed), scheduler=scheduler)


POLICIES: dict[str, Callable[[Table, int], Search]] = {
    "ours": by_seconds,
    "ours, at epochs": ours,
    "Ray's OptunaSearch + ASHA on seconds": rays,
}


def with_models(table: Table, seed: int) -> Table:
    """The table with a model for each row, drawn by the seed."""
    names = np.random.default_rng(seed).choice(list(SECONDS), len(table.points))
    points = [{**point, "model": str(name)} for point, name in zip(table.points, names)]
    return replace(table, points=points, space={**table.space, "model": Choice(tuple(SECONDS))})


def regrets(replayed: CostlyReplay) -> Floats:
    """(budgets,) of the validation loss."""
    steps: list[Step] = []
    ends: list[float] = []
    for step in replayed.steps():
        steps.append(step)
        ends.append((ends[-1] if ends else 0.0) + float(replayed.seconds[step.row]))
        if ends[-1] > max(BUDGETS):
            break
    found = [np.searchsorted(ends, budget, side="right") for budget in BUDGETS]
    return np.array([regret(replayed.table, steps[:number])[0] if number else 1.0 for number in found])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_tables(parser)
    parser.add_argument("--seeds", type=int, default=6, help="paired replays per table and policy")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    if not (paths := found_tables(arguments)):
        return
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # Ray's searcher warns of every NaN score,
    warnings.filterwarnings("ignore", "All-NaN slice")  # and its scheduler of a rung that has nothing else
    found = np.empty((len(POLICIES), len(paths), arguments.seeds, len(BUDGETS)))
    for place, path in enumerate(paths):
        for seed in range(arguments.seeds):
            table = with_models(taskset(path), seed)
            for policy, make in enumerate(POLICIES.values()):
                found[policy, place, seed] = regrets(CostlyReplay(make(table, seed), table, seed))
    own, *others = zip(POLICIES, found)
    for name, theirs in others:
        for budget, seconds in enumerate(BUDGETS):
            difference = (own[1] - theirs)[:, :, budget]
            low, high = interval(difference.ravel())
            yield Result(
                claim=f"regret after {seconds} device-seconds: ours − {name}, mean of each table",
                values=tuple(difference.mean(axis=1).tolist()),
                target=0.0,
                at_least=False,
                unit="",
                note=f"mean over tables {own[1][:, :, budget].mean():.3f} and {theirs[:, :, budget].mean():.3f}, "
                f"difference {difference.mean():.3f} [{low:.3f}, {high:.3f}]; {arguments.seeds} seeds",
                details={"tables": [path.stem for path in paths], "interval": [low, high]},
            )


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
