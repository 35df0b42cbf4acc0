"""Two levels below the mean over seeds: validation crops, and single classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tune_app.evidence import Confirmation, EarlierNoise, Replicates, confirm_statistics
from tune_app.evidence.crops import crop_level
from tune_app.evidence.layout import fit_paired
from tune_app.evidence.noise import pooled
from tune_app.evidence.per_class import compare_classes, holm

CLASSES = ["nuc", "mito_mem", "er_mem", "pm", "golgi_mem"]


def find(table: np.ndarray, **known: Any) -> Confirmation:
    return confirm_statistics(Replicates(arms=list("abcdefgh"[: len(table)]), scores=table, **known))


def with_crops(means: list[float], crops: int, per_crop: float, seeds: int = 5) -> dict[str, Any]:
    """Counts (A, S, K, C) of two classes whose Dice in a crop is mean + arm-and-crop effect + noise."""
    random = np.random.default_rng(crops)
    shape = (len(means), seeds, crops, 2)
    dice = 0.0 + np.array(means)[:, None, None, None] + random.normal(0, 0.005, shape)
    dice = dice + random.normal(0, per_crop, (len(means), 1, crops, 2)) + random.normal(0, 0.05, (1, 1, crops, 2))
    truth = random.integers(2000, 8000, (1, 1, crops, 2)).astype(float)
    tp, wrong = dice * truth, (1 - dice) * truth
    total = tp.sum(2) / (tp + wrong).sum(2)
    return {"table": total.mean(-1), "classes": ["nuc", "pm"], "class_scores": total, "counts": (tp, wrong, wrong)}


def test_crops_widen_intervals_and_hold_back_a_general_claim():
    wide, narrow = with_crops([0.6, 0.55, 0.55], 6, 0.08), with_crops([0.6, 0.55, 0.55], 6, 0.0005)
    varied, steady = find(**wide, baseline="c").crops, find(**narrow, baseline="c").crops
    assert varied is not None
    assert steady is not None
    assert varied.num_crops == 6
    assert 3 < varied.effective_crops <= 6
    assert varied.share_of_variance > 0.8
    assert not varied.holds_on_other_crops
    assert steady.holds_on_other_crops
    assert steady.share_of_variance < 0.7
    plain = find(**wide, baseline="c").arms[0]
    assert varied.arms[0].difference_high - varied.arms[0].difference_low > 2 * (
        plain.difference_to_baseline_high - plain.difference_to_baseline_low
    )
    assert any("on others is not shown" in caution for caution in find(**wide, baseline="c").cautions)


def test_intervals_over_crops_cover_what_other_crops_would_give():
    """Arm and crop together vary by 0.03: seeds alone would cover the difference in three of four cases."""
    random = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        dice = 0.6 + random.normal(0, 0.0127, (2, 5, 1, 1)) + random.normal(0, 0.03, (2, 1, 8, 1))
        truth = np.exp(random.normal(0, 0.7, (1, 1, 8, 1))) * 5000
        counts = (dice * truth, (1 - dice) * truth, (1 - dice) * truth)
        crops = crop_level(
            *counts,
            arms=["a", "b"],
            classes=["nuc"],
            reference=1,
            leader=0,
            paired=True,
            interval_error=0.05,
            error=0.05,
        )
        assert crops is not None
        covered.append(crops.arms[0].difference_low <= 0 <= crops.arms[0].difference_high)
    assert 0.92 <= np.mean(covered) <= 0.99


def test_the_mean_of_crop_counts_is_the_score_and_a_missing_run_stays_missing():
    data = with_crops([0.6, 0.55], 4, 0.01)
    for counts in data["counts"]:
        counts[1, 3] = np.nan
    data["table"][1, 3] = np.nan
    found = find(**data)
    assert found.crops is not None
    assert [arm.mean for arm in found.crops.arms] == pytest.approx([arm.mean for arm in found.arms])


def test_a_class_in_one_crop_and_a_single_crop_are_told():
    data = with_crops([0.6, 0.55], 5, 0.01)
    for counts in data["counts"]:
        counts[:, :, 1:, 1] = 0
    found = find(**data)
    assert found.crops is not None
    assert found.crops.single_crop_classes == ["pm"]
    assert any("Only one validation crop holds pm" in caution for caution in found.cautions)
    single = with_crops([0.6, 0.55], 1, 0.01)
    assert find(**single).crops is None


def test_classes_are_compared_with_the_baseline_under_holms_correction():
    random = np.random.default_rng(1)
    per_class = 0.5 + random.normal(0, 0.01, (3, 5, 4))
    per_class[0, :, 2] += 0.2
    known = {"classes": ["w", "x", "y", "z"], "class_scores": per_class}
    found = find(per_class.mean(-1), baseline="c", **known)
    assert found.class_reference == "c"
    assert len(found.class_differences) == 8
    assert [(d.arm, d.class_name) for d in found.class_differences if d.distinct] == [("a", "y")]
    assert all(d.p_holm >= d.p for d in found.class_differences)
    assert len(found.class_means) == 12
    leaderwise = find(per_class.mean(-1), **known)
    assert leaderwise.class_reference == leaderwise.leader == "a"
    from_leader = {(d.arm, d.class_name): d.p for d in leaderwise.class_differences}
    assert all(from_leader["c", d.class_name] >= d.p for d in found.class_differences if d.arm == "a")


def test_holm_keeps_false_differences_rare():
    random = np.random.default_rng(4)
    wrong = 0
    for _ in range(300):
        per_class = 0.5 + random.normal(0, 0.0127, (4, 5, 5))
        _, differences = compare_classes(
            per_class, list("abcd"), CLASSES, 3, chosen_before=True, paired=True, error=0.05
        )
        wrong += any(d.distinct for d in differences)
    assert wrong / 300 <= 0.08


def test_holm_steps_down_and_leaves_out_what_is_unknown():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.02, np.nan, 0.5])), [0.04, np.nan, 0.5])
    assert holm(np.array([])).size == 0


def test_borrowed_noise_is_that_of_both_together_unless_an_f_test_objects():
    """By hand: squares and degrees of freedom are summed; means, and what comes from seeds, stay as they were."""
    scores = np.random.default_rng(3).normal(0, 0.01, (4, 5))
    own = fit_paired(scores)
    together, accepted = pooled(own, float(own.variance) * 1.2, 8.0)
    assert accepted
    assert together.dof == own.dof + 8
    np.testing.assert_allclose(together.variance, own.variance * (own.dof + 1.2 * 8) / (own.dof + 8))
    np.testing.assert_array_equal(together.means, own.means)
    np.testing.assert_allclose(together.mean_parts[:, 0] / own.mean_parts[:, 0], together.variance / own.variance)
    np.testing.assert_array_equal(together.mean_parts[:, 1], own.mean_parts[:, 1])
    for factor in (0.2, 8.0):
        refused, accepted = pooled(own, float(own.variance) * factor, 8.0)
        assert not accepted
        assert (refused.variance, refused.dof) == (own.variance, own.dof)


@pytest.mark.parametrize(("factor", "said"), [(1.0, "is pooled with that of"), (0.2, "an F-test at 0.1 objects")])
def test_what_was_borrowed_or_refused_is_said(factor, said):
    scores = np.random.default_rng(3).normal(0, 0.01, (4, 5))
    earlier = EarlierNoise(sd=float(np.sqrt(factor * fit_paired(scores).variance)), dof=8, where=("a/confirmation",))
    found = confirm_statistics(Replicates(arms=list("abcd"), scores=scores, earlier=earlier)).to_dict()
    assert said in found["cautions"][0]
    assert "a/confirmation" in found["cautions"][0]
    assert found["borrowed"]["accepted"] == (factor == 1)
    assert found["noise"]["dof"] == (20 if factor == 1 else 12)
