"""Validation counts and scores against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables import metrics
from trainables.metrics import (
    LOGIT_EDGES,
    NUM_BINS,
    ValidationCounts,
    accumulate,
    dice,
    fg_pred,
    fg_true,
    histogram,
    iou,
    logit_bin,
    mean_over_known,
    precision,
    recall,
)

CROPS = 3


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, 2, 5, 6, generator=generator) * 8
    logits[:, :, 0, :3] = torch.tensor([0.0, 1e-30, -1e-30])
    target = (torch.rand(4, 2, 5, 6, generator=generator) < 0.4).float()
    target[torch.rand(4, 2, 5, 6, generator=generator) < 0.2] = math.nan
    return logits, target, torch.tensor([0, 2, 2, 0])


def plain_counts(logits: Tensor, target: Tensor, crop: Tensor, threshold: float = 0.0) -> dict[str, list]:
    counts = {key: torch.zeros(CROPS, logits.shape[1], dtype=torch.int64) for key in ("tp", "fp", "fn", "known")}
    for n in range(len(crop)):
        for c in range(logits.shape[1]):
            pairs = zip(logits[n, c].flatten().tolist(), target[n, c].flatten().tolist(), strict=True)
            for z, t in pairs:
                if math.isnan(t):
                    continue
                counts["known"][crop[n], c] += 1
                key = {(True, 1.0): "tp", (True, 0.0): "fp", (False, 1.0): "fn"}.get((z > threshold, t))
                if key:
                    counts[key][crop[n], c] += 1
    return {key: value.tolist() for key, value in counts.items()}


def test_counts_equal_the_plain_loop_and_add_up_over_batches() -> None:
    first, second = batch(0), batch(1)
    total = accumulate(*first, CROPS)
    total.accumulate_(*second)
    expected = [plain_counts(*part) for part in (first, second)]
    for name in ("tp", "fp", "fn", "known"):
        summed = np.add(expected[0][name], expected[1][name])
        assert getattr(total, name).tolist() == summed.tolist(), name
        assert getattr(total, name).dtype == torch.int64


@pytest.mark.parametrize("at_once", [1, 30, 60, 90, 200])
def test_counting_part_by_part_changes_nothing(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Parts of less than a plane of 30 logits, one or two of them, one sample and several, with NaN and infinities."""
    logits, target, _ = batch(3)
    logits[0, :, 1, 1:4] = torch.tensor([math.nan, math.inf, -math.inf])
    slot = torch.from_numpy(np.digitize(logits.nan_to_num(nan=-math.inf).numpy(), LOGIT_EDGES[1:-1], right=True))
    expected = torch.zeros(4, 2, 2, NUM_BINS, dtype=torch.int64)
    for n, c, y, x in torch.argwhere(~target.isnan()).tolist():
        expected[n, c, int(target[n, c, y, x]), slot[n, c, y, x]] += 1
    monkeypatch.setattr(metrics, "AT_ONCE", at_once)
    for layout in (torch.contiguous_format, torch.channels_last):
        assert torch.equal(histogram(logits.contiguous(memory_format=layout), target), expected)


def test_a_histogram_holds_no_index_of_all_voxels() -> None:
    """Whatever is alive at a time: 160 MB of logits, of which a part is looked at."""
    logits = torch.zeros(40, 2, 512, 512)
    with torch.profiler.profile(profile_memory=True) as profile:
        histogram(logits, logits)
    events = sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    alive = np.cumsum([event.nbytes() for event in events if event.name() == "[memory]"])
    assert 4 * metrics.AT_ONCE < alive.max() < 40 * metrics.AT_ONCE + 40 * 2 * 2 * 8 * (NUM_BINS + 1)


def test_a_crop_without_samples_stays_empty() -> None:
    counts = accumulate(*batch(), CROPS)
    assert counts.bins[1].sum() == 0
    assert counts.bins[0].sum() > 0


@pytest.mark.parametrize("threshold", [-15.75, -3.25, 0.0, 1 / 128, 0.25, 15.75])
def test_histograms_give_the_counted_numbers_at_every_edge(threshold: float) -> None:
    logits, target, crop = batch(2)
    counts = accumulate(logits, target, crop, CROPS)
    expected = plain_counts(logits, target, crop, threshold)
    above = LOGIT_EDGES[:-1] >= threshold
    found = counts.positive[..., above], counts.negative[..., above], counts.positive[..., ~above]
    assert [bins.sum(-1).tolist() for bins in found] == [expected["tp"], expected["fp"], expected["fn"]]


