"""A search replayed on recorded curves in simulated time: the real searcher and scheduler, no Ray, no training.

The loop does with the two objects what Ray's TuneController does, in its order: a result goes to the scheduler, then
to the searcher unless it ends the trial; the end goes to the scheduler, then to the searcher, with the last result. A
slot that is free is offered to the searcher, then to the trials that the scheduler has paused.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from benchmarks.learning_curves import Table
from trainables.settings import TaskSettings
from trainables.tasks import get_task

METRIC = get_task(TaskSettings().name).metric
SLOTS = 4
SPREAD = 0.2
"""Standard deviation of the logarithm of a trial's seconds per epoch: slots are not in step with each other."""


@dataclass(frozen=True)
class Search:
    """What is compared: a searcher with a scheduler, fresh ones for each replay."""

    searcher: Searcher
    scheduler: TrialScheduler


@dataclass(frozen=True)
class Step:
    """One epoch of one trial, in the order in which they end."""

    trial: int
    row: int
    """Of the table."""
    repeat: int
    epoch: int
    score: float


@dataclass(eq=False)
class Handle:
    """What the scheduler sees of a trial."""

    trial_id: str
    config: Mapping[str, Any]
    status: str
    last_result: Mapping[str, Any] | None = None
    is_saving: bool = False


@dataclass
class Running:
    """A trial in its slot."""

    number: int
    row: int
    repeat: int
    handle: Handle
    epoch: int = 0
    best: float = math.nan


class Replay:
    """One search on one table. The same seed gives every search the same seconds per epoch of a row.

    As in a sweep, all trials have one seed: they meet the same repeat of their rows, the next one where a row is used
    again.
    """

    tells_last_epoch = False
    """Whether the scheduler hears of a trial's last epoch before the trial ends."""

    def __init__(self, search: Search, table: Table, seed: int, slots: int = SLOTS) -> None:
        rng = np.random.default_rng(seed)
        self.search, self.table, self.slots = search, table, slots
        self.seconds = rng.lognormal(0.0, SPREAD, len(table.points))
        self.repeat = seed % table.repeats
        self.used = np.zeros(len(table.points), dtype=int)
        self.started = 0
        self.paused: dict[str, Running] = {}

    def steps(self) -> Iterator[Step]:
        """Epoch after epoch until the searcher has no more trials; ended by whoever stops listening."""
        queue: list[tuple[float, int, Running]] = []

        def begin(now: float) -> None:
            trial = self.begin() or self.promoted()
            if trial:
                heapq.heappush(queue, (now + self.seconds[trial.row], trial.number, trial))

        for _ in range(self.slots):
            begin(0.0)
        while queue:
            now, _, trial = heapq.heappop(queue)
            step = self.advance(trial)
            yield step
            if self.report(trial, step.score):
                begin(now)
            else:
                heapq.heappush(queue, (now + self.seconds[trial.row], trial.number, trial))

    def begin(self) -> Running | None:
        """The next trial; None when there is none."""
        config = self.search.searcher.suggest(str(self.started))
        if config is None or config == Searcher.FINISHED:
            return None
        return self.added(config, Trial.RUNNING)

    def added(self, config: Mapping[str, Any], status: str) -> Running:
        """A trial of this config, told to the scheduler."""
        number, row = self.started, self.match(config)
        self.started += 1
        repeat = int(self.repeat + self.used[row]) % self.table.repeats
        self.used[row] += 1
        trial = Running(number, row, repeat, Handle(str(number), config, status))
        self.search.scheduler.on_trial_add(None, trial.handle)
        return trial

    def promoted(self) -> Running | None:
        """The paused trial that the scheduler lets go on; None when there is none."""
        handle = self.paused and self.search.scheduler.choose_trial_to_run(self)
        if not handle:
            return None
        handle.status = Trial.RUNNING
        return self.paused.pop(handle.trial_id)

    def get_live_trials(self) -> list[Any]:
        """As Ray's controller has it, for the scheduler: none waits for a slot here."""
        return []

    def stop_trial(self, handle: Handle) -> None:
        """As Ray's controller does it with a trial that does not run."""
        self.search.scheduler.on_trial_remove(self, handle)
        self.search.searcher.on_trial_complete(handle.trial_id)
        handle.status = Trial.TERMINATED
        self.paused.pop(handle.trial_id, None)

    def match(self, config: Mapping[str, Any]) -> int:
        """The row that was planned, or the nearest one that is unused (least used where none is left)."""
        if "row" in config:
            return int(config["row"])
        distances = self.table.distances(config.get("point", config))
        near = np.isfinite(distances)
        assert near.any(), f"no row of {self.table.name} resembles {config}"
        return int(np.argmin(np.where(self.used == self.used[near].min(), distances, math.inf)))

    def advance(self, trial: Running) -> Step:
        trial.epoch += 1
        score = float(self.table.scores[trial.row, trial.repeat, trial.epoch - 1])
        trial.best = score if math.isnan(trial.best) else max(trial.best, score)
        return Step(trial.number, trial.row, trial.repeat, trial.epoch, score)

    def report(self, trial: Running, score: float) -> bool:
        """Tell scheduler and searcher of an epoch; True where the trial gives its slot back with it."""
        searcher, scheduler, trial_id = self.search.searcher, self.search.scheduler, trial.handle.trial_id
        result = self.result(trial, score)
        decision = TrialScheduler.STOP
        if trial.epoch < self.table.epochs or self.tells_last_epoch:
            decision = scheduler.on_trial_result(self, trial.handle, result)
        if decision == TrialScheduler.STOP:
            scheduler.on_trial_complete(self, trial.handle, result)
            searcher.on_trial_complete(trial_id, result=result)
            trial.handle.status = Trial.TERMINATED
            return True
        searcher.on_trial_result(trial_id, result)
        if decision == TrialScheduler.PAUSE:
            trial.handle.status, trial.handle.last_result = Trial.PAUSED, result
            self.paused[trial_id] = trial
        return decision == TrialScheduler.PAUSE

    def result(self, trial: Running, score: float) -> dict[str, Any]:
        """The row of an epoch that has ended."""
        return {
            METRIC: score,
            f"best_{METRIC}": trial.best,
            "epoch": trial.epoch,
            "training_iteration": trial.epoch,
            "diagnosis": "" if math.isfinite(score) else "nan",
        }
