"""datasplit.csv: which crop trains, which validates, which is kept for the test.

No header, every field quoted. Five columns: side, raw container, raw path, label container, label path; or three:
side, raw path, label path. The label path ends in the classes in brackets: …/groundtruth/crop234/[nuc,mito_mem].
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.data.cache import cache_written
from trainables.data.cellmap.overlap import first_of_group
from trainables.data.cellmap.reader import CropSource, annotated_in, crop_name, holds_class
from trainables.data.sources import check_classes
from trainables.errors import DataError
from trainables.files import replacing
from trainables.settings import DataSettings

log = logging.getLogger(__name__)
SIDES = ("train", "validate", "test")
FILE_NAME = "datasplit.csv"
SHOWN_PROBLEMS = 5


def given_split(settings: DataSettings, root: Path) -> Path | None:
    """The split file that the settings name (DataError when it is missing), else root/datasplit.csv, else None."""
    if settings.split_file:
        path = Path(settings.split_file).expanduser().absolute()
        if not path.is_file():
            raise DataError(f"data.split_file={settings.split_file}: no such file. Leave it empty to have one written.")
        return path
    return root / FILE_NAME if (root / FILE_NAME).is_file() else None


def read_split(path: Path, root: Path | None = None) -> list[CropSource]:
    """The crops of a split file. DataError with the line, the rule and the fix when a row cannot be used."""
    sources, problems = parse_split(path, root)
    if problems:
        more = f"\n… and {len(problems) - SHOWN_PROBLEMS} more" if len(problems) > SHOWN_PROBLEMS else ""
        raise DataError("\n".join(problems[:SHOWN_PROBLEMS]) + more)
    return sources


def parse_split(path: Path, root: Path | None = None) -> tuple[list[CropSource], list[str]]:
    """The usable rows of a split file, and one sentence for everything wrong with it.

    A relative path is looked for under `root`, then beside the file; an absolute one that does not exist here by data
    set and crop. A class in brackets without a folder is taken as
    not annotated in that crop, but at least one must be there.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"{path} cannot be read as CSV ({error}). Remove it to have one written."]
    bases = [base for base in (root, path.parent) if base is not None]
    sources: list[CropSource] = []
    problems: list[str] = [] if rows else [f"{path} has no rows. Remove it to have one written."]
    for number, row in rows:
        try:
            sources.append(_source(row, bases))
        except DataError as error:
            problems.append(f"{path}, line {number}: {error}")
    return sources, problems + _repeats(path, sources)


def split_remarks(path: Path, root: Path | None = None) -> list[str]:
    """One sentence per row that lists a class its crop has no labels of: partial annotation, or a misspelled name.

    A file that `parse_split` cannot read has none.
    """
    bases = [base for base in (root, path.parent) if base is not None]
    remarks = []
    with contextlib.suppress(UnicodeDecodeError, csv.Error), path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
            with contextlib.suppress(DataError):
                source = _source(row, bases)
                absent = [name for name in _listed(row[-1] if len(row) == 5 else row[2]) if name not in source.classes]
                if absent:
                    names = ", ".join(absent)
                    remarks.append(f"line {number}: {source.name} has no labels of {names}; taken as not annotated")
    return remarks


def _listed(truth: str) -> list[str]:
    """The classes in the brackets at the end of a label path."""
    names = truth.partition("[")[2].rstrip(" /")[:-1]
    return [name.strip() for name in names.split(",") if name.strip()]


def _source(row: Sequence[str], bases: Sequence[Path]) -> CropSource:
    """The crop of one row. DataError without the file and line."""
    if len(row) not in (3, 5):
        raise DataError(f"{len(row)} columns; 5 or 3 are needed (side, raw container, raw path, label container, …).")
    side = row[0].strip()
    if side not in SIDES:
        raise DataError(f"side {side!r}; choose one of {', '.join(SIDES)}.")
    raw, truth = (row[1], row[2]) if len(row) == 3 else (f"{row[1]}/{row[2]}", f"{row[3]}/{row[4]}")
    folder, bracket, names = truth.partition("[")
    if not bracket or not names.rstrip(" /").endswith("]"):
        raise DataError(f"label path {truth!r} must end in the classes in brackets, for example crop234/[nuc,pm].")
    (em, em_moved), (labels, labels_moved) = _find(raw, bases), _find(folder, bases)
    listed = _listed(truth)
    present = annotated_in(labels)
    if not set(listed) & set(present):
        raise DataError(
            f"{labels} annotates none of [{', '.join(listed)}]; it annotates {', '.join(present) or 'nothing'}."
        )
    classes = tuple(name for name in present if name in listed)
    return CropSource(crop_name(labels), em, labels, classes, side, em_moved or labels_moved)


