"""What a prediction is of: a crop with its truth, an OME-Zarr volume, or a stack in one file; and on which voxels.

Shapes: K input channels, P packed bytes, D H W voxels of a block, d h w of what its windows see.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainables.data.cellmap.ngff import SCALE_TOLERANCE, Level, choose_level, read_attributes, read_box, read_levels
from trainables.data.cellmap.reader import (
    CropSource,
    Grid,
    crop_grid,
    discover_crops,
    mask_missing_em,
    read_grey,
    read_labels,
)
from trainables.data.sources import Decoded, Item, Source, channels, open_source
from trainables.data.sources.cellmap import CellMap
from trainables.data.stacks import SUFFIXES, open_stack
from trainables.settings import DataSettings
from tune_app.errors import InputError

EXAMPLE = "/data/cellmap/jrc_hela-2/jrc_hela-2.zarr/recon-1/em/fibsem-uint8"
ToGrey = Callable[[NDArray[Any]], NDArray[np.uint8]]
T = TypeVar("T", bound=Item)


class Seen(NamedTuple):
    """What a block is predicted from, and what it is scored against."""

    image: NDArray[np.uint8]
    """(K, d, h, w), 0 where there is none."""
    erase: Callable[[NDArray[np.uint8]], object]
    """Sets (…, D, H, W) of the block to 0 where there is no image."""
    truth: NDArray[np.uint8] | None
    """(P, D, H, W) packed labels of the classes asked for, where there are any."""


@dataclass(frozen=True, kw_only=True)
class Volume(ABC):
    """The voxels that are predicted: their image, and the truth on them where there is any."""

    em: Path
    """Where the image lies."""
    grid: Grid
    crop: str | None = None
    """DATASET/CROP, where it is one."""
    annotated: tuple[str, ...] = ()
    """Classes that there is a truth of."""
    notes: tuple[str, ...] = ()
    """What the person should know of how it is read."""

    @abstractmethod
    def see(
        self, start: Sequence[int], stop: Sequence[int], spans: Sequence[tuple[int, int]], data: DataSettings
    ) -> Seen | None:
        """Block [start, stop) with its surroundings, [low, high) of each axis; None where there is nothing to predict.

        data: the classes of the network, and how labels are resampled.
        """

    @property
    @abstractmethod
    def changed(self) -> str:
        """Another one whenever what is read has changed."""

    @property
    def job(self) -> dict[str, Any]:
        """What tells it from another, as plain data."""
        return {
            "em": str(self.em),
            "em_changed": self.changed,
            "crop": self.crop,
            "voxel_nm": self.grid.voxel.tolist(),
            "corner_nm": self.grid.corner.tolist(),
            "shape": list(self.grid.shape),
        }


@dataclass(frozen=True, kw_only=True)
class StoredVolume(Volume):
    """EM on disk, read block by block."""

    level: Level
    """Of the EM, which is read."""
    to_grey: ToGrey | None = None
    """Values to uint8; None as in training, by the range of their type."""
    truth: CropSource | None = None

    @property
    def changed(self) -> str:
        file = next((f for f in (self.em / "zarr.json", self.em / ".zattrs") if f.is_file()), self.em)
        return datetime.fromtimestamp(file.stat().st_mtime).isoformat()

    def see(
        self, start: Sequence[int], stop: Sequence[int], spans: Sequence[tuple[int, int]], data: DataSettings
    ) -> Seen | None:
        shape = [b - a for a, b in zip(start, stop)]
        block = Grid(
            self.grid.corner + np.array(start) * self.grid.voxel, self.grid.voxel, (shape[0], shape[1], shape[2])
        )
        if block.lies_outside(self.level):
            return None
        before = [a - low for a, (low, _) in zip(start, spans)]
        after = [high - b for b, (_, high) in zip(stop, spans)]
        em, box, taps = read_grey(self.level, block, np.maximum(before, after).tolist(), self.to_grey)
        image = np.zeros((1, *(high - low for low, high in spans)), np.uint8)
        place(em[None], [0, *np.add(box[0], before).tolist()], image)
        labels = None
        if self.truth is not None:
            labels = read_labels(self.truth, data.classes, block, data.label_resampling)
            mask_missing_em(labels, box, self.level, taps)
        return Seen(image, partial(mask_missing_em, box=box, level=self.level, taps=taps), labels)


@dataclass(frozen=True, kw_only=True)
class DecodedVolume(Volume):
    """A crop of any source, decoded as for training: all of it in memory."""

    decoded: Decoded
    stamp: str
    """Changes with the files."""

    @property
    def changed(self) -> str:
        return self.stamp

    @property
    def channels(self) -> int:
        """Of its image."""
        return channels(self.decoded.em)

    def see(
        self, start: Sequence[int], stop: Sequence[int], spans: Sequence[tuple[int, int]], data: DataSettings
    ) -> Seen | None:
        em = self.decoded.em.reshape(self.channels, *self.decoded.em.shape[-3:])
        image = np.zeros((len(em), *(high - low for low, high in spans)), np.uint8)
        place(em, [0, *(offset - low for offset, (low, _) in zip(self.decoded.offset, spans))], image)
        block = (slice(None), *(slice(a, b) for a, b in zip(start, stop)))
        return Seen(image, lambda masks: None, self.decoded.labels[block])


def place(source: NDArray[Any], at: Sequence[int], out: NDArray[np.uint8]) -> None:
    """out ← source, whose first element is out's element `at`, where the two overlap."""
    taken = tuple(slice(max(0, -a), max(0, min(n, m - a))) for a, n, m in zip(at, source.shape, out.shape))
    placed = tuple(slice(max(0, a), max(0, min(m, a + n))) for a, n, m in zip(at, source.shape, out.shape))
    out[placed] = source[taken]


