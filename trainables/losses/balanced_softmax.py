"""Logit adjustment by log counts inside the Tversky loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from trainables.losses.weighting import Counts, Factors, Rule, neutral_factors, read_frequency, read_number
from trainables.losses.weights import comparable_counts, log_count_offsets
from trainables.settings import require_choice

APPLY_AT = ("train", "inference", "paper")


@dataclass(frozen=True, kw_only=True)
class BalancedSoftmax(Rule):
    """z'_c = z_c ± τ·(ln n_c − mean ln n), counts online. params: {"tau": τ ≥ 0, "apply_at": …, "frequency": …}.

    apply_at=train (default): z − τ·(…) in the training loss, raw z at validation; rare classes are pushed *up*.
    apply_at=inference: post-hoc, raw z in training, z − τ·(…) at validation; a pure shift of the threshold.
    apply_at=paper: z + τ·(…) in the training loss, raw z at validation (Ren et al. 2020, arXiv:2007.10740; Menon et
    al. 2021, arXiv:2007.07314). Both papers adjust softmax logits; here every class is a sigmoid of its own.
    """

    tau: float
    apply_at: str = "train"
    frequency: str = "count"
    online: ClassVar[bool] = True
    choices: ClassVar[tuple[str, ...]] = ("tau", "apply_at", "frequency")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        apply_at = params.get("apply_at", "train")
        require_choice("loss.params.apply_at", apply_at, APPLY_AT)
        tau = read_number(params, "tau", 0.0, 100.0)
        return cls(num_classes=len(classes), tau=tau, apply_at=apply_at, frequency=read_frequency(params))

    def factors(self, counts: Counts) -> Factors:
        n = comparable_counts(counts.positive, counts.known, self.frequency)
        adjustment = self.tau * log_count_offsets(n)
        neutral = neutral_factors(counts)
        if self.apply_at == "inference":
            return neutral._replace(inference_shift=-adjustment)
        return neutral._replace(shift=-adjustment if self.apply_at == "train" else adjustment)
