"""A data set that this project did not write: what it was written with is what is read."""

from __future__ import annotations

import numpy as np
import pytest
from foreign_data import COMMON, FIVE, SHARES, VOLUMES

from trainables.data.cellmap.reader import CropSource, crop_grid, discover_crops, read_labels
from trainables.data.check import check
from trainables.data.expand import class_masks
from trainables.settings import DataSettings

VOXEL = (8.0, 8.0, 8.0)


@pytest.fixture(scope="module")
def crops(foreign_root) -> dict[str, CropSource]:
    return {crop.name: crop for crop in discover_crops(foreign_root)}


def test_the_check_finds_no_error_and_the_missing_chunk(foreign_root, shared_cache):
    findings = check(DataSettings(name="cellmap", root=str(foreign_root), cache_dir=str(shared_cache)))
    assert not [finding for finding in findings if finding.level == "error"]
    assert [f.where for f in findings if f.level == "warning" and "no EM" in f.message] == ["liver-c/crop300"]


def test_boxes_and_classes_are_read_as_they_were_written(crops):
    assert len(crops) == 16
    for volume in VOLUMES:
        for name, (start, size, classes) in volume.crops.items():
            crop = crops[f"{volume.name}/{name}"]
            grid = crop_grid(crop, crop.classes, VOXEL)
            assert crop.classes == tuple(sorted(classes))
            assert grid.corner == pytest.approx((np.array(start) - 0.5) * volume.voxel_nm)
            assert np.array(grid.shape) * 8 == pytest.approx(np.array(size) * volume.voxel_nm)


def test_seven_crops_lie_in_a_large_one(crops):
    grids = {name: crop_grid(c, c.classes, VOXEL) for name, c in crops.items() if name.startswith("liver-c")}
    ends = {name: grid.corner + grid.voxel * grid.shape for name, grid in grids.items()}
    large = "liver-c/crop300"
    assert grids[large].shape == (40, 400, 400)
    nested = set(grids) - {large}
    assert len(nested) == 7
    for name in nested:
        assert (grids[name].corner >= grids[large].corner).all()
        assert (ends[name] <= ends[large]).all()


def test_a_nucleus_is_thirty_times_as_frequent_as_a_golgi_membrane(crops):
    positive, known = np.zeros(5), np.zeros(5)
    for crop in crops.values():
        labels = read_labels(crop, FIVE, crop_grid(crop, FIVE, VOXEL), "nearest")
        for index in range(5):
            present, annotated = class_masks(labels, index, 5)
            positive[index] += present.sum()
            known[index] += annotated.sum()
    share = dict(zip(FIVE, positive / known))
    assert 20 < share["nuc"] / share["golgi_mem"] < 40
    for name in COMMON:
        assert share[name] == pytest.approx(SHARES[name], rel=0.2)
