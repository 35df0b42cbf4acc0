"""A sum of weighted terms: Tversky, binary cross-entropy, and those of `terms`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from trainables.losses.terms import NUMBERS, TERMS
from trainables.losses.weighting import Counts, Factors, Rule, neutral_factors, read_number
from trainables.settings import require

WEIGHTS = ("tversky", "cross_entropy", *TERMS)
CURRICULUM = ("curriculum_from", "curriculum_ramp")
LIMITS = {"focal_alpha": 1.0, "skeleton_tube": 1.0, "cldice_iterations": 50.0}


@dataclass(frozen=True, kw_only=True)
class Composite(Rule):
    """Σ w_k · term_k over the terms that have a weight, all on raw logits, all classes alike.

    params: weights w_k ≥ 0 by the name of the term, 0 if absent, `tversky` with fp_weight and fn_weight (0.5 each: soft
    Dice), `cross_entropy`, and those of `terms`; and the numbers of these: focal_gamma γ (2), focal_alpha α, the weight
    of positives (0.25), and weight_on_fg_voxels and weight_on_bg_voxels, each 1, by which the focal loss of voxels that
    are or are not of the class is multiplied; cldice_iterations, erosions that clDice's skeleton takes (3); band_full
    and band_end, voxels from the boundary up to which boundary_band counts in full and at all (3, 5); skeleton_tube,
    weight of the voxels beside the skeleton in skeleton_recall (1). Weights are taken as they are, not divided by their
    sum. curriculum_from n and curriculum_ramp r (epochs, 0): Dice alone, with the sum of all weights, up to epoch n;
    then the weights move evenly to their own, which they have from epoch n + r + 1 on.
    """

    choices: ClassVar[tuple[str, ...]] = (*WEIGHTS, "fp_weight", "fn_weight", *NUMBERS, *CURRICULUM)

    @classmethod
    def from_params(cls, params: Mapping[str, Any], classes: Sequence[str]) -> Self:
        weights = {name: read_number(params, name, 0.0, 1000.0, default=0.0) for name in WEIGHTS}
        require(
            any(weights.values()),
            "loss.params",
            dict(params),
            "no term has a weight above 0, so there is nothing to learn from",
            f"Give one of {', '.join(WEIGHTS)} a weight",
        )
        both = weights["tversky"] + weights["cross_entropy"]
        numbers = {
            name: read_number(params, name, 0.0, LIMITS.get(name, 100.0), default=usual)
            for name, usual in NUMBERS.items()
        }
        iterations, end = numbers["cldice_iterations"], numbers["band_end"]
        whole = "erosions are counted in whole numbers"
        require(iterations == int(iterations), "loss.params.cldice_iterations", iterations, whole, "Write 3")
        rule = f"the band ends at band_full={numbers['band_full']:g} voxels or farther out"
        require(numbers["band_full"] <= end, "loss.params.band_end", end, rule, "Give a larger one, as 5")
        return cls(
            num_classes=len(classes),
            fp_weight=read_number(params, "fp_weight", 1e-6, 100.0, default=0.5),
            fn_weight=read_number(params, "fn_weight", 1e-6, 100.0, default=0.5),
            cross_entropy=weights["cross_entropy"] / both if both else 0.0,
            both=both,
            terms={name: weights[name] for name in TERMS},
            numbers=numbers,
            **{name: read_number(params, name, 0.0, 1e6, default=0.0) for name in CURRICULUM},
        )

    def factors(self, counts: Counts) -> Factors:
        return neutral_factors(counts)
