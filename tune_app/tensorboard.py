"""TensorBoard events of a sweep's trials: Ray's logger, with all figures of an epoch in one event.

Ray's own makes an event of every figure and hands it to a thread and a queue of the trial. At a hundred figures per
epoch that was half of the driver's work, and tensorboardX remembers every writer until the process ends.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any

from ray.tune.logger import TBXLoggerCallback
from ray.tune.logger.tensorboardx import VALID_SUMMARY_TYPES
from ray.tune.utils import flatten_dict
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary

NUMBERS = tuple(VALID_SUMMARY_TYPES)
UNSAID = ("config", "pid", "timestamp", "time_total_s", "training_iteration")
"""What Ray leaves out."""


class TensorBoardLogger(TBXLoggerCallback):
    """Writes the numbers of every row under ray/tune/<name>, as Ray does, and the hyperparameters at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._summary_writer_cls = EventFile

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        if trial not in self._trial_writer:
            self.log_trial_start(trial)
        writer, numbers = self._trial_writer[trial], scalars(result)
        values = [Summary.Value(tag=tag, simple_value=float(value)) for tag, value in numbers.items()]
        writer.add_summary(Summary(value=values), result["training_iteration"])
        writer.flush()
        self._trial_result[trial] = numbers


class EventFile:
    """An event file of one trial: as much of tensorboardX's SummaryWriter as Ray's logger asks for."""

    def __init__(self, folder: str, **options: Any) -> None:
        self._file = EventsWriter(os.path.join(folder, "events"))
        self.file_writer = self

    def add_summary(self, summary: Summary, step: int = 0) -> None:
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def scalars(result: dict[str, Any]) -> dict[str, Any]:
    """{ray/tune/<name>: value} of the numbers in a row, NaN left out."""
    said = {name: value for name, value in result.items() if name not in UNSAID}
    return {
        f"ray/tune/{name}": value
        for name, value in flatten_dict(said, delimiter="/").items()
        if isinstance(value, NUMBERS) and not math.isnan(value)
    }
