"""Measured sea-surface temperatures, written by code that is not ours: what was measured is what is learnt from."""

from __future__ import annotations

import numpy as np
import pytest
import real_series

from trainables.data import PackedDataset, open_packed
from trainables.data.check import check
from trainables.data.expand import class_masks
from trainables.settings import DataSettings


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> DataSettings:
    folder = tmp_path_factory.mktemp("sea")
    real_series.make(folder / "data")
    return DataSettings(
        name="raster_series",
        root=str(folder / "data"),
        cache_dir=str(folder / "cache"),
        classes=["warm"],
        patch=[1, 16, 64],
        options={"steps": 4, "validate": "east1*"},
    )


@pytest.fixture(scope="module")
def dataset(settings: DataSettings) -> PackedDataset:
    return open_packed(settings)


def test_the_check_finds_nothing_wrong(settings: DataSettings) -> None:
    assert {finding.level for finding in check(settings)} == {"info"}


def test_months_that_are_warm_for_their_place_are_five_percent_and_land_is_unknown(dataset: PackedDataset) -> None:
    assert [(crop.name, crop.side) for crop in dataset.crops if crop.side == "validate"] == [
        ("east120", "validate"),
        ("east180", "validate"),
    ]
    counts = [dataset.counts(side) for side in ("train", "validate")]
    for found in counts:
        assert 0.03 < found["positive"][0] / found["known"][0] < 0.07
    sea = np.isfinite(real_series.sea_surface()[0][0]).mean()
    assert sum(found["known"][0] for found in counts) == pytest.approx(sea * 50 * 18 * 432)


def test_grey_values_and_masks_are_those_of_the_measurement(dataset: PackedDataset) -> None:
    excess, mask = real_series.sea_surface()
    crop = next(crop for crop in dataset.crops if crop.name == "east060")
    place = np.s_[..., real_series.COLUMNS : 2 * real_series.COLUMNS]
    excess, mask = excess[place], mask[place]
    assert (crop.em.shape, dataset.in_channels) == ((8, 50, 18, 72), 8)
    low, high = real_series.RANGE
    for t in range(4):
        warmth, sea = crop.em[2 * t], crop.em[2 * t + 1]
        wet = np.isfinite(excess[t : t + 50])
        np.testing.assert_array_equal(sea, 255 * wet)
        step = (high - low) / 255
        np.testing.assert_allclose(low + warmth[wet] * step, excess[t : t + 50][wet], atol=step / 2 + 1e-4)
    present, known = class_masks(crop.labels, 0, 1)
    np.testing.assert_array_equal(present, mask[4:] == 1)
    np.testing.assert_array_equal(known, mask[4:] != 255)
