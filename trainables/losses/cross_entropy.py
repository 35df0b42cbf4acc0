"""Softmax cross-entropy for labels that exclude each other, with class weights and label smoothing in buffers.

    loss = Σ_n cost_n / Σ_n w_y(n),   cost_n = Σ_c A[y(n), c] · (−ln p_c)

y(n) is the true class of sample n, p the softmax of its logits. A (C, C) holds weights and smoothing: every weighting,
every ε and both formulas are one graph. A ratio of sums, so the loss of accumulated batches and of several ranks is
that of one large batch.

Shapes: N batch, C classes, *S any number of space axes (every place is a sample), M = N · |S| samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from trainables.losses.static import Static
from trainables.losses.terms import Maps
from trainables.losses.weighted_tversky import WeightedTversky, without_autocast
from trainables.losses.weighting import Rule, read_number
from trainables.settings import require, require_choice

SMOOTHINGS = ("seed", "torch")


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Static):
    """params: {"weights": C numbers ≥ 0, not all 0; "epsilon": ε in [0, 1), 0 if absent; "smoothing": seed or torch}.

    seed: the target is 1 − ε in the true class and ε / (C − 1) in each other one, and a sample weighs as its true class
    does. torch: 1 − ε and ε / C everywhere, and the smoothed part of each class weighs as that class does, as in
    `torch.nn.functional.cross_entropy(label_smoothing=ε)`. Without weights seed's ε is torch's ε · C / (C − 1).
    """

    epsilon: float
    smoothing: str
    exclusive: ClassVar[bool] = True
    choices: ClassVar[tuple[str, ...]] = ("weights", "epsilon", "smoothing")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        weights = Static.from_params({"weights": params.get("weights")}, classes).weights
        epsilon = read_number(params, "epsilon", 0.0, 1.0, default=0.0)
        require(epsilon < 1, "loss.params.epsilon", epsilon, "leaves nothing for the true class", "Use 0.05")
        smoothing = params.get("smoothing", "seed")
        require_choice("loss.params.smoothing", smoothing, SMOOTHINGS)
        return cls(num_classes=len(classes), weights=weights, epsilon=epsilon, smoothing=smoothing)

    @property
    def costs(self) -> Tensor:
        """A (C, C) float64, by true class and predicted class."""
        weight = torch.tensor(self.weights, dtype=torch.float64)
        count, one = len(weight), torch.eye(len(weight), dtype=torch.float64)
        if self.smoothing == "torch":
            return (1 - self.epsilon) * torch.diag(weight) + self.epsilon / count * weight.expand(count, count)
        others = self.epsilon / max(1, count - 1)
        return weight[:, None] * torch.where(one > 0, 1 - self.epsilon, others)


class SoftmaxCrossEntropy(WeightedTversky):
    """What the engine asks of a loss, for `CrossEntropy`; counts, windows and state are those of the other losses.

    A sample whose target is not 1 in exactly one class, or NaN in any, counts nowhere.
    """

    costs: Tensor

    def __init__(self, classes: Sequence[str], make_rule: Any) -> None:
        super().__init__(classes, make_rule)
        # It follows from name and parameters.
        self.register_buffer("costs", torch.zeros(len(self.classes), len(self.classes)), persistent=False)

    def forward(self, logits: Tensor, target: Tensor, maps: Maps | None = None) -> tuple[Tensor, Tensor]:
        """(loss, figures): loss 0-d float32; figures (3C,) float32 detached, see `figure_names`.

        logits: (N, C, *S), any float dtype. target: (N, C, *S), 1 in the true class and 0 in the others, or NaN. A
        batch without a known sample has loss 0 and zero gradient. No use is made of maps.
        """
        return self.of_totals(self.totals(logits, target)[0])

    def with_counts(
        self, logits: Tensor, target: Tensor, maps: Maps | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(loss, figures, positive, known): samples of each class, and all that have a label, (C,) float64 each."""
        sums, positive, known = self.totals(logits, target)
        return *self.of_totals(sums), positive, known

    def totals(self, logits: Tensor, target: Tensor, maps: Maps | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(sums, positive, known): sums (4, C) float32 by true class: Σ cost, Σ −ln p_y, samples, right predictions."""
        with without_autocast(logits.device.type):
            z, truth = (x.flatten(2).transpose(1, 2).flatten(0, 1) for x in (logits.float(), target))  # (M, C)
            labelled = (truth.sum(1) == 1) & ((truth == 0) | (truth == 1)).all(1)
            truth = torch.where(labelled[:, None], truth, 0.0)
            surprise = -torch.log_softmax(z, dim=1)
            cost = ((truth @ self.costs) * surprise).sum(1)
            own = (truth * surprise).sum(1).detach()
            right = (truth.argmax(1) == z.argmax(1)).float()
            samples = truth.sum(0)
            sums = torch.stack([cost @ truth, own @ truth, samples, right @ truth])
        positive = samples.double()
        return sums, positive, positive.sum().expand_as(positive).clone()

    def of_totals(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """(loss, figures) from sums (4, C), of one batch or added up over several."""
        cost, own, samples, right = sums.unbind()
        weight = (self.weight * samples).sum()
        loss = cost.sum() / torch.where(weight > 0, weight, 1.0)
        return loss, torch.stack([own, samples, right]).flatten().detach()

    @property
    def figure_names(self) -> list[str]:
        """Of each class what is added up over an epoch: −ln p of the true class, samples, right predictions."""
        return [f"{what}/{name}" for what in ("surprise", "samples", "right") for name in self.classes]

    def training_figures(self, means: Sequence[float]) -> dict[str, float]:
        """loss/CLASS: the mean −ln p of its samples, without weight and smoothing; train_recall/CLASS, and
        train_balanced_accuracy, their mean over the classes that were seen. While the weights change: each batch counts
        as the network was then."""
        own, samples, right = torch.tensor(means, dtype=torch.float64).view(3, -1)
        seen = samples > 0
        row = dict(zip((f"loss/{name}" for name in self.classes), (own / samples).tolist()))
        row |= dict(zip((f"train_recall/{name}" for name in self.classes), (right / samples).tolist()))
        row["train_accuracy"] = float(right.sum() / samples.sum())
        row["train_balanced_accuracy"] = float((right / samples)[seen].mean()) if seen.any() else math.nan
        return row

    def _take(self, rule: Rule) -> None:
        super()._take(rule)
        assert isinstance(rule, CrossEntropy)
        self.costs.copy_(rule.costs)
