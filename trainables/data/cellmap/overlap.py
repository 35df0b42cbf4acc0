"""Crops that share voxels: one that validates must not lie in one that trains.

A crop's box is that of its label arrays, in nanometres, order z, y, x; boxes are compared within one EM volume.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

from trainables.data.cellmap.reader import CropSource, crop_box
from trainables.errors import DataError

SHARED_NM = 1e-3
"""Boxes that share less along an axis touch: metadata are rounded."""
NAMED = 3
"""Crops named in a sentence."""
Corners = NDArray[np.float64]
"""(2, 3): where a box begins and ends, nm."""


@dataclass(frozen=True)
class Overlap:
    """Two crops that share voxels."""

    first: CropSource
    second: CropSource
    um3: float
    """The volume they share."""
    share: float
    """That volume over the smaller crop's, in (0, 1]."""


def overlaps(crops: Sequence[CropSource], classes: Sequence[str]) -> list[Overlap]:
    """Every pair of crops of one EM volume that share voxels; crops that annotate none of the classes are left out."""
    found = []
    for boxes in _boxes(crops, classes):
        for (a, box_a), (b, box_b) in combinations(boxes.items(), 2):
            shared = _common(box_a, box_b)
            if _is_solid(shared):
                share = _nm3(shared) / min(_nm3(box_a), _nm3(box_b))
                found.append(Overlap(crops[a], crops[b], _nm3(shared) / 1e9, share))
    return found


def first_of_group(crops: Sequence[CropSource], classes: Sequence[str]) -> list[str]:
    """For each crop the name of the first one that overlaps connect it with, its own where there is none."""
    number = {crop: index for index, crop in enumerate(crops)}
    joined = np.zeros((len(crops), len(crops)), dtype=bool)
    for pair in overlaps(crops, classes):
        joined[number[pair.first], number[pair.second]] = True
    groups = connected_components(joined, directed=False)[1].tolist()
    return [crops[groups.index(group)].name for group in groups]


def leak(crops: Sequence[CropSource], classes: Sequence[str]) -> str:
    """How much of the validation crops lies in training crops, as a sentence; empty where nothing does.

    A voxel that lies in several training crops counts once. Crops whose metadata cannot be read are left out.
    """
    total, inside, validating, shares = 0.0, 0.0, 0, {}
    for boxes in _boxes(crops, classes):
        training = [box for i, box in boxes.items() if crops[i].side == "train"]
        for i, box in boxes.items():
            if crops[i].side == "validate":
                covered = _covered(box, [_common(box, other) for other in training])
                total, inside, validating = total + _nm3(box), inside + covered, validating + 1
                if covered:
                    shares[crops[i].name] = covered / _nm3(box)
    if not shares:
        return ""
    worst = sorted(shares, key=lambda name: -shares[name])
    named = ", ".join(f"{name} {100 * shares[name]:.0f} %" for name in worst[:NAMED])
    return (
        f"LEAK: {100 * inside / total:.0f} % of the validation volume is training volume too ({len(shares)} of "
        f"{validating} validation crops: {named}{', …' if worst[NAMED:] else ''}). "
        "Scores are too good. Put crops that overlap on one side, or let a split be drawn, which does"
    )


def _boxes(crops: Sequence[CropSource], classes: Sequence[str]) -> Iterable[dict[int, Corners]]:
    """For each EM volume the boxes of its crops by their index; without crops that annotate none of the classes."""
    volumes: dict[str, dict[int, Corners]] = {}
    for index, crop in enumerate(crops):
        if set(crop.classes) & set(classes):
            with contextlib.suppress(DataError):  # said by whoever reads the crop
                volumes.setdefault(os.path.realpath(crop.em), {})[index] = np.stack(crop_box(crop, classes))
    return volumes.values()


def _common(a: Corners, b: Corners) -> Corners:
    """The box that two share; not solid where they share none."""
    return np.stack([np.maximum(a[0], b[0]), np.minimum(a[1], b[1])])


def _is_solid(box: Corners) -> bool:
    return bool((box[1] - box[0] > SHARED_NM).all())


def _nm3(box: Corners) -> float:
    return float(np.prod(box[1] - box[0]))


def _covered(box: Corners, parts: Sequence[Corners]) -> float:
    """Volume of the union of `parts`, boxes inside `box`, nm³: the parts' edges cut the box into cells."""
    solid = [part for part in parts if _is_solid(part)]
    edges = [np.unique([box[:, axis], *(part[:, axis] for part in solid)]) for axis in range(3)]
    filled = np.zeros([len(e) - 1 for e in edges], dtype=bool)
    for part in solid:
        low, high = ([int(np.searchsorted(e, v)) for e, v in zip(edges, end)] for end in part)
        filled[tuple(slice(a, b) for a, b in zip(low, high))] = True
    z, y, x = (np.diff(e) for e in edges)
    return float(np.einsum("zyx,z,y,x", filled, z, y, x))
