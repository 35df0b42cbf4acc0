"""TensorBoard reads of a trial what it would read of Ray's own logger."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planned import ray_trial
from ray.tune.logger import LoggerCallback, TBXLoggerCallback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tune_app.loggers import InSweepFolder
from tune_app.tensorboard import TensorBoardLogger

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def row(epoch: int) -> dict[str, Any]:
    return {
        "epoch": epoch, "training_iteration": epoch, "mean_dice": epoch / 7, "dice/nuc": np.float32(0.5),
        "dice/pm": math.nan, "diagnosis": "", "done": epoch == 3, "config": {"seed": 1}, "pid": 5, "timestamp": 6,
        "time_total_s": 7.0, "nested": {"a": 1, "b": {"c": 2.5}},
    }  # fmt: skip


def logged(folder: Path, logger: LoggerCallback) -> EventAccumulator:
    trial = ray_trial(folder)
    trial.evaluated_params = {"seed": 3, "loss": {"params": {"p": 0.25}}}
    in_place = InSweepFolder(logger)
    in_place.log_trial_start(trial)
    for epoch in (1, 2, 3):
        in_place.log_trial_result(0, trial, row(epoch))
    in_place.log_trial_end(trial)
    return EventAccumulator(str(folder / "0000_arm")).Reload()


def test_it_reads_as_rays_own(tmp_path):
    found = logged(tmp_path / "ours", TensorBoardLogger())
    expected = logged(tmp_path / "rays", TBXLoggerCallback())
    assert found.Tags() == expected.Tags()
    tags = found.Tags()["scalars"]
    assert {"ray/tune/mean_dice", "ray/tune/dice/nuc", "ray/tune/nested/b/c"} <= set(tags)
    assert "ray/tune/dice/pm" not in tags, "NaN is left out"
    for tag in tags:
        ours, theirs = ([(e.step, e.value) for e in events.Scalars(tag)] for events in (found, expected))
        assert ours == theirs
    plugins = found.summary_metadata
    assert {name for name in plugins if "hparams" in name} == {n for n in expected.summary_metadata if "hparams" in n}


def test_a_row_can_be_read_before_the_next(tmp_path):
    """Also by a TensorBoard that is open while the driver is killed."""
    logger, trial = InSweepFolder(TensorBoardLogger()), ray_trial(tmp_path)
    logger.log_trial_result(0, trial, row(1))
    events = EventAccumulator(str(tmp_path / "0000_arm")).Reload()
    assert [event.step for event in events.Scalars("ray/tune/mean_dice")] == [1]
    logger.log_trial_end(trial)
