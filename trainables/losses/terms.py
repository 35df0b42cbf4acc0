"""Terms that a loss may have beside Tversky and cross-entropy, each of sums over annotated voxels.

A term is a mean over the classes that are annotated in a batch. What it needs beyond the sums of `tversky.plane_sums`
is summed here by automatic differentiation, in float32, and only where the term has a weight.

Shapes: N batch, C classes, *S any number of space axes. Targets hold 0, 1, or NaN where not annotated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from trainables.losses.tversky import EPSILON, ClassSums

Numbers = Mapping[str, Tensor]
"""Parameters of terms by name, each 0-d."""
VoxelLoss = Callable[[Tensor, Tensor, Numbers], Tensor]
"""From logits and targets (N, C, *S), 0 where unknown, to a loss of every voxel, ≥ 0."""


@dataclass(frozen=True)
class Term:
    """One term of a loss."""

    value: Callable[[ClassSums, Tensor | None], Tensor]
    """(C,) from the sums (C,) of `plane_sums` and, where the term has a voxel loss, its sum (C,)."""
    voxel: VoxelLoss | None = None


def focal(logits: Tensor, target: Tensor, numbers: Numbers) -> Tensor:
    """−a · (1 − p_t)^γ · ln p_t, nats: p_t = p where t = 1, else 1 − p. Lin et al. 2017, arXiv:1708.02002.

    a = α · weight_on_fg_voxels where t = 1, and (1 − α) · weight_on_bg_voxels where t = 0. γ = 0, α = ½ and weights of
    1 make half of the binary cross-entropy. By softplus, so that neither value nor gradient overflows.
    """
    positive = target > 0.5
    right = torch.where(positive, logits, -logits)
    alpha = numbers["focal_alpha"]
    factor = torch.where(
        positive, alpha * numbers["weight_on_fg_voxels"], (1.0 - alpha) * numbers["weight_on_bg_voxels"]
    )
    return factor * torch.exp(-numbers["focal_gamma"] * softplus(right)) * softplus(-right)


def mean(sums: ClassSums, summed: Tensor | None) -> Tensor:
    """Mean over the annotated voxels; 0 where there are none."""
    assert summed is not None
    return summed / sums.known.clamp_min(1.0)


def dice_ratio(sums: ClassSums) -> Tensor:
    """Soft Dice (2·Σmpt + ε) / (Σmp + Σmt + ε), (C,), in [0, 1]."""
    return (2.0 * sums.overlap + EPSILON) / (sums.predicted + sums.positive + EPSILON)


TERMS: dict[str, Term] = {
    "dice": Term(lambda sums, _: 1.0 - dice_ratio(sums)),
    "sqrt_dice": Term(lambda sums, _: 1.0 - dice_ratio(sums).sqrt()),
    "focal": Term(mean, focal),
}
"""By name. sqrt_dice: 1 − √Dice, whose slope grows as the overlap goes to nothing."""
NUMBERS = {"focal_gamma": 2.0, "focal_alpha": 0.25, "weight_on_fg_voxels": 1.0, "weight_on_bg_voxels": 1.0}
"""Parameters of terms with their defaults."""


def voxel_sums(logits: Tensor, target: Tensor, active: tuple[str, ...], numbers: Numbers) -> list[Tensor]:
    """Sums (C,) over annotated voxels of the voxel losses of the active terms, differentiable in the logits (N, C, *S).

    NaN leaves by `where`, in value and gradient.
    """
    losses = [voxel for voxel in (TERMS[name].voxel for name in active) if voxel is not None]
    if not losses:
        return []
    known = target == target  # false for NaN
    z, t = torch.where(known, logits, 0.0), torch.where(known, target, 0.0)
    space = [0, *range(2, logits.dim())]
    return [torch.where(known, voxel(z, t, numbers), 0.0).sum(dim=space) for voxel in losses]
