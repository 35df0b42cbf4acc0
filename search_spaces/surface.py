"""surface: losses for thin surfaces as weighted terms, and the optimiser and the techniques that were tried with them.

The presets are the fourteen named attempts of a published series on thin surfaces in 3D (docs/surface.md), their
numbers as published. What a number multiplies: focal_alpha α weighs the voxels of the class in the focal term, 1 − α
the others; the published pair of background / foreground weights is (weight_on_bg_voxels, weight_on_fg_voxels) and
multiplies the focal term alone. Their variance is `variance_published`, their boundary `boundary_band`. Weights are
taken as they are: those of an attempt need not sum to 1, those that are searched do. Epochs are those of
trainer.published_epochs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search_spaces._counts import ClassCounts
from search_spaces._family import Family, Sections
from search_spaces._parameters import Choice, Float, Int, Simplex, Space

TERMS = (
    *("dice", "focal", "variance", "variance_published", "entropy"),
    *("boundary_band", "boundary", "cldice", "connectivity", "skeleton_recall"),
)
NUMBERS = ("focal_gamma", "focal_alpha", "weight_on_bg_voxels", "weight_on_fg_voxels")
ON_REQUEST = ("curriculum_from", "curriculum_ramp", "cldice_iterations")
SEARCHED = ("dice", "focal", "variance_published", "entropy", "boundary_band", "skeleton_recall")
"""Terms that are searched unless others are asked for: those that cost little, of each kind one."""
SCHEDULES: dict[str, dict[str, Any]] = {
    "restarts": {"schedule": "cosine", "restarts": 2},
    "plateau": {"schedule": "plateau"},
    "none": {"schedule": "constant"},
}
MULTIPLIERS = {"none": [], "1/.3": [1.0, 0.3], "1.5/.85": [1.5, 0.85], "1/.15": [1.0, 0.15]}
"""The published a and b of a plateau's multiplier a + (k − 1)·b."""
CLIP = 0.5


def loss(point: Mapping[str, Any], counts: ClassCounts) -> dict[str, Any]:
    """Point {"weights" or "all_weights": one for each of TERMS, …}; terms that weigh nothing are not computed."""
    weights = {term: weight for term, weight in zip(TERMS, weights_of(point), strict=True) if weight}
    numbers = {name: point[name] for name in (*NUMBERS, *ON_REQUEST) if name in point}
    return {"name": "composite", "params": weights | numbers}


def weights_of(point: Mapping[str, Any]) -> Sequence[float]:
    """The weight of each of TERMS."""
    return point["all_weights"] if "all_weights" in point else point["weights"]


def settings(point: Mapping[str, Any]) -> Sections:
    """The rest of a point, as settings of trainer and model."""
    trainer: dict[str, Any] = {"clip_grad_norm": CLIP, **SCHEDULES[point.get("schedule", "restarts")]}
    if point.get("schedule", "restarts") == "restarts":
        trainer["restarts"] = point.get("restarts", trainer["restarts"])
    if "plateau_multiplier" in point:
        trainer["plateau_multiplier"] = MULTIPLIERS[point["plateau_multiplier"]]
    for name in ("lr", "weight_decay", "optimizer", "batch_size", "clip_grad_norm", *TECHNIQUES):
        if name in point:
            trainer[name] = point[name]
    return {"trainer": trainer} | ({"model": {"width": point["filters"]}} if "filters" in point else {})


TECHNIQUES: Space = {
    "swa_from": Int(0, 60, help="epoch from which weights are averaged; 0: never"),
    "noise_std": Float(0.0, 0.01, help="standard deviation of the noise in the weights"),
    "noise_from": Int(1, 60, help="first epoch with noise"),
    "noise_every": Int(1, 20, help="epochs from one noise to the next"),
}


def attempt(
    weights: Mapping[str, float],
    *,
    alpha: float = 0.25,
    bg_fg: tuple[float, float] = (1.0, 1.0),
    noise: tuple[float, int, int] = (0.0, 1, 1),
    **other: Any,
) -> dict[str, Any]:
    """A published attempt; what its row leaves open is assumed alike for all: see docs/surface.md.

    bg_fg: factors on the focal term of background and surface voxels. noise: its spread, first epoch and period.
    """
    point = {
        "weights": [weights.get(term, 0.0) for term in TERMS],
        "focal_gamma": 2.0,
        "focal_alpha": alpha,
        "weight_on_bg_voxels": bg_fg[0],
        "weight_on_fg_voxels": bg_fg[1],
        "lr": 1e-4,
        "weight_decay": 0.01,
        "schedule": "restarts",
    }
    if noise[0]:
        point |= dict(zip(("noise_std", "noise_from", "noise_every"), noise))
    return point | other


def mix(
    dice: float, focal: float, variance: float, boundary: float = 0.0, cldice: float = 0.0, entropy: float = 0.0
) -> dict[str, float]:
    """Weights in the order of the published table, and that of the entropy."""
    return {
        "dice": dice,
        "focal": focal,
        "variance_published": variance,
        "boundary_band": boundary,
        "cldice": cldice,
        "entropy": entropy,
    }


