"""Resampling between regular grids, one axis after the other.

Shapes: n target voxels along an axis, T taps (source voxels that contribute to one). Positions are nanometres.
A voxel coarser than the source averages what it covers (area); a finer one interpolates linearly between centres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FUZZ = 1e-6
"""In source voxels: a position so near a boundary lies on it, whatever the rounding."""
SLAB_VOXELS = 1 << 17
"""Source voxels averaged at once, so that float copies stay in the CPU's cache."""


@dataclass(frozen=True)
class Taps:
    """index (n, T) into the source axis and weight float32 (n, T), rows sum to 1."""

    index: NDArray[np.int64]
    weight: NDArray[np.float32]

    @property
    def first(self) -> int:
        """First source voxel used."""
        return int(self.index.min())

    @property
    def stop(self) -> int:
        """One past the last source voxel used."""
        return int(self.index.max()) + 1


def nearest_taps(centres: NDArray[np.float64], corner: float, scale: float, length: int) -> Taps:
    """The source voxel that holds each target centre (n,); clamped to the source.

    A centre on the boundary of two voxels, as all are where the target is an even multiple of the source, falls into
    the later and the earlier one by turns: into the same each time, labels would shift against the EM by half a voxel.
    """
    place = (centres - corner) / scale
    later = np.floor(place + FUZZ)
    tie = np.abs(place - later) <= FUZZ
    index = (later - (tie & (np.cumsum(tie) % 2 == 0))).astype(np.int64)
    index = np.clip(index, 0, length - 1)[:, None]
    return Taps(index, np.ones(index.shape, dtype=np.float32))


def smooth_taps(centres: NDArray[np.float64], size: float, corner: float, scale: float, length: int) -> Taps:
    """Area average over target voxels of `size` where that is not below the source's `scale`, else linear.

    Both are the overlap of source voxels with a box as wide as the wider voxel. Source voxels beyond the ends do not
    count; the weights of the rest are scaled to sum to 1.
    """
    width = max(size / scale, 1.0)
    low = (centres - corner) / scale - width / 2
    first = np.floor(low + FUZZ).astype(np.int64)
    index = first[:, None] + np.arange(int(np.ceil(width - FUZZ)) + 1)
    overlap = np.minimum(index + 1, (low + width)[:, None]) - np.maximum(index, low[:, None])
    weight = np.where((index >= 0) & (index < length), np.clip(overlap, 0, None), 0.0)
    weight[weight < FUZZ] = 0.0
    used = weight.any(axis=0)
    weight, index = weight[:, used], np.clip(index[:, used], 0, length - 1)
    index = np.where(weight > 0, index, np.take_along_axis(index, weight.argmax(axis=1)[:, None], axis=1))
    return Taps(index, (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32))


def pick(source: NDArray, taps: tuple[Taps, Taps, Taps], start: tuple[int, int, int]) -> NDArray:
    """Nearest: source (d, h, w), which begins at voxel `start`, at one-tap indices; any dtype; a view if it can."""
    for axis in range(3):
        source = _select(source, taps[axis].index[:, 0] - start[axis], axis)
    return source


def average(source: NDArray, taps: tuple[Taps, Taps, Taps], start: tuple[int, int, int]) -> NDArray[np.float32]:
    """Weighted mean of source (d, h, w), which begins at voxel `start`: float32 (n_z, n_y, n_x)."""
    out = np.empty([len(t.index) for t in taps], dtype=np.float32)
    z, y, x = taps
    source_per_row = source.shape[1] * source.shape[2] / len(y.index)
    for planes in slabs(len(z.index), math.ceil(source_per_row) * len(y.index), SLAB_VOXELS):
        for rows in slabs(len(y.index), math.ceil(source_per_row) * (planes.stop - planes.start), SLAB_VOXELS):
            low, high = y.index[rows].min(), y.index[rows].max() + 1
            slab = source[:, low - start[1] : high - start[1]]
            slab = _axis(slab, z.index[planes] - start[0], z.weight[planes], 0)
            slab = _axis(slab, y.index[rows] - low, y.weight[rows], 1)
            out[planes, rows] = _axis(slab, x.index - start[2], x.weight, 2)
    return out


def slabs(length: int, plane: int, limit: int) -> list[slice]:
    """Slices of an axis of `length` planes, each at most `limit` in all but at least one plane of size `plane`."""
    step = max(1, limit // max(plane, 1))
    return [slice(i, min(i + step, length)) for i in range(0, length, step)]


def _axis(source: NDArray, index: NDArray[np.int64], weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Weighted sum over the taps `index` (n, T) of one axis; a tap of weight 0 adds nothing and is left out."""
    if index.shape[1] == 1:
        return _select(source, index[:, 0], axis).astype(np.float32, copy=False)
    shape = [1, 1, 1]
    shape[axis] = -1
    used = np.flatnonzero(weight.any(axis=0))
    total: NDArray[np.float32] = _select(source, index[:, used[0]], axis) * weight[:, used[0]].reshape(shape)
    term = np.empty_like(total)
    for t in used[1:]:
        total += np.multiply(_select(source, index[:, t], axis), weight[:, t].reshape(shape), out=term)
    return total


def _select(source: NDArray, index: NDArray[np.int64], axis: int) -> NDArray:
    """source at `index` (n,) of one axis; a view where the indices are evenly spaced."""
    chosen: list[Any] = [slice(None)] * source.ndim
    steps = np.diff(index)
    even = len(steps) == 0 or (steps[0] > 0 and (steps == steps[0]).all())
    chosen[axis] = slice(index[0], index[-1] + 1, steps[0] if len(steps) else 1) if even else index
    return source[tuple(chosen)]
