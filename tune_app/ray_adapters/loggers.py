"""Ray's JSON, CSV and TensorBoard loggers, writing straight into the sweep folder.

Ray lets them write to a session folder in /tmp and copies that from time to time; what was logged since the last copy
is lost when the driver is killed, and a restarted trial would overwrite its earlier log. Written in place they append.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import optuna
from ray.tune import Callback
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback, LoggerCallback
from ray.tune.progress_reporter import TrialProgressCallback

from trainables.files import drop_torn_line
from tune_app.ray_adapters.tensorboard import TensorBoardLogger
from tune_app.results.trial import GIVEN_UP

APPENDED = ("result.json", "progress.csv")


class _InPlace:
    """A Ray trial as the loggers see it, whose local folder is its folder in the sweep."""

    checkpoint = None

    def __init__(self, trial: Any) -> None:
        self._trial = trial
        self.local_path = trial.config["run"]["dir"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trial, name)

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir(parents=True, exist_ok=True)


class InSweepFolder(LoggerCallback):
    """Hands one of Ray's loggers trials that live in the sweep folder."""

    def __init__(self, logger: LoggerCallback) -> None:
        self._logger = logger
        self._trials: dict[str, _InPlace] = {}

    def _in_place(self, trial: Any) -> Any:
        return self._trials.setdefault(trial.trial_id, _InPlace(trial))

    def log_trial_start(self, trial: Any) -> None:
        if trial.trial_id not in self._trials:
            folder = Path(trial.config["run"]["dir"])
            folder.mkdir(parents=True, exist_ok=True)  # Ray's JSON logger writes params.json before it makes it
            for name in APPENDED:
                drop_torn_line(folder / name)
        self._logger.log_trial_start(self._in_place(trial))

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self._logger.log_trial_result(iteration, self._in_place(trial), result)

    def log_trial_save(self, trial: Any) -> None:
        """The trial pauses: many may, and a process can hold only so many files open."""
        self.log_trial_end(trial)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        if trial.trial_id not in self._trials:  # it ends while it is paused
            return
        self._logger.log_trial_end(self._in_place(trial), failed)
        self._trials.pop(trial.trial_id, None)


class ErrorNotes(LoggerCallback):
    """Copies the errors of a trial from Ray's session folder to error.txt in its own, as soon as there is one.

    The last line says whether the trial was given up. It is written into Ray's file, too, which Ray copies again later.
    """

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._copy(trial)

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        if failed:
            self._copy(trial, f"{GIVEN_UP}\n")

    @staticmethod
    def _copy(trial: Any, last: str = "") -> None:
        if trial.error_file:
            with contextlib.suppress(OSError):
                with open(trial.error_file, "a", encoding="utf-8") as file:
                    file.write(last)
                shutil.copyfile(trial.error_file, Path(trial.config["run"]["dir"]) / "error.txt")


def in_place_loggers(study: optuna.Study) -> list[LoggerCallback]:
    """result.json, progress.csv, TensorBoard events and error.txt of every trial, in its folder of the sweep."""
    loggers = (JsonLoggerCallback(), CSVLoggerCallback(), TensorBoardLogger(study))
    return [*map(InSweepFolder, loggers), ErrorNotes()]


class ForgetEnded(Callback):
    """Tune callback, the last one: drops the statistics and the last row of a trial that has ended.

    Of every figure that a trial reports Ray keeps maximum, minimum and running means: a quarter of a megabyte per trial
    at a hundred figures, written again into each of its snapshots. The study and the sweep folder hold all of that.
    """

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}
        trial.run_metadata.last_result = {}

    on_trial_error = on_trial_complete

    def on_trial_save(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        """The trial pauses. Its last row is still asked for."""
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}


class NoProgress(TrialProgressCallback):
    """Stands where Ray would put its own reporter, which formats every row and keeps a record of every trial."""

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Nothing."""

    on_trial_complete = on_trial_error = on_trial_result
