"""Verifies a data set and its split, and says what is wrong. Reads every label and every EM chunk the split needs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from trainables.data.cellmap.classes import check_classes, unannotated_classes
from trainables.data.cellmap.datasplit import FILE_NAME, given_split, make_split, moved, parse_split, split_remarks
from trainables.data.cellmap.overlap import leak, overlaps
from trainables.data.cellmap.reader import (
    CropSource,
    crop_grid,
    discover_crops,
    holds_class,
    mask_missing_em,
    read_em,
    read_labels,
)
from trainables.data.expand import class_masks
from trainables.data.packed import cache_folder, data_root, named_classes
from trainables.data.packing import em_margin
from trainables.errors import DataError
from trainables.settings import DataSettings


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    level: str
    """error: a run would stop. warning: it would run, but not as one may think. info: for the record."""
    where: str
    """A file, a crop or a setting."""
    message: str

    def __str__(self) -> str:
        where = "" if self.message.startswith(self.where) else f"{self.where}: "
        return f"{self.level}: {where}{self.message}"


def check(settings: DataSettings) -> list[Finding]:
    """Everything wrong with the data and split of `settings`, worst first; only `info` when all is well.

    Looks at the root, the split file (rows, repeats, sides), overlapping crops, the class names, which sides hold which
    class, and decodes each crop with its surroundings. Never raises DataError: it becomes a finding. Data is only read.
    """
    findings: list[Finding] = []
    try:
        settings, root = named_classes(settings), data_root(settings)
        sources, findings = _split(settings, root)
        if not sources:  # nothing but rows that cannot be used: they are what is wrong
            return findings
        findings += _classes(settings, sources)
        used = [s for s in sources if set(s.classes) & set(settings.classes)]
    except DataError as error:
        return [*findings, Finding("error", settings.root or settings.name, str(error))]
    findings += _overlaps(settings, used)
    for source in used:
        findings += _crop(settings, source)
    findings.append(_summary(used))
    return sorted(findings, key=lambda finding: ("error", "warning", "info").index(finding.level))


def _split(settings: DataSettings, root: Path) -> tuple[list[CropSource], list[Finding]]:
    path = given_split(settings, root)
    if not path:
        made = make_split(settings, discover_crops(root), cache_folder(settings) / "splits")
        return made, [Finding("info", str(root), f"no {FILE_NAME}; one was drawn with seed {settings.split_seed}")]
    sources, problems = parse_split(path, root)
    findings = [Finding("error", str(path), problem) for problem in problems]
    if moved(sources):
        findings.append(Finding("warning", str(path), moved(sources)))
    return sources, findings + [Finding("warning", str(path), text) for text in split_remarks(path, root)]


def _classes(settings: DataSettings, sources: Sequence[CropSource]) -> list[Finding]:
    """Misspelled classes, classes nobody annotates, and classes or sides that are missing on one side."""
    check_classes(settings.classes, sources)
    missing = unannotated_classes(settings.classes, sources)
    findings = [Finding("warning", name, "no crop annotates this class; its channel stays unknown") for name in missing]
    crops = {name: sum(name in source.classes for source in sources) for name in settings.classes}
    findings.append(
        Finding("info", "classes", ", ".join(f"{name} in {number} crops" for name, number in crops.items()))
    )
    for side in ("train", "validate"):
        members = [source for source in sources if source.side == side]
        if not members:
            findings.append(Finding("error", side, "no crop is on this side of the split"))
        lacking = [name for name in settings.classes if not any(_holds(source, name) for source in members)]
        findings += [
            Finding("warning", name, f"no crop on side {side} holds this class")
            for name in lacking
            if members and name not in missing
        ]
    return findings


def _overlaps(settings: DataSettings, sources: Sequence[CropSource]) -> Iterator[Finding]:
    """Crops that share voxels: a leak where they are on two sides."""
    told = leak(sources, settings.classes)
    if told:
        yield Finding("warning", "split", told)
    for pair in overlaps(sources, settings.classes):
        first, second = pair.first, pair.second
        yield Finding(
            "info" if first.side == second.side else "warning",
            f"{first.name} ({first.side}) and {second.name} ({second.side})",
            f"they share {pair.um3:.4g} µm³, {100 * pair.share:.0f} % of the smaller",
        )


def _holds(source: CropSource, name: str) -> bool:
    try:
        return holds_class(source, name)
    except DataError:  # reported with its crop
        return True


def _crop(settings: DataSettings, source: CropSource) -> Iterator[Finding]:
    """Decode one crop as packing does."""
    try:
        grid = crop_grid(source, settings.classes, settings.voxel_nm)
        labels = read_labels(source, settings.classes, grid, settings.label_resampling)
        _, box, level, taps = read_em(source, grid, em_margin(settings, grid))
    except DataError as error:
        yield Finding("error", source.name, str(error))
        return
    masked = mask_missing_em(labels, box, level, taps)
    if masked:
        yield Finding("warning", source.name, f"no EM for {100 * masked:.1f} % of the crop; masked there")
    count = len(settings.classes)
    if not any(np.any(class_masks(labels, index, count)[1]) for index in range(count)):
        yield Finding("warning", source.name, "no voxel is known for any of the classes")


def _summary(sources: Sequence[CropSource]) -> Finding:
    sides = sorted(source.side for source in sources)
    numbers = {side: len(list(members)) for side, members in groupby(sides)}
    return Finding("info", "split", f"{len(sources)} crops hold at least one class: {json.dumps(numbers)}")
