"""Writes where grey meets white matter in a brain, as docs/labelled-volumes.md says:  python -m tests.real_volumes OUT

It comes inside the package nilearn: the symmetric ICBM 152 template of 2009 (MNI, 1 mm), a T1 image and how likely
every voxel is grey and white matter. The surface is the layer of grey matter next to white matter, 1.9 % of the
197 × 233 × 189 voxels; where the brain is neither of the two by more than half, nobody labelled. Left and right are
alike, so it is cut from back to front, and the front validates.
Nothing of this project is used, so what it reads from here it does not read because it wrote it itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel
import nilearn
import numpy as np
import tifffile
import zarr

DEPTH = 44
"""Planes of a volume from back to front."""
SCALE = 200
"""Images are uint16, the grey value times this, so that a window makes grey values of them again."""
WINDOW = [0, 255 * SCALE]


def brain() -> tuple[np.ndarray, np.ndarray]:
    """T1 image and labels (0, 1, 2), uint8 (z, y, x), y from back to front."""
    folder = Path(nilearn.__file__).parent / "datasets" / "data"
    files = [folder / f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm")]
    t1, grey, white = (np.asarray(nibabel.load(file).dataobj).T for file in files)
    is_grey, is_white = grey > 127, white > 127
    beside = np.zeros_like(is_white)
    for axis in range(3):
        for step in (-1, 1):
            beside |= np.roll(is_white, step, axis)  # the brain does not reach the border
    tissue = grey.astype(int) + white > 25
    labels = np.where(is_grey & beside, 1, np.where(tissue & ~is_grey & ~is_white, 2, 0))
    return t1, labels.astype(np.uint8)


def make(root: Path) -> None:
    """Five volumes, back to front, as TIFF, NumPy and Zarr; the two in front validate."""
    image, labels = brain()
    rows = ["side,volume"]
    for part in ("images", "labels"):
        (root / part).mkdir(parents=True)
    for number, first in enumerate(range(0, 5 * DEPTH, DEPTH)):
        name = f"y{first:03d}"
        planes = np.s_[:, first : first + DEPTH]
        for part, whole in (("images", image.astype(np.uint16) * SCALE), ("labels", labels)):
            volume, path = np.ascontiguousarray(whole[planes]), root / part / name
            if number % 3 == 0:
                with tifffile.TiffWriter(path.with_suffix(".tif")) as file:
                    for page in volume:  # one by one, as other programs do
                        file.write(page, photometric="minisblack", compression="zlib" if part == "labels" else None)
            elif number % 3 == 1:
                np.save(path.with_suffix(".npy"), volume)
            else:
                zarr.save_array(path.with_suffix(".zarr"), volume, zarr_format=2 if part == "images" else 3)
        rows.append(f"{'validate' if number > 2 else 'train'},{name}")
    (root / "split.csv").write_text("\n".join(rows) + "\n")


if __name__ == "__main__":
    make(Path(sys.argv[1]))
