"""binary: one class against all else, with places that count nowhere; scored by F1, at ½ and at the best threshold.

The counts are those of multilabel for one output: histograms of the logit, so that a threshold is swept after the pass.

Shapes: N batch, K validation crops, B logit bins, *S space.
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
from trainables.settings import require
from trainables.tasks import Result, short
from trainables.tasks.multilabel import Multilabel

FIGURES = {"f1": metrics.dice, "iou": metrics.iou, "precision": metrics.precision, "recall": metrics.recall}


@dataclass(frozen=True, kw_only=True)
class Binary(Multilabel):
    """One output. Beside the unknown, what `ignore_label` covers counts neither in the loss nor in a score."""

    ignore_label: str = ""
    """One of data.classes that marks voxels nobody labelled; the other class is learnt. Empty: there is no such one."""

    metric: ClassVar[str] = "f1"
    summary: ClassVar[tuple[str, ...]] = (*FIGURES, *(f"calibrated_{name}" for name in FIGURES))

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

    def scores(self, result: Result, outputs: Sequence[str]) -> dict[str, float]:
        """f1, iou, precision, recall at ½ and, as calibrated_…, at the threshold of the highest F1; the class's own."""
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


TASK = Binary
