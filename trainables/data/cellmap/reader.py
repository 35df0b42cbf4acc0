"""Crops in the CellMap layout, read onto a grid of the target voxel size.

{root}/{dataset}/{dataset}.zarr/recon-1/em/fibsem-uint8            electron microscopy, OME-NGFF 0.4 multiscale
{root}/{dataset}/{dataset}.zarr/recon-1/labels/groundtruth/{crop}/{class}     labels, one multiscale per class

Shapes: P packed bytes, D H W the crop in target voxels, D' H' W' the EM box round it. Positions are nanometres; the
target grid begins at the crop's lower corner, so target voxel k is centred at corner + (k + 1/2) · voxel.
A label voxel is unknown where the class is not annotated, where it holds the encoding's `unknown`, where its class's
array does not reach, where the EM volume does not reach, where an EM chunk was never downloaded, and where EM is zero
padding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cellmap.encoding import Encoding, complement_counts, read_encoding
from trainables.data.cellmap.ngff import Level, Vector, choose_level, missing_chunks, read_box, read_levels
from trainables.data.cellmap.resample import FUZZ, Taps, average, nearest_taps, pick, slabs, smooth_taps
from trainables.data.expand import pack_class, packed_bytes
from trainables.errors import DataError

Box = tuple[tuple[int, int, int], tuple[int, int, int]]
"""First and one past the last target voxel, crop coordinates."""
TapsZYX = tuple[Taps, Taps, Taps]
MOST_VOXELS = 1 << 36
"""Of a crop: a hundred times the largest published one whose labels are no coarser than 8 nm. Beyond it a size or a
scale is wrong."""
PADDING = 32
"""Side in target voxels of the least square of zeros that is padding: 256 nm at 8 nm."""
PART_BYTES = 1 << 28
"""Read at once per crop: several crops are decoded at the same time."""


@dataclass(frozen=True)
class CropSource:
    """Where one crop lies."""

    name: str
    """dataset/crop234"""
    em: Path
    labels: Path
    """Folder with one group per class."""
    classes: tuple[str, ...]
    """Classes to be read from it."""
    side: str = ""
    moved: bool = False
    """Whether it was found elsewhere than its split file says."""


@dataclass(frozen=True)
class Grid:
    """The target voxels of one crop: corner (3,) nm, voxel (3,) nm, shape (D, H, W)."""

    corner: NDArray[np.float64]
    voxel: NDArray[np.float64]
    shape: tuple[int, int, int]

    def centres(self, box: Box) -> list[NDArray[np.float64]]:
        """Voxel centres along z, y, x of a box, nm."""
        return [c + (np.arange(a, b) + 0.5) * v for c, v, a, b in zip(self.corner, self.voxel, *box)]

    def lies_outside(self, level: Level) -> bool:
        """Whether no voxel has its centre in the array."""
        return _empty(self.box_inside(((0, 0, 0), self.shape), level))

    def box_inside(self, box: Box, level: Level) -> Box:
        """The part of a box whose centres lie in the array; empty (stop = start) where none do."""
        low = np.ceil((level.corner - self.corner) / self.voxel - 0.5 - FUZZ).astype(int)
        high = np.ceil((level.end - self.corner) / self.voxel - 0.5 - FUZZ).astype(int)
        start = np.clip(low, box[0], box[1])
        stop = np.clip(high, start, box[1])
        return _triple(start), _triple(stop)


def discover_crops(root: Path) -> list[CropSource]:
    """Every crop under a root, sorted, with all the classes it annotates. DataError when there is none."""
    folders = sorted(root.glob("*/*.zarr/recon-*/labels/groundtruth/*/"))
    crops = [source_of(folder) for folder in folders if annotated_in(folder)]
    if not crops:
        raise DataError(
            f"{root}: no crop found. Expected DATASET/DATASET.zarr/recon-1/labels/groundtruth/CROP/CLASS below it; "
            "give the folder that holds the data sets as data.root."
        )
    return crops


def source_of(labels: Path) -> CropSource:
    """The crop at label folder …/{dataset}.zarr/recon-1/labels/groundtruth/{crop}."""
    recon = labels.parents[2]
    found = sorted(p for p in (recon / "em").glob("fibsem-*") if p.is_dir())
    em = recon / "em" / "fibsem-uint8"
    if found and em not in found:
        em = found[0]
    return CropSource(crop_name(labels), em, labels, annotated_in(labels))


def crop_name(labels: Path) -> str:
    """dataset/crop of a label folder; the reconstruction is named too where it is not the first."""
    container = next((p for p in labels.parents if p.suffix == ".zarr"), labels.parent)
    recon = next((p.name for p in labels.parents if p.name.startswith("recon-")), "recon-1")
    return "/".join([container.stem, *([] if recon == "recon-1" else [recon]), labels.name])


def annotated_in(labels: Path) -> tuple[str, ...]:
    """Classes with a group in a crop's label folder; the combined `all` is none."""
    if not labels.is_dir():
        return ()
    return tuple(sorted(p.name for p in labels.iterdir() if p.is_dir() and p.name != "all"))


