"""Terms that a loss may have beside Tversky and cross-entropy, each of sums over annotated voxels.

A term is a mean over the classes that are annotated in a batch. What it needs beyond the sums of `tversky.plane_sums`
is summed here by automatic differentiation, in float32, and only where the term has a weight. So every term is that of
all voxels of a step together, whatever parts the step goes through the network in: Var(p) and clDice, too, are of the
whole step and no mean over patches. What looks at the neighbours of a voxel (`connectivity`, `cldice`) looks no farther
than its patch, and passes over what is not annotated as if it were beyond the edge.

Shapes: N batch, C classes, *S one to three space axes. Targets hold 0, 1, or NaN where not annotated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from trainables.losses.tversky import EPSILON, ClassSums

Numbers = Mapping[str, Tensor]
"""Parameters of terms by name, each 0-d."""


class Maps(NamedTuple):
    """What was computed from the labels of a whole crop beforehand, see `trainables.data.maps`; float32 (N, C, *S)."""

    distance: Tensor
    """Signed distance to the class in voxels, negative inside, clipped."""
    skeleton: Tensor
    """1 on the skeleton of the class, else 0."""


class Seen(NamedTuple):
    """What the terms are made from, each (N, C, *S) but for the numbers."""

    logits: Tensor
    """0 where unknown."""
    target: Tensor
    """0 where unknown."""
    known: Tensor
    """bool"""
    numbers: Numbers
    iterations: int
    """Erosions that cldice's skeleton takes: part of the graph, so each number has one of its own."""
    maps: Maps | None


@dataclass(frozen=True)
class Term:
    """One term of a loss."""

    value: Callable[[ClassSums, Tensor], Tensor]
    """(C,) from the sums (C,) of `plane_sums` and the sums (K, C) of the summands."""
    summands: Callable[[Seen], tuple[Tensor, ...]] | None = None
    """K tensors (N, C, *S) that are summed over annotated voxels."""
    num_sums: int = 0
    """K"""
    uses_maps: bool = False


def focal(seen: Seen) -> tuple[Tensor, ...]:
    """−a · (1 − p_t)^γ · ln p_t, nats: p_t = p where t = 1, else 1 − p. Lin et al. 2017, arXiv:1708.02002.

    a = α · weight_on_fg_voxels where t = 1, and (1 − α) · weight_on_bg_voxels where t = 0. γ = 0, α = ½ and weights of
    1 make half of the binary cross-entropy. By softplus, so that neither value nor gradient overflows.
    """
    numbers, positive = seen.numbers, seen.target > 0.5
    right = torch.where(positive, seen.logits, -seen.logits)
    alpha = numbers["focal_alpha"]
    factor = torch.where(
        positive, alpha * numbers["weight_on_fg_voxels"], (1.0 - alpha) * numbers["weight_on_bg_voxels"]
    )
    return (factor * torch.exp(-numbers["focal_gamma"] * softplus(right)) * softplus(-right),)


def squared(seen: Seen) -> tuple[Tensor, ...]:
    """p²"""
    return (torch.sigmoid(seen.logits).square(),)


def squared_and_entropy(seen: Seen) -> tuple[Tensor, ...]:
    """p², and the entropy of p."""
    return *squared(seen), *entropy(seen)


def entropy(seen: Seen) -> tuple[Tensor, ...]:
    """H = −p·ln p − (1 − p)·ln(1 − p), nats, in [0, ln 2]."""
    certainty = seen.logits.abs()
    return (softplus(-certainty) + certainty * torch.sigmoid(-certainty),)


def connectivity(seen: Seen) -> tuple[Tensor, ...]:
    """(highest p − highest t)² of the 3³ voxels around each, stride 1."""
    p = torch.sigmoid(seen.logits)
    return ((dilated(p, seen.known) - dilated(seen.target, seen.known)).square(),)


def skeletons(seen: Seen) -> tuple[Tensor, ...]:
    """S(p), S(p)·t, S(t) and S(t)·p, S being the soft skeleton. Shit et al. 2021, arXiv:2003.07311."""
    p = torch.sigmoid(seen.logits)
    of_p = soft_skeleton(p, seen.known, seen.iterations)
    of_t = soft_skeleton(seen.target, seen.known, seen.iterations)
    return of_p, of_p * seen.target, of_t, of_t * p


def band(seen: Seen) -> tuple[Tensor, ...]:
    """b · binary cross-entropy, b = 1 up to band_full voxels from the boundary, falling evenly to 0 at band_end."""
    assert seen.maps is not None
    full, end = seen.numbers["band_full"], seen.numbers["band_end"]
    weight = ((end - seen.maps.distance.abs()) / (end - full).clamp_min(EPSILON)).clamp(0.0, 1.0)
    return (weight * (softplus(seen.logits) - seen.target * seen.logits),)


