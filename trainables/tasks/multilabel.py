"""multilabel: several classes, each there or not in every voxel, annotated or unknown; scored by Dice per class.

Labels are bit planes, two per class. A class is predicted where its logit is above 0. Logits may be shifted at
validation by what the loss says (`apply_at=inference` of balanced_softmax), and the shift goes with the weights.

Shapes: N batch, C classes, K validation crops, B logit bins, P packed bytes, Q = ceil(C / 8), *S space, D H W too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables import metrics
from trainables.calibration import calibrate, searched_figures
from trainables.data import PackedBatch, expand_labels
from trainables.data.expand import class_masks, packed_bytes
from trainables.losses.terms import Maps
from trainables.metrics import LOGIT_EDGES, ValidationCounts
from trainables.tasks import Counts, Result, Task, short

GAP = 2
"""Voxels between the planes of a 3D patch in a picture."""
SIGMOID = ("min", "max", "mean", "sd", "above_half")


@dataclass(frozen=True, kw_only=True)
class Multilabel(Task):
    """One output per class of the data set."""

    metric: ClassVar[str] = "mean_dice"
    summary: ClassVar[tuple[str, ...]] = ("mean_dice", "mean_iou")
    of_every_epoch: ClassVar[tuple[str, ...]] = ("tp", "fp", "fn")
    of_newest_epoch: ClassVar[tuple[str, ...]] = ("known",)
    of_best_epoch: ClassVar[tuple[str, ...]] = ("hist_positive", "hist_negative", "edges")

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        return tuple(classes)

    def target(self, labels: Tensor, classes: Sequence[str]) -> Tensor:
        return expand_labels(labels, len(classes))

    def evaluate(self, loss: nn.Module, logits: Tensor, target: Tensor, *maps: Maps) -> tuple[Tensor, Tensor]:
        shift: Any = loss.inference_shift
        return loss(logits, target, *maps)[0], logits + shift.view(1, -1, *(1,) * (logits.dim() - 2))

    def zeros(self, units: int, outputs: int, device: torch.device) -> Counts:
        """Histograms of the logits, (K, C, 2, B), and `sigmoid` (C, 5), the statistics of the first batch alone."""
        bins = ValidationCounts.zeros(units, outputs, device).bins
        return {"bins": bins, "sigmoid": torch.zeros(outputs, len(SIGMOID), device=device)}

    def count_(self, counts: Counts, logits: Tensor, target: Tensor, unit: Tensor, number: int) -> None:
        ValidationCounts(counts["bins"]).accumulate_(logits, target, unit)
        if number == 0:
            counts["sigmoid"] += sigmoid_statistics(logits)

    def result(self, counts: Counts) -> Result:
        """tp, fp, fn, known (K, C), hist_positive, hist_negative (K, C, B), edges (B + 1,), sigmoid (C, 5)."""
        arrays = ValidationCounts(counts["bins"]).numpy()
        return {**arrays, "edges": LOGIT_EDGES, "sigmoid": counts["sigmoid"].numpy()}

    def scores(self, result: Result, outputs: Sequence[str]) -> dict[str, float]:
        tp, fp, fn, known = (torch.from_numpy(result[name].sum(axis=0)) for name in ("tp", "fp", "fn", "known"))
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
        means = {"mean_dice": float(metrics.mean_over_known(dice)), "mean_iou": float(metrics.mean_over_known(iou))}
        row = means | {"val_loss": result["val_loss"]}
        for name, values in per_class.items():
            row |= {f"{name}/{c}": v for c, v in zip(outputs, values.tolist())}
        for index, name in enumerate(SIGMOID):
            row |= {f"sigmoid/{c}/{name}": float(v) for c, v in zip(outputs, result["sigmoid"][:, index])}
        return row

    def searched(self, outputs: Sequence[str]) -> Sequence[str]:
        return searched_figures(outputs)

    def at_thresholds(self, result: Result, outputs: Sequence[str]) -> Callable[[str], float]:
        return calibrate(result | {"classes": np.array(outputs), "best_epoch": np.zeros((), np.int64)}).score

    def describe(self, row: Mapping[str, Any]) -> str:
        classes = [name.split("/", 1)[1] for name in row if name.startswith("dice/")]
        dice = " ".join(f"{c} {short(row[f'dice/{c}'])}" for c in classes)
        return f"mean Dice {short(row['mean_dice'])} ({dice})"

    def shown(self, batch: PackedBatch, classes: Sequence[str]) -> np.ndarray:
        """Positive voxels per patch and class, (N, C)."""
        planes = batch.labels.numpy().swapaxes(0, 1)
        masks = [class_masks(planes, c, len(classes))[0] for c in range(len(classes))]
        return np.stack([np.count_nonzero(mask, axis=(1, 2, 3)) for mask in masks], axis=1)

    def picture(self, batch: PackedBatch, logits: Tensor, classes: Sequence[str]) -> dict[str, np.ndarray]:
        """Each patch as one plane: em (N, H, W), labels (N, P, H, W) packed, predicted (N, Q, H, W), uint8.

        em is the first channel. Class c is predicted where bit c % 8 of byte c // 8 is set. Of a 3D patch three planes
        side by side, see `three_planes`, through the voxel with most to see around it.
        """
        em, labels = batch.em[:, 0].numpy(), batch.labels[:, : packed_bytes(len(classes))].numpy()
        predicted = np.packbits(logits.numpy() > 0, axis=1, bitorder="little")
        if logits.dim() == 4:
            return {"em": em[:, 0], "labels": labels[:, :, 0], "predicted": predicted}
        at = most_to_see(labels, len(classes))
        return {
            "em": three_planes(em, at),
            "labels": three_planes(labels, at),
            "predicted": three_planes(predicted, at),
        }

    def kept_of(self, loss: nn.Module) -> dict[str, Any]:
        shift: Any = loss.inference_shift
        return {"inference_shift": shift.tolist()}


def most_to_see(labels: np.ndarray, num_classes: int) -> list[tuple[int, ...]]:
    """(z, y, x) of the planes that hold most positive voxels of packed labels (N, P, D, H, W); all classes of a patch
    count alike, however many voxels they have. The middle where there is none."""
    found = []
    for patch in labels:
        weight = np.zeros(patch.shape[1:])
        for c in range(num_classes):
            present = class_masks(patch, c, num_classes)[0]
            weight += present / max(int(np.count_nonzero(present)), 1)
        sums = [weight.sum(axis=axes) for axes in ((1, 2), (0, 2), (0, 1))]
        found.append(tuple(int(s.argmax()) if s.any() else len(s) // 2 for s in sums))
    return found


def three_planes(volumes: np.ndarray, at: Sequence[tuple[int, ...]]) -> np.ndarray:
    """volumes (N, …, D, H, W) through (z, y, x) each, as one plane (N, …, H + D + 2 GAP, W + D + 2 GAP): H W on the
    left, below it D W, to the right of it H D; 0 between them, in the corner, and towards the next picture."""
    depth, height, width = volumes.shape[-3:]
    out = np.zeros((*volumes.shape[:-3], height + depth + 2 * GAP, width + depth + 2 * GAP), volumes.dtype)
    for plane, volume, (z, y, x) in zip(out, volumes, at):
        plane[..., :height, :width] = volume[..., z, :, :]
        plane[..., height + GAP : -GAP, :width] = volume[..., :, y, :]
        plane[..., :height, width + GAP : -GAP] = volume[..., :, :, x].swapaxes(-1, -2)
    return out


def sigmoid_statistics(logits: Tensor) -> Tensor:
    """min, max, mean, standard deviation of σ(z) and the share above ½, per class: (C, 5). logits: (N, C, *S)."""
    flat = logits.transpose(0, 1).flatten(1)
    p = torch.sigmoid(flat)
    return torch.stack([p.amin(1), p.amax(1), p.mean(1), p.std(1), (flat > 0).float().mean(1)], dim=1)


TASK = Multilabel
