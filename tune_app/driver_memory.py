"""Lets go of what Ray remembers of trials that have ended, and of what it would read back; nobody here asks for it.

Of every figure that a trial reports Ray keeps maximum, minimum and running means: a quarter of a megabyte per trial at
a hundred figures, written again into each of its snapshots. At the end it reads every result.json into a pandas frame.
The study and the sweep folder hold all of that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ray.tune import Callback, ExperimentAnalysis
from ray.tune.progress_reporter import TrialProgressCallback


class ForgetEnded(Callback):
    """Tune callback, the last one: drops the statistics and the last row of a trial that has ended."""

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _forget(trial)

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        _forget(trial)


class NoProgress(TrialProgressCallback):
    """Stands where Ray would put its own reporter, which formats every row and keeps a record of every trial."""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Nothing."""


def _forget(trial: Any) -> None:
    trial.run_metadata.metric_analysis = {}
    trial.run_metadata.metric_n_steps = {}
    trial.run_metadata.last_result = {}


@contextlib.contextmanager
def nothing_read_back() -> Iterator[None]:
    """Within it, Ray ends a search without reading the results of all trials."""
    original = ExperimentAnalysis._fetch_trial_dataframes
    ExperimentAnalysis._fetch_trial_dataframes = lambda analysis: {}
    try:
        yield
    finally:
        ExperimentAnalysis._fetch_trial_dataframes = original
