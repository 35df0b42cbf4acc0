"""binary: one class against all else, with places that count nowhere; scored by F1, at ½ and at the best threshold.

The counts are those of multilabel for one output: histograms of the logit, so that a threshold is swept after the pass.
Beside them how much is foreground in every crop, how much the output varies at all, and the surface Dice.

Shapes: N batch, K validation crops, B logit bins, T = B − 1 thresholds, *S space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from trainables import metrics
from trainables.data import PackedBatch
from trainables.data.expand import pack_class
from trainables.settings import require, require_in
from trainables.tasks import Counts, Result, short
from trainables.tasks.multilabel import Multilabel

FIGURES = {"f1": metrics.dice, "iou": metrics.iou, "precision": metrics.precision, "recall": metrics.recall}
FOREGROUND = ("fg_pred", "fg_ratio", "fg_ratio_low", "fg_ratio_high", "fg_off")


@dataclass(frozen=True, kw_only=True)
class Binary(Multilabel):
    """One output. Beside the unknown, what `ignore_label` covers counts neither in the loss nor in a score."""

    ignore_label: str = ""
    """One of data.classes that marks voxels nobody labelled; the other class is learnt. Empty: there is no such one."""

    surface_tolerance: float = 0.0
    """Voxels by which two surfaces may differ in surface_dice, at probability ½; 0: it is not computed."""

    metric: ClassVar[str] = "f1"
    summary: ClassVar[tuple[str, ...]] = (*FIGURES, *(f"calibrated_{name}" for name in FIGURES))

    def __post_init__(self) -> None:
        require_in(self, "task.options.", surface_tolerance="[0, 5]")

    def outputs(self, classes: Sequence[str]) -> tuple[str, ...]:
        ignore = self.ignore_label
        require(
            not ignore or ignore in classes,
            "task.options.ignore_label",
            ignore,
            f"unknown class; data.classes are {', '.join(classes)}",
            f"Write data.classes=[NAME,{ignore}], NAME the class to learn",
        )
        learnt = tuple(name for name in classes if name != ignore)
        require(
            len(learnt) == 1,
            "data.classes",
            list(classes),
            "binary learns exactly one class, beside that of task.options.ignore_label",
            f"Write data.classes=[{classes[0]}], or use task.name=multilabel",
        )
        return learnt

    def target(self, labels: Tensor, classes: Sequence[str]) -> Tensor:
        """1 the class, 0 not, NaN unknown or ignored: (N, 1, D, H, W)."""
        target = super().target(labels, classes)
        if not self.ignore_label:
            return target
        ignored = classes.index(self.ignore_label)
        learnt = 1 - ignored
        return target[:, learnt : learnt + 1].where(target[:, ignored : ignored + 1] != 1, torch.nan)

    def zeros(self, units: int, outputs: int, device: torch.device) -> Counts:
        """Those of multilabel; `moments` (3,), known voxels and the sums of p and p² over them; `surface` (K, 4)."""
        counts = super().zeros(units, outputs, device)
        counts["moments"] = torch.zeros(3, dtype=torch.float64, device=device)
        if self.surface_tolerance:
            counts["surface"] = torch.zeros(units, 4, dtype=torch.int64, device=device)
        return counts

    def count_(self, counts: Counts, logits: Tensor, target: Tensor, unit: Tensor, number: int) -> None:
        super().count_(counts, logits, target, unit, number)
        known = ~target.isnan()
        p = torch.sigmoid(logits).where(known, 0.0).double()  # rounded squares would vary where p does not
        counts["moments"] += torch.stack([values.sum(dtype=torch.float64) for values in (known, p, p.square())])
        if self.surface_tolerance:
            found = metrics.surface_counts(logits, target, self.surface_tolerance)[:, 0]
            counts["surface"].index_add_(0, unit, found)

    def result(self, counts: Counts) -> Result:
        return super().result(counts) | {
            name: counts[name].numpy() for name in ("moments", "surface") if name in counts
        }

    def scores(self, result: Result, outputs: Sequence[str]) -> dict[str, float]:
        """f1, iou, precision, recall at ½ and, as calibrated_…, at the threshold of the highest F1; the class's own.

        Likewise `foreground`; mean_p, var_p and spread_p, Var(p)/(p̄(1 − p̄)): 0 where the output is the same
        everywhere, 1 where it is 0 or 1; surface_dice.
        """
        per_class = super().scores(result, outputs)
        positive, negative = (result[name].sum(axis=(0, 1)) for name in ("hist_positive", "hist_negative"))
        tp, fp = (bins.sum() - bins.cumsum()[:-1] for bins in (positive, negative))  # above each inner edge
        sweep = {name: score(tp, fp, positive.sum() - tp) for name, score in FIGURES.items()}
        edges = result["edges"][1:-1]
        best = max(range(len(edges)), key=lambda i: (float(sweep["f1"][i].nan_to_num()), -abs(edges[i])))
        half = len(edges) // 2  # logit 0
        row = {name: float(values[half]) for name, values in sweep.items()}
        row |= {f"calibrated_{name}": float(values[best]) for name, values in sweep.items()}
        row["threshold"] = 1 / (1 + math.exp(-edges[best])) if not math.isnan(row["f1"]) else math.nan
        shares = [foreground(result, edge) for edge in (half, best)]
        row |= shares[0] | {f"calibrated_{name}": shares[1][name] for name in FOREGROUND}
        voxels, sum_p, sum_p2 = result["moments"].tolist()
        mean = sum_p / voxels if voxels else math.nan
        variance = max(sum_p2 / voxels - mean**2, 0.0) if voxels else math.nan
        most = mean * (1 - mean)
        row |= {"mean_p": mean, "var_p": variance, "spread_p": variance / most if most else 0.0}
        if self.surface_tolerance:
            row["surface_dice"] = float(metrics.surface_dice(result["surface"].sum(axis=0)))
        return row | {name: value for name, value in per_class.items() if name not in Multilabel.summary}

    def describe(self, row: Mapping[str, Any]) -> str:
        half = " ".join(f"{name} {short(row[name])}" for name in ("f1", "precision", "recall"))
        return f"{half}, at threshold {short(row['threshold'])} f1 {short(row['calibrated_f1'])}"

    def shown(self, batch: PackedBatch, classes: Sequence[str]) -> np.ndarray:
        learnt = classes.index(self.outputs(classes)[0])
        return super().shown(batch, classes)[:, learnt : learnt + 1]

    def picture(self, batch: PackedBatch, logits: Tensor, classes: Sequence[str]) -> dict[str, np.ndarray]:
        """As multilabel's; what is ignored is shown as unknown."""
        target = self.target(batch.labels, classes)[:, 0].numpy()
        labels = np.zeros((1, *target.shape), np.uint8)
        pack_class(labels, 0, 1, target == 1, ~np.isnan(target))
        seen = PackedBatch(batch.em, torch.from_numpy(labels.swapaxes(0, 1)), batch.crop)
        return super().picture(seen, logits, self.outputs(classes))


