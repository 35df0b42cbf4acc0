"""Tasks: what is learnt. One file per task; the file's name is `task.name` on the command line.

A task file defines `TASK`, a subclass of `Task`. Its dataclass fields are the options that only this task has
(`task.options`); what they may be is checked in its `__post_init__`.

Counts are additive: over voxels, batches, ranks. So they are reduced first, and scored once.

Shapes: N batch, C outputs of the network, K units of evidence (validation crops), *S space.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.data import PackedBatch
from trainables.losses import is_exclusive
from trainables.losses.terms import Maps
from trainables.settings import from_mapping, require, require_choice

Counts = dict[str, Tensor]
"""Sums of a validation pass, on the device, by name."""
Result = dict[str, Any]
"""A validation pass on the host: arrays by name, and `val_loss`, the mean over its batches."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """What engine, validation and pictures ask of a task. It holds its options and no state."""

    metric: ClassVar[str]
    """The figure of a row that says how good an epoch was, unless an objective says another."""
    mode: ClassVar[str] = "max"
    """max or min of it."""
    summary: ClassVar[tuple[str, ...]]
    """Figures that are NaN in the row of an epoch whose loss or weights were not finite; the metric is one of them."""
    of_every_epoch: ClassVar[tuple[str, ...]] = ()
    """Arrays of a result that validation.npz holds for every epoch, (E, …)."""
    of_newest_epoch: ClassVar[tuple[str, ...]] = ()
    """Those that it holds of the newest epoch alone."""
    of_best_epoch: ClassVar[tuple[str, ...]] = ()
    """Those that it holds of the best epoch alone."""
    exclusive: ClassVar[bool] = False
    """Whether labels exclude each other: a loss over a softmax is for such labels alone."""
    whole_crops: ClassVar[bool] = False
    """Whether a crop is one sample, of which the patch is all: validation then takes every crop once."""

    @abstractmethod
    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        """Names of the network's outputs for the classes of a data set; SettingsError where these do not fit."""

    @abstractmethod
    def target(self, labels: Tensor, classes: Sequence[str]) -> Tensor:
        """What the loss compares logits with, float32, NaN where unknown; it is traced into the compiled steps.

        labels: packed, uint8 (N, P, D, H, W), see `trainables.data.expand`; classes: those of the data set.
        """

    def evaluate(self, loss: nn.Module, logits: Tensor, target: Tensor, *maps: Maps) -> tuple[Tensor, Tensor]:
        """Loss (0-d) and logits (N, C, *S) as they are scored; it is traced into the compiled evaluation step.

        maps: for the loss, where data.maps has them packed.
        """
        return loss(logits, target, *maps)[0], logits

    @abstractmethod
    def zeros(self, units: int, outputs: int, device: torch.device) -> Counts:
        """The counts of a validation pass before its first batch."""

    @abstractmethod
    def count_(self, counts: Counts, logits: Tensor, target: Tensor, unit: Tensor, number: int) -> None:
        """Add batch `number` of a pass in place, without waiting for the device. unit: (N,) int64 in [0, K)."""

    @abstractmethod
    def result(self, counts: Counts) -> Result:
        """Arrays that follow from counts on the host: at least those that validation.npz holds."""

    @abstractmethod
    def scores(self, result: Result, outputs: Sequence[str]) -> dict[str, float]:
        """The figures of a row: counts are summed over the units, then every score is computed once."""

    def searched(self, outputs: Sequence[str]) -> Sequence[str]:
        """Figures beyond those of `scores`, at thresholds chosen after the pass: a row has those that an objective
        names."""
        return ()

    def at_thresholds(self, result: Result, outputs: Sequence[str]) -> Callable[[str], float]:
        """The value of each of the `searched` figures of a pass."""
        raise NotImplementedError

    @abstractmethod
    def describe(self, row: Mapping[str, Any]) -> str:
        """The scores of a row in a few words, for trial.log."""

    @abstractmethod
    def shown(self, batch: PackedBatch, classes: Sequence[str]) -> np.ndarray:
        """How much there is to see of each output in each patch, int64 (N, C): pictures are chosen by it."""

    @abstractmethod
    def picture(self, batch: PackedBatch, logits: Tensor, classes: Sequence[str]) -> dict[str, np.ndarray]:
        """What prediction.npz says of the patches of `batch`; logits (N, C, *S) as they are scored, on the host."""

    def kept_of(self, loss: nn.Module) -> dict[str, Any]:
        """What best.pt holds of the loss beside the weights: plain values that a prediction needs."""
        return {}


def task_names() -> tuple[str, ...]:
    """Names of all tasks: the files of this package, sorted."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def get_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """The task of this name with its options. Raises SettingsError with the choices, for an unknown option too."""
    require_choice("task.name", name, task_names())
    kind: type[Task] = importlib.import_module(f"{__name__}.{name}").TASK
    return from_mapping(kind, options or {}, "task.options")


def require_labels_for(loss: str, task: Task, name: str) -> None:
    """SettingsError for a loss over labels that exclude each other where those of the task do not. name: the task's."""
    rule = f"loss {loss} is for one label per sample, and the labels of this task do not exclude each other"
    require(task.exclusive or not is_exclusive(loss), "task.name", name, rule, "Write task.name=classification")


def short(value: float) -> str:
    """A score for trial.log."""
    return "none" if math.isnan(value) else f"{value:.4f}"