def _find(written: str, bases: Sequence[Path]) -> tuple[Path, bool]:
    """The existing folder a row names, and whether it lies elsewhere: a file of another machine names its folders.

    There DATASET/DATASET.zarr/… is looked for under the bases. A resolution level stands for its multiscale group.
    """
    path = Path(written.strip()).expanduser()
    container = next((i for i, part in enumerate(path.parts) if i > 0 and part.endswith(".zarr")), 0)
    relative = Path(*path.parts[container - 1 :]) if container and path.is_absolute() else None
    candidates = [(path, False)] if path.is_absolute() else [(base / path, False) for base in bases]
    for candidate, moved in candidates + [(base / relative, True) for base in bases if relative]:
        if candidate.is_dir():
            level = (candidate / ".zarray").exists() and (candidate.parent / ".zattrs").exists()
            return Path(os.path.abspath(candidate.parent if level else candidate)), moved
    elsewhere = f", and there is no {relative} in {' or '.join(map(str, bases))}" if relative and bases else ""
    raise DataError(
        f"{written} does not exist{elsewhere}. Correct the path, take the row out, or give the folder that holds "
        "DATASET/DATASET.zarr as data.root."
    )


def moved(sources: Sequence[CropSource]) -> str:
    """What was found elsewhere than the split file says, as a sentence; empty where nothing was."""
    names = [source.name for source in sources if source.moved]
    return (
        f"the split file names folders that do not exist here: {len(names)} of {len(sources)} crops were found by data "
        f"set and crop instead, the first as {next(s.labels for s in sources if s.moved)}"
        if names
        else ""
    )


def _repeats(path: Path, sources: Sequence[CropSource]) -> list[str]:
    """A sentence for every crop that appears twice, on one side or on both."""
    sides: dict[Path, list[str]] = {}
    for source in sources:
        sides.setdefault(Path(os.path.realpath(source.labels)), []).append(source.side)
    problems = []
    for labels, found in sides.items():
        if len(set(found)) > 1:
            problems.append(f"{path}: {labels} is on the sides {' and '.join(sorted(set(found)))}; keep one of them.")
        elif len(found) > 1:
            problems.append(f"{path}: {labels} appears {len(found)} times; keep one row.")
    return problems


