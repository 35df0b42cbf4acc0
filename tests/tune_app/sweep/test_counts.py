"""Class counts are of the voxels that training sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from planned import settings_of

from trainables.data import PackedCrop, PackedDataset
from trainables.data.expand import pack_class, packed_bytes
from trainables.settings import DataSettings
from tune_app.results.manifest import read_manifest
from tune_app.sweep.counts import class_counts, count, count_window_voxels
from tune_app.sweep.prepare import prepare
from tune_app.sweep.runner import _write_folder

CLASSES = ("nuc", "pm")


def crop(name: str, shape: tuple[int, int, int], nuc: float, pm: float) -> PackedCrop:
    """Each class in the first columns of every row, as large a share of them as is given; everything annotated."""
    labels = np.zeros((packed_bytes(2), *shape), np.uint8)
    present = [np.broadcast_to(np.arange(shape[2]) < share * shape[2], shape) for share in (nuc, pm)]
    for index, mask in enumerate(present):
        pack_class(labels, index, 2, mask, np.ones(shape, bool))
    positive, known = (np.array([m.sum() for m in masks]) for masks in (present, [labels[0] >= 0] * 2))
    return PackedCrop(
        name, "train", shape, labels[0], labels, (0, 0, 0), positive, known, np.zeros((2, 1, 3), np.int32)
    )


@pytest.fixture(scope="module")
def uneven() -> PackedDataset:
    """One crop of 64 × 400 × 400 without a nucleus, and twenty of 1 × 40 × 40 that are a fifth nucleus."""
    crops = [crop("a/large", (64, 400, 400), 0.0, 0.05), *(crop(f"a/{n}", (1, 40, 40), 0.2, 0.05) for n in range(20))]
    return PackedDataset(DataSettings(classes=list(CLASSES), patch=[1, 64, 64]), CLASSES, tuple(crops), "0", "", Path())


def test_a_large_crop_weighs_as_often_as_it_is_drawn(uneven):
    """A patch holds 64² voxels of the large crop or the 40² of a small one."""
    sampled, data = count(uneven, "sampled"), count(uneven, "data")
    assert sampled.positive[0] / sampled.known[0] == pytest.approx(0.2 * 20 * 40**2 / (64**2 + 20 * 40**2))
    assert data.positive[0] / data.known[0] == pytest.approx(0.2 * 20 * 40**2 / (64 * 400**2 + 20 * 40**2))
    assert sum(sampled.known) == pytest.approx(sum(data.known)), "the same number of voxels, differently drawn"


def test_the_population_is_a_setting_and_stands_in_the_manifest(uneven, monkeypatch, tmp_path):
    words = ["family=seesaw", "data.classes=[nuc,pm]"]
    assert class_counts(settings_of(*words), uneven) == count(uneven, "sampled")
    assert class_counts(settings_of(*words, "frequencies=data"), uneven) == count(uneven, "data")
    monkeypatch.setattr("tune_app.sweep.prepare.open_packed", lambda settings: uneven)
    _write_folder(prepare(settings_of(*words), tmp_path))
    assert read_manifest(tmp_path)["class_counts"] == (
        "voxels of the train crops as patches of [1, 64, 64] show them, data.sampling=crop"
    )


def test_what_the_task_does_not_learn_is_not_drawn_for_its_own_sake(uneven):
    """pm marks what nobody labelled: class-aware patches are of nuclei, which the small crops alone have."""
    ignoring = [
        "task.name=binary",
        "task.options.ignore_label=pm",
        "data.classes=[nuc,pm]",
        "data.sampling=class_aware",
    ]
    dataset = replace(uneven, settings=replace(uneven.settings, sampling="class_aware"))
    counts = class_counts(settings_of(*ignoring), dataset)
    assert counts.positive[0] / counts.known[0] == pytest.approx(0.2)
    patch = count_window_voxels(settings_of(*ignoring, "trainer.batch_size=1", "trainer.count_window=1"), dataset)
    assert patch == pytest.approx(40**2)


def test_a_count_window_holds_what_its_patches_do(uneven):
    settings = settings_of("trainer.batch_size=3", "trainer.count_window=7", "data.classes=[nuc,pm]")
    assert count_window_voxels(settings, uneven) == pytest.approx(3 * 7 * (64**2 + 20 * 40**2) / 21)