def holds_class(source: CropSource, name: str) -> bool:
    """Whether the crop annotates `name` and, as far as its complement counts tell, has positive voxels of it."""
    if name not in source.classes:
        return False
    finest = read_levels(source.labels / name)[0]
    counts = complement_counts(finest)
    return not counts or sum(counts.values()) < math.prod(finest.shape)


def label_voxel(source: CropSource, name: str) -> tuple[float, ...]:
    """Size z, y, x in nm of the voxels that a class is annotated in, at its finest level. Raises DataError."""
    return read_levels(source.labels / name)[0].scale


def crop_box(source: CropSource, classes: Sequence[str]) -> tuple[Vector, Vector]:
    """Where the union of the arrays of the classes begins and ends, nm (3,) each; one of them must be annotated."""
    finest = [read_levels(source.labels / name)[0] for name in classes if name in source.classes]
    return np.min([level.corner for level in finest], axis=0), np.max([level.end for level in finest], axis=0)


def crop_grid(source: CropSource, classes: Sequence[str], voxel_nm: Sequence[float]) -> Grid:
    """The target grid over the union of the arrays of the classes: the voxels whose centre lies inside.

    An axis thinner than one target voxel gets a single one, centred on it.
    """
    corner, end = crop_box(source, classes)
    voxel = np.array(voxel_nm, dtype=np.float64)
    shape = np.maximum(np.ceil((end - corner) / voxel - 0.5 - FUZZ), 1)
    if not np.prod(shape) <= MOST_VOXELS:
        raise DataError(
            f"{source.labels}: would have {' × '.join(f'{n:.6g}' for n in shape)} voxels of {list(voxel_nm)} nm. Give "
            "larger ones (data.voxel_nm), or correct shape (.zarray) and scale (.zattrs) of its classes."
        )
    thin = end - corner < voxel
    return Grid(np.where(thin, (corner + end - voxel) / 2, corner), voxel, _triple(shape))


def read_labels(source: CropSource, classes: Sequence[str], grid: Grid, resampling: str) -> NDArray[np.uint8]:
    """Packed labels (P, D, H, W) of one crop, before any masking by EM. resampling: nearest or majority."""
    planes = np.zeros((packed_bytes(len(classes)), *grid.shape), dtype=np.uint8)
    for index, name in enumerate(classes):
        if name in source.classes:
            box, present, known = _read_class(source.labels / name, grid, resampling)
            part = planes[(slice(None), *(slice(a, b) for a, b in zip(*box)))]
            pack_class(part, index, len(classes), present, known)
    return planes


def _read_class(group: Path, grid: Grid, resampling: str) -> tuple[Box, NDArray[np.bool_], NDArray[np.bool_]]:
    """The part of the crop this class's array covers, with (present, known) there."""
    levels = read_levels(group)
    level, encoding = choose_level(levels, grid.voxel.tolist()), read_encoding(group, levels)
    box = grid.box_inside(((0, 0, 0), grid.shape), level)
    if _empty(box):
        nothing = np.zeros([b - a for a, b in zip(*box)], dtype=bool)
        return box, nothing, nothing
    taps = (_nearest if resampling == "nearest" else _smooth)(grid, box, level)
    present, known = (np.empty([len(t.index) for t in taps], dtype=bool) for _ in range(2))
    for rows, part in z_parts(taps, level):
        present[rows], known[rows] = _resample_masks(read_box(level, *_span(part)), part, encoding, resampling)
    return box, present, known


