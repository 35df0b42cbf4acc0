"""Dice at every threshold and its cross-fitting, against loops over voxels and against fresh crops."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainables.calibration import (
    SPLITS,
    Calibration,
    best_threshold,
    calibrate,
    cross_fitted_dice,
    dice_at_thresholds,
    score_keys,
    searched_figures,
    split_halves,
)
from trainables.objective import Objective
from tune_app.exporting.operating_point import operating_point
from tune_app.results.trial import Trial

sys.path.append(str(Path(__file__).parents[2] / "trainables"))  # tiny_trial

EDGES = np.arange(-64, 65) / 4
HALF = 63
"""Index of the logit threshold 0 among the inner edges."""


def binned(logits: np.ndarray) -> np.ndarray:
    """Voxels per bin, closed on the right and with open tails, as validation counts them."""
    return np.bincount(np.clip(np.ceil(logits * 4) + 63, 0, 127).astype(int), minlength=128)


def plain_dice(logits: np.ndarray, truth: np.ndarray, threshold: float) -> float:
    predicted = logits > threshold
    return float(2 * (predicted & truth).sum() / (predicted.sum() + truth.sum()))


def crop_histograms(rng: np.random.Generator, *, shift: float = 0.0, voxels: int = 2000) -> np.ndarray:
    """(2, 128), positive and negative voxels of one crop; share and offset of the logits differ by crop."""
    truth = rng.random(voxels) < rng.uniform(0.02, 0.3)
    logits = np.where(truth, 1.5, -1.5) + rng.normal(0, 1.5, voxels) + rng.normal(0, 1) + shift
    return np.stack([binned(logits[truth]), binned(logits[~truth])])


def crops_of(rng: np.random.Generator, crops: int, **kind: float) -> tuple[np.ndarray, np.ndarray]:
    """positive and negative, each (K, 128)."""
    both = np.stack([crop_histograms(rng, **kind) for _ in range(crops)])
    return both[:, 0], both[:, 1]


def arrays_of(positive: np.ndarray, negative: np.ndarray, **more: Any) -> dict[str, np.ndarray]:
    """A validation.npz with these histograms, (K, B) of one class or (K, C, B)."""
    if positive.ndim == 2:
        positive, negative = positive[:, None], negative[:, None]
    names = np.array([f"c{i}" for i in range(positive.shape[1])])
    found = {"hist_positive": positive, "hist_negative": negative, "best_epoch": np.array(3), "classes": names}
    return {**found, "edges": EDGES, **more}


def halves_of(positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    shows = positive.sum(axis=1) > 0
    return split_halves(shows, shows | (negative.sum(axis=1) > 0))


# Dice at every threshold.


@pytest.mark.parametrize("seed", range(5))
def test_dice_at_every_edge_is_that_of_a_loop_over_voxels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.random(3000) < 0.2
    logits = rng.normal(0, 6, 3000).astype(np.float32) + np.where(truth, 3, -3).astype(np.float32)
    logits[:40] = rng.choice(EDGES, 40)  # on an edge is not above it
    curve = dice_at_thresholds(binned(logits[truth]), binned(logits[~truth]))
    expected = [plain_dice(logits, truth, edge) for edge in EDGES[1:-1]]
    assert curve.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_edge_is_the_best_threshold_within_a_bin(seed: int) -> None:
    """No threshold between two edges is better than the best edge by more than the voxels of its bin can make."""
    rng = np.random.default_rng(seed)
    truth = rng.random(4000) < 0.1
    logits = rng.normal(0, 2, 4000) + np.where(truth, 2, -1)
    positive, negative = binned(logits[truth]), binned(logits[~truth])
    curve = dice_at_thresholds(positive, negative)
    anywhere = [plain_dice(logits, truth, z) for z in np.sort(logits)]
    best = EDGES[1:-1][best_threshold(curve)]
    in_bin = (positive + negative)[np.digitize(np.sort(logits)[int(np.argmax(anywhere))], EDGES, right=True) - 1]
    assert plain_dice(logits, truth, best) == curve.max() <= max(anywhere)
    assert max(anywhere) - curve.max() <= 2 * in_bin / truth.sum()
    assert max(anywhere) - curve.max() < 0.02


def test_a_class_without_positive_voxels_has_no_dice() -> None:
    assert np.isnan(dice_at_thresholds(np.zeros(128), np.ones(128))).all()
    assert best_threshold(np.full(127, np.nan)) == 0


def test_of_equally_good_thresholds_the_middle_one_is_taken() -> None:
    curves = np.zeros((3, 127))
    curves[0, 40:45] = 0.5
    curves[1, [3, 90]] = 0.5
    assert best_threshold(curves).tolist() == [42, 3, HALF]


# Splits.


def test_splits_are_the_same_in_every_trial_and_halve_crops_with_and_without_the_class() -> None:
    shows = np.array([1, 1, 0, 1, 0, 0, 1, 1, 0, 0], bool)
    known = np.array([1, 1, 1, 1, 1, 1, 1, 1, 0, 1], bool)
    halves = split_halves(shows, known)
    assert halves.shape == (SPLITS, 10)
    assert np.array_equal(halves, split_halves(shows.copy(), known.copy()))
    assert len({half.tobytes() for half in halves}) > SPLITS // 2
    assert set(halves[:, shows].sum(axis=1)) == {2}, "two of five"
    assert set(halves[:, known & ~shows].sum(axis=1)) == {2}, "and two of four"
    assert not halves[:, ~known].any()


@pytest.mark.parametrize("crops", [2, 3, 4, 7])
def test_a_class_in_two_crops_is_in_both_halves(crops: int) -> None:
    """However many crops do not show it."""
    shows = np.arange(9) < crops
    inside = split_halves(shows, np.ones(9, bool))[:, shows].sum(axis=1)
    assert ((inside >= 1) & (inside < crops)).all()


# Cross-fitting.


def plain_cross_fit(positive: np.ndarray, negative: np.ndarray, half: np.ndarray) -> float:
    """Dice of one split."""
    tp, fp, fn = plain_cross_counts(positive, negative, half)
    return float(2 * tp / (2 * tp + fp + fn))


def plain_cross_counts(positive: np.ndarray, negative: np.ndarray, half: np.ndarray) -> np.ndarray:
    """tp, fp, fn of one split, crop by crop and edge by edge."""
    total = np.zeros(3)
    for fitted_on in (half, ~half):
        dice = [plain_counts(positive[fitted_on], negative[fitted_on], e) for e in range(127)]
        scores = [2 * tp / (2 * tp + fp + fn) for tp, fp, fn in dice]
        ties = [e for e in range(127) if scores[e] == max(scores)]
        total += plain_counts(positive[~fitted_on], negative[~fitted_on], ties[(len(ties) - 1) // 2])
    return total


def plain_counts(positive: np.ndarray, negative: np.ndarray, edge: int) -> np.ndarray:
    above, below = positive[:, edge + 1 :].sum(), positive[:, : edge + 1].sum()
    return np.array([above, negative[:, edge + 1 :].sum(), below], float)


def test_precision_recall_and_iou_are_cross_fitted_at_the_thresholds_of_the_highest_dice() -> None:
    """Each is of crops that had no say in the threshold; a class without enough of them has none, and counts at 0.5 in
    the mean, as Dice does."""
    positive, negative = crops_of(np.random.default_rng(3), 5)
    once, twice = np.zeros_like(positive), negative.copy()
    once[0] = positive[0]  # a second class, in one crop only
    found = calibrate(arrays_of(np.stack([positive, once], 1), np.stack([negative, twice], 1)))
    counts = [plain_cross_counts(positive, negative, half) for half in halves_of(positive, negative)]
    single = plain_counts(once, twice, HALF)
    measures = {
        "precision": lambda tp, fp, fn: tp / (tp + fp),
        "recall": lambda tp, fp, fn: tp / (tp + fn),
        "iou": lambda tp, fp, fn: tp / (tp + fp + fn),
    }
    for name, measure in measures.items():
        own = np.mean([measure(*split) for split in counts])
        assert found.score(f"calibrated_{name}/c0") == pytest.approx(own)
        assert math.isnan(found.score(f"calibrated_{name}/c1"))
        assert found.score(f"calibrated_mean_{name}") == pytest.approx((own + measure(*single)) / 2)
        assert math.isnan(calibrate(arrays_of(once, twice)).score(f"calibrated_mean_{name}"))
    assert all(
        name in searched_figures(["c0"]) for name in ("calibrated_recall/c0", "calibrated_mean_iou", "threshold/c0")
    )
    assert math.isnan(Calibration(problem="lost").score("calibrated_mean_recall"))


@pytest.mark.parametrize("crops", [2, 5, 8])
def test_the_cross_fit_is_that_of_a_loop(crops: int) -> None:
    positive, negative = crops_of(np.random.default_rng(crops), crops)
    halves = halves_of(positive, negative)[:6]
    expected = [plain_cross_fit(positive, negative, half) for half in halves]
    assert cross_fitted_dice(positive, negative, halves) == pytest.approx(np.mean(expected), abs=1e-12)


def test_crops_that_are_all_alike_give_the_best_dice() -> None:
    positive, negative = (np.tile(side, (4, 1)) for side in crop_histograms(np.random.default_rng(0), shift=1.5))
    found = calibrate(arrays_of(positive, negative))
    assert found.calibrated[0] == pytest.approx(dice_at_thresholds(positive[0], negative[0]).max(), abs=1e-12)
    assert found.gap > 0.01


@pytest.mark.parametrize("bins", [-9, -1, 4, 12])
def test_shifted_logits_have_the_same_calibrated_dice(bins: int) -> None:
    """A shift of the logits, which is what apply_at=inference does, is a shift of the threshold and nothing else."""
    positive, negative = crops_of(np.random.default_rng(5), 7, voxels=1000)
    assert not np.concatenate([positive, negative])[:, [*range(16), *range(112, 128)]].any(), "no voxel leaves the bins"
    plain = calibrate(arrays_of(positive, negative))
    shifted = calibrate(arrays_of(np.roll(positive, bins, axis=1), np.roll(negative, bins, axis=1)))
    assert shifted.calibrated == plain.calibrated
    assert shifted.logits[0] == plain.logits[0] + bins / 4
    assert shifted.dice != plain.dice


def flat_crop(rng: np.random.Generator) -> np.ndarray:
    """(2, 128): a crop whose expected counts give a Dice of 2/3 at every threshold between the bins 20 and 100.

    60 of 100 positive voxels lie above all of these, 16 below, with 20 negative ones above. In between there are twice
    as many negative voxels as positive ones, which leaves a Dice of 2/3 where it is: 2·1 / (1 + 2).
    """
    sides = np.zeros((2, 128))
    sides[0, [100, 10]], sides[1, [100, 20]] = (60, 16), (20, 500)
    for side, mean in zip(sides, (1, 2)):
        side[52:76] += rng.poisson(rng.gamma(0.5, 2 * mean, 24))
    return sides


def test_there_is_no_optimism_where_thresholds_bring_nothing() -> None:
    """A threshold that is scored on the crops it was chosen on seems to gain something. A cross-fitted one does not."""
    gaps, naive = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        positive, negative = np.stack([flat_crop(rng) for _ in range(6)]).swapaxes(0, 1)
        curve = dice_at_thresholds(positive.sum(axis=0), negative.sum(axis=0))
        naive.append(curve.max() - curve[HALF])
        gaps.append(cross_fitted_dice(positive, negative, halves_of(positive, negative)[:8]) - curve[HALF])
    standard_error = np.std(gaps) / math.sqrt(len(gaps))
    assert np.mean(naive) > 10 * standard_error
    assert abs(np.mean(gaps)) < standard_error


def test_the_calibrated_dice_is_what_new_crops_give() -> None:
    """Thresholds chosen on half as many crops, scored on crops that nobody has seen."""
    rng = np.random.default_rng(3)
    fresh = crops_of(rng, 400, shift=1.0)
    population = dice_at_thresholds(fresh[0].sum(axis=0), fresh[1].sum(axis=0))
    found, expected = [], []
    for _ in range(200):
        positive, negative = crops_of(rng, 8, shift=1.0)
        found.append(cross_fitted_dice(positive, negative, halves_of(positive, negative)[:8]))
        half = best_threshold(dice_at_thresholds(positive[:4].sum(axis=0), negative[:4].sum(axis=0)))
        expected.append(population[half])
    error = math.hypot(np.std(found), np.std(expected)) / math.sqrt(len(found))
    assert np.mean(found) < np.mean(expected) + 2 * error
    assert np.mean(found) > population[HALF], "and a shift of 1 is found and undone"


# A trial.


def test_dice_at_half_is_the_counted_one_and_must_be() -> None:
    positive, negative = crops_of(np.random.default_rng(1), 4)
    tp, fn, fp = positive[:, 64:].sum(), positive[:, :64].sum(), negative[:, 64:].sum()
    counted = 2 * tp / (2 * tp + fp + fn)
    found = calibrate(arrays_of(positive, negative), 3, {"c0": counted})
    assert found.dice == (counted,)
    assert found.problem == ""
    other = calibrate(arrays_of(positive, negative), 3, {"c0": counted + 1e-6})
    assert "do not give back" in other.problem
    assert math.isnan(other.calibrated_mean)


def test_classes_that_cannot_be_calibrated_say_why_and_count_at_half() -> None:
    positive, negative = crops_of(np.random.default_rng(2), 6)
    empty, once = np.zeros_like(positive), np.where(np.arange(6)[:, None] == 4, positive, 0)
    both = (np.stack([positive, once, empty], axis=1), np.stack([negative] * 3, axis=1))
    found = calibrate(arrays_of(*both))
    assert found.crops == (6, 1, 0)
    assert [math.isnan(value) for value in found.calibrated] == [False, True, True]
    assert [math.isnan(value) for value in found.logits] == [False, True, True]
    assert math.isnan(found.dice[2])
    assert found.reasons == (
        "",
        "one validation crop shows the class, so a threshold chosen on it cannot be scored on another",
        "no validation crop shows the class",
    )
    assert found.notes.startswith("c1: one validation crop")
    assert found.mean == pytest.approx((found.dice[0] + found.dice[1]) / 2)
    assert found.calibrated_mean == pytest.approx((found.calibrated[0] + found.dice[1]) / 2)
    assert found.gap == pytest.approx((found.calibrated[0] - found.dice[0]) / 2)
    assert found.score("calibrated/c0") == found.calibrated[0]
    assert found.score("threshold/c0") == pytest.approx(1 / (1 + math.exp(-found.logits[0])))
    assert all(math.isnan(found.score(key)) for key in ("calibrated/c1", "threshold/c2", "calibrated/other", "x"))
    assert score_keys(("a",)) == ["calibrated_mean_dice", "threshold_gap", "calibrated/a", "threshold/a"]


def test_a_single_crop_cannot_be_calibrated() -> None:
    positive, negative = crops_of(np.random.default_rng(2), 1)
    found = calibrate(arrays_of(positive, negative))
    assert found.reasons[0].startswith("there is one validation crop")
    assert math.isnan(found.calibrated_mean)
    assert math.isnan(found.gap)
    assert found.mean == found.dice[0]


def test_crops_where_the_class_is_not_annotated_change_nothing() -> None:
    positive, negative = crops_of(np.random.default_rng(4), 5)
    wider = [np.concatenate([side, np.zeros((3, 128), int)]) for side in (positive, negative)]
    assert calibrate(arrays_of(*wider)) == calibrate(arrays_of(positive, negative))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        ({"hist_positive": np.ones((2, 128))}, "damaged"),
        ({"hist_negative": np.ones((4, 1, 64))}, "damaged"),
        ({"edges": np.arange(129) + 0.5}, "damaged"),
        ({"classes": np.array(["a", "b"])}, "damaged"),
        ({"best_epoch": np.array(2)}, "of epoch 2, not those of epoch 3"),
    ],
)
def test_arrays_that_do_not_fit_are_no_calibration(damage: dict[str, np.ndarray], problem: str) -> None:
    positive, negative = crops_of(np.random.default_rng(1), 4)
    found = calibrate(arrays_of(positive, negative, **damage), 3)
    assert problem in found.problem
    assert found.problem == found.notes
    assert math.isnan(found.calibrated_mean)
    assert calibrate({}, 3).problem


@pytest.fixture(scope="module")
def engine() -> Any:
    from tiny_trial import tiny_dataset, tiny_settings

    from trainables.engine import Engine

    settings = tiny_settings(trainer={"validation_batches": 6, "iterations_per_epoch": 8})
    return Engine(settings, balanced("train", 0.0), 0, dataset=tiny_dataset(settings.data))


def balanced(apply_at: str, tau: float) -> dict[str, Any]:
    return {"name": "balanced_softmax", "params": {"tau": tau, "apply_at": apply_at}}


def trained(engine: Any, apply_at: str, tau: float) -> Calibration:
    """One epoch from the start."""
    engine.reset(balanced(apply_at, tau), 0, engine.settings.trainer)
    engine.run_epoch()
    return calibrate(engine.validation)


def test_a_shift_at_inference_is_a_shift_of_the_threshold(engine: Any) -> None:
    """balanced_softmax with apply_at=inference trains as uniform weights do; only the cut moves."""
    plain, in_training = trained(engine, "inference", 0.0), trained(engine, "train", 2.0)
    moved = trained(engine, "inference", 2.0)
    shift = engine.loss.inference_shift
    assert (shift != 0).any()
    assert moved.dice != plain.dice
    assert moved.calibrated == pytest.approx(plain.calibrated, abs=0.05, nan_ok=True), "within a bin"
    assert in_training.calibrated != plain.calibrated, "a shift in training is more than that"


def test_the_exported_thresholds_cut_the_output_of_the_model_as_validation_was_cut(engine: Any, tmp_path: Path) -> None:
    found = trained(engine, "inference", 2.0)
    arrays, shift = engine.validation, engine.loss.inference_shift
    np.savez(tmp_path / "validation.npz", **arrays)
    trial = Trial(
        "0000_a",
        0,
        tmp_path,
        "finished",
        Objective(metric="mean_dice"),
        loss=balanced("inference", 2.0),
        history=({"epoch": 1, "mean_dice": found.mean},),
    )
    section = operating_point(trial, engine.classes, {"inference_shift": shift.tolist()})
    cut = torch.tensor([section["classes"][name]["logit"] for name in engine.classes]).view(1, -1, 1, 1)
    tp, size = torch.zeros(3), torch.zeros(3)
    with torch.no_grad():
        for batch in engine.validator.batches:
            _, shifted, target = engine.evaluation_step(batch.em, batch.labels)
            output, known = shifted - shift.view(1, -1, 1, 1), ~target.isnan()
            predicted, truth = (output > cut) & known, (target > 0.5) & known
            tp += (predicted & truth).sum((0, 2, 3))
            size += predicted.sum((0, 2, 3)) + truth.sum((0, 2, 3))
    sides = (arrays[f"hist_{side}"].sum(axis=0) for side in ("positive", "negative"))
    best = np.nanmax(dice_at_thresholds(*sides), axis=-1)
    assert (2 * tp / size).tolist() == pytest.approx(best.tolist(), abs=0.01)


def test_a_calibration_is_a_plain_value() -> None:
    positive, negative = crops_of(np.random.default_rng(1), 4)
    found = calibrate(arrays_of(positive, negative))
    assert replace(found) == found
    assert all(isinstance(value, float) for value in (*found.dice, *found.calibrated, *found.logits))