V1 = mix(0.2, 0.4, 0.3, 0.05, 0.05)
V2 = mix(0.4, 0.25, 0.2, 0.1, 0.0, 0.05)
OPTIMIZED = mix(0.5, 0.3, 0.1, 0.05, 0.0, 0.05)
CONSERVATIVE = mix(0.75, 0.15, 0.1)
PRESETS = {
    "dice_only": attempt(mix(1.0, 0.0, 0.0)),
    "v1": attempt(V1, alpha=0.75, bg_fg=(2.94, 1.52), swa_from=40),
    "v2": attempt(V2, alpha=0.4, bg_fg=(1.0, 3.0)),
    "v3": attempt(mix(0.5, 0.15, 0.15, 0.15, 0.0, 0.05), alpha=0.3, bg_fg=(0.8, 3.6), swa_from=30),
    "v2_optimized": attempt(V2, alpha=0.4, bg_fg=(1.0, 2.0), noise=(0.001, 30, 10), swa_from=40),
    "v4": attempt(mix(0.6, 0.15, 0.25), alpha=0.3, bg_fg=(1.0, 5.0), noise=(0.002, 15, 5), lr=2e-4, swa_from=20),
    "v5": attempt(mix(0.3, 0.15, 0.5, 0.05), bg_fg=(1.0, 2.0), noise=(0.005, 10, 2)),
    "optimized": attempt(OPTIMIZED, plateau_multiplier="1/.3"),
    "aggressive": attempt(mix(0.7, 0.2, 0.05, 0.05), plateau_multiplier="1.5/.85"),
    "conservative": attempt(CONSERVATIVE, lr=2.45e-4, batch_size=12, plateau_multiplier="1/.15"),
    "no_variance": attempt(mix(0.75, 0.15, 0.0), lr=5e-4, schedule="none"),
    "extreme": attempt(V1, alpha=0.95, bg_fg=(12.0, 1.0)),
    "fixed": attempt(OPTIMIZED, batch_size=2),
    "curriculum": attempt(CONSERVATIVE, curriculum_from=50),
}


def label(point: Mapping[str, Any]) -> str:
    """The heaviest terms, for folders and tables."""
    heaviest = sorted(zip(weights_of(point), TERMS), reverse=True)[:3]
    return "_".join(f"{term}={weight:.2f}" for weight, term in heaviest if weight)


FAMILY = Family(
    name="surface",
    space={
        "weights": Simplex(TERMS, kept=SEARCHED, help="weights of the terms"),
        "focal_gamma": Float(0.0, 5.0, symbol="γ", help="focus of the focal term on voxels that are predicted badly"),
        "focal_alpha": Float(0.05, 0.95, symbol="α", help="weight of positives in the focal term"),
        "weight_on_bg_voxels": Float(0.5, 12.0, log=True, help="factor on the focal term of background voxels"),
        "weight_on_fg_voxels": Float(0.5, 12.0, log=True, help="factor on the focal term of surface voxels"),
        "lr": Float(1e-5, 1e-2, log=True, symbol="η", help="highest learning rate"),
        "weight_decay": Float(1e-6, 1e-1, log=True, symbol="λ", help="weight decay"),
        "schedule": Choice(tuple(SCHEDULES), help="cosine with restarts, reduced on a plateau, or neither"),
    },
    optional={
        "all_weights": Simplex(TERMS, replaces="weights", help="weights of any of the terms"),
        "optimizer": Choice(("adamw", "sgd"), help="optimiser"),
        "batch_size": Choice((2, 4, 8, 12), help="patches per step"),
        "restarts": Int(0, 10, help="restarts of the cosine"),
        **TECHNIQUES,
        "plateau_multiplier": Choice(tuple(MULTIPLIERS), help="what a plateau multiplies the learning rate with"),
        "clip_grad_norm": Float(0.0, 10.0, help="gradient norm limit, 0.5 as published"),
        "filters": Choice((32, 64), help="filters of the first level"),
        "curriculum_from": Int(0, 100, help="epochs of Dice alone"),
        "curriculum_ramp": Int(0, 100, help="epochs in which the weights then move to their own"),
        "cldice_iterations": Choice((3, 5, 10), help="erosions of clDice's skeleton; each number compiles anew"),
    },
    presets={f"surface_{name}": point for name, point in PRESETS.items()},
    loss=loss,
    settings=settings,
    baseline="surface_dice_only",
    in_all=False,
    label=label,
    cite="Lin et al. 2017, arXiv:1708.02002; Shit et al. 2021, arXiv:2003.07311; "
    "Kervadec et al. 2019, arXiv:1812.07032; Kirchhoff et al. 2024, arXiv:2404.03010",
    help="weighted terms for thin surfaces, optimiser and techniques",
)
