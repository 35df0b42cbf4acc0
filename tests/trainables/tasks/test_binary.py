"""binary: what is ignored counts nowhere, the sweep over thresholds is a plain search, and it learns."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trainables.data import PackedBatch
from trainables.data.expand import class_masks, pack_class
from trainables.data.phantom import generate as phantom
from trainables.engine import Engine
from trainables.errors import SettingsError
from trainables.tasks import get_task

sys.path.append(str(Path(__file__).parents[1]))
from tiny_trial import tiny_settings

CPU = torch.device("cpu")
LOSS = {"name": "tversky", "params": {"fp_weight": 0.5}}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One small phantom volume, and where its packed crops are kept."""
    folder = tmp_path_factory.mktemp("phantom")
    sides = ("validate", "train", "train", "train")
    volume = replace(phantom.VOLUMES[0], shape=(40, 160, 160), sides=sides, num_finer=1)
    root = phantom.make(folder / "data", plan=phantom.Plan(volumes=(volume,)))
    return {"root": str(root), "cache_dir": str(folder / "cache")}


def engine_for(data: dict[str, str], classes: list[str], ignore: str = "") -> Engine:
    options = {"ignore_label": ignore} if ignore else {}
    settings = tiny_settings(
        data=data | {"classes": classes, "patch": [1, 32, 32]},
        task={"name": "binary", "options": options},
        model={"width": 8, "depth": 2},
        trainer={"iterations_per_epoch": 30, "batch_size": 8, "epochs": 2, "validation_batches": 4},
    )
    return Engine(settings, LOSS, 0)


def test_it_learns_the_class_of_the_phantom_and_says_how_well(data: dict[str, str]) -> None:
    engine = engine_for(data, ["nuc"])
    rows = [engine.run_epoch() for _ in range(2)]
    everywhere = 2 * rows[0]["fg_true/nuc"] / (1 + rows[0]["fg_true/nuc"])  # F1 of a network that says nuc everywhere
    assert rows[-1]["f1"] > everywhere + 0.1
    assert rows[-1]["f1"] == rows[-1]["dice/nuc"]
    assert rows[-1]["calibrated_f1"] >= rows[-1]["f1"]
    assert rows[-1]["best_f1"] == max(row["f1"] for row in rows)


def test_what_is_ignored_counts_nowhere(data: dict[str, str]) -> None:
    """er_mem as the ignore label: known and positive voxels are exactly those of nuc outside of it."""
    engine, classes = engine_for(data, ["er_mem", "nuc"], ignore="er_mem"), ["er_mem", "nuc"]
    assert engine.classes == ("nuc",)
    known = positive = covered = 0
    for batch in engine.validator.batches:
        planes = batch.labels.numpy().swapaxes(0, 1)
        ignored, (present, annotated) = class_masks(planes, 0, 2)[0], class_masks(planes, 1, 2)
        target = engine.task.target(batch.labels, classes)[:, 0].numpy()
        np.testing.assert_array_equal(np.isnan(target), ~annotated | ignored)
        np.testing.assert_array_equal(target == 1, present & ~ignored)
        known, positive = known + np.sum(annotated & ~ignored), positive + np.sum(present & ~ignored)
        covered += np.sum(annotated & ignored)
    assert covered > 0
    row = engine.run_epoch()
    assert row["support/nuc"] == positive
    assert engine.validation["known"].sum() == known
    assert "dice/er_mem" not in row


