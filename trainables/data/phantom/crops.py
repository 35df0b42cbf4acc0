"""Where the crops of the generated data lie and which classes each annotates.

Annotators choose crops for what is in them. So do we: of several random boxes the one is taken that brings the class
frequencies of its side of the split nearest to the published ones. Boxes are in base voxels (8 nm), order z, y, x.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainables.settings import FOURTEEN_CLASSES

PUBLISHED = {"nuc": 0.1193, "mito_mem": 0.0601, "er_mem": 0.0560, "pm": 0.0220, "golgi_mem": 0.0181}
"""Class frequencies of experiment 1: positive voxels over known voxels, 50 training batches."""
FIVE = tuple(PUBLISHED)
PATTERNS = (
    (*FIVE, "mito_lum"),
    ("nuc", "mito_mem", "er_mem", "pm"),
    FIVE,
    ("mito_mem", "er_mem", "pm", "golgi_mem"),
    ("nuc", "mito_mem", "er_mem", "pm", "ecs"),
    FIVE,
    ("nuc", "er_mem", "golgi_mem"),
    ("mito_mem", "mito_lum", "er_mem"),
    FIVE,
    ("nuc", "mito_mem", "pm"),
)
"""Annotated classes, in turn: golgi_mem in the fewest crops, er_mem in most."""
FOURTEEN_PATTERNS = (
    FOURTEEN_CLASSES,
    ("ecs", "pm", "er_mem", "er_lum", "nuc"),
    FOURTEEN_CLASSES,
    ("mito_mem", "mito_lum", "mito_ribo", "er_mem"),
    ("golgi_mem", "golgi_lum", "ves_mem", "ves_lum", "endo_mem", "endo_lum"),
    ("ecs", "pm", "mito_mem", "mito_lum", "mito_ribo", "er_mem", "er_lum", "nuc"),
)
"""The same for the edition of fourteen classes: a crop annotates all, or the classes of a few organelles."""
WIDTHS = (30, 40, 48, 56, 64, 72, 84, 104)
DEPTHS = (12, 16, 20, 28)
NUM_CANDIDATES = 60
ATTEMPTS = 400


@dataclass(frozen=True)
class Crop:
    """One annotated box; `unknown` are (class or "*", start, stop) blocks inside it, as shares of its extent."""

    name: str
    side: str
    start: tuple[int, int, int]
    size: tuple[int, int, int]
    classes: tuple[str, ...]
    unknown: tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...] = ()
    finer: int = 1
    """Label voxels per EM voxel along each axis, as CellMap has crops labelled at twice the EM's resolution."""


@dataclass
class Tally:
    """Voxels counted so far on one side: positive and known per class, and all annotated voxels."""

    positive: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FIVE, 0.0))
    known: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FIVE, 0.0))
    total: float = 0.0

    def plus(self, counts: Mapping[str, int], classes: Sequence[str], voxels: int) -> Tally:
        taken = [c for c in FIVE if c in classes]
        positive = {c: n + (counts[c] if c in taken else 0) for c, n in self.positive.items()}
        known = {c: n + (voxels if c in taken else 0) for c, n in self.known.items()}
        return Tally(positive, known, self.total + voxels)

    def cost(self) -> float:
        """Squared log deviations from the published frequencies, over known voxels and over all of them."""
        cost = 0.0
        for name, target in PUBLISHED.items():
            own = (self.positive[name] + 1) / (self.known[name] + 1)
            common = (self.positive[name] + 1) / (self.total + 1)
            cost += np.log(own / target) ** 2 + 0.5 * np.log(common / target) ** 2
        return float(cost)


def choose_crops(
    rng: np.random.Generator,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    sides: Sequence[str],
    tallies: dict[str, Tally],
    first_number: int,
    patterns: Sequence[tuple[str, ...]] = PATTERNS,
) -> list[Crop]:
    """One crop per entry of `sides`, not overlapping in the plane; `tallies` (per side) are brought up to date."""
    shape = next(iter(masks.values())).shape
    crops: list[Crop] = []
    for offset, side in enumerate(sides):
        number = first_number + offset
        classes = patterns[number % len(patterns)] if side == "train" else patterns[(number % 3) and 2]
        wanted = _size(rng, shape, large=side != "train")
        boxes = _free_boxes(rng, shape, wanted, crops)
        scored = [(t.cost(), b, t) for b, t in ((b, _with(tallies[side], masks, b, classes)) for b in boxes)]
        _, (start, size), tallies[side] = min(scored, key=lambda entry: entry[0])
        crops.append(Crop(f"crop{number}", side, start, size, classes, _unknown(rng, number, classes)))
    return crops


Box = tuple[tuple[int, int, int], tuple[int, int, int]]


def _size(rng: np.random.Generator, shape: Sequence[int], *, large: bool) -> tuple[int, int, int]:
    depth = int(rng.choice(DEPTHS[1:] if large else DEPTHS))
    height, width = (int(n) for n in rng.choice(WIDTHS[4:] if large else WIDTHS, 2))
    return min(depth, shape[0] - 8), min(height, shape[1] * 2 // 5), min(width, shape[2] * 2 // 5)


def _free_boxes(
    rng: np.random.Generator, shape: Sequence[int], size: tuple[int, int, int], taken: Sequence[Crop]
) -> list[Box]:
    """Random boxes that no crop overlaps; smaller ones where there is no more room for `size`."""
    while True:
        boxes: list[Box] = []
        for _ in range(ATTEMPTS):
            start = tuple(int(rng.integers(2, n - s - 1)) for n, s in zip(shape, size, strict=True))
            if not any(_overlap(start, size, crop) for crop in taken):
                boxes.append((start, size))  # type: ignore[arg-type]
            if len(boxes) == NUM_CANDIDATES:
                break
        if boxes:
            return boxes
        size = (size[0], size[1] * 3 // 4, size[2] * 3 // 4)
        assert min(size) > 4, f"no room for {len(taken) + 1} crops in {shape}"


def _overlap(start: Sequence[int], size: Sequence[int], crop: Crop) -> bool:
    return all(start[a] < crop.start[a] + crop.size[a] and crop.start[a] < start[a] + size[a] for a in (1, 2))


def _with(tally: Tally, masks: Mapping[str, npt.NDArray[np.bool_]], box: Box, classes: Sequence[str]) -> Tally:
    view = tuple(slice(a, a + n) for a, n in zip(*box, strict=True))
    counts = {name: int(np.count_nonzero(masks[name][view])) for name in FIVE}
    return tally.plus(counts, classes, int(np.prod(box[1])))


def _unknown(
    rng: np.random.Generator, number: int, classes: Sequence[str]
) -> tuple[tuple[str, tuple[float, ...], tuple[float, ...]], ...]:
    """A block of unknown voxels in every fourth crop: in all of its classes, or in one of them."""
    if number % 4 != 1:
        return ()
    start = rng.uniform(0, 0.6, 3)
    stop = start + rng.uniform(0.25, 0.4, 3)
    name = "*" if number % 8 == 1 else classes[number % len(classes)]
    return ((name, tuple(start.tolist()), tuple(stop.tolist())),)
