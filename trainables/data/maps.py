"""Maps of labels for losses that ask for them (`data.maps`), computed once, when a crop is packed.

They lie behind the label planes, a byte per voxel and class of signed distance and then bits of the skeletons, and so
take part in whatever is done to labels. Mirrors, transposes and rotations keep distances (in voxels) as they are.

Shapes: N batch, C classes, P = ceil(2C / 8) bytes of labels, M = C + ceil(C / 8) bytes of maps, D H W space.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from trainables.data.expand import class_masks, packed_bytes

STEPS = 4
"""Steps of a distance in a voxel."""
LIMIT = 127 / STEPS
"""Greatest distance that is told from greater ones, voxels."""


def label_bytes(num_classes: int, maps: bool) -> int:
    """Bytes per voxel of a crop's labels: P, or P + M with maps."""
    return packed_bytes(num_classes) + maps * (num_classes + math.ceil(num_classes / 8))


def with_maps(labels: NDArray[np.uint8], num_classes: int, *, flat: bool) -> NDArray[np.uint8]:
    """Labels (P, D, H, W) with the maps of every class behind them, (P + M, D, H, W). flat: each slice by itself."""
    first = packed_bytes(num_classes)
    planes = np.zeros((label_bytes(num_classes, True), *labels.shape[1:]), np.uint8)
    planes[:first] = labels
    for index in range(num_classes):
        present, known = class_masks(labels, index, num_classes)
        for part in [np.s_[z : z + 1] for z in range(len(present))] if flat else [np.s_[:]]:
            distance = np.rint(STEPS * signed_distance(present[part], known[part])) + 128
            planes[first + index][part] = distance.astype(np.uint8)
            ridge = skeleton(present[part], known[part]).astype(np.uint8)
            planes[first + num_classes + index // 8][part] |= ridge << np.uint8(index % 8)
    return planes


def expand_maps(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """(signed distance in voxels, skeleton as 0 and 1), each float32 (N, C, D, H, W), from uint8 (N, P + M, D, H, W).

    Pure; compiles. What they are where nothing is annotated means nothing.
    """
    first = packed_bytes(num_classes)
    distance = (labels[:, first : first + num_classes].float() - 128) / STEPS
    bits = labels[:, first + num_classes :].to(torch.int32)
    skeletons = [(bits[:, c // 8] >> (c % 8)) & 1 for c in range(num_classes)]
    return distance, torch.stack(skeletons, dim=1).float()


def signed_distance(present: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Voxels to the nearest one of the class; inside it −(voxels to the nearest annotated as not of it − 1).

    present, known: (D, H, W). In [−LIMIT, LIMIT], the end of it where there is no such voxel. Euclidean, the centres of
    neighbouring voxels being 1 apart along every axis; 0 at the innermost voxels of the boundary, as in the published
    boundary loss (Kervadec et al. 2019, arXiv:1812.07032).
    """
    absent = known & ~present
    outside, inside = (
        ndimage.distance_transform_edt(~mask) if mask.any() else np.full(mask.shape, np.inf)
        for mask in (present, absent)
    )
    return np.where(present, 1 - inside, outside).clip(-LIMIT, LIMIT).astype(np.float32)


def skeleton(present: NDArray[np.bool_], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The medial surface of a class by openings: what an opening takes from it, and from it after 1, 2, … erosions,
    until nothing is left. present, known: (D, H, W).

    Erosions go along the axes and openings end with a cube, as in the soft skeleton of clDice, of which this is the
    limit. Thinning to lines (as Lee et al. 1994) would leave of a sheet its middle line alone. One or two voxels thick;
    neighbours need not touch. Edges of the crop and what is not annotated erode nothing.
    """
    found, left = np.zeros_like(present), present
    cross, cube = ndimage.generate_binary_structure(3, 1), np.ones((3, 3, 3), bool)
    while left.any():
        smaller = ndimage.binary_erosion(left | ~known, cross, border_value=1) & left
        found |= left & ~ndimage.binary_dilation(smaller, cube)
        if smaller.sum() == left.sum():  # the class is everywhere
            break
        left = smaller
    return found
