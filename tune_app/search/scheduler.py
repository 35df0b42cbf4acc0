"""ASHA whose rungs can be rebuilt, and which stops trials that can no longer be compared: stopping, or promoting.

Ray's own scheduler identifies a trial by an id drawn anew in every process, loses its rungs when a sweep is restarted
(ray issue 30838), and never stops a trial whose metric is NaN (`nan < cutoff` is false). Here a trial is its name in
the sweep folder, and rungs follow from the recorded curves alone.

Where models differ in what an epoch costs, trials of one model are compared at epochs as always, and trials of
different models at device-seconds (docs/cost.md).
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from trainables.objective import OUT_OF_PATIENCE, Objective, Row, number
from tune_app.planning.epochs import quantile, quantile_without, rung_epochs
from tune_app.results.trial import devices_in, read_reported
from tune_app.search.early_failure import Watch
from tune_app.search.promotion import Promotion, Rank
from tune_app.settings.schema import FEWEST_FORETELLING, early_rung, model_of


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


MOST_PAIRS = 32
"""Trials from which it is judged whether ranks at the early rung foretell those at the first one: the latest."""
SURELY = 1.96
"""Standard errors from an estimate to the end of its 95 % interval."""


def foretells(pairs: Sequence[tuple[Rank, Rank]]) -> bool:
    """Whether the order of trials by the first value surely tells that by the second: whether the lower end of the 95 %
    interval of Spearman's ρ lies above ½; never with fewer than FEWEST_FORETELLING.

    tanh(atanh ρ ± 1.96 √((1 + ρ²/2) / (n − 3))), Bonett & Wright 2000, Psychometrika 65; equal values share their rank.
    The ranks are whole numbers (doubled), so ρ² is exact but for one division.
    """
    n = len(pairs)
    if n < FEWEST_FORETELLING:
        return False
    columns = []
    for values in zip(*pairs):
        ascending = sorted(values)
        columns.append([bisect_left(ascending, value) + bisect_right(ascending, value) - n for value in values])
    (xx, xy), (_, yy) = ([sum(a * b for a, b in zip(one, other)) for other in columns] for one in columns)
    if xy <= 0 or xy * xy == xx * yy:
        return xy > 0
    rho = xy / math.sqrt(xx * yy)
    return math.tanh(math.atanh(rho) - SURELY * math.sqrt((1 + rho**2 / 2) / (n - 3))) > 0.5


def by_number(name: str) -> tuple[int, str]:
    """Sorts names of trials as they were begun."""
    number = name.partition("_")[0]
    return len(number), number


def next_to_run(tune_controller: Any) -> Any:
    """The waiting trial with the lowest number, None without one. Ray's own goes through all trials ever begun, at
    every step."""
    waiting = [trial for trial in tune_controller.get_live_trials() if trial.status == Trial.PENDING]
    return min(waiting, key=lambda t: t.config["run"]["number"], default=None)


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


class Cost(NamedTuple):
    """What a trial's epochs cost: those of one `model` take about as long, on so many devices (GPUs, or else CPUs)."""

    model: str
    devices: float


@dataclass
class Spending:
    """What a trial had reached by what it had spent, epoch by epoch."""

    cost: Cost
    epoch: int = 0
    device_seconds: list[float] = field(default_factory=list)
    """Spent by the end of each epoch, ascending; NaN from an epoch on that does not say how long it took."""
    best: list[Rank] = field(default_factory=list)
    """The best of the epochs so far."""
    whole: bool = False
    """Whether it has trained to the last epoch, or waited for a better one in vain: nothing better is to come."""

    def add(self, row: Row, value: Rank, *, last: int) -> None:
        """Compiling is left out: it happens once for all trials of a model, and says nothing of a longer sweep."""
        seconds = number(row, "seconds_epoch") - (number(row, "seconds_compile") if "seconds_compile" in row else 0.0)
        self.epoch = row["epoch"]
        self.whole = row["epoch"] >= last or row.get("stopped") == OUT_OF_PATIENCE
        self.device_seconds.append((self.device_seconds or [0.0])[-1] + seconds * self.cost.devices)
        self.best.append(max(value, self.best[-1]) if self.best else value)

    def reached(self, device_seconds: float) -> Rank | None:
        """The best by then; None where no epoch had ended by then, and where it has not spent as much, unless it is
        whole."""
        done = bisect_right(self.device_seconds, device_seconds)
        known = math.isfinite(self.device_seconds[-1]) and math.isfinite(device_seconds)
        as_far = self.whole or self.device_seconds[-1] >= device_seconds
        return self.best[done - 1] if known and as_far and done else None


