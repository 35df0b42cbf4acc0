"""Mitigation and compensation factors after the seesaw loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from trainables.losses.weighting import Counts, Factors, Rule, neutral_factors, read_frequency, read_number
from trainables.losses.weights import comparable_counts, mitigation


@dataclass(frozen=True, kw_only=True)
class Seesaw(Rule):
    """loss = mean_c((median(n)/n_c)^p · (1 + (FP_c/(FP_c + FN_c))^q) · L_c). params: {"p": ≥ 0, "q": ≥ 0}.

    n online; FP and FN are the batch's soft counts, detached. Named after Wang et al. 2021, arXiv:2008.10032, and *not*
    that paper's loss: there the two factors reweight pairs of softmax logits, here they weigh a per-class Tversky loss.
    """

    p: float
    frequency: str = "count"
    online: ClassVar[bool] = True
    choices: ClassVar[tuple[str, ...]] = ("p", "q", "frequency")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        return cls(
            num_classes=len(classes),
            p=read_number(params, "p", 0.0, 10.0),
            compensation_gate=1.0,
            compensation_exponent=read_number(params, "q", 0.0, 100.0),
            frequency=read_frequency(params),
        )

    def factors(self, counts: Counts) -> Factors:
        n = comparable_counts(counts.positive, counts.known, self.frequency)
        return neutral_factors(counts)._replace(weight=mitigation(n, self.p))
