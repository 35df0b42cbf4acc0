"""ASHA whose rungs can be rebuilt, and which stops trials that can no longer be compared.

Ray's own scheduler identifies a trial by an id drawn anew in every process, loses its rungs when a sweep is restarted
(ray issue 30838), and never stops a trial whose metric is NaN (`nan < cutoff` is false). Here a trial is its name in
the sweep folder, and rungs follow from the recorded curves alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

Curve = Sequence[tuple[int, float]]
"""[(epoch, metric value)], epochs ascending."""

WORST = 0.0
"""What a value that is no number counts as at a rung: the lowest Dice. The trial itself is stopped."""


def trial_name(trial: Any) -> str:
    """The trial's name in the sweep folder, stable over restarts."""
    return trial.config["run"]["name"]


def is_hopeless(result: Mapping[str, Any], metric: str) -> bool:
    """True where the metric is not finite: nothing later can rank this trial."""
    value = result.get(metric)
    return value is None or not math.isfinite(value)


class ResumableAsha(AsyncHyperBandScheduler):
    """Asynchronous successive halving (Li et al. 2018, arXiv:1810.05934), stop type, one bracket.

    curves: recorded curves by trial name, of a sweep that goes on; they fill the rungs as they were.
    """

    def __init__(
        self,
        *,
        metric: str,
        max_epochs: int,
        grace_period: int,
        reduction_factor: float,
        curves: Mapping[str, Curve] | None = None,
    ) -> None:
        super().__init__(
            time_attr="epoch",
            metric=metric,
            mode="max",
            max_t=max_epochs,
            grace_period=grace_period,
            reduction_factor=reduction_factor,
        )
        for name, curve in (curves or {}).items():
            for epoch, value in curve:
                self._record(name, epoch, value)

    def rungs(self) -> dict[int, dict[str, float]]:
        """{epoch: {trial name: value recorded there}}, ascending."""
        return {int(epoch): dict(values) for epoch, values in reversed(self._brackets[0]._rungs)}

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing to do: there is one bracket, and trials are known by name."""

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        if is_hopeless(result, self._metric):
            self._record(trial_name(trial), result["epoch"], WORST)
            return TrialScheduler.STOP
        return self._record(trial_name(trial), result["epoch"], result[self._metric])

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if "epoch" in result and not is_hopeless(result, self._metric):
            self._record(trial_name(trial), result["epoch"], result[self._metric])

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Its recorded values stay: other trials were judged by them."""

    def _record(self, name: str, epoch: int, value: float) -> str:
        value = value if math.isfinite(value) else WORST
        return self._brackets[0].on_result(SimpleNamespace(trial_id=name), epoch, value)


class RunToTheEnd(FIFOScheduler):
    """No early stopping, but a trial whose metric is no number is stopped."""

    def __init__(self, *, metric: str) -> None:
        super().__init__()
        self._watched = metric

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return TrialScheduler.STOP if is_hopeless(result, self._watched) else TrialScheduler.CONTINUE
