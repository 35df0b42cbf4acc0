"""The family for thin surfaces: published numbers, and what a point sets beside the loss."""

from __future__ import annotations

from typing import Any

import pytest

from search_spaces import ClassCounts, effective_signature, get_family, trial_of, trial_signature
from search_spaces.surface import TERMS
from trainables.losses import SettingsError
from trainables.settings import TrainerSettings

COUNTS = ClassCounts(classes=("surface",), positive=(5.0,), known=(100.0,))
FAMILY = get_family("surface")
PUBLISHED = {
    # dice, focal, variance, boundary, clDice, α, weight on background, on foreground
    "v1": (0.2, 0.4, 0.3, 0.05, 0.05, 0.75, 2.94, 1.52),
    "v2": (0.4, 0.25, 0.2, 0.1, None, 0.4, 1.0, 3.0),
    "v3": (0.5, 0.15, 0.15, 0.15, None, 0.3, 0.8, 3.6),
    "v2_optimized": (0.4, 0.25, None, 0.1, None, 0.4, 1.0, 2.0),
    "v4": (None, 0.15, 0.25, None, None, 0.3, 1.0, 5.0),
    "v5": (0.3, 0.15, 0.5, 0.05, 0.0, None, 1.0, 2.0),
    "optimized": (0.5, 0.3, 0.1, 0.05, 0.0, None, None, None),
    "aggressive": (0.7, 0.2, 0.05, 0.05, 0.0, None, None, None),
    "conservative": (0.75, 0.15, 0.1, 0.0, 0.0, None, None, None),
    "no_variance": (0.75, 0.15, 0.0, None, None, None, None, None),
    "extreme": (None, None, None, None, None, 0.95, 12.0, 1.0),
    "fixed": (0.5, 0.3, 0.1, 0.05, 0.0, None, None, None),
    "dice_only": (1.0, 0.0, 0.0, None, None, None, None, None),
    "curriculum": (0.75, 0.15, 0.1, None, None, None, None, None),
}
COLUMNS = ("dice", "focal", "variance_published", "boundary_band", "cldice")
NUMBERS = ("focal_alpha", "weight_on_bg_voxels", "weight_on_fg_voxels")


def trial(name: str) -> dict[str, Any]:
    return trial_of("surface", FAMILY.presets[f"surface_{name}"], COUNTS)


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_attempt_has_the_published_numbers(name: str) -> None:
    params = trial(name)["loss"]["params"]
    for column, published in zip((*COLUMNS, *NUMBERS), PUBLISHED[name], strict=True):
        if published is not None:
            assert params.get(column, 0.0) == published


def test_there_are_fourteen_attempts_and_their_techniques_are_those_published() -> None:
    assert {f"surface_{name}" for name in PUBLISHED} == set(FAMILY.presets)
    trainers = {name: trial(name)["trainer"] for name in PUBLISHED}
    assert {n: t["swa_from"] for n, t in trainers.items() if "swa_from" in t} == {
        "v1": 40,
        "v3": 30,
        "v2_optimized": 40,
        "v4": 20,
    }
    noise = {n: (t["noise_std"], t["noise_from"], t["noise_every"]) for n, t in trainers.items() if "noise_std" in t}
    assert noise == {"v2_optimized": (0.001, 30, 10), "v4": (0.002, 15, 5), "v5": (0.005, 10, 2)}
    pairs = {n: t["plateau_multiplier"] for n, t in trainers.items() if "plateau_multiplier" in t}
    assert pairs == {"optimized": [1.0, 0.3], "aggressive": [1.5, 0.85], "conservative": [1.0, 0.15]}
    assert trainers["v4"]["lr"] == 2e-4
    assert trainers["conservative"]["lr"] == 2.45e-4
    assert (trainers["no_variance"]["lr"], trainers["no_variance"]["schedule"]) == (5e-4, "constant")
    assert {t["clip_grad_norm"] for t in trainers.values()} == {0.5}
    for trainer in trainers.values():
        TrainerSettings(epochs=4, published_epochs=100, **trainer)
    assert len({trial_signature(trial(name), COUNTS) for name in PUBLISHED}) == 14


def test_a_point_sets_what_it_names_and_terms_without_weight_are_not_there() -> None:
    weights = [0.0] * len(TERMS)
    weights[TERMS.index("entropy")], weights[TERMS.index("boundary")] = 0.25, 0.75
    point = FAMILY.presets["surface_dice_only"] | {"weights": weights, "filters": 64, "schedule": "restarts"}
    sections = trial_of("surface", point | {"restarts": 5, "optimizer": "sgd", "plateau_multiplier": "none"}, COUNTS)
    assert {term for term in TERMS if term in sections["loss"]["params"]} == {"entropy", "boundary"}
    assert sections["model"] == {"width": 64}
    trainer = sections["trainer"]
    assert (trainer["schedule"], trainer["restarts"], trainer["optimizer"]) == ("cosine", 5, "sgd")
    assert trainer["plateau_multiplier"] == []
    assert trial_of("surface", point | {"schedule": "plateau"}, COUNTS)["trainer"]["schedule"] == "plateau"
    signature = effective_signature(sections["loss"], COUNTS)
    assert "entropy=0.25 boundary=0.75" in signature
    assert "focal" not in signature, "numbers of a term without weight play no part"


def test_an_attempt_is_a_point_of_the_space_where_it_is_nothing_more() -> None:
    inside = {name for name in PUBLISHED if FAMILY.searched_point(f"surface_{name}")}
    assert inside == {"dice_only", "v2"}


def test_some_terms_can_be_searched_alone_and_techniques_on_request() -> None:
    space = FAMILY.narrow({"weights": ["dice", "focal"], "noise_std": [0.0, 0.005], "filters": 32})
    assert space["weights"].kept == ("dice", "focal")
    others = FAMILY.narrow({"all_weights": ["dice", "cldice"]})
    assert others["all_weights"].kept == ("dice", "cldice")
    assert "weights" not in others
    halves = [0.5 * (term in ("dice", "cldice")) for term in TERMS]
    point = FAMILY.presets["surface_dice_only"] | {"all_weights": halves}
    assert trial_of("surface", point, COUNTS)["loss"]["params"]["cldice"] == 0.5
    assert space["noise_std"].high == 0.005
    with pytest.raises(SettingsError, match=r"space\.filters: 48 is invalid"):
        FAMILY.narrow({"filters": 48})
