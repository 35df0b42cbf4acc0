"""Writes measured sea-surface temperatures in the layout of docs/raster-series.md:  python -m tests.real_series OUT

They come inside the package iris-sample-data (OSTIA, monthly, the tropics 5° S to 4.4° N; © British Crown copyright,
Open Government Licence): 54 months × 18 × 432 cells of 0.56° × 0.83°. Cut along the equator into six series of 60°. The
mask is where a month is warmer than 95 % of all months at its place, as marine heatwaves are told; the image is by how
many kelvins it is warmer than that, and where there is sea.
Nothing of this project is used, so what it reads from here it does not read because it wrote it itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import h5py
import iris_sample_data
import numpy as np
import zarr

COLUMNS = 72
LAND = 1e19
"""Above it a temperature is missing."""
RANGE = [-10, 3]
"""Kelvin above what 95 % of the months at a place do not reach."""
ABOUT = {
    "channels": ["excess", "sea"],
    "range": {"excess": RANGE, "sea": [0, 1]},
    "fire": ["excess"],
    "static": ["sea"],
}


def sea_surface() -> tuple[np.ndarray, np.ndarray]:
    """Excess in K, float32 (54, 18, 432), NaN on land, and the mask uint8 of it, 255 on land."""
    with h5py.File(Path(iris_sample_data.path) / "ostia_monthly.nc") as file:
        kelvin = file["surface_temperature"][:]
    sea = (kelvin < LAND).all(axis=0)
    excess = np.where(sea, kelvin - np.percentile(kelvin, 95, axis=0), np.nan)
    return excess.astype(np.float32), np.where(sea, excess > 0, 255).astype(np.uint8)


def make(root: Path) -> None:
    """Every other series as NumPy, the others as Zarr 2 and Zarr 3; land has the least excess and sea 0."""
    excess, mask = sea_surface()
    sea = np.isfinite(excess)
    frames = np.stack([np.where(sea, excess, RANGE[0]), sea], axis=1).astype(np.float32)
    root.mkdir(parents=True)
    (root / "channels.json").write_text(json.dumps(ABOUT))
    for number, first in enumerate(range(0, excess.shape[-1], COLUMNS)):
        folder = root / f"east{first * 360 // excess.shape[-1]:03d}"
        folder.mkdir()
        for name, whole in (("frames", frames), ("mask", mask)):
            part = np.ascontiguousarray(whole[..., first : first + COLUMNS])
            if number % 2 == 0:
                np.save(folder / f"{name}.npy", part)
            else:
                zarr.save_array(folder / f"{name}.zarr", part, zarr_format=2 if number == 1 else 3)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