def test_edges_are_symmetric_with_one_at_zero_and_bins_closed_on_the_right() -> None:
    assert LOGIT_EDGES.shape == (NUM_BINS + 1,)
    assert LOGIT_EDGES[NUM_BINS // 2] == 0.0
    assert LOGIT_EDGES.tolist() == (-LOGIT_EDGES[::-1]).tolist()
    inner = torch.tensor(LOGIT_EDGES[1:-1], dtype=torch.float32)
    assert inner.double().tolist() == LOGIT_EDGES[1:-1].tolist()
    assert logit_bin(inner).tolist() == list(range(NUM_BINS - 1))
    assert logit_bin(inner.nextafter(torch.tensor(99.0))).tolist() == list(range(1, NUM_BINS))


def best_dice(logits: np.ndarray, truth: np.ndarray) -> float:
    """At the best of all thresholds: logits, truth (n,)."""
    order = np.argsort(-logits)
    tp, predicted = truth[order].cumsum(), np.arange(1, len(truth) + 1)
    last_of_equals = np.append(np.diff(logits[order]) != 0, True)
    return float((2 * tp / (predicted + truth.sum()))[last_of_equals].max())


@pytest.mark.parametrize("share", [0.01, 0.3])
@pytest.mark.parametrize(
    ("sd", "offset"),
    [
        (0.05, 0.0),
        (0.1, 0.0),
        (0.2, 0.0),
        (0.5, 0.0),
        (1.0, 0.0),
        (2.0, 0.0),
        (5.0, 0.0),
        (10.0, 0.0),
        (0.1, 1.0),
        (1.0, 3.0),
    ],
)
def test_the_best_dice_at_an_edge_is_the_best_at_any_threshold(sd: float, offset: float, share: float) -> None:
    """Within .003, whatever the spread of the logits. `offset`: the bias, so that the best threshold lies off 0."""
    rng = np.random.default_rng(0)
    truth = rng.random(100_000) < share
    logits = rng.normal(0, 1, truth.size) + 2.0 * truth
    logits = ((logits - logits.mean()) / logits.std() * sd - offset).astype(np.float32)
    counts = accumulate(
        torch.from_numpy(logits)[None, None], torch.from_numpy(truth).float()[None, None], torch.tensor([0]), 1
    )
    fn, positives = counts.positive[0, 0].cumsum(-1), counts.positive[0, 0].sum()
    tp, fp = positives - fn, counts.negative[0, 0].sum() - counts.negative[0, 0].cumsum(-1)
    binned = float(dice(tp, fp, fn).max())
    assert 0 <= best_dice(logits, truth) - binned <= 0.003


def test_tails_are_open_and_a_nan_logit_is_not_predicted() -> None:
    values = torch.tensor([-math.inf, -1e30, -64.0, 64.0, 1e30, math.inf, math.nan])
    last = NUM_BINS - 1
    assert logit_bin(values).tolist() == [0, 0, 0, last, last, last, 0]
    counts = accumulate(torch.full((1, 1, 2), math.nan), torch.tensor([[[1.0, 0.0]]]), torch.tensor([0]), 1)
    assert (counts.tp.item(), counts.fp.item(), counts.fn.item()) == (0, 0, 1)


def test_unknown_voxels_count_nowhere() -> None:
    logits = torch.tensor([[[5.0, -5.0, 5.0]]])
    counts = accumulate(logits, torch.full((1, 1, 3), math.nan), torch.tensor([0]), 1)
    assert counts.bins.sum() == 0
    assert torch.isnan(fg_pred(counts.tp, counts.fp, counts.known)).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_fall_into_the_same_bins(dtype: torch.dtype) -> None:
    logits = torch.tensor([-20.0, -0.25, 0.0, 0.125, 3.0], dtype=dtype)
    assert torch.equal(logit_bin(logits), logit_bin(logits.float()))


def test_scores_equal_their_definitions() -> None:
    tp, fp, fn = torch.tensor([6, 0, 5]), torch.tensor([2, 0, 0]), torch.tensor([4, 3, 0])
    assert dice(tp, fp, fn).tolist() == pytest.approx([12 / 18, 0.0, 1.0])
    assert iou(tp, fp, fn).tolist() == pytest.approx([6 / 12, 0.0, 1.0])
    assert precision(tp, fp, fn).tolist() == pytest.approx([6 / 8, 0.0, 1.0])
    assert recall(tp, fp, fn).tolist() == pytest.approx([6 / 10, 0.0, 1.0])
    p, r = precision(tp, fp, fn), recall(tp, fp, fn)
    harmonic = (2 * p * r / (p + r)).nan_to_num()
    torch.testing.assert_close(dice(tp, fp, fn), harmonic)
    known = torch.tensor([20, 10, 5])
    assert fg_pred(tp, fp, known).tolist() == pytest.approx([0.4, 0.0, 1.0])
    assert fg_true(tp, fn, known).tolist() == pytest.approx([0.5, 0.3, 1.0])


def test_a_class_that_never_appears_has_no_score_and_leaves_the_mean() -> None:
    tp, fp, fn = torch.tensor([3, 0, 0]), torch.tensor([0, 7, 0]), torch.tensor([3, 0, 0])
    for score in (dice, iou, precision, recall):
        assert torch.isnan(score(tp, fp, fn)).tolist() == [False, True, True]
    assert mean_over_known(dice(tp, fp, fn)).item() == pytest.approx(2 / 3)
    assert math.isnan(mean_over_known(dice(tp[1:], fp[1:], fn[1:])))


def test_scores_take_numpy_arrays_with_leading_axes() -> None:
    tp, fp, fn = (np.arange(12).reshape(2, 3, 2) for _ in range(3))
    assert dice(tp, fp, fn).shape == (2, 3, 2)
    assert math.isnan(dice(tp, fp, fn)[0, 0, 0])
    assert dice(tp, fp, fn)[1, 2, 1].item() == pytest.approx(0.5)


def test_numpy_holds_every_array_with_its_shape() -> None:
    arrays = accumulate(*batch(), CROPS).numpy()
    shapes = {name: value.shape for name, value in arrays.items()}
    assert shapes == {
        "tp": (3, 2),
        "fp": (3, 2),
        "fn": (3, 2),
        "known": (3, 2),
        "hist_positive": (3, 2, NUM_BINS),
        "hist_negative": (3, 2, NUM_BINS),
    }
    assert all(value.dtype == np.int64 for value in arrays.values())


def test_empty_counts_are_zero() -> None:
    counts = ValidationCounts.zeros(2, 5)
    assert counts.tp.sum() + counts.fp.sum() + counts.fn.sum() + counts.known.sum() == 0
