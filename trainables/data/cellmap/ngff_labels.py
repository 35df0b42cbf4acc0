"""Writing OME-Zarr 0.4 labels: one multiscale of a single level per class, 0 or 1, in the group `labels`.

Coordinates are those of `ngff`: nanometres, axes z y x, a translation is the centre of voxel 0.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numcodecs  # type: ignore[import-untyped]
import zarr

from trainables.data.cellmap.reader import Grid

PALETTE = (
    (228, 26, 28),
    (55, 126, 184),
    (77, 175, 74),
    (152, 78, 163),
    (255, 127, 0),
    (255, 255, 51),
    (166, 86, 40),
    (247, 129, 191),
)
CHUNK = (16, 128, 128)


def create_labels(store: Path, classes: Sequence[str], grid: Grid, *, image: Path, final: Path) -> list[zarr.Array]:
    """Make `store` with an empty label image per class on `grid`; the arrays uint8 (D, H, W), in class order.

    image: the multiscale group that they label. final: where `store` will lie, for the relative path between the two.
    """
    write_group(store, {})
    write_group(store / "labels", {"labels": list(classes)})
    return [
        _create_label(store, name, PALETTE[index % len(PALETTE)], grid, os.path.relpath(image, final / "labels" / name))
        for index, name in enumerate(classes)
    ]


def _create_label(store: Path, name: str, colour: tuple[int, int, int], grid: Grid, image: str) -> zarr.Array:
    transforms = [
        {"type": "scale", "scale": grid.voxel.tolist()},
        {"type": "translation", "translation": (grid.corner + grid.voxel / 2).tolist()},
    ]
    multiscale = {
        "version": "0.4",
        "name": name,
        "axes": [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"],
        "datasets": [{"path": "s0", "coordinateTransformations": transforms}],
    }
    label = {"version": "0.4", "colors": [{"label-value": 1, "rgba": [*colour, 255]}], "source": {"image": image}}
    write_group(store / "labels" / name, {"multiscales": [multiscale], "image-label": label})
    return zarr.create_array(
        store / "labels" / name / "s0",
        shape=grid.shape,
        chunks=CHUNK,
        dtype="uint8",
        zarr_format=2,
        fill_value=0,
        compressors=numcodecs.Blosc(cname="zstd", clevel=3),
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )


def write_group(path: Path, attributes: dict[str, Any]) -> None:
    """A Zarr v2 group, made or with its attributes replaced."""
    path.mkdir(parents=True, exist_ok=True)
    (path / ".zgroup").write_text(json.dumps({"zarr_format": 2}))
    if attributes:
        (path / ".zattrs").write_text(json.dumps(attributes, indent=1))