def find_crop(name: str, data: DataSettings, classes: Sequence[str]) -> Volume:
    """A crop of the network's source as far as its labels reach. Raises InputError or DataError."""
    trained_on = open_source(data)
    if not isinstance(trained_on, CellMap):
        return _decoded(trained_on, name, data)
    source = named(discover_crops(trained_on.folder), name)
    grid = crop_grid(source, [n for n in classes if n in source.classes] or source.classes, data.voxel_nm)
    levels = read_levels(source.em)
    annotated = tuple(name for name in classes if name in source.classes)
    volume = StoredVolume(
        em=source.em,
        level=choose_level(levels, data.voxel_nm),
        grid=grid,
        truth=source if annotated else None,
        crop=source.name,
        annotated=annotated,
        notes=_resampled(levels, data.voxel_nm),
    )
    if grid.lies_outside(volume.level):
        raise InputError(f"crop={name}: it lies outside the EM volume {source.em}. Check both translations")
    return volume


def _decoded(source: Source[Any], name: str, data: DataSettings) -> DecodedVolume:
    """A crop of a source that only its own file knows how to read."""
    item = named(source.items(), name)
    decoded = source.predictable(item)
    _, depth, height, width = decoded.labels.shape
    return DecodedVolume(
        em=Path(source.root) / item.name,
        grid=Grid(np.zeros(3), np.array(data.voxel_nm, float), (depth, height, width)),
        crop=item.name,
        annotated=tuple(n for n in data.classes if n in item.classes),
        notes=decoded.remarks,
        decoded=decoded,
        stamp=source.stamp(item),
    )


def data_folder(data: DataSettings, given: str) -> Path:
    """The folder of a network's data, which are in the CellMap layout. given: begins the InputError where not."""
    trained_on = open_source(data)
    if not isinstance(trained_on, CellMap):
        raise InputError(f"{given}data.name={data.name} is not in the CellMap layout. Give volume=PATH")
    return trained_on.folder


def named(sources: Sequence[T], name: str) -> T:
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
    return StoredVolume(
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
