"""Stopping against promoting on recorded curves, random points: python -m benchmarks.promotion [--tables FOLDER].

The rules alone, without a searcher that learns: ASHA that stops trials at rungs and holds each to its last rung at
every epoch, as `scheduler.name=asha` does, and ASHA that pauses them and lets the best go on, `scheduler.name=promote`.
Both get the same random order of configurations, the same seconds per epoch, four slots in simulated time, and the
grace period and η of a run that says nothing of them (the phantom: 5 of 9 epochs, 4; TaskSet: 3 of 50, 4). Tables: the
phantom's, and those of TaskSet in FOLDER (see benchmarks.search_policy).

Regret after n epochs over all slots: (the table's best − what the search holds) ÷ (the table's best − its median). What
it holds is the trial with the best score that it has seen, and that trial is worth what its configuration is worth at
the epoch it has reached: the best score by then, mean over the recorded seeds. A pause costs nothing here.

The number is the difference in regret, promoting − stopping, of each table. About 2 minutes.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.tune.schedulers import TrialScheduler

from benchmarks.early_stopping import TABLE, default_settings
from benchmarks.harness import Result, main
from benchmarks.learning_curves import Floats, Table, phantom, taskset
from benchmarks.policies import defaults
from benchmarks.replay import METRIC, SLOTS, SPREAD
from benchmarks.search_policy import FOLDER, interval
from trainables.objective import Objective
from tune_app.planning.epochs import rung_epochs
from tune_app.search.promotion import Promotion
from tune_app.search.scheduler import ResumableAsha, rank

BUDGETS = (100, 250, 500, 1000)
OBJECTIVE = Objective(metric=METRIC)


class Stopping:
    """Trials are stopped at rungs, and none ever waits."""

    def __init__(self, epochs: int, grace: int, eta: float) -> None:
        self.rule = ResumableAsha(objective=OBJECTIVE, max_epochs=epochs, grace_period=grace, reduction_factor=eta)

    def next(self) -> str | None:
        return None

    def goes_on(self, name: str, row: dict[str, Any]) -> bool:
        handle = SimpleNamespace(config={"run": {"name": name}})
        return bool(self.rule.on_trial_result(None, handle, row) == TrialScheduler.CONTINUE)


class Promoting:
    """Trials pause at rungs, and the best go on."""

    def __init__(self, epochs: int, grace: int, eta: float) -> None:
        self.rule = Promotion(rung_epochs(epochs, grace, eta), eta)

    def next(self) -> str | None:
        if (name := self.rule.next()) is not None:
            self.rule.promote(name)
        return name

    def goes_on(self, name: str, row: dict[str, Any]) -> bool:
        pauses = self.rule.take(name, row["epoch"], rank(OBJECTIVE, row))
        if not math.isfinite(row[METRIC]):
            self.rule.end(name)
        return math.isfinite(row[METRIC]) and not pauses


Rule = Callable[[int, int, float], Stopping | Promoting]
RULES: dict[str, Rule] = {"promoting": Promoting, "stopping": Stopping}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    folder = os.environ.get(FOLDER)
    parser.add_argument("--tables", type=Path, default=Path(folder) if folder else None, help="folder of tables")
    parser.add_argument("--seeds", type=int, default=100, help="paired replays per table")


def run(arguments: argparse.Namespace) -> Iterator[Result]:
    paths = sorted(arguments.tables.glob("*.json")) if arguments.tables else []
    tables = [phantom(TABLE), *map(taskset, paths)]
    regrets = np.array(
        [
            [[regret(table, rule, seed) for seed in range(arguments.seeds)] for rule in RULES.values()]
            for table in tables
        ]
    )
    for index, epochs in enumerate(BUDGETS):
        promoting, stopping = regrets[:, 0, :, index], regrets[:, 1, :, index]
        low, high = interval((promoting - stopping).mean(axis=0))
        shown = ", ".join(
            f"{table.name[-30:]} {p:.3f} and {s:.3f}"
            for table, p, s in zip(tables, promoting.mean(axis=1), stopping.mean(axis=1))
        )
        yield Result(
            claim=f"regret after {epochs} epochs: promoting − stopping, mean of each table",
            values=tuple((promoting - stopping).mean(axis=1).tolist()),
            target=0.0,
            at_least=False,
            unit="",
            note=f"mean over tables {promoting.mean():.3f} and {stopping.mean():.3f}, "
            f"difference [{low:.3f}, {high:.3f}]; {arguments.seeds} seeds; {shown}",
        )


def regret(table: Table, rule: Rule, seed: int) -> list[float]:
    """After each of BUDGETS."""
    settings = default_settings() if table.name == "phantom" else defaults(table.epochs)
    steps = replay(table, rule(table.epochs, settings.grace_period, settings.scheduler.reduction_factor), seed)
    worth = np.fmax.accumulate(table.scores, axis=2).mean(axis=1)  # (n, E)
    best, median = np.nanmax(worth[:, -1]), np.nanmedian(worth[:, -1])
    found, reached, held, seen = [], {}, -1, -math.inf
    for number, (row, epoch, score) in enumerate(steps, start=1):
        reached[row] = max(epoch, reached.get(row, 0))
        if score > seen:
            held, seen = row, score
        if number in BUDGETS:
            value = worth[held, reached[held] - 1] if held >= 0 else median
            found.append(float((best - value) / (best - median)))
    return found


def replay(table: Table, rule: Stopping | Promoting, seed: int) -> Sequence[tuple[int, int, float]]:
    """(row of the table, epoch, score) in the order in which epochs end."""
    rng = np.random.default_rng(seed)
    seconds: Floats = rng.lognormal(0.0, SPREAD, len(table.points))
    order, scores = rng.permutation(len(table.points)), table.scores[:, seed % table.repeats]
    steps: list[tuple[int, int, float]] = []
    reached: list[int] = []
    queue = [(float(seconds[order[number]]), number) for number in range(SLOTS)]
    reached += [0] * SLOTS
    heapq.heapify(queue)
    while len(steps) < max(BUDGETS):
        now, number = heapq.heappop(queue)
        row = int(order[number % len(order)])
        reached[number] += 1
        epoch, score = reached[number], float(scores[row, reached[number] - 1])
        steps.append((row, epoch, score))
        name = f"{number:04d}"
        if epoch == table.epochs or not rule.goes_on(name, {"epoch": epoch, METRIC: score}):
            promoted = rule.next()
            number = int(promoted) if promoted is not None else len(reached)
            reached += [0] * (number == len(reached))
        heapq.heappush(queue, (now + float(seconds[order[number % len(order)]]), number))
    return steps


if __name__ == "__main__":
    main(__doc__, run, add_arguments)
