"""The validation pass and what is kept of it: per crop and class, per epoch.

Shapes: N batch, C classes, K validation crops, B logit bins, E epochs so far, *S space.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables import metrics
from trainables.data import PackedBatch, PackedDataset, ValidationSet, validation_set
from trainables.hardware import Hardware
from trainables.metrics import LOGIT_EDGES, NUM_BINS, ValidationCounts
from trainables.settings import TrainerSettings
from trainables.steps import Step, load_ahead

COUNTS = ("tp", "fp", "fn")
HISTOGRAMS = ("hist_positive", "hist_negative")


class Validator:
    """The fixed validation patches of a data set, and one pass over them."""

    def __init__(self, dataset: PackedDataset, trainer: TrainerSettings, split_seed: int, hardware: Hardware) -> None:
        members = [i for i, crop in enumerate(dataset.crops) if crop.side == "validate"]
        self.crops = tuple(dataset.crops[i].name for i in members)
        self.classes = tuple(dataset.classes)
        self.hardware = hardware
        slot = torch.full((len(dataset.crops),), -1, dtype=torch.int64)
        slot[members] = torch.arange(len(members))
        patches = validation_set(
            dataset, batch_size=trainer.batch_size, num_batches=trainer.validation_batches, seed=split_seed
        )
        self.batches = Batches(patches, slot)

    @torch.no_grad()
    def run(self, step: Step) -> dict[str, Any]:
        """One pass, read once at its end: counts and histograms (numpy, int64), `val_loss` and `sigmoid` (C, 5).

        step: (em, labels) → (loss 0-d, logits (N, C, *S) as thresholded, target (N, C, *S)).
        """
        counts = ValidationCounts.zeros(len(self.crops), len(self.classes), self.hardware.device)
        loss_sum = torch.zeros((), device=self.hardware.device)
        sigmoid = torch.empty(0)
        for number, host in enumerate(self._loaded()):
            batch = host.to(self.hardware.device)
            loss, logits, target = step(batch.em, batch.labels)
            loss_sum += loss
            counts.accumulate_(logits, target, batch.crop)
            if number == 0:
                sigmoid = sigmoid_statistics(logits)
        return {**counts.numpy(), "val_loss": float(loss_sum) / len(self.batches), "sigmoid": sigmoid.cpu().numpy()}

    def _loaded(self) -> Iterator[PackedBatch]:
        """The batches in order. On CUDA one thread cuts and pins them while the device computes, as in training."""

        def load(number: int) -> PackedBatch:
            return self.batches[number].pin_memory() if self.hardware.cuda else self.batches[number]

        return load_ahead(load, range(len(self.batches)), depth=3 if self.hardware.cuda else 0)


class Batches(Sequence[PackedBatch]):
    """A validation set with its crops numbered among the validation crops. A batch is cut anew whenever it is read."""

    def __init__(self, patches: ValidationSet, slot: Tensor) -> None:
        self._patches, self._slot = patches, slot

    def __len__(self) -> int:
        return len(self._patches)

    def __getitem__(self, number: Any) -> Any:
        batch = self._patches[number]
        return PackedBatch(batch.em, batch.labels, self._slot[batch.crop])


def sigmoid_statistics(logits: Tensor) -> Tensor:
    """min, max, mean, standard deviation of σ(z) and the share above ½, per class: (C, 5). logits: (N, C, *S)."""
    flat = logits.transpose(0, 1).flatten(1)
    p = torch.sigmoid(flat)
    return torch.stack([p.amin(1), p.amax(1), p.mean(1), p.std(1), (flat > 0).float().mean(1)], dim=1)


def scores(result: Mapping[str, Any], classes: Sequence[str]) -> dict[str, float]:
    """The flat metrics of one pass: counts are summed over the crops, then every score is computed once."""
    tp, fp, fn, known = (torch.from_numpy(result[name].sum(axis=0)) for name in (*COUNTS, "known"))
    dice, iou = metrics.dice(tp, fp, fn), metrics.iou(tp, fp, fn)
    per_class = {
        "dice": dice,
        "iou": iou,
        "precision": metrics.precision(tp, fp, fn),
        "recall": metrics.recall(tp, fp, fn),
        "support": tp + fn,
        "fg_pred": metrics.fg_pred(tp, fp, known),
        "fg_true": metrics.fg_true(tp, fn, known),
    }
    row = {"mean_dice": float(metrics.mean_over_known(dice)), "mean_iou": float(metrics.mean_over_known(iou))}
    row["val_loss"] = result["val_loss"]
    for name, values in per_class.items():
        row |= {f"{name}/{c}": v for c, v in zip(classes, values.tolist())}
    for index, name in enumerate(("min", "max", "mean", "sd", "above_half")):
        row |= {f"sigmoid/{c}/{name}": float(v) for c, v in zip(classes, result["sigmoid"][:, index])}
    return row


class ValidationRecord:
    """TP/FP/FN of every epoch and the histograms of the best one: what thresholds and bootstraps are computed from."""

    def __init__(self, crops: Sequence[str], classes: Sequence[str]) -> None:
        self.crops, self.classes = tuple(crops), tuple(classes)
        self.reset()

    def reset(self) -> None:
        """Forget everything: a new trial."""
        shape = (len(self.crops), len(self.classes))
        self.epochs: list[int] = []
        self.counts: dict[str, list[np.ndarray]] = {name: [] for name in COUNTS}
        self.known = np.zeros(shape, np.int64)
        self.edges = LOGIT_EDGES
        self.histograms = {name: np.zeros((*shape, NUM_BINS), np.int64) for name in HISTOGRAMS}
        self.best_epoch, self.best_mean_dice = 0, math.nan

    def add(self, epoch: int, result: Mapping[str, Any], mean_dice: float) -> None:
        """Take in one epoch; a NaN `mean_dice` never becomes the best."""
        self.epochs.append(epoch)
        for name in COUNTS:
            self.counts[name].append(result[name])
        self.known = result["known"]
        if mean_dice > self.best_mean_dice or (math.isnan(self.best_mean_dice) and not math.isnan(mean_dice)):
            self.best_epoch, self.best_mean_dice = epoch, mean_dice
            self.edges, self.histograms = LOGIT_EDGES, {name: result[name] for name in HISTOGRAMS}

    def arrays(self) -> dict[str, np.ndarray]:
        """What validation.npz holds: epochs (E,), tp fp fn (E, K, C), known (K, C), hist_* (K, C, B) of best_epoch."""
        shape = (len(self.epochs), len(self.crops), len(self.classes))
        return {
            "epochs": np.array(self.epochs, np.int64),
            **{name: np.array(values, np.int64).reshape(shape) for name, values in self.counts.items()},
            "known": self.known,
            **self.histograms,
            "best_epoch": np.array(self.best_epoch, np.int64),
            "crops": np.array(self.crops),
            "classes": np.array(self.classes),
            "edges": self.edges,
        }

    def state_dict(self) -> dict[str, Any]:
        """Tensors and numbers, so that a checkpoint can be read without running code from it."""
        arrays = {k: torch.from_numpy(v.copy()) for k, v in self.arrays().items() if k not in ("crops", "classes")}
        return {"arrays": arrays, "best_mean_dice": self.best_mean_dice}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Become what was saved."""
        arrays = {name: value.numpy() for name, value in state["arrays"].items()}
        self.epochs = [int(e) for e in arrays["epochs"]]
        self.counts = {name: list(arrays[name]) for name in COUNTS}
        self.known = arrays["known"]
        self.edges = arrays["edges"]  # an earlier version may have had others
        self.histograms = {name: arrays[name] for name in HISTOGRAMS}
        self.best_epoch, self.best_mean_dice = int(arrays["best_epoch"]), float(state["best_mean_dice"])
