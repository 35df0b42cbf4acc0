"""The grey/white interface of a brain, written by code that is not ours: what it shows is what is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
import real_volumes
from tiny_trial import trial_config

from trainables.data import PackedDataset, open_packed
from trainables.data.check import check
from trainables.data.expand import class_masks
from trainables.engine import Engine
from trainables.settings import DataSettings, trial_settings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder = tmp_path_factory.mktemp("brain")
    real_volumes.make(folder / "data")
    return {
        "name": "labelled_volumes",
        "root": str(folder / "data"),
        "cache_dir": str(folder / "cache"),
        "classes": ["interface"],
        "patch": [32, 32, 32],
        "mirror_z": True,
        "options": {"window": real_volumes.WINDOW},
    }


@pytest.fixture(scope="module")
def dataset(data: dict[str, object]) -> PackedDataset:
    return open_packed(DataSettings(**data))


def test_the_check_finds_nothing_wrong(data: dict[str, object]) -> None:
    assert {finding.level for finding in check(DataSettings(**data))} == {"info"}


def test_grey_values_and_labels_are_those_of_the_template(dataset: PackedDataset) -> None:
    image, labels = real_volumes.brain()
    assert 0.018 < (labels == 1).mean() < 0.020
    for number, crop in enumerate(dataset.crops):
        planes = np.s_[:, number * real_volumes.DEPTH : (number + 1) * real_volumes.DEPTH]
        np.testing.assert_array_equal(crop.em, image[planes])
        present, known = class_masks(crop.labels, 0, 1)
        np.testing.assert_array_equal(present, labels[planes] == 1)
        np.testing.assert_array_equal(known, labels[planes] != 2)
    assert [crop.side for crop in dataset.crops] == ["train"] * 3 + ["validate"] * 2


@pytest.mark.slow
def test_a_network_finds_the_interface_in_the_front_of_the_brain(data: dict[str, object]) -> None:
    trainer = {"epochs": 2, "iterations_per_epoch": 25, "batch_size": 4, "validation_batches": 6, "lr": 1e-2}
    loss = {"name": "tversky", "params": {"fp_weight": 0.5}}
    config = trial_config(trainer=trainer, model={"width": 8, "depth": 2}, loss=loss)
    settings = config | {"data": data | {"sampling": "class_aware"}, "task": {"name": "binary"}}
    engine = Engine(trial_settings(settings), loss, seed=0)
    rows = [engine.run_epoch() for _ in range(2)]
    everywhere = 2 * rows[0]["fg_true"] / (1 + rows[0]["fg_true"])
    assert everywhere < 0.1
    assert rows[-1]["calibrated_f1"] > 2 * everywhere