class ResumableAsha(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2018, arXiv:1810.05934), stop type, one bracket.

    early: one more rung at epoch ⌈g/η⌉, before the first one. It stops trials only where, of the trials so far that
        have come to both, ranks there surely foretell ranks at the first rung (`foretells`). That follows from the
        curves alone, and is judged again with every trial that comes to the first rung.
    recheck: hold a trial to its last rung at every epoch, not only when it arrives there. The first trials at a rung go
    on because nothing better has come by; they are stopped once it has. Otherwise the first of a sweep, whatever it is,
    trains to the end (docs/decisions/search-defaults.md).
    curves: recorded rows by trial name, of a sweep that goes on; they fill the rungs as they were.
    baseline: label of trials that run to the end and that no other is judged by; empty for none.
    watch: says which trials are hopeless; they are stopped whatever their rank.
    costs: given where trials of different models are compared at what they have spent, with the cost of each trial in
        `curves`; then at a rung a trial is held against those of its own model alone, and with recheck against those of
        all models besides, see `_is_behind`. The rows must say how long they took.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        max_epochs: int,
        grace_period: int,
        reduction_factor: float,
        early: bool = False,
        recheck: bool = True,
        curves: Mapping[str, Iterable[Row]] | None = None,
        baseline: str = "",
        watch: Watch | None = None,
        costs: Mapping[str, Cost] | None = None,
    ) -> None:
        self._watch, self._objective, self._max_epochs = watch, objective, max_epochs
        self._recheck, self._baseline = recheck, baseline
        self._share = (1 - 1 / reduction_factor) * 100 / 100  # as Ray gives it to np.nanpercentile
        self._ascending: dict[tuple[float, str], list[Rank]] = defaultdict(list)  # of each rung and model
        self._by_cost = costs is not None
        self._spending: dict[str, Spending] = {}
        self._arrived: dict[float, dict[str, tuple[float, Rank]]] = defaultdict(dict)  # with device-seconds and best
        self._first_epoch = grace_period
        self._early_epoch = early_rung(max_epochs, grace_period, reduction_factor) if early else 0
        self._early: dict[str, Rank] = {}
        self._at_both: dict[str, list[str]] = defaultdict(list)  # of each model, in the order of their numbers
        self._foretells: dict[str, bool] = {}  # of each model
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
                self._record(name, row, costs[name] if costs is not None else None)

    def rungs(self) -> dict[int, dict[str, Rank]]:
        """{epoch: {trial name: rank recorded there}}, ascending; the early rung, too, whether it counts or not."""
        early = {self._early_epoch: dict(self._early)} if self._early_epoch else {}
        return early | {int(epoch): dict(values) for epoch, values in reversed(self._brackets[0]._rungs)}

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        return next_to_run(tune_controller)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: there is one bracket, and trials are known by name."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = trial_name(trial)
        decision = self._record(name, result, self._cost(trial))
        if has_no_score(result, self._metric):
            return TrialScheduler.STOP
        overtaken = self._recheck and (self._is_overtaken(name) or self._is_behind(name))
        return unless_hopeless(self._watch, trial, result, TrialScheduler.STOP if overtaken else decision)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if self._watch:
            self._watch.forget(trial_name(trial))
        if "epoch" in result and not has_no_score(result, self._metric):
            self._record(trial_name(trial), result, self._cost(trial))

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Its recorded values stay: other trials were judged by them."""

    def _is_overtaken(self, name: str) -> bool:
        """Whether the trial would be stopped if it came to its last rung now, after all others there."""
        for epoch, values in (*self._brackets[0]._rungs, (self._early_epoch, self._early)):
            if name in values:
                model = self._model(name)
                others_tell = values is not self._early or self._foretells.get(model, False)
                return others_tell and values[name] < quantile_without(
                    self._ascending[epoch, model], values[name], self._share
                )
        return False

    def _is_behind(self, name: str) -> bool:
        """Whether the trial, by what it had spent at its last rung, was worse than the best 1/η of all models there: of
        the others of its model at that rung, and of trials of other models by as many device-seconds."""
        rung = next((arrived for _, arrived in sorted(self._arrived.items(), reverse=True) if name in arrived), {})
        if not rung:
            return False
        spent, best = rung[name]
        model = self._model(name)
        reached = (one.reached(spent) for one in self._spending.values() if one.cost.model != model)
        others = [one for one in reached if one is not None]
        peers = [theirs for other, (_, theirs) in rung.items() if other != name and self._model(other) == model]
        return bool(others) and best < quantile(sorted(others + peers), self._share)

    def _model(self, name: str) -> str:
        """Of which model a trial is; all are of one where trials are compared at epochs."""
        return self._spending[name].cost.model if self._by_cost else ""

    def _cost(self, trial: Any) -> Cost | None:
        return Cost(model_of(trial.config), devices_in(trial.config)) if self._by_cost else None

    def _record(self, name: str, row: Row, cost: Cost | None) -> str:
        """Ray's decision at the highest rung that the trial has come to, from values that are kept in order: Ray's own
        goes through the whole rung. cost: where it is compared by that, too."""
        if self._baseline and name.partition("_")[2] == self._baseline:
            return TrialScheduler.CONTINUE
        value = rank(self._objective, row)
        if cost is not None:
            own = self._spending.setdefault(name, Spending(cost))
            own.cost = cost  # A resumed trial may have got other devices.
            if row["epoch"] > own.epoch:  # Ray hands over the last row of a trial twice.
                own.add(row, value, last=self._max_epochs)
        for milestone, values in self._brackets[0]._rungs:
            if row["epoch"] >= milestone and name not in values:
                is_poor = self._arrive(milestone, values, name, value)
                if cost is not None:
                    self._arrived[milestone][name] = own.device_seconds[-1], own.best[-1]
                if milestone == self._first_epoch and name in self._early:
                    self._judge_early_rung(name, values)
                return TrialScheduler.STOP if is_poor else TrialScheduler.CONTINUE
        if 0 < self._early_epoch <= row["epoch"] < self._first_epoch and name not in self._early:
            is_poor = self._arrive(self._early_epoch, self._early, name, value)
            counts = self._foretells.get(self._model(name), False)
            return TrialScheduler.STOP if is_poor and counts else TrialScheduler.CONTINUE
        return TrialScheduler.CONTINUE

    def _arrive(self, milestone: float, values: dict[str, Rank], name: str, value: Rank) -> bool:
        """A trial comes to a rung; whether it is not among the best 1/η so far, those of its model."""
        ascending = self._ascending[milestone, self._model(name)]
        is_poor = bool(ascending) and value < quantile(ascending, self._share)
        values[name] = value
        insort(ascending, value)
        return is_poor

    def _judge_early_rung(self, name: str, first: Mapping[str, Rank]) -> None:
        """Whether the early rung counts for the trials of a model, now that one more has come to the first rung."""
        model = self._model(name)
        insort(self._at_both[model], name, key=by_number)
        latest = self._at_both[model][-MOST_PAIRS:]
        self._foretells[model] = foretells([(self._early[one], first[one]) for one in latest])


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


class PromotingAsha(FIFOScheduler):
    """Asynchronous successive halving by promotion: what `Promotion` says, done with Ray's PAUSE.

    A paused trial is its folder: it holds no slot, no process and no memory. Ray's checkpoint of it is a note.

    The searcher asks here before it begins a trial, and says here when it will begin no more: Ray would begin new
    trials while a paused one is to go on, and counts a paused one among those that run at once.

    curves: recorded rows by trial name, of a sweep that goes on. promoted: the rung from which each trial last went on.
    ended: trials that will not go on. baseline, watch: as `ResumableAsha`; the baseline never pauses.
    on_promote: told of each trial that goes on, and from which rung, before it does.
    """

    def __init__(
        self,
        *,
        objective: Objective,
        max_epochs: int,
        grace_period: int,
        reduction_factor: float,
        curves: Mapping[str, Iterable[Row]] | None = None,
        promoted: Mapping[str, int] | None = None,
        ended: Iterable[str] = (),
        baseline: str = "",
        watch: Watch | None = None,
        on_promote: Callable[[str, int], None] = lambda name, rung: None,
    ) -> None:
        super().__init__()
        self._objective, self._baseline, self._watch, self._on_promote = objective, baseline, watch, on_promote
        self.promotion = Promotion(rung_epochs(max_epochs, grace_period, reduction_factor), reduction_factor)
        self.slots: int | None = None
        """Trials at once at most; None: as many as Ray finds room for."""
        self.no_more = False
        """Whether the searcher will begin no trial any more."""
        self._running: dict[str, Trial] = {}
        """Those that hold a slot, or wait for one that they will get."""
        self._paused: dict[str, Trial] = {}
        for name, rows in (curves or {}).items():
            for row in rows:
                self._take(name, row)
        for name, rung in (promoted or {}).items():
            if self.promotion.is_paused(name) and self.promotion.rung(name) == rung:
                self.promotion.promote(name)
        for name in ended:
            self.promotion.end(name)

    def rungs(self) -> dict[int, dict[str, Rank]]:
        """{epoch: {trial name: rank recorded there}}, ascending."""
        return self.promotion.rungs()

    def has_slot(self) -> bool:
        """Whether a trial may begin or go on. One that pauses gives its slot back when Ray has let go of it."""
        for name in [name for name in self._running if self.promotion.is_paused(name)]:
            if self._running[name].status == Trial.PAUSED:
                self._paused[name] = self._running.pop(name)
        return self.slots is None or len(self._running) < self.slots

    def next(self) -> str | None:
        """The paused trial that goes on as soon as there is a slot; None where a new one may begin."""
        return self.promotion.next(nothing_else=self.no_more and not self._running)

    def is_over(self) -> bool:
        """Whether nothing runs, nothing will begin, and no paused trial is to go on."""
        return self.no_more and not self._running and self.next() is None

    def last_row(self, name: str) -> dict[str, Any]:
        """The last row of a paused trial."""
        row: dict[str, Any] = self._paused[name].last_result
        return row

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        if waiting := next_to_run(tune_controller):
            return waiting
        for running, trial in self._running.items():
            if trial.status == Trial.PAUSED and not self.promotion.is_paused(running):
                return trial  # Ray had no process for it at the last step
        if not self.has_slot():
            return None
        name = self.next()
        if name in self._paused:
            self._promote(name)
            trial = self._running[name] = self._paused.pop(name)
            return trial
        if self.is_over():
            for trial in self._paused.values():
                tune_controller.stop_trial(trial)
            self._paused.clear()
        return None

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """One that had paused under an earlier driver is paused from the start. Ray also calls this for a trial whose
        process has failed, and runs that again: where it failed while it paused, it goes on to the next rung."""
        name = trial_name(trial)
        paused = self.promotion.is_paused(name)
        if paused and name in self._running:
            self._promote(name)
        elif paused:
            trial.set_status(Trial.PAUSED)
            trial.init_local_path()  # as Ray does for one that it starts; at the end it asks all for their paths
            rows = read_reported(Path(trial.config["run"]["dir"]) / "result.json")
            trial.update_last_result(dict(rows[-1]) if rows else {})
            self._paused[name] = trial
            return
        self._running[name] = trial

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        name = trial_name(trial)
        decision = TrialScheduler.PAUSE if self._take(name, result) else TrialScheduler.CONTINUE
        if has_no_score(result, self._objective.metric):
            decision = TrialScheduler.STOP
        decision = unless_hopeless(self._watch, trial, result, decision)
        if decision == TrialScheduler.STOP:
            self.promotion.end(name)
        elif decision == TrialScheduler.PAUSE and self._watch:
            self._watch.forget(name)
        return decision

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        name = trial_name(trial)
        if "epoch" in result:
            self._take(name, result)
        self._end(name)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._end(trial_name(trial))

    def give_up(self, name: str) -> None:
        """The trial has failed for good. Ray tells schedulers of every failure alike."""
        self._end(name)

    def _take(self, name: str, row: Row) -> bool:
        if self._baseline and name.partition("_")[2] == self._baseline:
            return False
        return self.promotion.take(name, row["epoch"], rank(self._objective, row))

    def _promote(self, name: str) -> None:
        self._on_promote(name, self.promotion.rung(name))
        self.promotion.promote(name)

    def _end(self, name: str) -> None:
        self.promotion.end(name)
        self._running.pop(name, None)
        if self._watch:
            self._watch.forget(name)
