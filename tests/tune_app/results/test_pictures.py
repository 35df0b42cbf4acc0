"""PNG files against another reader."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from tune_app.results.pictures import png


def decoded(image: np.ndarray) -> np.ndarray:
    return np.rint(imread(io.BytesIO(png(image)), format="png") * 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (64, 33)])
def test_grey_images_are_read_back(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(decoded(image), image)


@pytest.mark.parametrize("colors", [1, 2, 256, 300])
def test_colours_are_read_back_with_a_palette_and_without(colors: int) -> None:
    generator = np.random.default_rng(1)
    table = generator.permutation(256**3)[:colors]
    codes = table[np.arange(40 * 30) % colors].reshape(40, 30)
    image = np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=-1).astype(np.uint8)
    assert (b"PLTE" in png(image)) == (colors <= 256)
    np.testing.assert_array_equal(decoded(image)[..., :3], image)
