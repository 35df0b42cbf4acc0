"""The sweep as Prometheus gauges on Ray's metrics port, where the Ray dashboard, Prometheus and Grafana find it.

Ray puts `ray_` before the names. Tags: sweep, trial (its name), params (its loss parameters); see cluster/monitoring.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ray.tune import Callback
from ray.util.metrics import Gauge

OF_TRIAL = {
    "mean_dice": "mean Dice of the last epoch",
    "epoch": "epochs finished",
    "patches_per_s": "patches trained on per second",
    "gpu_memory_mb": "GPU memory reserved by PyTorch, megabytes",
}
"""Columns of a row that become the gauge tune_app_<column>."""

COUNT_EVERY_S = 5.0
"""Between two counts of all trials: a step of Tune takes milliseconds, and Ray exports every ten seconds."""


class SweepGauges(Callback):
    """Tune callback: sets the gauges with every row, and counts trials by state. gpus: cards per trial."""

    def __init__(self, sweep: str, gpus: float) -> None:
        self._sweep, self._gpus = {"sweep": sweep}, gpus
        of_trial = ("sweep", "trial", "params")
        self._of_trial = {name: Gauge(f"tune_app_{name}", text, of_trial) for name, text in OF_TRIAL.items()}
        self._dice = Gauge("tune_app_dice", "Dice of one class, last epoch", ("sweep", "trial", "class"))
        self._best = Gauge("tune_app_best_mean_dice", "highest mean Dice of the sweep so far", ("sweep",))
        self._states = Gauge("tune_app_trials", "trials by state", ("sweep", "state"))
        self._hours = Gauge("tune_app_gpu_hours", "GPU-hours spent in epochs since the driver started", ("sweep",))
        self._best_so_far = -math.inf
        self._spent = 0.0
        self._counted = -math.inf

    def on_trial_result(self, iteration: int, trials: list, trial: Any, result: Mapping[str, Any], **info: Any) -> None:
        run = (trial.config or {}).get("run", {})
        tags = {**self._sweep, "trial": str(run.get("name", trial))}
        params = {**tags, "params": written(trial.config)}
        for name, gauge in self._of_trial.items():
            if is_number(result.get(name)):
                gauge.set(float(result[name]), params)
        for key, value in result.items():
            if key.startswith("dice/") and is_number(value):
                self._dice.set(float(value), {**tags, "class": key.removeprefix("dice/")})
        if is_number(result.get("mean_dice")):
            self._best_so_far = max(self._best_so_far, float(result["mean_dice"]))
            self._best.set(self._best_so_far, self._sweep)
        if is_number(result.get("seconds_epoch")):
            self._spent += float(result["seconds_epoch"]) * self._gpus / 3600
            self._hours.set(self._spent, self._sweep)

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        if time.monotonic() - self._counted < COUNT_EVERY_S:
            return
        self._counted = time.monotonic()
        for state, number in ({"RUNNING": 0, "PENDING": 0} | Counter(trial.status for trial in trials)).items():
            self._states.set(number, {**self._sweep, "state": str(state)})


def written(config: Mapping[str, Any] | None) -> str:
    """The loss of a trial in a few words: seesaw p=0.8 q=2."""
    loss = (config or {}).get("loss", {})
    params = [f"{key}={f'{value:.4g}' if is_number(value) else value}" for key, value in loss.get("params", {}).items()]
    return " ".join([str(loss.get("name", "")), *params])


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
