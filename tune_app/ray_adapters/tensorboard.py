"""TensorBoard events of a sweep's trials: figures in groups by meaning, hyperparameters, pictures of predictions.

Ray's own logger makes an event of every figure, under ray/tune/, and hands it to a thread and a queue of the trial.
At a hundred figures per epoch that was half of the driver's work, and tensorboardX remembers every writer until the
process ends. Here one event holds all figures of an epoch.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from numbers import Real
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import optuna
from ray.tune.logger import LoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS
from ray.tune.utils import flatten_dict
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.api_pb2 import Status
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData, SessionEndInfo
from tensorboardX.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboardX.summary import hparams

from trainables.prediction import PREDICTION
from trainables.trial_folder import VALIDATION, read_count_updates
from tune_app.results.pictures import TOL_NAMES, drawn_classes, places, png, read_patches, sheet
from tune_app.search.study import trial_of

TAGS = {
    "best_epoch": "dice/best_epoch",
    "loss": "loss/train",
    "val_loss": "loss/validation",
    "lr": "optimizer/lr",
    "grad_norm": "optimizer/grad_norm",
    "grad_scale": "optimizer/grad_scale",
    "skipped_share": "optimizer/skipped_share",
    "weight_growth": "optimizer/weight_growth",
    "patches_per_s": "time/patches_per_s",
    "compiled_graphs": "time/compiled_graphs",
    "gpu_memory_mb": "memory/gpu_memory_mb",
}
"""Groups of the figures that are not of a class; those of a class, dice/nuc, are in one by their names."""
UNSAID = {*AUTO_RESULT_KEYS, "epoch", "done", "trial_id", "time_setup", "time_started", "time_ended"}
"""What Ray adds, the step itself, and points in time."""
SEARCHED, OTHERS = "search", "settings"
"""Groups of the hyperparameters, in the alphabetical order in which TensorBoard shows those that differ."""
PICTURE, CONFUSION = "predictions/best_epoch", "predictions/confusion"
CELL = 32
"""Pixels of a cell of a confusion matrix."""
SECTIONS = ("loss", "model", "trainer")
SUCCESS, FAILURE = Status.Value("STATUS_SUCCESS"), Status.Value("STATUS_FAILURE")


class TensorBoardLogger(LoggerCallback):
    """Writes an event file per trial into its folder. study: says which parameters of a trial were searched."""

    def __init__(self, study: optuna.Study) -> None:
        super().__init__()
        self._study = study
        self._files: dict[Any, EventFile] = {}

    def log_trial_start(self, trial: Any) -> None:
        """Hyperparameters are there from the start: a running trial is a session of HPARAMS, too."""
        if trial not in self._files:
            self._files[trial] = file = EventFile(Path(trial.local_path))
            _, session_start, _ = hparams(self._hyperparameters(trial.config), {})
            # Without the experiment's own summary TensorBoard collects the parameters of all trials: trials of several
            # families have different ones. Those that differ come first, by their names.
            file.write(session_start)

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        self.log_trial_start(trial)
        file, step = self._files[trial], result["training_iteration"]
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars(result).items()]
        file.write(Summary(value=values), step)
        file.write_count_updates(step)
        if any(name.startswith("predicted_share/") for name in result):
            file.write_confusion(step)
        file.write_picture()

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        file = self._files.pop(trial, None)
        if file is not None:
            file.write_picture()
            file.write(session_end(FAILURE if failed else SUCCESS))
            file.close()

    def _hyperparameters(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """search/p of what was searched; settings/seed, settings/trainer.lr, … of the rest."""
        found = trial_of(self._study, config["run"]["number"])
        rest = flatten_dict({name: config[name] for name in SECTIONS if name in config}, delimiter=".")
        rest |= {name: found.user_attrs.get(name) for name in ("family", "preset", "seed")}
        named = {f"{SEARCHED}/{name}": value for name, value in found.params.items()}
        named |= {f"{OTHERS}/{name}": value for name, value in rest.items()}
        return {name: value for name, value in named.items() if isinstance(value, (bool, int, float, str))}


class EventFile:
    """The event file of one trial, to which a driver that goes on adds another."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._picture, self._shown = folder, folder / PREDICTION, 0
        folder.mkdir(parents=True, exist_ok=True)
        self._file = EventsWriter(os.path.join(folder, "events"))

    def write(self, summary: Summary, step: int = 0) -> None:
        """Add one event, readable at once."""
        self._file.write_event(Event(wall_time=time.time(), step=step, summary=summary))
        self._file.flush()

    def write_count_updates(self, epoch: int) -> None:
        """class_frequency/nuc and so on at each update of an epoch, as the trial has left them: at optimiser steps."""
        for update in read_count_updates(self._folder, epoch):
            figures = [(tag, value) for tag, value in flatten_dict(update, delimiter="/").items() if "/" in tag]
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures if is_number(value)]
            self.write(Summary(value=values), update["step"])

    def write_confusion(self, epoch: int) -> None:
        """What is taken for what at an epoch, where the trial has kept it: rows true, columns predicted classes."""
        with (
            suppress(OSError, ValueError, KeyError, EOFError, BadZipFile),
            (self._folder / VALIDATION).open("rb") as file,
            np.load(file, allow_pickle=False) as arrays,
        ):
            row = arrays["epochs"].tolist().index(epoch)
            counts, classes = arrays["confusion"][row].sum(axis=0), ", ".join(arrays["classes"])
            share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
            cells = np.rint(255 * (1 - share)).astype(np.uint8).repeat(CELL, axis=0).repeat(CELL, axis=1)
            side = len(cells)
            shown = Summary.Image(height=side, width=side, colorspace=1, encoded_image_string=png(cells))
            about = SummaryMetadata(
                summary_description=f"Rows: true class; columns: predicted, black: all of the class. {classes}"
            )
            self.write(Summary(value=[Summary.Value(tag=CONFUSION, image=shown, metadata=about)]), epoch)

    def write_picture(self) -> None:
        """What the best epoch so far predicts, where the trial has left it since the last call."""
        try:
            changed = self._picture.stat().st_mtime_ns
        except OSError:
            return
        patches = read_patches(self._picture) if changed != self._shown else None
        self._shown = changed
        if patches is not None:
            image, (height, width) = sheet(patches)
            shown = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=image)
            named = places(drawn_classes(patches)).items()
            colors = ", ".join(f"{TOL_NAMES[place]} {patches.classes[c]}" for c, place in named)
            about = SummaryMetadata(
                summary_description=f"Rows: EM, truth, prediction; 3D in three planes. Outlines: {colors}"
            )
            value = Summary.Value(tag=PICTURE, image=shown, metadata=about)
            self.write(Summary(value=[value]), patches.best_epoch)

    def close(self) -> None:
        self._file.close()


def session_end(status: int) -> Summary:
    """The end of a session of HPARAMS."""
    content = HParamsPluginData(session_end_info=SessionEndInfo(status=status), version=0).SerializeToString()
    plugin = SummaryMetadata.PluginData(plugin_name="hparams", content=content)
    metadata = SummaryMetadata(plugin_data=plugin)
    return Summary(value=[Summary.Value(tag="_hparams_/session_end_info", metadata=metadata)])


def scalars(result: Mapping[str, Any]) -> dict[str, float]:
    """{group/name: value} of the finite numbers in a row; what has no group is under other/."""
    numbers = {name: value for name, value in flatten_dict(dict(result), delimiter="/").items() if is_number(value)}
    return {tag(name): float(value) for name, value in numbers.items() if name.partition("/")[0] not in UNSAID}


def is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def tag(name: str) -> str:
    """Where TensorBoard shows a figure."""
    if name.startswith("seconds_"):
        return f"time/{name}"
    if mean := re.fullmatch(r"(best_)?mean_(\w+)", name):
        return f"{mean[2]}/{mean[1] or ''}mean"
    return TAGS.get(name) or (name if "/" in name else f"other/{name}")
