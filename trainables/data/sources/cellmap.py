"""cellmap: volumes in the CellMap layout below data.root, see `trainables.data.cellmap`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainables.data.cache import cache_folder
from trainables.data.cellmap.datasplit import (
    FILE_NAME,
    VOCABULARY,
    given_split,
    make_split,
    moved,
    parse_split,
    read_split,
    split_remarks,
)
from trainables.data.cellmap.ngff import Level, choose_level, read_levels
from trainables.data.cellmap.overlap import leak, overlaps
from trainables.data.cellmap.reader import (
    CropSource,
    Grid,
    crop_grid,
    discover_crops,
    holds_class,
    mask_missing_em,
    mask_padding,
    read_em,
    read_labels,
)
from trainables.data.cellmap.scale import Coarse, coarse_labels, told, without
from trainables.data.patch import em_margin
from trainables.data.sources import Decoded, Finding, Source, annotated_names
from trainables.errors import DataError
from trainables.settings import require

MOST_CHUNKS = 1_000_000
"""Of an array in a crop; each is looked at before every run."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """data.options of volumes in this layout."""

    filter_by_scale: bool = True
    """Leave out labels in larger voxels than data.voxel_nm; false: each is repeated on the finer grid."""

    def __post_init__(self) -> None:
        key, value = "data.options.filter_by_scale", self.filter_by_scale
        require(value in (True, False), key, value, "it is true or false", f"For example {key}=false")


class CellMap(Source[CropSource]):
    """Crops of the split file, of data.root's, or of one that is drawn."""

    Options: ClassVar[type] = Options
    vocabulary = VOCABULARY
    decoding: ClassVar[tuple[str, ...]] = ("zero padding is unknown",)
    """What `decode` has learnt since there are caches that may lack it."""

    @property
    def contents(self) -> str:
        return "DATASET/DATASET.zarr"

    @property
    def key(self) -> dict[str, Any]:
        """Nothing: an item's stamp names its files, whoever made them."""
        return {}

    def items(self) -> list[CropSource]:
        fine = self._fine(self._crops, self._coarse)
        given = given_split(self.settings, self.folder)
        return fine if given else make_split(self.settings, fine, cache_folder(self.settings) / "splits")

    @cached_property
    def _crops(self) -> list[CropSource]:
        """Those of the split file, else all, with whatever they annotate."""
        path = given_split(self.settings, self.folder)
        return read_split(path, self.folder) if path else discover_crops(self.folder)

    @cached_property
    def _coarse(self) -> Coarse:
        return self._coarse_of(self._crops)

    def _coarse_of(self, crops: Sequence[CropSource]) -> Coarse:
        if not self.options.filter_by_scale:
            return {}
        classes = [] if self.settings.classes == ["auto"] else self.settings.classes
        return coarse_labels(crops, classes, self.settings.voxel_nm)

    def _fine(self, crops: Sequence[CropSource], coarse: Coarse) -> list[CropSource]:
        """The crops without labels that are too coarse. DataError where that leaves nothing of the classes."""
        wanted, fine = set(self.settings.classes), without(crops, coarse)
        if coarse and not (annotated_names(fine) & wanted or ("auto" in wanted and fine)):
            least = min(side for names in coarse.values() for side in names.values())
            raise DataError(
                f"data.voxel_nm={list(self.settings.voxel_nm)}: all labels of these classes are in larger voxels, of "
                f"{least:.3g} nm at least. Give data.voxel_nm=[{','.join([f'{least:.3g}'] * 3)}], or "
                "data.options.filter_by_scale=false to repeat them on the finer grid."
            )
        return fine

    def annotated(self) -> list[str]:
        return sorted(annotated_names(self._fine(self._crops, self._coarse)))

    def stamp(self, item: CropSource) -> str:
        """Sizes and times of all files that are read, and what `decode` has learnt: the cache is built anew, and keeps
        its fingerprint where there is nothing of that."""
        settings = self.settings
        wanted = [name for name in settings.classes if name in item.classes]
        grid, files = crop_grid(item, wanted, settings.voxel_nm), list[Path]()
        for name in wanted:
            levels = read_levels(item.labels / name)
            level = choose_level(levels, settings.voxel_nm)
            files += [item.labels / name / ".zattrs", levels[0].path / ".zattrs", level.path / ".zarray"]
            files += _chunk_files(level, (0, 0, 0), level.shape)
        files += self._em_files(item, grid)
        where = [item.name, item.side, str(item.em), str(item.labels), wanted]
        return json.dumps([where, [_stat(path) for path in files], *self.decoding])

    def _em_files(self, item: CropSource, grid: Grid) -> list[Path]:
        """Metadata and chunks of the EM round a crop; chunks that exist or not both count."""
        level = choose_level(read_levels(item.em), self.settings.voxel_nm)
        reach = np.array(em_margin(self.settings.patch, grid.shape)) + 1
        low = (grid.corner - reach * grid.voxel - level.corner) / np.array(level.scale)
        high = (grid.corner + (np.array(grid.shape) + reach) * grid.voxel - level.corner) / np.array(level.scale)
        start = np.clip(np.floor(low), 0, level.shape).astype(int).tolist()
        stop = np.clip(np.ceil(high), 0, level.shape).astype(int).tolist()
        return [item.em / ".zattrs", level.path / ".zarray", *_chunk_files(level, start, stop)]

    def decode(self, item: CropSource) -> Decoded:
        settings = self.settings
        grid = crop_grid(item, settings.classes, settings.voxel_nm)
        em, box, level, taps = read_em(item, grid, em_margin(settings.patch, grid.shape))
        labels = read_labels(item, settings.classes, grid, settings.label_resampling)
        masked = mask_missing_em(labels, box, level, taps)
        padded = mask_padding(labels, box, em)
        return Decoded(em=em, labels=labels, offset=box[0], masked=masked, padded=padded)

    def holds(self, item: CropSource, name: str) -> bool:
        try:
            return holds_class(item, name)
        except DataError:  # said by whoever decodes the crop
            return True

    def remarks(self, items: Sequence[CropSource]) -> list[str]:
        return [text for text in (moved(items), told(self._coarse, self.settings.voxel_nm)) if text]

    def leak(self, items: Sequence[CropSource]) -> str:
        return leak(items, self.settings.classes)

    def inspected(self) -> tuple[list[CropSource], list[Finding]]:
        path = given_split(self.settings, self.folder)
        if not path:
            seed = self.settings.split_seed
            drawn = Finding("info", self.root, f"no {FILE_NAME}; one was drawn with seed {seed}")
            return self.items(), [drawn, *(Finding("info", self.root, text) for text in self.remarks([]))]
        items, problems = parse_split(path, self.folder)
        findings = [Finding("error", str(path), problem) for problem in problems]
        warnings = [moved(items)] if moved(items) else []
        warnings += split_remarks(path, self.folder)
        coarse = self._coarse_of(items)
        left_out = told(coarse, self.settings.voxel_nm)
        findings += [Finding("info", str(path), left_out)] if left_out else []
        fine = self._fine(items, coarse)
        return fine, findings + [Finding("warning", str(path), text) for text in warnings]

    def overlaps(self, items: Sequence[CropSource]) -> Iterator[Finding]:
        yield from super().overlaps(items)
        for pair in overlaps(items, self.settings.classes):
            first, second = pair.first, pair.second
            yield Finding(
                "info" if first.side == second.side else "warning",
                f"{first.name} ({first.side}) and {second.name} ({second.side})",
                f"they share {pair.um3:.4g} µm³, {100 * pair.share:.0f} % of the smaller",
            )


def _chunk_files(level: Level, start: Sequence[int], stop: Sequence[int]) -> list[Path]:
    grid = level.chunk_grid(start, stop)
    if (number := math.prod(map(len, grid))) > MOST_CHUNKS:
        raise DataError(f"{level.path / '.zarray'}: a crop of {number} chunks, {MOST_CHUNKS} at most. Chunk it anew.")
    return [level.chunk_file(index) for index in product(*grid)]


def _stat(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


SOURCE = CellMap
