"""Labels that are coarser than the target grid: which they are, and what is said of them.

A crop annotated in voxels of 32 nm has 64 times as many of 8 nm, and nothing more is known of them. Of the 277
published crops with one of the fourteen classes, 32 are annotated in 16 to 64 nm; at 8 nm they would have 434 times the
voxels of the others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from trainables.data.cellmap.reader import CropSource, label_voxel
from trainables.errors import DataError

TOLERANCE = 1.03
"""Of volumes: scales are written with three digits."""
Coarse = Mapping[str, Mapping[str, float]]
"""By crop and class, the side in nm of a cube as large as a label voxel."""


def coarse_labels(crops: Sequence[CropSource], classes: Sequence[str], voxel_nm: Sequence[float]) -> Coarse:
    """What of `classes` (empty: of all) is annotated in voxels of a larger volume than the target's.

    Metadata that cannot be read count as fine: whoever decodes the crop says what is wrong with them.
    """
    most, found = math.prod(voxel_nm) * TOLERANCE, dict[str, dict[str, float]]()
    for crop in crops:
        for name in crop.classes:
            with contextlib.suppress(DataError):
                if (not classes or name in classes) and (volume := math.prod(label_voxel(crop, name))) > most:
                    found.setdefault(crop.name, {})[name] = volume ** (1 / 3)
    return found


def without(crops: Sequence[CropSource], coarse: Coarse) -> list[CropSource]:
    """The crops without these labels; one that has no others is gone."""
    kept = [replace(c, classes=tuple(n for n in c.classes if n not in coarse.get(c.name, {}))) for c in crops]
    return [crop for crop in kept if crop.classes]


def told(coarse: Coarse, voxel_nm: Sequence[float]) -> str:
    """What is left out, as a sentence; empty where nothing is."""
    if not coarse:
        return ""
    crops: dict[str, int] = {}
    for names in coarse.values():
        for name in names:
            crops[name] = crops.get(name, 0) + 1
    sides = [side for names in coarse.values() for side in names.values()]
    each = ", ".join(f"{name} in {number}" for name, number in sorted(crops.items(), key=lambda item: -item[1]))
    return (
        f"left out of {len(coarse)} crops are labels in larger voxels than data.voxel_nm="
        f"[{','.join(f'{v:g}' for v in voxel_nm)}] ({min(sides):.3g} to {max(sides):.3g} nm): {each}; "
        "data.options.filter_by_scale=false repeats them on the finer grid"
    )