def test_the_sweep_is_the_best_of_all_thresholds() -> None:
    task = get_task("binary")
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(2, 1, 40, 50, generator=generator) < 0.1).float()
    target[0, 0, :5] = torch.nan
    logits = torch.randn(target.shape, generator=generator) + 1.5 * target.nan_to_num()
    counts = task.zeros(2, 1, CPU)
    task.count_(counts, logits, target, torch.tensor([0, 1]), 0)
    row = task.scores({**task.result(counts), "val_loss": 0.0}, ["nuc"])

    known = ~target.isnan()
    z, t = logits[known], target[known] == 1

    def f1(cut: float) -> float:
        tp = int(((z > cut) & t).sum())
        return 2 * tp / (int((z > cut).sum()) + int(t.sum()))

    assert row["f1"] == pytest.approx(f1(0.0))
    assert row["calibrated_f1"] == pytest.approx(max(f1(i / 64) for i in range(-128, 256)), abs=0.01)
    cut = float(np.log(row["threshold"] / (1 - row["threshold"])))
    assert row["calibrated_f1"] == pytest.approx(f1(round(cut * 128) / 128))
    assert row["calibrated_f1"] > row["f1"] + 0.05
    assert row["calibrated_precision"] == pytest.approx(float(t[z > round(cut * 128) / 128].float().mean()))


def test_without_a_positive_voxel_there_is_no_score() -> None:
    task = get_task("binary")
    row = task.scores({**task.result(task.zeros(2, 1, CPU)), "val_loss": 0.0}, ["nuc"])
    assert all(np.isnan(row[name]) for name in (*task.summary, "threshold"))


def test_a_picture_shows_what_is_ignored_as_unknown() -> None:
    present = np.zeros((1, 4, 4), bool)
    present[0, 0], everywhere = True, np.ones((1, 4, 4), bool)
    labels = np.zeros((1, 1, 1, 4, 4), np.uint8)
    pack_class(labels[0], 0, 2, present, everywhere)  # ignored: the first row
    pack_class(labels[0], 1, 2, present.swapaxes(1, 2), everywhere)  # learnt: the first column
    batch = PackedBatch(torch.zeros(1, 1, 1, 4, 4, dtype=torch.uint8), torch.from_numpy(labels), torch.tensor([0]))
    task, classes = get_task("binary", {"ignore_label": "gap"}), ["gap", "nuc"]
    assert task.shown(batch, classes).tolist() == [[4]]
    shown = class_masks(task.picture(batch, torch.zeros(1, 1, 4, 4), classes)["labels"].swapaxes(0, 1), 0, 1)
    assert shown[0][0, :, 0].tolist() == [False, True, True, True]
    assert shown[1][0, 0].tolist() == [False] * 4
    assert shown[1][0, 1:].all()