def _resample_masks(
    values: NDArray[Any], taps: TapsZYX, encoding: Encoding, resampling: str
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(present, known) at the taps. majority: known where half of a voxel is, present where half of that is more."""
    start = _span(taps)[0]
    if resampling == "nearest":
        return encoding.masks(pick(values, taps, start))
    present_share, known_share = (average(mask, taps, start) for mask in encoding.masks(values))
    return present_share > known_share / 2, known_share >= 0.5


def read_em(source: CropSource, grid: Grid, margin: Sequence[int]) -> tuple[NDArray[np.uint8], Box, Level, TapsZYX]:
    """EM of the crop and `margin` (3,) voxels round it, as `read_grey`. DataError when it lies outside the volume."""
    level = choose_level(read_levels(source.em), grid.voxel.tolist())
    if grid.lies_outside(level):
        raise DataError(f"{source.labels}: the crop lies outside the EM volume {source.em}. Check both translations.")
    em, box, taps = read_grey(level, grid, margin)
    return em, box, level, taps


def read_grey(
    level: Level, grid: Grid, margin: Sequence[int], to_grey: Callable[[NDArray[Any]], NDArray[np.uint8]] | None = None
) -> tuple[NDArray[np.uint8], Box, TapsZYX]:
    """uint8 (D', H', W') of the grid and `margin` (3,) voxels round it, as far as the level goes, its box and taps.

    to_grey: of other dtypes; left out, they are scaled by the range of the dtype (floats by [0, 1]).
    """
    wanted: Box = (_triple([-m for m in margin]), _triple([n + m for n, m in zip(grid.shape, margin)]))
    box = grid.box_inside(wanted, level)
    taps = _smooth(grid, box, level)
    em = np.empty([len(t.index) for t in taps], dtype=np.uint8)
    for rows, part in z_parts(taps, level):
        values, start = (to_grey or to_uint8)(read_box(level, *_span(part))), _span(part)[0]
        if all(t.index.shape[1] == 1 for t in part):
            em[rows] = pick(values, part, start)
        else:
            mean = average(values, part, start)
            em[rows] = np.rint(mean, out=mean).astype(np.uint8)
    return em, box, taps


def mask_missing_em(planes: NDArray[np.uint8], box: Box, level: Level, taps: TapsZYX) -> float:
    """Make labels (P, D, H, W) unknown in place where EM was never downloaded or does not reach.

    box, level, taps: as `read_em` returned them. Returns the share of the crop's voxels masked, in [0, 1].
    """
    shape = planes.shape[1:]
    masked = np.ones(shape, dtype=bool)
    inside = [slice(max(a, 0), min(b, n)) for a, b, n in zip(*box, shape)]
    in_box = [slice(s.start - a, s.stop - a) for s, a in zip(inside, box[0])]
    masked[tuple(inside)] = _missing_em(level, [Taps(t.index[s], t.weight[s]) for t, s in zip(taps, in_box)])
    planes[:, masked] = 0
    return float(masked.mean())


def mask_padding(planes: NDArray[np.uint8], box: Box, em: NDArray[np.uint8]) -> float:
    """Make labels (P, D, H, W) unknown in place where EM (D', H', W') is zero padding, as alignment leaves it.

    Padding are the squares of PADDING × PADDING voxels in a slice of which every one is exactly 0: real structures, as
    dark as they may be, are neither as large nor free of noise. box: that of `em`, as `read_em` returned it.
    Returns the share of the crop's voxels that are padding, in [0, 1].
    """
    padding = np.zeros(em.shape, dtype=bool)
    for z in np.flatnonzero((em == 0).sum(axis=(1, 2)) >= PADDING**2):
        padding[z] = _opened(em[z] == 0)
    shape = planes.shape[1:]
    inside = [slice(max(a, 0), min(b, n)) for a, b, n in zip(*box, shape)]
    padded = np.zeros(shape, dtype=bool)
    padded[tuple(inside)] = padding[tuple(slice(s.start - a, s.stop - a) for s, a in zip(inside, box[0]))]
    known = planes.any(axis=0)  # what was never downloaded is unknown already, and no padding
    planes[:, padded] = 0
    return float((padded & known).mean())


def _opened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What of a mask (H, W) is covered by squares of PADDING voxels that lie in it."""
    height, width = (n - PADDING + 1 for n in mask.shape)
    if min(height, width) < 1:
        return np.zeros_like(mask)
    fits, covered = (np.zeros((n, m), np.int64) for n, m in ((mask.shape[0] + 1, mask.shape[1] + 1),) * 2)
    fits[1:, 1:] = mask.cumsum(0).cumsum(1)
    whole = (
        fits[PADDING:, PADDING:] - fits[:-PADDING, PADDING:] - fits[PADDING:, :-PADDING] + fits[:-PADDING, :-PADDING]
    )
    for y, x, sign in ((0, 0, 1), (PADDING, 0, -1), (0, PADDING, -1), (PADDING, PADDING, 1)):
        covered[y : y + height, x : x + width] += sign * (whole == PADDING**2)
    return covered[:-1, :-1].cumsum(0).cumsum(1) > 0


def _missing_em(level: Level, taps: Sequence[Taps]) -> NDArray[np.bool_]:
    """Target voxels that draw on a chunk whose file does not exist, bool (n_z, n_y, n_x)."""
    grid, missing = missing_chunks(level, [t.first for t in taps], [t.stop for t in taps])
    result = np.zeros([len(t.index) for t in taps], dtype=bool)
    if not missing.any():
        return result
    low = [t.index.min(axis=1) // c - g.start for t, c, g in zip(taps, level.chunks, grid)]
    high = [t.index.max(axis=1) // c - g.start for t, c, g in zip(taps, level.chunks, grid)]
    for steps in product(*(range(int((b - a).max()) + 1) for a, b in zip(low, high))):
        result |= missing[np.ix_(*(np.minimum(a + s, b) for a, b, s in zip(low, high, steps)))]
    return result


def to_uint8(values: NDArray[Any]) -> NDArray[np.uint8]:
    """EM as uint8 by the range of its dtype; floats are clipped to [0, 1], NaN is 0."""
    if values.dtype == np.uint8:
        return values
    if np.issubdtype(values.dtype, np.floating):
        return np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255).astype(np.uint8)
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    limits = np.iinfo(values.dtype)
    return np.rint((values.astype(np.float64) - limits.min) / (limits.max - limits.min) * 255).astype(np.uint8)


def _nearest(grid: Grid, box: Box, level: Level) -> TapsZYX:
    # Of the whole grid, cut to the box: classes whose arrays begin elsewhere must break a tie to the same side.
    axes = zip(grid.centres(((0, 0, 0), grid.shape)), level.corner, level.scale, level.shape, *box)
    whole = ((nearest_taps(centres, corner, scale, n), slice(a, b)) for centres, corner, scale, n, a, b in axes)
    z, y, x = (Taps(taps.index[part], taps.weight[part]) for taps, part in whole)
    return z, y, x


def _smooth(grid: Grid, box: Box, level: Level) -> TapsZYX:
    axes = zip(grid.centres(box), grid.voxel.tolist(), level.corner, level.scale, level.shape)
    z, y, x = (smooth_taps(centres, v, corner, scale, n) for centres, v, corner, scale, n in axes)
    return z, y, x


def z_parts(taps: TapsZYX, level: Level) -> Iterator[tuple[slice, TapsZYX]]:
    """The taps cut along z so that the source voxels of one part stay below PART_BYTES."""
    z, y, x = taps
    plane = (y.stop - y.first) * (x.stop - x.first) * level.dtype.itemsize
    per_row = (z.stop - z.first) / len(z.index)
    for rows in slabs(len(z.index), math.ceil(plane * per_row), PART_BYTES):
        yield rows, (Taps(z.index[rows], z.weight[rows]), y, x)


def _span(taps: TapsZYX) -> Box:
    return _triple([t.first for t in taps]), _triple([t.stop for t in taps])


def _empty(box: Box) -> bool:
    return any(b <= a for a, b in zip(*box))


def _triple(values: Any) -> tuple[int, int, int]:
    z, y, x = (int(v) for v in values)
    return z, y, x
