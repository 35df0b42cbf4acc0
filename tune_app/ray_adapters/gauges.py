"""The sweep as Prometheus gauges on Ray's metrics port, where the Ray dashboard, Prometheus and Grafana find it.

Ray puts `ray_` before the names. Tags: sweep, trial (its name), params (its loss parameters); see cluster/monitoring.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import optuna
from optuna.trial import TrialState
from ray.tune import Callback
from ray.util.metrics import Gauge

from trainables.objective import Objective, Row
from tune_app.results.trial import is_finite, is_paused, read_history

OF_TRIAL = {
    "tune_app_epoch": ("epoch", "epochs finished"),
    "tune_app_patches_per_s": ("patches_per_s", "patches trained on per second"),
    "tune_app_gpu_memory_mb": ("gpu_memory_mb", "GPU memory reserved by PyTorch, megabytes"),
}
"""{gauge: (column of a row, description)}."""

ENDED = {"finished": TrialState.COMPLETE, "stopped early": TrialState.PRUNED, "failed": TrialState.FAIL}

BEAT_S = 5.0
"""Ray exports every ten seconds what was set since the last time, and forgets a gauge after twenty: what is still true
has to be set again and again."""


@dataclass
class Shown:
    """What is shown of one running trial: {gauge: value} and {class: Dice} of its last row."""

    tags: dict[str, str]
    params: str
    values: dict[str, float] = field(default_factory=dict)
    dice: dict[str, float] = field(default_factory=dict)


class SweepGauges(Callback):
    """Tune callback: sets the gauges with every row, and every BEAT_S those of the sweep and of what runs.

    A trial that has ended or pauses is set no more: its curve ends there, and only as many are open as trials run.
    study: the sweep's; earlier drivers' trials are in it. planned: trials of the whole sweep. gpus: cards per trial.
    gpu_hours: spent by earlier drivers. best: the best row of theirs.
    """

    def __init__(
        self,
        sweep: str,
        study: optuna.Study,
        *,
        objective: Objective,
        planned: int,
        gpus: float,
        gpu_hours: float = 0.0,
        best: Row = MappingProxyType({}),
    ) -> None:
        self._sweep, self._study, self._planned, self._gpus = {"sweep": sweep}, study, planned, gpus
        self._objective, metric = objective, objective.metric
        self._columns = OF_TRIAL | {
            "tune_app_score": (metric, f"{metric} of the trial's last epoch"),
            "tune_app_trial_best_score": (f"best_{metric}", f"best {metric} of the trial so far"),
        }
        of_trial = ("sweep", "trial", "params")
        self._of_trial = {name: Gauge(name, text, of_trial) for name, (_, text) in self._columns.items()}
        self._dice = Gauge("tune_app_dice", "Dice of one class, last epoch", ("sweep", "trial", "class"))
        self._best = Gauge("tune_app_best_score", f"best {metric} of the sweep so far", ("sweep",))
        self._states = Gauge("tune_app_trials", "trials by state", ("sweep", "state"))
        self._hours = Gauge("tune_app_gpu_hours", "GPU-hours spent in epochs", ("sweep",))
        self._best_so_far = best
        self._spent = gpu_hours
        self._running: dict[str, Shown] = {}
        self._beaten = -math.inf

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        name = name_of(trial)
        shown = self._running.setdefault(name, Shown({**self._sweep, "trial": name}, written(trial.config)))
        given = {gauge: result.get(column) for gauge, (column, _) in self._columns.items()}
        shown.values |= finite(given)
        shown.dice |= finite({key[5:]: value for key, value in result.items() if key.startswith("dice/")})
        if self._objective.better(result, self._best_so_far):
            self._best_so_far = {name: result.get(name) for name in self._objective.figures}
        self._spent += number(result.get("seconds_epoch"), 0.0) * self._gpus / 3600
        self._show_trial(shown)
        self._show_sweep()

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._running.pop(name_of(trial), None)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._running.pop(name_of(trial), None)

    def on_trial_save(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self._running.pop(name_of(trial), None)

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if time.monotonic() - self._beaten >= BEAT_S:
            self._beat(trials)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self._beat(trials)

    def _beat(self, trials: list) -> None:
        self._beaten = time.monotonic()
        for shown in self._running.values():
            self._show_trial(shown)
        self._show_sweep()
        running = sum(trial.status == "RUNNING" for trial in trials)
        for state, number in count_states(self._study, self._planned, running).items():
            self._states.set(number, tags(self._sweep, state=state))

    def _show_trial(self, shown: Shown) -> None:
        for name, value in shown.values.items():
            self._of_trial[name].set(value, tags(shown.tags, params=shown.params))
        for class_, value in shown.dice.items():
            self._dice.set(value, tags(shown.tags, **{"class": class_}))

    def _show_sweep(self) -> None:
        if is_finite(best := self._best_so_far.get(self._objective.metric)):
            self._best.set(best, tags(self._sweep))
        self._hours.set(self._spent, tags(self._sweep))


def tags(own: Mapping[str, str], **more: str) -> dict[str, str]:
    """Tags as Ray's gauges take them, which raise for what is not ASCII: drüsen becomes dr\\xfcsen."""
    return {name: text.encode("ascii", "backslashreplace").decode() for name, text in {**own, **more}.items()}


def name_of(trial: Any) -> str:
    return str((trial.config or {}).get("run", {}).get("name", trial))


def count_states(study: optuna.Study, planned: int, running: int) -> dict[str, int]:
    """{state: trials}, together all of the sweep. waiting: begun, and without a slot just now.

    running: those that Ray runs; the study knows only which have begun and how they ended.
    """
    trials = study.get_trials(deepcopy=False)
    recorded = Counter(trial.state for trial in trials)
    ended = {name: recorded[state] for name, state in ENDED.items()}
    ended["paused"] = sum(is_paused(t.user_attrs) for t in trials if t.state in (TrialState.RUNNING, TrialState.PRUNED))
    ended["stopped early"] -= sum(is_paused(t.user_attrs) for t in trials if t.state == TrialState.PRUNED)
    begun = recorded.total() - sum(ended.values())
    to_come = max(0, planned - recorded.total())
    return {"to come": to_come, "waiting": max(0, begun - running), "running": min(begun, running), **ended}


def hours_in(histories: Iterable[Path]) -> float:
    """Hours that the epochs of these history files took."""
    rows = (row for path in histories for row in read_history(path))
    return sum(number(row.get("seconds_epoch"), 0.0) for row in rows) / 3600


def written(config: Mapping[str, Any] | None) -> str:
    """The loss of a trial in a few words: seesaw p=0.8 q=2."""
    loss = (config or {}).get("loss", {})
    params = [f"{key}={_short(value)}" for key, value in loss.get("params", {}).items()]
    return " ".join([str(loss.get("name", "")), *params])


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_short, value))}]"
    return f"{value:.4g}" if is_finite(value) else str(value)


def finite(values: Mapping[str, Any]) -> dict[str, float]:
    """Those that are finite numbers."""
    return {key: float(value) for key, value in values.items() if is_finite(value)}


def number(value: Any, otherwise: float) -> float:
    """The value where it is a finite number."""
    return float(value) if is_finite(value) else otherwise