def write_split(path: Path, sources: Sequence[CropSource]) -> None:
    """Write the five-column form atomically; an existing file is replaced, never appended to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "w") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows(_row(source) for source in sources)


def _row(source: CropSource) -> list[str]:
    raw, truth = (_container_and_path(p) for p in (source.em, source.labels))
    return [source.side, *raw, truth[0], f"{truth[1]}/[{','.join(source.classes)}]"]


def _container_and_path(path: Path) -> tuple[str, str]:
    container = next((p for p in path.parents if p.suffix == ".zarr"), path.parent)
    return str(container), str(path.relative_to(container))


def make_split(settings: DataSettings, crops: Sequence[CropSource], folder: Path) -> list[CropSource]:
    """The split of these crops by these settings: drawn, written to `folder` once, and read from there afterwards.

    Crops that annotate none of the classes are left out. DataError for an unknown class, or when all are left out.
    """
    check_classes(settings.classes, crops, VOCABULARY)
    usable = [crop for crop in crops if set(crop.classes) & set(settings.classes)]
    units = _units(settings, usable)
    asked: dict[str, Any] = {
        "crops": [[str(crop.labels), crop.classes] for crop in usable],
        "classes": list(settings.classes),
        "draw": [settings.validation_fraction, settings.split_seed, settings.split_by_dataset],
    }
    if not settings.split_by_dataset and len(units) < len(usable):
        asked["units"] = {unit: [crop.name for crop in members] for unit, members in units.items()}
    path = folder / f"datasplit-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}.csv"
    if not path.is_file():
        drawn = _draw(settings, units)
        with cache_written(folder):
            write_split(path, drawn)
        log.info("Drew a split of %d crops with seed %d: %s", len(usable), settings.split_seed, path)
    return read_split(path)


def _units(settings: DataSettings, crops: Sequence[CropSource]) -> dict[str, list[CropSource]]:
    """Crops that stay together, by the name of the data set or of the first of them."""
    ordered = sorted(crops, key=lambda crop: crop.name)
    by_dataset = settings.split_by_dataset
    names = [c.name.split("/")[0] for c in ordered] if by_dataset else first_of_group(ordered, settings.classes)
    units: dict[str, list[CropSource]] = {}
    for name, crop in zip(names, ordered):
        units.setdefault(name, []).append(crop)
    return units


def _draw(settings: DataSettings, units: Mapping[str, list[CropSource]]) -> list[CropSource]:
    """Sides for crops: about `validation_fraction` of them validate, every class on both sides where possible.

    Seeded by `split_seed`. DataError when there are fewer than two units to divide.
    """
    if len(units) < 2:
        kind = "data set" if settings.split_by_dataset else "crop (or group of overlapping ones)"
        raise DataError(
            f"{len(units)} {kind} with an annotated class: a split needs two. "
            "Add data, choose other data.classes, or set data.split_by_dataset=false."
        )
    holders = {
        name: {unit for unit, members in units.items() if any(holds_class(crop, name) for crop in members)}
        for name in settings.classes
    }
    sizes = {unit: len(members) for unit, members in units.items()}
    order = [list(units)[i] for i in np.random.default_rng(settings.split_seed).permutation(len(units))]
    if not settings.split_by_dataset:
        order.sort(key=lambda unit: sizes[unit])  # a group validates only where no smaller one can
    chosen = _choose(order, sizes, holders, settings.validation_fraction)
    side = {unit: "validate" if unit in chosen else "train" for unit in units}
    return [replace(crop, side=side[unit]) for unit, members in units.items() for crop in members]


def _choose(
    order: Sequence[str], sizes: Mapping[str, int], holders: Mapping[str, set[str]], fraction: float
) -> set[str]:
    """Units for validation: first one for each class that two units hold, the rarest first, then up to the share."""
    chosen: set[str] = set()
    for _, held in sorted(holders.items(), key=lambda item: (len(item[1]), item[0])):
        if len(held) >= 2 and not held & chosen:
            chosen |= set(_allowed(order, held, chosen, holders)[:1])
    target = max(1.0, fraction * sum(sizes.values()))
    for unit in _allowed(order, set(order), chosen, holders):
        size_now = sum(sizes[u] for u in chosen)
        fits = abs(size_now + sizes[unit] - target) < abs(size_now - target)
        if fits and unit in _allowed([unit], {unit}, chosen, holders):
            chosen.add(unit)
    return chosen or {order[0]}


def _allowed(order: Sequence[str], among: set[str], chosen: set[str], holders: Mapping[str, set[str]]) -> list[str]:
    """Units of `among` that can go to validation and leave every class that was in training a unit there."""
    return [
        unit
        for unit in order
        if unit in among
        and unit not in chosen
        and all(held - chosen - {unit} for held in holders.values() if unit in held)
    ]


VOCABULARY_TEXT = """
actin bm cell cent cent_all cent_dapp cent_sdapp chlor chlor_lum chlor_mem chlor_sg chrom cyto echrom ecs
endo endo_lum endo_mem er er_lum er_mem er_mem_all eres eres_lum eres_mem glyco golgi golgi_lum golgi_mem
hchrom isg isg_ins isg_lum isg_mem ld ld_lum ld_mem lyso lyso_lum lyso_mem mito mito_lum mito_mem mito_ribo
mt mt_in mt_out mvb ne ne_lum ne_mem ne_mem_all nechrom nhchrom np np_in np_out nuc nucleo nucpl perox
perox_lum perox_mem plasmodesmata pm rbc ribo tbar vac vac_lum vac_mem ves ves_lum ves_mem vesicle vim vp
yolk yolk_lum yolk_mem
"""


VOCABULARY = frozenset(VOCABULARY_TEXT.split())
"""Names in use at CellMap, with those that circulate in lists of classes but have no annotation."""
