"""Writes blocks of a measured brain with the tissue of each, as docs/oct.md has it:  python -m tests.real_labels OUT

They come inside the package nilearn (BSD): the MNI152 average of T1-weighted magnetic resonance images of 152 people,
1 mm, and probability maps of grey and white matter. Blocks of 8 × 16 × 16 voxels; the label is the tissue of which a
block is more than half, `mixed` where none is and `outside` where there is no head. Left and right of a head are
alike, so front and back are the two sides of the split. Every third block is written.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import nibabel
import nilearn
import numpy as np

BLOCK = (8, 16, 16)
CLASSES = ["outside", "grey", "white", "mixed"]
FILES = "mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"


def blocks(name: str) -> np.ndarray:
    """uint8 (B0, B1, B2, 8, 16, 16): x, y (back to front) and z of the head in blocks."""
    whole = np.asarray(nibabel.load(Path(nilearn.__file__).parent / "datasets" / "data" / FILES.format(name)).dataobj)
    counts = [size // side for size, side in zip(whole.shape, BLOCK)]
    cut = whole[tuple(slice(count * side) for count, side in zip(counts, BLOCK))]
    pairs = [n for count, side in zip(counts, BLOCK) for n in (count, side)]
    return cut.reshape(pairs).transpose(0, 2, 4, 1, 3, 5)


def make(root: Path) -> None:
    t1, grey, white = (blocks(name) for name in ("t1", "gm", "wm"))
    shares = [tissue.mean((3, 4, 5)) / 255 for tissue in (t1, grey, white)]
    label = np.where(shares[0] < 0.02, 0, np.where(shares[2] > 0.5, 2, np.where(shares[1] > 0.5, 1, 3)))
    root.mkdir(parents=True)
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("volume", "label", "split"))
        for number, place in enumerate(np.ndindex(label.shape)):
            if number % 3 == 0:
                name = f"block{number:04d}.npy"
                np.save(root / name, t1[place])
                rows.writerow((name, CLASSES[label[place]], "train" if place[1] < label.shape[1] // 2 else "validate"))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
