"""EM that is zero padding makes labels unknown; dark structures, missing chunks and generated data stay as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_opening
from volume_writer import container, write_em, write_label

from trainables.data.cellmap.reader import PADDING, mask_padding
from trainables.data.check import check
from trainables.data.expand import class_masks
from trainables.data.sources import open_source
from trainables.settings import DataSettings


def written(root: Path, em: np.ndarray) -> None:
    """One crop of all of the volume but 8 voxels at each side in the plane, all of it positive."""
    write_em(root, "cells", em)
    size = [n - 16 for n in em.shape[1:]]
    write_label(root, "cells", "crop1", "nuc", np.ones((em.shape[0], *size), np.uint8), origin=(0, 64, 64))
    write_em(root, "other", noisy((1, 8, 8)))  # a split needs two crops
    write_label(root, "other", "crop2", "nuc", np.ones((1, 8, 8), np.uint8))


def decoded(settings: DataSettings):
    source = open_source(settings)
    return source.decode(next(item for item in source.items() if item.name == "cells/crop1"))


def noisy(shape: tuple[int, int, int] = (4, 96, 96)) -> np.ndarray:
    return np.random.default_rng(0).integers(1, 255, shape, dtype=np.uint8)


def test_padding_is_unknown_and_told(tmp_path, settings_for):
    em = noisy()
    em[:, :, :40] = 0  # from the volume's edge
    em[1] = 0  # a lost slice
    written(tmp_path, em)
    settings = settings_for(tmp_path, classes=["nuc"])
    crop = decoded(settings)
    known = class_masks(crop.labels, 0, 1)[1]
    np.testing.assert_array_equal(known, (em != 0)[:, 8:-8, 8:-8])
    assert crop.masked == pytest.approx(0.4), "chunks of nothing but zeros are not written"
    assert crop.masked + crop.padded == pytest.approx((~known).mean())
    assert any("cells/crop1: the EM of 15.0 % of the crop is zero padding" in str(f) for f in check(settings))


def test_dark_structures_are_no_padding(tmp_path, settings_for):
    """A black membrane, speckles, and a black body of a little less than the square."""
    em = noisy()
    em[:, 50:56] = 0
    em[noisy() < 60] = 0
    em[2, 10 : 10 + PADDING - 1, 10 : 10 + PADDING - 1] = 0
    em[2, 10 + PADDING - 1, :] = em[2, :, 10 + PADDING - 1] = em[2, 9, :] = em[2, :, 9] = 7
    written(tmp_path, em)
    crop = decoded(settings_for(tmp_path, classes=["nuc"]))
    assert crop.padded == 0
    assert class_masks(crop.labels, 0, 1)[1].all()


def test_a_chunk_that_was_never_downloaded_is_missing_and_no_padding(tmp_path, settings_for):
    written(tmp_path, noisy())
    for y in range(6):
        for x in range(6):
            (container(tmp_path, "cells") / f"em/fibsem-uint8/s0/0/{y}/{x}").unlink()
    crop = decoded(settings_for(tmp_path, classes=["nuc"]))
    assert crop.masked == pytest.approx(0.25)
    assert crop.padded == 0


def test_padding_is_the_opening_of_the_zeros_by_a_square():
    rng = np.random.default_rng(1)
    zero = np.ones((2, 90, 110), bool)
    for z, y, x in zip(rng.integers(0, 2, 30), rng.integers(0, 90, 30), rng.integers(0, 110, 30)):
        zero[z, y, x] = False
    labels = np.full((1, *zero.shape), 3, np.uint8)
    mask_padding(labels, ((0, 0, 0), zero.shape), np.where(zero, 0, 9).astype(np.uint8))
    square = np.ones((1, PADDING, PADDING), bool)
    np.testing.assert_array_equal(labels[0] == 0, binary_opening(zero, square))
