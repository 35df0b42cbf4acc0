"""What a prediction is of: a crop with its truth, an OME-Zarr volume, or a stack in one file; and on which voxels."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import SCALE_TOLERANCE, Level, choose_level, read_attributes, read_box, read_levels
from trainables.data.cellmap.reader import CropSource, Grid, crop_grid, discover_crops
from trainables.data.sources import open_source
from trainables.data.sources.cellmap import CellMap
from trainables.data.stacks import SUFFIXES, open_stack
from trainables.settings import DataSettings
from tune_app.errors import InputError

EXAMPLE = "/data/cellmap/jrc_hela-2/jrc_hela-2.zarr/recon-1/em/fibsem-uint8"
ToGrey = Callable[[NDArray[Any]], NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Volume:
    """EM, the voxels that are predicted, and the truth on them where there is any."""

    em: Path
    level: Level
    """Of the EM, which is read."""
    grid: Grid
    to_grey: ToGrey | None = None
    """Values to uint8; None as in training, by the range of their type."""
    truth: CropSource | None = None
    crop: str | None = None
    """DATASET/CROP, where it is one."""
    notes: tuple[str, ...] = ()
    """What the person should know of how it is read."""

    @property
    def job(self) -> dict[str, Any]:
        """What tells it from another, as plain data."""
        file = next((f for f in (self.em / "zarr.json", self.em / ".zattrs") if f.is_file()), self.em)
        return {
            "em": str(self.em),
            "em_changed": datetime.fromtimestamp(file.stat().st_mtime).isoformat(),
            "crop": self.crop,
            "voxel_nm": self.grid.voxel.tolist(),
            "corner_nm": self.grid.corner.tolist(),
            "shape": list(self.grid.shape),
        }


def find_crop(name: str, data: DataSettings, classes: Sequence[str]) -> Volume:
    """A crop of the CellMap layout as far as its labels reach. Raises InputError or DataError."""
    source = _named(discover_crops(data_folder(data, f"crop={name}: ")), name)
    grid = crop_grid(source, [n for n in classes if n in source.classes] or source.classes, data.voxel_nm)
    levels = read_levels(source.em)
    volume = Volume(
        em=source.em,
        level=choose_level(levels, data.voxel_nm),
        grid=grid,
        truth=source if set(source.classes) & set(classes) else None,
        crop=source.name,
        notes=_resampled(levels, data.voxel_nm),
    )
    if grid.lies_outside(volume.level):
        raise InputError(f"crop={name}: it lies outside the EM volume {source.em}. Check both translations")
    return volume


def data_folder(data: DataSettings, given: str) -> Path:
    """The folder of a network's data, which are in the CellMap layout. given: begins the InputError where not."""
    trained_on = open_source(data)
    if not isinstance(trained_on, CellMap):
        raise InputError(f"{given}data.name={data.name} is not in the CellMap layout. Give volume=PATH")
    return trained_on.folder


def _named(sources: Sequence[CropSource], name: str) -> CropSource:
    """The crop of this name; the data set may be left out where one has such a crop."""
    found = [source for source in sources if source.name == name or source.name.endswith(f"/{name}")]
    if len(found) == 1:
        return found[0]
    names = [source.name for source in found or sources]
    close = difflib.get_close_matches(name, names, n=8, cutoff=0.3) or names[:8]
    problem = "several data sets have one" if found else "there is no such crop"
    raise InputError(f"crop={name}: {problem}. Choices: {', '.join(close)}{', …' * (len(names) > len(close))}")


