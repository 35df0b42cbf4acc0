"""Generated wildfires in the layout of `trainables.data.sources.raster_series`: fire that spreads with the wind.

A cell burns for `BURNS` frames and is then burnt out. One that has not burnt catches fire from its eight neighbours:
the more of them burn to windward and below it, and the more fuel it has, the likelier. The chance is mostly near 0
or 1, so that the next frame follows from fire, wind, fuel and elevation, and not from the last fire alone.

Shapes: T frames, H W cells; wind in m/s towards +y and +x, elevation in metres, fuel in [0, 1].
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.data.phantom.fields import smooth_noise
from trainables.data.phantom.generate import TRAIN, VALIDATE, made_once, make_folder

VERSION = "1"
BURNS = 3
"""Frames for which a cell burns."""
CHANNELS = ("fire", "wind_y", "wind_x", "fuel", "elevation")
RANGE = {
    "fire": (0.0, 1.0),
    "wind_y": (-10.0, 10.0),
    "wind_x": (-10.0, 10.0),
    "fuel": (0.0, 1.0),
    "elevation": (0.0, 600.0),
}
ROLES = {"fire": ("fire",), "wind": ("wind_y", "wind_x"), "static": ("fuel", "elevation")}
ABOUT = {"channels": CHANNELS, "range": RANGE, **ROLES}
"""channels.json."""
HEAT, SHARPNESS, BARE = 0.68, 4.0, 0.12
"""Heat at which a cell is as likely to catch fire as not, how steeply the chance rises with heat, and the fuel below
which nothing burns."""
UNKNOWN = 255


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that defines the data but the seed."""

    train: int
    """Series that train, and `validate` those that validate."""
    validate: int
    frames: int
    side: int
    """H = W."""


EDITIONS = {
    "small": Plan(train=12, validate=4, frames=20, side=80),
    "large": Plan(train=40, validate=8, frames=24, side=96),
}


def make(out: Path, *, seed: int = 0, plan: Plan = EDITIONS["small"]) -> Path:
    """Write the series into `out` and return it, see `generate.make_folder`."""
    rule = [BURNS, HEAT, SHARPNESS, BARE]
    description = {"phantom": f"fire-{VERSION}", "seed": seed, "plan": asdict(plan), "rule": rule}
    return make_folder(out, description, lambda folder: _write(folder, seed, plan))


def ensure(cache_dir: Path, edition: str) -> Path:
    """The series below `cache_dir`, made if they are not there; processes that start together make them once."""
    root = Path(cache_dir) / f"fire-{edition}-phantom-v{VERSION}"
    return made_once(root, lambda root: make(root, plan=EDITIONS[edition]))


def chance(age: NDArray[np.int64], frame: NDArray[np.floating]) -> NDArray[np.float64]:
    """How likely each cell burns in the next frame, (H, W) in [0, 1].

    age (H, W): frames since a cell caught fire, 1 in the first, 0 before it; frame (C, H, W): `CHANNELS` of this one.
    """
    burning = ((age >= 1) & (age <= BURNS)).astype(np.float64)
    _, wind_y, wind_x, fuel, elevation = frame.astype(np.float64)
    height, width = age.shape
    lit, ground = np.pad(burning, 1), np.pad(elevation, 1, mode="edge")
    heat = np.zeros(age.shape)
    for y, x in product((-1, 0, 1), repeat=2):
        if (y, x) != (0, 0):  # from the neighbour at (−y, −x): its heat comes along (y, x)
            window = np.s_[1 - y : 1 - y + height, 1 - x : 1 - x + width]
            along = (wind_y * y + wind_x * x) / np.hypot(y, x)
            uphill = (elevation - ground[window]) / np.hypot(y, x)
            heat += lit[window] / np.hypot(y, x) * np.exp(0.22 * along + 0.03 * uphill)
    heat *= 0.3 * np.sqrt(fuel)
    catches = np.where(fuel < BARE, 0.0, 1 / (1 + np.exp(-SHARPNESS * (heat - HEAT)))) * (heat > 0)
    return np.where(age == 0, catches, (age < BURNS) * (age > 0))


def next_age(age: NDArray[np.int64], burns: NDArray[np.bool_]) -> NDArray[np.int64]:
    """`age` one frame later, where `burns` says which cells do then."""
    return np.where(age > 0, age + 1, burns.astype(np.int64))


def _write(root: Path, seed: int, plan: Plan) -> None:
    (root / "channels.json").write_text(json.dumps(ABOUT))
    streams = np.random.SeedSequence(seed).spawn(plan.train + plan.validate)
    rows = []
    for number, stream in enumerate(streams):
        folder = root / f"fire{number:02d}"
        folder.mkdir()
        frames, mask = spread(np.random.default_rng(stream), plan)
        np.save(folder / "frames.npy", frames)
        np.save(folder / "mask.npy", mask)
        rows.append((VALIDATE if number < plan.validate else TRAIN, folder.name))
    _write_split(root / "split.csv", rows)


def _write_split(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("side", "series"), *rows])


def spread(rng: np.random.Generator, plan: Plan) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """One series: frames float16 (T, C, H, W), and the mask of what burns, uint8 (T, H, W), 255 below clouds."""
    side, frames = plan.side, np.zeros((plan.frames, len(CHANNELS), plan.side, plan.side), np.float16)
    fuel = np.clip(0.55 + 0.28 * smooth_noise(rng, (1, side, side), 9.0)[0], 0, 1)
    elevation = np.clip(300 + 90 * smooth_noise(rng, (1, side, side), 24.0)[0], 0, 600)
    gusts = smooth_noise(rng, (2 * plan.frames, side, side), 20.0).reshape(2, plan.frames, side, side)
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.25, plan.frames))
    speed = np.clip(rng.uniform(3, 7) + np.cumsum(rng.normal(0, 0.4, plan.frames)), 1, 9)
    frames[:, 1] = np.clip((speed * np.sin(angle))[:, None, None] + 0.8 * gusts[0], -10, 10)
    frames[:, 2] = np.clip((speed * np.cos(angle))[:, None, None] + 0.8 * gusts[1], -10, 10)
    frames[:, 3], frames[:, 4] = fuel, elevation

    age = np.zeros((side, side), np.int64)
    for y, x in rng.integers(side // 5, side - side // 5, (5, 2)):
        age[y - 2 : y + 3, x - 2 : x + 3] = 1
    frames[0, 0] = age > 0
    for t in range(1, plan.frames):
        age = next_age(age, rng.random(age.shape) < chance(age, frames[t - 1]))
        frames[t, 0] = (age >= 1) & (age <= BURNS)

    mask = frames[:, 0].astype(np.uint8)
    for t in range(1, plan.frames, 4):
        y, x = rng.integers(0, side - side // 4, 2)
        mask[t, y : y + side // 4, x : x + side // 4] = UNKNOWN
    return frames, mask
