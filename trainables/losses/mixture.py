"""Tversky and binary cross-entropy in one loss, both on logits adjusted by log counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from trainables.losses.balanced_softmax import BalancedSoftmax
from trainables.losses.weighting import read_frequency, read_number


@dataclass(frozen=True, kw_only=True)
class Mixture(BalancedSoftmax):
    """(1 − λ) · Tversky + λ · BCE, z − τ·(ln n_c − mean ln n) in training, raw z at validation.

    params: {"cross_entropy": λ in [0, 1], "tau": τ ≥ 0, "fp_weight": α, "fn_weight": β, "frequency": …}; absent: 0.5,
    0, 0.5, 0.5 (Dice), share. λ = 1 with τ = 0 is `torch.nn.BCEWithLogitsLoss` over the annotated voxels; λ = 0 is
    balanced_softmax with α and β of its own. Menon et al. 2021, arXiv:2007.07314; Taghanaki et al. 2019,
    arXiv:1805.02798.
    """

    choices: ClassVar[tuple[str, ...]] = ("cross_entropy", "tau", "fp_weight", "fn_weight", "frequency")

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        return cls(
            num_classes=len(classes),
            tau=read_number(params, "tau", 0.0, 100.0, default=0.0),
            frequency=read_frequency({"frequency": "share", **params}),
            cross_entropy=read_number(params, "cross_entropy", 0.0, 1.0, default=0.5),
            fp_weight=read_number(params, "fp_weight", 1e-6, 100.0, default=0.5),
            fn_weight=read_number(params, "fn_weight", 1e-6, 100.0, default=0.5),
        )