def foreground(result: Result, edge: int) -> dict[str, float]:
    """How much is foreground above inner edge number `edge`, in all annotated voxels and in the crop that is worst.

    fg_pred, fg_true: shares in [0, 1]. fg_ratio: predicted over true; fg_ratio_low, fg_ratio_high: the lowest and the
    highest of the crops that have any. fg_off: the largest difference of the two shares in a crop. NaN without one.
    """
    positive, negative = (result[name][:, 0] for name in ("hist_positive", "hist_negative"))  # (K, B)
    known, true = (positive + negative).sum(axis=1), positive.sum(axis=1)
    predicted = (positive + negative)[:, edge + 1 :].sum(axis=1)
    there, holds = known > 0, true > 0
    off = np.abs(predicted[there] - true[there]) / known[there]
    ratios = predicted[holds] / true[holds]
    row = {
        "fg_pred": float(metrics.ratio(predicted.sum(), known.sum(), there.any())),
        "fg_true": float(metrics.ratio(true.sum(), known.sum(), there.any())),
        "fg_ratio": float(metrics.ratio(predicted.sum(), true.sum(), holds.any())),
    }
    for name, values, worst in (("ratio_low", ratios, np.min), ("ratio_high", ratios, np.max), ("off", off, np.max)):
        row[f"fg_{name}"] = float(worst(values)) if len(values) else math.nan
    return row


TASK = Binary