def distance(seen: Seen) -> tuple[Tensor, ...]:
    """p · φ, φ being the signed distance in voxels. Kervadec et al. 2019, arXiv:1812.07032."""
    assert seen.maps is not None
    return (torch.sigmoid(seen.logits) * seen.maps.distance,)


def recalled(seen: Seen) -> tuple[Tensor, ...]:
    """s·p and s: s = 1 on the skeleton of the target, skeleton_tube on its other voxels beside one of those.

    Kirchhoff et al. 2024, arXiv:2404.03010.
    """
    assert seen.maps is not None
    bare = seen.maps.skeleton
    tube = dilated(bare, seen.known) * seen.target
    weight = bare + seen.numbers["skeleton_tube"] * (tube - bare)
    return weight * torch.sigmoid(seen.logits), weight


def dilated(x: Tensor, known: Tensor) -> Tensor:
    """The highest value of annotated voxels in the 3³ around each voxel; 0 where there is none. x ≥ 0."""
    x = torch.where(known, x, 0.0)
    for axis in range(2, x.dim()):
        x = highest_of_three(x, axis)
    return x


def eroded(x: Tensor, known: Tensor) -> Tensor:
    """The lowest value of each annotated voxel and its annotated neighbours along the axes; 0 elsewhere. x ≤ 1."""
    upside_down = torch.where(known, -x, -1.0)
    highest = highest_of_three(upside_down, 2)
    for axis in range(3, x.dim()):
        highest = torch.maximum(highest, highest_of_three(upside_down, axis))
    return torch.where(known, -highest, 0.0)


@torch.library.custom_op("trainables::highest_of_three", mutates_args=())
def highest_of_three(x: Tensor, axis: int) -> Tensor:
    """The highest of each voxel and its two neighbours along an axis; at the ends, of it and the one it has.

    An operator of its own, which Inductor takes as it is: a soft skeleton of plain maxima took it more than a minute to
    compile. No max_pool, whose gradient on CUDA is added up in any order: no training would be repeated to the bit.
    """
    before, after = _neighbours(x, axis)
    return torch.maximum(torch.maximum(before, x), after)


@torch.library.custom_op("trainables::highest_of_three_slope", mutates_args=())
def highest_of_three_slope(slope: Tensor, x: Tensor, axis: int) -> Tensor:
    """The gradient of x from that of the highest; of equal ones, the first has it all."""
    before, after = _neighbours(x, axis)
    is_before = (before >= x) & (before >= after)
    to_before = torch.where(is_before, slope, 0.0)
    to_after = torch.where(is_before | (x >= after), 0.0, slope)
    total, length = slope - to_before - to_after, x.shape[axis] - 1
    for part, moved, end in ((to_before, (0, 1), 0), (to_after, (1, 0), length)):
        total.narrow(axis, moved[0], length).add_(part.narrow(axis, moved[1], length))
        total.narrow(axis, end, 1).add_(part.narrow(axis, end, 1))
    return total


