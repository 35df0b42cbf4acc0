"""classification: one label for each sample, and labels exclude each other; scored by the mean recall of the classes.

A sample is a whole crop: every validation crop is looked at once, as a whole, and has one row of counts. The label lies
in the packed planes as everywhere; that of a patch is read at its centre, since corners of a turned volume are unknown.
Predicted is the class with the largest logit.

Shapes: N batch, C classes, K validation crops, P packed bytes, *S space (1 1 1 in logits and target), M patches shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from trainables.data import PackedBatch, expand_labels
from trainables.data.expand import pack_class, packed_bytes
from trainables.losses.terms import Maps
from trainables.settings import require
from trainables.tasks import Counts, Result, Task, short
from trainables.tasks.multilabel import most_to_see, three_planes


@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """One output per class of the data set."""

    metric: ClassVar[str] = "balanced_accuracy"
    summary: ClassVar[tuple[str, ...]] = ("balanced_accuracy", "macro_f1", "accuracy", "min_recall")
    of_every_epoch: ClassVar[tuple[str, ...]] = ("tp", "fp", "fn", "confusion")
    of_newest_epoch: ClassVar[tuple[str, ...]] = ("known",)
    exclusive: ClassVar[bool] = True
    whole_crops: ClassVar[bool] = True

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        require(
            len(classes) > 1,
            "data.classes",
            list(classes),
            "one class alone leaves nothing to tell apart",
            "Give at least two",
        )
        return tuple(classes)

    def target(self, labels: Tensor, classes: Sequence[str]) -> Tensor:
        """(N, C, 1, 1, 1): 1 the class of the sample, 0 the others, NaN where it has no label."""
        d, h, w = (size // 2 for size in labels.shape[2:])
        return expand_labels(labels[:, :, d : d + 1, h : h + 1, w : w + 1], len(classes))

    def evaluate(self, loss: nn.Module, logits: Tensor, target: Tensor, *maps: Maps) -> tuple[Tensor, Tensor]:
        shift: Any = loss.inference_shift
        return loss(logits, target, *maps)[0], logits + shift.view(1, -1, *(1,) * (logits.dim() - 2))

    def zeros(self, units: int, outputs: int, device: torch.device) -> Counts:
        """confusion (K, C, C) by true and predicted class; entropy of p and −ln p of the true class, nats, (K,)."""
        return {
            "confusion": torch.zeros(units, outputs, outputs, dtype=torch.int64, device=device),
            "entropy": torch.zeros(units, dtype=torch.float64, device=device),
            "surprise": torch.zeros(units, dtype=torch.float64, device=device),
        }

    def count_(self, counts: Counts, logits: Tensor, target: Tensor, unit: Tensor, number: int) -> None:
        z, truth = logits.flatten(1).double(), target.flatten(1)
        labelled = truth.sum(1) == 1  # false for NaN
        true, guess = torch.where(labelled[:, None], truth, 0.0).argmax(1), z.argmax(1)
        log_p = torch.log_softmax(z, dim=1)
        counts["confusion"].index_put_((unit, true, guess), labelled.to(torch.int64), accumulate=True)
        entropy, surprise = -(log_p.exp() * log_p).sum(1), -log_p.gather(1, true[:, None])[:, 0]
        for name, values in (("entropy", entropy), ("surprise", surprise)):
            counts[name].index_add_(0, unit, torch.where(labelled, values, 0.0))

    def result(self, counts: Counts) -> Result:
        """confusion (K, C, C), and of each class tp, fp, fn, known (K, C), all int64; entropy, surprise (K,)."""
        confusion = counts["confusion"].numpy()
        tp = np.diagonal(confusion, axis1=1, axis2=2).copy()
        known = np.broadcast_to(confusion.sum(axis=(1, 2))[:, None], tp.shape).copy()
        of_class = {"tp": tp, "fp": confusion.sum(axis=1) - tp, "fn": confusion.sum(axis=2) - tp, "known": known}
        return {"confusion": confusion, **of_class, **{n: counts[n].numpy() for n in ("entropy", "surprise")}}

    def scores(self, result: Result, outputs: Sequence[str]) -> dict[str, float]:
        """From the confusion matrix of all crops. A class without a sample has no recall and no F1, and leaves the
        means. entropy and entropy_of_predictions are those of the mean prediction and of the histogram of predicted
        classes, as a share of ln C: 0 where one class is all that is predicted, 1 where all are alike.
        """
        confusion, classes = result["confusion"].sum(axis=0).astype(np.float64), len(outputs)
        hits, support, guessed = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
        samples = confusion.sum()
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = hits / support
            precision = hits / guessed
            f1 = np.where(support > 0, 2 * hits / (support + guessed), np.nan)
            share = guessed / samples
            spread = np.sum(share * np.log(np.where(share > 0, 1 / share, 1.0))) / math.log(classes)
            row = {
                "balanced_accuracy": _mean(recall),
                "macro_f1": _mean(f1),
                "accuracy": float(hits.sum() / samples),
                "min_recall": _least(recall),
                "min_f1": _least(f1),
                "entropy": float(result["entropy"].sum() / samples / math.log(classes)),
                "entropy_of_predictions": float(spread),
                "nll": float(result["surprise"].sum() / samples),
                "val_loss": result["val_loss"],
            }
            per_class = {
                "recall": recall,
                "precision": precision,
                "f1": f1,
                "dice": f1,  # the same figure, by the name under which tables and reports look for one of each class
                "support": support,
                "predicted_share": share,
                "true_share": support / samples,
            }
        for name, values in per_class.items():
            row |= {f"{name}/{c}": float(v) for c, v in zip(outputs, values)}
        return row

    def describe(self, row: Mapping[str, Any]) -> str:
        classes = [name.split("/", 1)[1] for name in row if name.startswith("recall/")]
        recalls = " ".join(f"{c} {short(row[f'recall/{c}'])}" for c in classes)
        return f"balanced accuracy {short(row['balanced_accuracy'])} (recall {recalls})"

    def shown(self, batch: PackedBatch, classes: Sequence[str]) -> np.ndarray:
        return (self.target(batch.labels, classes).flatten(1) == 1).to(torch.int64).numpy()

    def picture(self, batch: PackedBatch, logits: Tensor, classes: Sequence[str]) -> dict[str, np.ndarray]:
        """The three planes of each volume, see `multilabel`; true and predicted class cover all of it."""
        em = batch.em[:, 0].numpy()
        guess = torch.nn.functional.one_hot(logits.flatten(1).argmax(1), len(classes)).bool().numpy()  # (M, C)
        true = (self.target(batch.labels, classes).flatten(1) == 1).numpy()
        labels = np.zeros((len(em), packed_bytes(len(classes)), *em.shape[1:]), np.uint8)
        for planes, row in zip(labels, true):
            for index, present in enumerate(row):
                there = np.full(em.shape[1:], True)
                pack_class(planes, index, len(classes), there & present, there & row.any())
        bits = np.packbits(guess, axis=1, bitorder="little")[:, :, None, None, None]
        at = most_to_see(np.zeros_like(labels), len(classes))
        return {
            "em": three_planes(em, at),
            "labels": three_planes(labels, at),
            "predicted": three_planes(np.broadcast_to(bits, (*bits.shape[:2], *em.shape[1:])), at),
        }


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _least(values: np.ndarray) -> float:
    return float(np.nanmin(values)) if np.isfinite(values).any() else math.nan


TASK = Classification