@pytest.mark.parametrize(
    ("options", "classes", "match"),
    [
        ({}, ["nuc", "pm"], r"data\.classes=.*exactly one class"),
        ({"ignore_label": "pm"}, ["nuc"], r"ignore_label=pm: unknown class; data\.classes are nuc\. "),
        ({"ignore_label": "nuc"}, ["nuc"], r"exactly one class"),
        ({"ignore": 2}, ["nuc"], r"task\.options\.ignore=2.*ignore_label"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, object], classes: list[str], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        get_task("binary", options).outputs(classes)


def counted(logits: torch.Tensor, target: torch.Tensor, unit: list[int], **options: float) -> dict[str, float]:
    """The row of one batch, of as many crops as `unit` names."""
    task = get_task("binary", options)
    counts = task.zeros(max(unit) + 1, 1, CPU)
    for n in range(len(unit)):  # sample by sample: counts are sums
        part = slice(n, n + 1)
        task.count_(counts, logits[part], target[part], torch.tensor(unit[part]), n)
    return task.scores({**task.result(counts), "val_loss": 0.0}, ["sheet"])


def test_how_much_is_foreground_is_told_of_all_and_of_the_worst_volume() -> None:
    target, logits = torch.zeros(3, 1, 10, 10, 10), torch.full((3, 1, 10, 10, 10), -1.0)
    target[0, 0, :2], logits[0, 0, :4] = 1, 1  # twice as much as there is
    target[1, 0, :5], logits[1, 0, :1] = 1, 1  # a fifth of it
    logits[2, 0, :3] = 1  # none there
    target[2, 0, 5:] = torch.nan
    row = counted(logits, target, [0, 1, 2])
    assert (row["fg_true"], row["fg_pred"]) == (pytest.approx(700 / 2500), pytest.approx(800 / 2500))
    assert (row["fg_ratio"], row["fg_ratio_low"], row["fg_ratio_high"]) == (pytest.approx(8 / 7), 0.2, 2.0)
    assert row["fg_off"] == pytest.approx(0.6)
    assert row["fg_pred"] == row["fg_pred/sheet"]
    two = counted(logits, target, [0, 0, 1])
    assert (two["fg_ratio_low"], two["fg_ratio_high"]) == (pytest.approx(5 / 7), pytest.approx(5 / 7))
    assert all(two[f"fg_{name}"] == row[f"fg_{name}"] for name in ("pred", "true", "ratio"))


def test_the_calibrated_foreground_is_that_at_the_threshold() -> None:
    generator = torch.Generator().manual_seed(0)
    target = (torch.rand(2, 1, 8, 16, 16, generator=generator) < 0.1).float()
    logits = torch.randn(target.shape, generator=generator) + 1.5 * target
    row = counted(logits, target, [0, 1])
    cut = float(np.log(row["threshold"] / (1 - row["threshold"])))
    shares = [float((z > cut).sum() / t.sum()) for z, t in zip(logits, target)]
    assert row["calibrated_fg_ratio_low"] == pytest.approx(min(shares))
    assert row["calibrated_fg_ratio_high"] == pytest.approx(max(shares))
    assert row["calibrated_fg_pred"] == pytest.approx(float((logits > cut).float().mean()))
    assert row["fg_ratio"] > row["calibrated_fg_ratio"] + 0.5


@pytest.mark.parametrize("level", [-8.0, -4.0, 0.0, 3.0, 40.0])
def test_the_spread_of_the_output_is_none_where_it_is_uniform_and_all_where_it_is_sure(level: float) -> None:
    target = (torch.rand(2, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.1).float()
    target[0, 0, 0] = torch.nan
    uniform = counted(torch.full(target.shape, level), target, [0, 1])
    assert uniform["spread_p"] == pytest.approx(0, abs=1e-9)
    sure = counted(torch.where(target.isnan(), level, 60 * target - 30), target, [0, 1])
    assert sure["spread_p"] == pytest.approx(1, abs=1e-6)
    assert sure["mean_p"] == pytest.approx(sure["fg_true"])
    assert sure["var_p"] == pytest.approx(sure["fg_true"] * (1 - sure["fg_true"]))


def test_var_p_is_the_variance_over_the_known_voxels() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, target = torch.randn(3, 1, 6, 7, 8, generator=generator), torch.zeros(3, 1, 6, 7, 8)
    target[1, 0, :, :, :3] = torch.nan
    row = counted(logits, target, [0, 1, 0])
    p = torch.sigmoid(logits[~target.isnan()]).double()
    assert row["mean_p"] == pytest.approx(float(p.mean()))
    assert row["var_p"] == pytest.approx(float(p.var(correction=0)))


def test_surface_dice_is_counted_where_a_tolerance_is_given() -> None:
    target, logits = torch.zeros(2, 1, 12, 10, 10), torch.full((2, 1, 12, 10, 10), -1.0)
    target[:, 0, 4:6], logits[0, 0, 6:8], logits[1, 0, 9:11] = 1, 1, 1
    assert counted(logits, target, [0, 1], surface_tolerance=2)["surface_dice"] == 0.5  # one within 2 voxels, one not
    assert counted(logits, target, [0, 1], surface_tolerance=5)["surface_dice"] == 1.0
    assert "surface_dice" not in counted(logits, target, [0, 1])
    with pytest.raises(SettingsError, match=r"task\.options\.surface_tolerance=6: must lie in \[0, 5\]"):
        get_task("binary", {"surface_tolerance": 6})