@highest_of_three.register_fake
def _(x: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@highest_of_three_slope.register_fake
def _(slope: Tensor, x: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _keep(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])
    ctx.axis = inputs[1]


highest_of_three.register_autograd(
    lambda ctx, slope: (highest_of_three_slope(slope, ctx.saved_tensors[0], ctx.axis), None), setup_context=_keep
)


def _neighbours(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Of each voxel the one before it and the one after it along an axis; beyond an end, the one at the end."""
    x, length = x.contiguous(), x.shape[axis]
    before = torch.cat([x.narrow(axis, 0, 1), x.narrow(axis, 0, length - 1)], dim=axis)
    after = torch.cat([x.narrow(axis, 1, length - 1), x.narrow(axis, length - 1, 1)], dim=axis)
    return before, after


def soft_skeleton(x: Tensor, known: Tensor, iterations: int) -> Tensor:
    """What an opening takes from x, and from x after 1, 2, …, `iterations` erosions: (N, C, *S) in [0, 1].

    x: (N, C, *S) in [0, 1]. What is thicker than 2 · iterations + 2 voxels has none but at its corners.
    """
    skeleton = torch.zeros_like(x)
    for _ in range(iterations + 1):
        smaller = eroded(x, known)
        ridge = torch.relu(x - dilated(smaller, known))
        skeleton = skeleton + torch.relu(ridge - skeleton * ridge)
        x = smaller
    return torch.where(known, skeleton, 0.0)


def mean(sums: ClassSums, own: Tensor) -> Tensor:
    """Mean over the annotated voxels; 0 where there are none."""
    return own[0] / sums.known.clamp_min(1.0)


def variance(sums: ClassSums, squares: Tensor) -> Tensor:
    """Var(p) over the annotated voxels, in [0, ¼]; 0 where there are none."""
    known = sums.known.clamp_min(1.0)
    return (squares / known - (sums.predicted / known).square()).clamp_min(0.0)


def published_variance(sums: ClassSums, own: Tensor) -> Tensor:
    """(1 − Var p)² + max(0, ½ − H), H the mean entropy in nats: at most 1.5, and lowest for p that is neither certain
    nor even: a perfect output has a higher loss than a uniform one."""
    return (1.0 - variance(sums, own[0])).square() + (0.5 - own[1] / sums.known.clamp_min(1.0)).clamp_min(0.0)


def cldice(sums: ClassSums, own: Tensor) -> Tensor:
    """1 − 2·P·R / (P + R): P the share of the prediction's skeleton that lies in the target, R that of the target's
    that lies in the prediction, each with 1 voxel added above and below."""
    precision, recall = (own[1] + 1.0) / (own[0] + 1.0), (own[3] + 1.0) / (own[2] + 1.0)
    return 1.0 - 2.0 * precision * recall / (precision + recall)


def dice_ratio(sums: ClassSums) -> Tensor:
    """Soft Dice (2·Σmpt + ε) / (Σmp + Σmt + ε), (C,), in [0, 1]."""
    return (2.0 * sums.overlap + EPSILON) / (sums.predicted + sums.positive + EPSILON)


TERMS: dict[str, Term] = {
    "dice": Term(lambda sums, _: 1.0 - dice_ratio(sums)),
    "sqrt_dice": Term(lambda sums, _: 1.0 - dice_ratio(sums).sqrt()),
    "focal": Term(mean, focal, 1),
    "variance": Term(lambda sums, own: (1.0 - 4.0 * variance(sums, own[0])).clamp(0.0, 1.0), squared, 1),
    "variance_published": Term(published_variance, squared_and_entropy, 2),
    "entropy": Term(mean, entropy, 1),
    "connectivity": Term(mean, connectivity, 1),
    "cldice": Term(cldice, skeletons, 4),
    "boundary_band": Term(mean, band, 1, uses_maps=True),
    "boundary": Term(mean, distance, 1, uses_maps=True),
    "skeleton_recall": Term(
        lambda sums, own: 1.0 - (own[0] + EPSILON) / (own[1] + EPSILON), recalled, 2, uses_maps=True
    ),
}
"""By name. sqrt_dice: 1 − √Dice, whose slope grows as the overlap goes to nothing. variance: 1 − 4·Var(p), 1 for a
uniform output and 0 for a certain one of which half is positive. boundary may be negative."""
NUMBERS = {
    "focal_gamma": 2.0,
    "focal_alpha": 0.25,
    "weight_on_fg_voxels": 1.0,
    "weight_on_bg_voxels": 1.0,
    "cldice_iterations": 3.0,
    "band_full": 3.0,
    "band_end": 5.0,
    "skeleton_tube": 1.0,
}
"""Parameters of terms with their defaults."""
NUMBERS_OF = {
    "focal": ("focal_gamma", "focal_alpha", "weight_on_fg_voxels", "weight_on_bg_voxels"),
    "cldice": ("cldice_iterations",),
    "boundary_band": ("band_full", "band_end"),
    "skeleton_recall": ("skeleton_tube",),
}
"""The parameters that each term uses."""


def term_sums(
    logits: Tensor,
    target: Tensor,
    active: tuple[str, ...],
    numbers: Numbers,
    *,
    iterations: int = 3,
    maps: Maps | None = None,
) -> list[Tensor]:
    """Sums (C,) over annotated voxels of the summands of the active terms, in their order, differentiable in the logits
    (N, C, *S).

    NaN leaves by `where`, in value and gradient.
    """
    summands = [summand for summand in (TERMS[name].summands for name in active) if summand is not None]
    if not summands:
        return []
    known = target == target  # false for NaN
    z, t = torch.where(known, logits, 0.0), torch.where(known, target, 0.0)
    seen, space = Seen(z, t, known, numbers, iterations, maps), [0, *range(2, logits.dim())]
    return [torch.where(known, x, 0.0).sum(dim=space) for summand in summands for x in summand(seen)]
