"""Draws the generated data beside its truth, one row per data set: python benchmarks/phantom_picture.py [DATA] PICTURE.

DATA is a folder that `trainables.data.phantom.generate.make` wrote; without it the data is made in a temporary folder.
Needs matplotlib (dev dependencies). The picture shows a corner of each volume's middle slice and, over it, the labels
of the crops that this slice cuts, each outlined in white; outside them nothing is known.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import zarr

from trainables.data.phantom import generate as phantom

COLOURS = {
    "nuc": (0.0, 0.45, 0.70),
    "mito_mem": (0.0, 0.62, 0.45),
    "er_mem": (0.94, 0.89, 0.26),
    "pm": (0.84, 0.37, 0.0),
    "golgi_mem": (0.80, 0.47, 0.65),
}
SHOWN_NM = 2600.0

Rgb = npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        draw(arguments.data or phantom.make(Path(folder) / "phantom"), arguments.picture)


def draw(data: Path, picture: Path) -> None:
    """Write `picture` (PNG): per data set the EM, and the EM with the truth of its crops."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.patches import Patch

    containers = sorted(data.glob("*/*.zarr"))
    figure, axes = pyplot.subplots(2, len(containers), figsize=(4 * len(containers), 8.6), squeeze=False)
    for column, container in enumerate(containers):
        em, truth, voxel_nm = middle_slice(container)
        axes[0, column].set_title(f"{container.stem}, {voxel_nm:g} nm in plane", fontsize=11)
        shown = int(SHOWN_NM / voxel_nm)
        for row, image in enumerate((np.repeat(em[..., None] / 255.0, 3, -1), truth)):
            axes[row, column].imshow(image[:shown, :shown], interpolation="nearest")
            axes[row, column].axis("off")
    handles = [Patch(color=colour, label=name) for name, colour in COLOURS.items()]
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), frameon=False, fontsize=11)
    figure.tight_layout(rect=(0, 0.035, 1, 1))
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=72, pil_kwargs={"optimize": True})


def middle_slice(container: Path) -> tuple[npt.NDArray[np.uint8], Rgb, float]:
    """EM (H, W) in the middle of a volume, the same with labels painted over it (H, W, 3), voxel size in nm."""
    em_path = container / phantom.EM_PATH
    em_grid, array = placed(em_path), zarr.open_group(em_path, mode="r", zarr_format=2)["s0"]
    z = array.shape[0] // 2
    em = np.asarray(array[z])
    truth = np.repeat(em[..., None] / 255.0, 3, -1)
    for crop in sorted((container / phantom.TRUTH_PATH).glob("crop*")):
        for name in [n for n in COLOURS if (crop / n).exists()]:
            paint(truth, crop / name, em_grid, z)
    return em, truth, em_grid[0][1]


def paint(truth: Rgb, label_path: Path, em_grid: tuple[list[float], list[float]], z: int) -> None:
    """Colour the voxels of the EM slice in which the class is present, and outline the crop in white."""
    label = zarr.open_group(label_path, mode="r", zarr_format=2)["s0"]
    scale, translation = placed(label_path)
    index = [
        np.floor((np.arange(n) * step + origin - t) / s + 0.5).astype(int)
        for n, step, origin, t, s in zip((z + 1, *truth.shape[:2]), *em_grid, translation, scale, strict=True)
    ]
    inside = [(i >= 0) & (i < n) for i, n in zip(index, label.shape, strict=True)]
    if not inside[0][z]:
        return
    plane = np.asarray(label[index[0][z]])[np.ix_(index[1][inside[1]], index[2][inside[2]])]
    view = np.ix_(inside[1], inside[2])
    known = (plane > 0) & (plane != np.iinfo(plane.dtype).max)
    patch = np.where(known[..., None], COLOURS[label_path.name], truth[view])
    patch[[0, -1]] = patch[:, [0, -1]] = 1.0
    truth[view] = patch


def placed(group: Path) -> tuple[list[float], list[float]]:
    """Scale and translation of s0, in nm."""
    transforms = json.loads((group / ".zattrs").read_text())["multiscales"][0]["datasets"][0]
    scale, translation = transforms["coordinateTransformations"]
    return scale["scale"], translation["translation"]


if __name__ == "__main__":
    main()
