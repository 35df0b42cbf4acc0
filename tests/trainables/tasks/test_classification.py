"""One label for each sample: counts and scores whose values are known, and what a row says of a class nobody has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from trainables.data import PackedBatch
from trainables.data.expand import pack_class, packed_bytes
from trainables.errors import SettingsError
from trainables.tasks import Counts, get_task

CLASSES = ["a", "b", "c"]
TASK = get_task("classification")


def counted(truth: list[int], logits: list[list[float]], units: int = 4, batches: int = 1) -> Counts:
    """The counts of these samples, each of a crop of its own, in so many batches. Truth −1: no label."""
    counts = TASK.zeros(units, 3, torch.device("cpu"))
    target = one_hot(torch.tensor(truth).clamp(min=0), 3).float()
    target[torch.tensor(truth) < 0] = math.nan
    unit = torch.arange(len(truth)) % units
    for number, (z, t, u) in enumerate(
        zip(torch.tensor(logits).chunk(batches), target.chunk(batches), unit.chunk(batches))
    ):
        TASK.count_(counts, z.view(-1, 3, 1, 1, 1), t.view(-1, 3, 1, 1, 1), u, number)
    return counts


def row(truth: list[int], logits: list[list[float]]) -> dict[str, float]:
    return TASK.scores({**TASK.result(counted(truth, logits)), "val_loss": 0.0}, CLASSES)


A, B, C = [9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]


def test_balanced_accuracy_is_the_mean_recall_of_the_classes_however_many_samples_they_have() -> None:
    found = row([0, 0, 0, 0, 1, 2], [A, A, A, B, B, A])
    assert [found[f"recall/{c}"] for c in CLASSES] == [0.75, 1.0, 0.0]
    assert found["balanced_accuracy"] == pytest.approx(1.75 / 3)
    assert found["accuracy"] == pytest.approx(4 / 6)
    assert found["min_recall"] == 0.0
    assert found["f1/a"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert found["macro_f1"] == pytest.approx((0.75 + 2 / 3 + 0.0) / 3)
    assert found["precision/c"] != found["precision/c"]  # never predicted


def test_a_class_without_a_sample_is_left_out_and_has_a_support_of_none() -> None:
    found = row([0, 0, 1, -1], [A, B, B, C])
    assert math.isnan(found["recall/c"])
    assert math.isnan(found["f1/c"])
    assert found["balanced_accuracy"] == pytest.approx(0.75)
    assert [found[f"support/{c}"] for c in CLASSES] == [2.0, 1.0, 0.0]
    assert found["predicted_share/c"] == 0.0  # the sample without a label is no prediction of the pass


def test_entropies_tell_a_collapse_from_doubt() -> None:
    collapsed, even = row([0, 1, 2], [A, A, A]), row([0, 1, 2], [A, B, C])
    doubtful = row([0, 1, 2], [[0.1, 0.0, 0.0]] * 3)
    assert (collapsed["entropy_of_predictions"], even["entropy_of_predictions"]) == pytest.approx((0.0, 1.0), abs=1e-9)
    assert collapsed["entropy"] < 0.01
    assert doubtful["entropy"] == pytest.approx(1.0, abs=0.01)
    assert doubtful["entropy_of_predictions"] == pytest.approx(0.0, abs=1e-9)
    assert row([0], [A])["nll"] == pytest.approx(math.log1p(2 * math.exp(-9)), rel=1e-6)


def test_nothing_at_all_has_no_score() -> None:
    found = row([-1], [A])
    assert all(math.isnan(found[name]) for name in TASK.summary)


def test_counts_add_up_over_batches_and_ranks() -> None:
    truth, logits = [0, 1, 2, 0, 1, -1, 2, 2], [A, A, C, B, B, C, B, C]
    whole, parts = counted(truth, logits), counted(truth, logits, batches=3)
    first, second = counted(truth[::2], logits[::2], units=8), counted(truth[1::2], logits[1::2], units=8)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name])
        torch.testing.assert_close((first[name] + second[name]).sum(0), whole[name].sum(0))


def test_tp_fp_fn_follow_from_the_confusion() -> None:
    result = TASK.result(counted([0, 0, 1, 2], [A, B, B, A]))
    assert result["confusion"].sum(axis=0).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert [result[n].sum(axis=0).tolist() for n in ("tp", "fp", "fn", "known")] == [
        [1, 1, 0],
        [1, 1, 0],
        [1, 0, 1],
        [4, 4, 4],
    ]


def packed(label: int, shape: tuple[int, int, int], margin: int = 0) -> np.ndarray:
    """Planes (P, D, H, W) of a sample of one class, unknown within `margin` of the sides in its plane."""
    planes = np.zeros((packed_bytes(3), *shape), np.uint8)
    known = np.zeros(shape, bool)
    known[:, margin : shape[1] - margin, margin : shape[2] - margin] = True
    for c in range(3):
        pack_class(planes, c, 3, np.full(shape, c == label), known)
    return planes


def test_the_label_of_a_patch_is_that_of_its_centre() -> None:
    """Corners of a turned volume are unknown."""
    labels = torch.from_numpy(np.stack([packed(1, (2, 8, 8), margin=2), packed(2, (2, 8, 8))]))
    target = TASK.target(labels, CLASSES)
    assert target.shape == (2, 3, 1, 1, 1)
    assert target.flatten(1).tolist() == [[0, 1, 0], [0, 0, 1]]


def test_a_picture_shows_the_volume_in_its_true_and_its_predicted_class() -> None:
    labels = torch.from_numpy(packed(1, (2, 8, 8))[None])
    batch = PackedBatch(torch.full((1, 1, 2, 8, 8), 7, dtype=torch.uint8), labels, torch.tensor([0]))
    shown = TASK.picture(batch, torch.tensor([C]).view(1, 3, 1, 1, 1), CLASSES)
    assert shown["em"][0, :8, :8].tolist() == [[7] * 8] * 8
    assert np.unique(shown["predicted"][0, :, :8, :8]).tolist() == [4]  # bit 2: class c
    assert TASK.shown(batch, CLASSES).tolist() == [[0, 1, 0]]


def test_one_class_alone_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"data.classes=\['a'\]: one class alone"):
        TASK.outputs(["a"])
