"""Class-balanced weights by the effective number of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from trainables.losses.weighting import Counts, Factors, Rule, neutral_factors, read_frequency, read_number
from trainables.losses.weights import class_balanced_weights, comparable_counts
from trainables.settings import require


@dataclass(frozen=True, kw_only=True)
class ClassBalanced(Rule):
    """w_c = 1/E(n_c), E(n) = (1 − βⁿ)/(1 − β), Σw = C. params: {"one_minus_beta": b ≤ 1} or {"beta": β < 1}.

    n counts voxels per *window* (`count_window` batches). A total that grows with training would make the
    parameter measure training length. Cui et al. 2019, arXiv:1901.05555, applied to voxels.
    """

    one_minus_beta: float
    frequency: str = "count"
    online: ClassVar[bool] = True
    windowed: ClassVar[bool] = True
    choices: ClassVar[tuple[str, ...]] = ("one_minus_beta", "beta", "frequency")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        require(
            ("beta" in params) != ("one_minus_beta" in params),
            "loss.params",
            dict(params),
            "exactly one of beta and one_minus_beta is needed",
            "For example one_minus_beta=1e-6",
        )
        if "beta" in params:
            b = 1.0 - read_number(params, "beta", 0.0, 1.0 - 1e-15)
        else:
            b = read_number(params, "one_minus_beta", 1e-15, 1.0)
        return cls(num_classes=len(classes), one_minus_beta=b, frequency=read_frequency(params))

    def factors(self, counts: Counts) -> Factors:
        n = comparable_counts(counts.positive, counts.known, self.frequency)
        return neutral_factors(counts)._replace(weight=class_balanced_weights(n, self.one_minus_beta))