def find_volume(
    given: str, target_nm: Sequence[float], *, voxel_nm: Sequence[float], intensity: Sequence[float]
) -> Volume:
    """The whole of volume=`given` at voxels of target_nm. voxel_nm, intensity: as PredictSettings has them."""
    path = Path(given).expanduser().absolute()
    notes: tuple[str, ...] = ()
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise InputError(f"volume={given}: no such file. Give a .npy or TIFF stack, or the folder of an OME-Zarr")
        level, own = open_stack(path, voxel_nm or None)
        levels = [level]
        if own:
            notes = (f"voxels of {_size(level.scale)} nm, says the file; voxel_nm=[z,y,x] if that is wrong",)
    else:
        levels = _ome_zarr(path, given, voxel_nm)
    voxel, finest = np.array(target_nm, float), levels[0]
    shape = np.maximum(np.ceil((finest.end - finest.corner) / voxel - 0.5 - 1e-6), 1).astype(int)
    level = choose_level(levels, target_nm)
    return Volume(
        em=path,
        level=level,
        grid=Grid(finest.corner, voxel, (int(shape[0]), int(shape[1]), int(shape[2]))),
        to_grey=_window(level, given, intensity),
        notes=(*notes, *_resampled(levels, target_nm)),
    )


def _ome_zarr(path: Path, given: str, voxel_nm: Sequence[float]) -> list[Level]:
    """The levels of an OME-Zarr image. InputError where it is none, or labels."""
    if not any((path / name).is_file() for name in (".zattrs", "zarr.json")):
        below = [p.parent for pattern in ("recon-*/em/*", "0") for p in path.glob(f"{pattern}/.zattrs")]
        raise InputError(
            f"volume={given}: {'has no .zattrs' if path.is_dir() else 'no such folder'}; the folder of an OME-Zarr "
            f"multiscale is needed, or a .npy or TIFF stack. For example volume={min(below, default=EXAMPLE)}"
        )
    attributes = read_attributes(path)[1]
    if "image-label" in attributes or "annotation" in (attributes.get("cellmap") or {}):
        raise InputError(f"volume={given}: these are labels, and a network sees EM. Give the image that they label")
    if not attributes.get("multiscales") and (inner := [p for p in (path / "0",) if p.is_dir()]):
        raise InputError(f"volume={given}: is no image itself. Give one of those in it: volume={inner[0]}")
    levels = read_levels(path)
    if voxel_nm:
        factor = np.array(voxel_nm) / levels[0].scale
        levels = [
            replace(
                level,
                scale=tuple((factor * level.scale).tolist()),
                translation=tuple((factor * level.translation).tolist()),
            )
            for level in levels
        ]
    return levels


def _window(level: Level, given: str, intensity: Sequence[float]) -> ToGrey | None:
    """From the black and the white value to uint8. InputError where values are not uint8 and neither is given."""
    if intensity:
        low, high = intensity

        def to_grey(values: NDArray[Any]) -> NDArray[np.uint8]:
            share = (np.nan_to_num(values.astype(np.float32), nan=low) - low) / (high - low)
            return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)

        return to_grey
    if level.dtype == np.uint8:
        return None
    middle = [n // 2 for n in level.shape]
    start = [middle[0], *(max(0, m - 512) for m in middle[1:])]
    slice_ = read_box(level, start, [middle[0] + 1, *(min(n, m + 512) for n, m in zip(level.shape[1:], middle[1:]))])
    black, white = np.percentile(slice_[np.isfinite(slice_)] if slice_.dtype.kind == "f" else slice_, (0.5, 99.5))
    raise InputError(
        f"volume={given}: its values are {level.dtype}, and networks see uint8. If it is EM, say which of them are "
        f"black and white, for example intensity=[{black:.5g},{white:.5g}]; 99 % of its middle slice lie there. "
        "If it holds labels, give the image that they label"
    )


def _resampled(levels: Sequence[Level], target_nm: Sequence[float]) -> tuple[str, ...]:
    """A note where the finest voxels are not those that are predicted."""
    level = choose_level(levels, target_nm)
    if np.allclose(levels[0].scale, target_nm, rtol=SCALE_TOLERANCE, atol=0):
        return ()
    how = f"read from its level {level.path.name}" if level.read is None else "resampled"
    if level.read is None and not np.allclose(level.scale, target_nm, rtol=SCALE_TOLERANCE, atol=0):
        how = f"resampled from its level {level.path.name}"
    return (f"voxels of {_size(levels[0].scale)} nm; predicted at {_size(target_nm)} nm as trained, {how}",)


def _size(voxel: Sequence[float]) -> str:
    return " × ".join(f"{side:.6g}" for side in voxel)
