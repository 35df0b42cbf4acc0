"""Surface Dice from counts against distance transforms, MONAI's, and what patches and the unknown do to it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_surface_dice
from scipy.ndimage import binary_erosion, distance_transform_edt, generate_binary_structure

from trainables.metrics import surface_counts, surface_dice, surface_voxels, widened


def blobs(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Two or three boxes that do not reach the border."""
    mask = np.zeros(shape, bool)
    for _ in range(rng.integers(2, 4)):
        starts = [int(rng.integers(2, n - 7)) for n in shape]
        mask[tuple(slice(a, a + int(rng.integers(1, 6))) for a in starts)] = True
    return mask


def counts_of(predicted: np.ndarray, true: np.ndarray, tolerance: float, known: np.ndarray | None = None) -> list[int]:
    target = torch.from_numpy(true.astype(np.float32))
    if known is not None:
        target = target.where(torch.from_numpy(known), torch.nan)
    logits = torch.from_numpy(np.where(predicted, 2.5, -1.0).astype(np.float32))
    return surface_counts(logits[None, None], target[None, None], tolerance)[0, 0].tolist()


def by_distances(predicted: np.ndarray, true: np.ndarray, tolerance: float) -> list[int]:
    """The same by exact distance transforms; a voxel beyond the border is no outside."""
    faces = generate_binary_structure(predicted.ndim, 1)
    edges = [mask & ~binary_erosion(mask, faces, border_value=1) for mask in (predicted, true)]
    found = []
    for own, other in (edges, edges[::-1]):
        distance = distance_transform_edt(~other) if other.any() else np.full(own.shape, np.inf)
        found += [int(own.sum()), int((distance[own] <= tolerance).sum())]
    return found


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 2, 3])
@pytest.mark.parametrize("shape", [(14, 15, 13), (17, 16)], ids=["3D", "2D"])
def test_counts_are_those_of_exact_distances(shape: tuple[int, ...], tolerance: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(6):
        predicted, true = blobs(rng, shape), blobs(rng, shape)
        assert counts_of(predicted, true, tolerance) == by_distances(predicted, true, tolerance)
        noise = rng.random(shape) < 0.3
        assert counts_of(noise, true, tolerance) == by_distances(noise, true, tolerance)


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # of MONAI's own call
def test_it_is_monais_where_nothing_reaches_the_border() -> None:
    rng = np.random.default_rng(1)
    for tolerance in (1.0, 2.0):
        for _ in range(5):
            predicted, true = blobs(rng, (14, 15, 13)), blobs(rng, (14, 15, 13))
            batch = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (predicted, true)]
            monai = compute_surface_dice(*batch, class_thresholds=[tolerance], include_background=True)
            ours = surface_dice(torch.tensor(counts_of(predicted, true, tolerance)))
            assert float(ours) == pytest.approx(float(monai), abs=1e-6)


def test_a_sheet_counts_by_how_far_it_is_off() -> None:
    true, grid = np.zeros((12, 10, 10), bool), np.arange(12)
    true[4:6] = True
    for shift, expected in ((0, 1.0), (1, 1.0), (2, 1.0), (3, 0.5), (5, 0.0)):
        predicted = np.zeros_like(true)
        predicted[4 + shift : 6 + shift] = True
        assert float(surface_dice(torch.tensor(counts_of(predicted, true, 2)))) == expected, (shift, grid)
    half = true.copy()
    half[..., 5:] = False
    predicted, near, whole, found = counts_of(half, true, 2)
    cut = 2 * 10 * 5
    assert (predicted, near, whole, found) == (cut, cut, 2 * cut, cut + 2 * 10 * 2)


def test_what_is_unknown_or_beyond_the_patch_is_no_surface() -> None:
    everywhere = np.ones((6, 6, 6), bool)
    assert counts_of(everywhere, everywhere, 2) == [0, 0, 0, 0]
    true, known = np.zeros((8, 8, 8), bool), everywhere
    true[:, :, :4], known = True, np.ones((8, 8, 8), bool)
    known[:, :, 4:] = False
    assert counts_of(true, true, 2, known) == [0, 0, 0, 0]
    known[:, :, 4:] = True
    known[0] = False
    assert counts_of(true, true, 2, known) == [7 * 8] * 4
    predicted = true.copy()
    predicted[0] = ~true[0]
    assert counts_of(predicted, true, 2, known) == [7 * 8] * 4


def test_counts_add_up_over_patches_that_share_no_surface() -> None:
    rng = np.random.default_rng(2)
    pairs = [(blobs(rng, (12, 12, 12)), blobs(rng, (12, 12, 12))) for _ in range(3)]
    batch = [torch.from_numpy(np.stack(masks)[:, None].astype(np.float32)) for masks in zip(*pairs)]
    together = surface_counts(batch[0] - 0.5, batch[1], 2)
    assert together.shape == (3, 1, 4)
    assert together[:, 0].tolist() == [counts_of(*pair, 2) for pair in pairs]
    rows, columns = np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])
    assert together.sum(dim=(0, 1)).tolist() == counts_of(rows, columns, 2)  # 2 voxels of margin, so 4 between them


def test_limits() -> None:
    assert float(surface_dice(torch.tensor([5, 3, 4, 2]))) == pytest.approx(5 / 9)
    assert math.isnan(float(surface_dice(torch.tensor([5, 0, 0, 0]))))
    assert float(surface_dice(torch.tensor([0, 0, 4, 0]))) == 0
    point = torch.zeros(1, 1, 9, 9, 9, dtype=torch.bool)
    point[0, 0, 4, 4, 4] = True
    for radius in (0, 1, 2, 3.5):
        near = sum(math.dist(p, (4, 4, 4)) <= radius for p in itertools.product(range(9), repeat=3))
        assert int(widened(point, radius).sum()) == near
    assert torch.equal(surface_voxels(point, torch.ones_like(point)), point)
