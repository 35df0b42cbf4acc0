"""ASHA whose rungs can be rebuilt, and which stops trials that can no longer be compared.

Ray's own scheduler identifies a trial by an id drawn anew in every process, loses its rungs when a sweep is restarted
(ray issue 30838), and never stops a trial whose metric is NaN (`nan < cutoff` is false). Here a trial is its name in
the sweep folder, and rungs follow from the recorded curves alone.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from trainables.objective import Objective, Row
from tune_app.planning.epochs import quantile, quantile_without
from tune_app.search.early_failure import Watch

Rank = tuple[float, float]
"""(−violation of the bounds, score where more is better): what is compared at a rung."""


def trial_name(trial: Any) -> str:
    """The trial's name in the sweep folder, stable over restarts."""
    return trial.config["run"]["name"]


def has_no_score(result: Mapping[str, Any], metric: str) -> bool:
    """True where the metric is not finite: nothing later can rank this trial."""
    value = result.get(metric)
    return value is None or not math.isfinite(value)


def rank(objective: Objective, row: Row) -> Rank:
    """What a row counts as at a rung. A trial without a score is stopped, and counts as the worst that can be: no
    figure is negative, so that is 0 where more is better."""
    if has_no_score(row, objective.metric):
        return -math.inf if objective.bounds else 0.0, 0.0 if objective.mode == "max" else -math.inf
    _, kept, score = objective.key(row)
    return kept, score


def next_to_run(tune_controller: Any) -> Any:
    """The waiting trial with the lowest number, None without one. Ray's own goes through all trials ever begun, at
    every step."""
    waiting = [trial for trial in tune_controller.get_live_trials() if trial.status in (Trial.PENDING, Trial.PAUSED)]
    return min(waiting, key=lambda t: (t.status != Trial.PENDING, t.config["run"]["number"]), default=None)


def unless_hopeless(watch: Watch | None, trial: Any, result: Mapping[str, Any], decision: str) -> str:
    """The decision; STOP where the watch finds the trial hopeless. It forgets what ends."""
    if watch is None:
        return decision
    name = trial_name(trial)
    if watch.is_hopeless(name, result):
        decision = TrialScheduler.STOP
    if decision == TrialScheduler.STOP:
        watch.forget(name)
    return decision


class ResumableAsha(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2018, arXiv:1810.05934), stop type, one bracket.

    recheck: hold a trial to its last rung at every epoch, not only when it arrives there. The first trials at a rung go
    on because nothing better has come by; they are stopped once it has. Otherwise the first of a sweep, whatever it is,
    trains to the end (docs/decisions/search-defaults.md).
    curves: recorded rows by trial name, of a sweep that goes on; they fill the rungs as they were.
    baseline: label of trials that run to the end and that no other is judged by; empty for none.
    watch: says which trials are hopeless; they are stopped whatever their rank.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        max_epochs: int,
        grace_period: int,
        reduction_factor: float,
        recheck: bool = True,
        curves: Mapping[str, Iterable[Row]] | None = None,
        baseline: str = "",
        watch: Watch | None = None,
    ) -> None:
        self._watch, self._objective = watch, objective
        self._recheck, self._baseline = recheck, baseline
        self._share = (1 - 1 / reduction_factor) * 100 / 100  # as Ray gives it to np.nanpercentile
        self._ascending: dict[float, list[Rank]] = defaultdict(list)  # of each rung
        super().__init__(
            time_attr="epoch",
            metric=objective.metric,
            mode=objective.mode,
            max_t=max_epochs,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
        )
        for name, rows in (curves or {}).items():
            for row in rows:
                self._record(name, row)

    def rungs(self) -> dict[int, dict[str, Rank]]:
        """{epoch: {trial name: rank recorded there}}, ascending."""
        return {int(epoch): dict(values) for epoch, values in reversed(self._brackets[0]._rungs)}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return next_to_run(tune_controller)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: there is one bracket, and trials are known by name."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = self._record(trial_name(trial), result)
        if has_no_score(result, self._metric):
            return TrialScheduler.STOP
        overtaken = self._recheck and self._is_overtaken(trial_name(trial))
        return unless_hopeless(self._watch, trial, result, TrialScheduler.STOP if overtaken else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._watch:
            self._watch.forget(trial_name(trial))
        if "epoch" in result and not has_no_score(result, self._metric):
            self._record(trial_name(trial), result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Its recorded values stay: other trials were judged by them."""

    def _is_overtaken(self, name: str) -> bool:
        """Whether the trial would be stopped if it came to its last rung now, after all others there."""
        for epoch, values in self._brackets[0]._rungs:
            if name in values:
                return values[name] < quantile_without(self._ascending[epoch], values[name], self._share)
        return False

    def _record(self, name: str, row: Row) -> str:
        """Ray's decision at the highest rung that the trial has come to, from values that are kept in order: Ray's own
        goes through the whole rung."""
        if self._baseline and name.partition("_")[2] == self._baseline:
            return TrialScheduler.CONTINUE
        value = rank(self._objective, row)
        for milestone, values in self._brackets[0]._rungs:
            if row["epoch"] >= milestone and name not in values:
                ascending = self._ascending[milestone]
                is_poor = bool(ascending) and value < quantile(ascending, self._share)
                values[name] = value
                insort(ascending, value)
                return TrialScheduler.STOP if is_poor else TrialScheduler.CONTINUE
        return TrialScheduler.CONTINUE


class RunToTheEnd(FIFOScheduler):
    """No early stopping, but a trial whose metric is NaN is stopped, and one that the watch finds hopeless."""

    def __init__(self, *, metric: str, watch: Watch | None = None) -> None:
        super().__init__()
        self._watched, self._watch = metric, watch

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return next_to_run(tune_controller)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        decision = TrialScheduler.STOP if has_no_score(result, self._watched) else TrialScheduler.CONTINUE
        return unless_hopeless(self._watch, trial, result, decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._watch:
            self._watch.forget(trial_name(trial))
