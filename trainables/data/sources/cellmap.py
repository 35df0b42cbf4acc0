"""cellmap: volumes in the CellMap layout below data.root, see `trainables.data.cellmap`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from trainables.data.cellmap.datasplit import (
    FILE_NAME,
    VOCABULARY,
    given_split,
    load_or_make_split,
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
from trainables.data.packed import cache_folder
from trainables.data.patch import em_margin
from trainables.data.sources import Decoded, Finding, Source, annotated_names
from trainables.errors import DataError

MOST_CHUNKS = 1_000_000
"""Of an array in a crop; each is looked at before every run."""


class CellMap(Source[CropSource]):
    """Crops of the split file, of data.root's, or of one that is drawn."""

    vocabulary = VOCABULARY
    decoding: ClassVar[tuple[str, ...]] = ("zero padding is unknown",)
    """What `decode` has learnt since there are caches that may lack it."""

    @cached_property
    def folder(self) -> Path:
        """The folder that holds the data sets. Raises DataError where it is missing."""
        given = self.settings.root
        if not given:
            raise DataError(
                f"data.root is empty: data={self.settings.name} needs the folder that holds DATASET/DATASET.zarr. "
                "Give data.root=PATH."
            )
        root = Path(given).expanduser().absolute()
        if not root.is_dir():
            raise DataError(f"data.root={given}: no such folder. Give the folder that holds DATASET/DATASET.zarr.")
        return root

    @property
    def root(self) -> str:
        return str(self.folder)

    @property
    def key(self) -> dict[str, Any]:
        """Nothing: an item's stamp names its files, whoever made them."""
        return {}

    def items(self) -> list[CropSource]:
        return load_or_make_split(self.settings, self.folder, cache_folder(self.settings))

    def annotated(self) -> list[str]:
        path = given_split(self.settings, self.folder)
        return sorted(annotated_names(read_split(path, self.folder) if path else discover_crops(self.folder)))

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

    def moved(self, items: Sequence[CropSource]) -> str:
        return moved(items)

    def leak(self, items: Sequence[CropSource]) -> str:
        return leak(items, self.settings.classes)

    def inspected(self) -> tuple[list[CropSource], list[Finding]]:
        path = given_split(self.settings, self.folder)
        if not path:
            made = make_split(self.settings, discover_crops(self.folder), cache_folder(self.settings) / "splits")
            seed = self.settings.split_seed
            return made, [Finding("info", self.root, f"no {FILE_NAME}; one was drawn with seed {seed}")]
        items, problems = parse_split(path, self.folder)
        findings = [Finding("error", str(path), problem) for problem in problems]
        warnings = [moved(items)] if moved(items) else []
        warnings += split_remarks(path, self.folder)
        return items, findings + [Finding("warning", str(path), text) for text in warnings]

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
