"""Cells made of signed distances: the geometry and the grey values of the generated data.

Everything is computed on a base grid of BASE_NM and interpolated to the voxels that are written. A field is positive
inside its structure and measures, in nanometres and approximately, the depth below the surface; a membrane is a
shell, so its field peaks at half its thickness. Shapes: D H W of the base grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.data.phantom.fields import (
    BASE_NM,
    FAR_NM,
    FloatArray,
    FourteenRecipe,
    Point,
    Recipe,
    grains,
    resample,
    smooth_noise,
)
from trainables.data.phantom.organelles import Organelles

COARSE = 2  # the smooth fields (cells, nuclei, warp, ER) are made on every second base voxel


@dataclass
class World:
    """The fields of one volume: `inside[name]` float32 (D, H, W), nucleus ids uint16 (D, H, W), grey float32."""

    inside: dict[str, FloatArray]
    nucleus_id: npt.NDArray[np.uint16]
    grey: FloatArray


def make_world(rng: np.random.Generator, shape: tuple[int, int, int], recipe: Recipe) -> World:
    """Cells with all their organelles in a volume of `shape` base voxels."""
    coarse = tuple(-(-n // COARSE) + 1 for n in shape)
    grid = _warped_grid(rng, coarse, recipe)
    cell, seeds = _cells(rng, grid, coarse, recipe)
    radial, nucleus_id = _nuclei(rng, grid, cell, seeds, recipe)
    nucleus = np.minimum(radial, cell - 70)
    er_fields = _er_fields(rng, radial, recipe)
    up = [np.arange(n) / COARSE for n in shape]
    cell, nucleus = resample(cell, up), resample(nucleus, up)
    er_sheet, er_slope, er_stacked, er_extent, er_width = (resample(f, up) for f in er_fields)
    er_sheet = _fold(er_sheet, er_slope, er_stacked, recipe)
    grid = [resample(g, up) for g in grid]
    nearest = np.ix_(*[(np.arange(n) + 1) // COARSE for n in shape])
    cytoplasm = np.minimum(cell, -nucleus)
    objects = Organelles(rng, grid, cytoplasm, recipe)
    objects.place()
    room = np.minimum(np.minimum(er_extent, cytoplasm - 45), objects.clearance - 30)
    body = np.minimum(er_width - np.abs(er_sheet), room)
    half = recipe.membrane / 2
    inside = {
        "pm": half - np.abs(cell - half),
        "ecs": -cell,
        "nuc": nucleus,
        "mito_mem": objects.mito_mem,
        "mito_lum": np.minimum(objects.mito - recipe.membrane, -objects.mito_mem),
        "er_mem": np.minimum(half - np.abs(np.abs(er_sheet) - er_width), room),
        "golgi_mem": objects.golgi_mem,
    }
    grey = _grey(rng, inside, cell, body, objects, recipe)
    if isinstance(recipe, FourteenRecipe):
        inside["er_lum"] = np.minimum(body, -inside["er_mem"])
        _add_fourteen(rng, inside, grey, objects, recipe)
    return World(inside, np.where(nucleus > 0, nucleus_id[nearest], 0).astype(np.uint16), grey)


def _warped_grid(rng: np.random.Generator, coarse: tuple[int, ...], recipe: Recipe) -> list[FloatArray]:
    step = BASE_NM * COARSE
    amplitude = (0.5 * recipe.warp, recipe.warp, recipe.warp)
    axes = np.meshgrid(*[np.arange(n, dtype=np.float32) * step for n in coarse], indexing="ij", sparse=True)
    return [a + s * smooth_noise(rng, coarse, recipe.warp_period / step) for a, s in zip(axes, amplitude, strict=True)]


def _cells(
    rng: np.random.Generator, grid: list[FloatArray], coarse: tuple[int, ...], recipe: Recipe
) -> tuple[FloatArray, list[Point]]:
    """Depth below the cell border, and the cell centres: bisector planes between jittered centres, with gaps."""
    extent = [n * BASE_NM * COARSE for n in coarse]
    seeds = _jittered_centres(rng, extent, recipe.cell_spacing)
    squared = np.stack([sum((g - np.float32(c)) ** 2 for g, c in zip(grid, s, strict=True)) for s in seeds])
    owner = squared.argmin(0)
    nearest = squared.min(0)
    apart = np.linalg.norm(np.array(seeds)[:, None] - np.array(seeds)[None], axis=-1)
    np.fill_diagonal(apart, 1)
    depth = np.full(nearest.shape, FAR_NM, np.float32)
    for other in range(len(seeds)):
        plane = (squared[other] - nearest) / (2 * apart[:, other].astype(np.float32))[owner]
        np.minimum(depth, np.where(owner == other, FAR_NM, plane), out=depth)
    gap = 12 + 45 * np.maximum(smooth_noise(rng, nearest.shape, 38.0), 0) ** 2
    return (depth - gap).astype(np.float32), seeds


def _jittered_centres(rng: np.random.Generator, extent: list[float], spacing: float) -> list[Point]:
    """Cell centres (z, y, x) on a shifted, jittered hexagonal lattice that covers the plane and its surroundings."""
    shift = rng.uniform(0, 1, 2)
    rows, columns = (int(np.ceil(e / spacing)) + 2 for e in extent[1:])
    centres = []
    for i in range(rows):
        for j in range(columns):
            jitter = rng.uniform(-0.2, 0.2, 3)
            y = (i - shift[0] + jitter[1]) * spacing
            x = (j - shift[1] + 0.5 * (i % 2) + jitter[2]) * spacing
            centres.append((extent[0] * (0.5 + jitter[0]), y, x))
    return centres


def _nuclei(
    rng: np.random.Generator, grid: list[FloatArray], cell: FloatArray, seeds: list[Point], recipe: Recipe
) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Depth below the nuclear surface (negative outside) and the index (from 1) of the nearest nucleus."""
    depth = np.full(cell.shape, -FAR_NM, np.float32)
    owner = np.zeros(cell.shape, np.int64)
    for number, seed in enumerate(seeds, start=1):
        radius = rng.uniform(*recipe.nucleus_radius, 3)
        centre = np.array(seed) + rng.uniform(-0.12, 0.12, 3) * recipe.cell_spacing
        q = sum(((g - np.float32(c)) / np.float32(r)) ** 2 for g, c, r in zip(grid, centre, radius, strict=True))
        candidate = (1 - np.sqrt(q)) * np.float32(radius.min())
        owner = np.where(candidate > depth, number, owner)
        depth = np.maximum(depth, candidate)
    return depth, owner


def _er_fields(rng: np.random.Generator, radial: FloatArray, recipe: Recipe) -> tuple[FloatArray, ...]:
    """A level whose multiples of er_period are ER sheets, wrapped round the nucleus and bent; its slope; where
    lamellae lie (> 0); where sheets may lie (> 0); half the width of the lumen."""
    step, shape = BASE_NM * COARSE, radial.shape
    level = radial + np.float32(recipe.er_bend) * smooth_noise(rng, shape, 36.0)
    slope = np.sqrt(sum(g**2 for g in np.gradient(level, step)))
    extent = (smooth_noise(rng, shape, 22.0) - np.float32(recipe.er_extent)) * 150
    extent = np.minimum(extent, 200 * np.minimum(1.9 - slope, slope - 0.4))  # no sheets thick or thin by distortion
    stacked = smooth_noise(rng, shape, 30.0) - np.float32(recipe.er_lamellae)
    width = np.clip(recipe.er_lumen * (1 + smooth_noise(rng, shape, 14.0)), 1, 25)
    return level, slope, stacked, extent, width


def _fold(level: FloatArray, slope: FloatArray, stacked: FloatArray, recipe: Recipe) -> FloatArray:
    """Distance to the nearest sheet; where `stacked` is positive each sheet has a parallel neighbour."""
    period = np.float32(recipe.er_period)
    distance = np.mod(level, period) - period / 2
    beside = np.abs(distance - np.float32(recipe.er_lamella_spacing))
    distance = np.abs(distance)
    nearest = np.where(stacked > 0, np.minimum(distance, beside), distance)
    return (nearest / np.maximum(slope, 0.4)).astype(np.float32, copy=False)


def _grey(
    rng: np.random.Generator,
    inside: dict[str, FloatArray],
    cell: FloatArray,
    er_body: FloatArray,
    objects: Organelles,
    recipe: Recipe,
) -> FloatArray:
    """Grey values (D, H, W) before the contrast and the noise of a microscope: membranes dark, lumens bright."""
    shape = cell.shape
    grey = np.full(shape, 214, np.float32) + 4 * smooth_noise(rng, shape, 20.0)
    grain = rng.standard_normal(shape, dtype=np.float32)
    granules = np.maximum(grains(grain) - 0.55, 0) * (recipe.granules / 0.5)
    cytoplasm = 160 + recipe.texture * smooth_noise(rng, shape, 7.0) - granules
    chromatin = 116 + 13 * np.tanh(1.5 * smooth_noise(rng, shape, 12.0)) + 5 * smooth_noise(rng, shape, 4.0)
    _blend(grey, cytoplasm, cell)
    _blend(grey, 170 + recipe.texture * smooth_noise(rng, shape, 5.0), objects.golgi - 4)
    _blend(grey, 176, er_body)
    _blend(grey, chromatin, inside["nuc"])
    _blend(grey, recipe.dark["er_mem"], 11 - np.abs(inside["nuc"] - 8))
    _blend(grey, 104 + recipe.texture * smooth_noise(rng, shape, 5.0), objects.mito)
    _blend(grey, 168, objects.vesicle)
    _blend(grey, 95, objects.vesicle_mem)
    for name in ("er_mem", "golgi_mem", "mito_mem", "pm"):
        _blend(grey, recipe.dark[name], inside[name])
    return grey


def _add_fourteen(
    rng: np.random.Generator,
    inside: dict[str, FloatArray],
    grey: FloatArray,
    objects: Organelles,
    recipe: FourteenRecipe,
) -> None:
    """The other classes of the edition of fourteen, in place, and the grey values of what only it has."""
    ribosomes = 12 * (smooth_noise(rng, grey.shape, 2.2) - np.float32(recipe.ribosomes))
    inside["mito_ribo"] = np.minimum(ribosomes, inside["mito_lum"] - 6)
    inside["golgi_lum"] = np.minimum(objects.golgi, -inside["golgi_mem"])
    for name, whole in (("ves", objects.vesicle), ("endo", objects.endosome)):
        membrane = 14.0 if name == "ves" else recipe.membrane
        inside[f"{name}_mem"] = membrane / 2 - np.abs(whole - membrane / 2)
        inside[f"{name}_lum"] = whole - np.float32(membrane)
    _blend(grey, 190 + recipe.texture * smooth_noise(rng, grey.shape, 6.0), objects.endosome)
    _blend(grey, 88, inside["endo_mem"])
    _blend(grey, 48, inside["mito_ribo"])


def _blend(grey: FloatArray, value: FloatArray | float, inside: FloatArray) -> None:
    """Mix `value` into `grey` in place by the share of each base voxel that lies inside (partial volume)."""
    share = np.clip(0.5 + inside * np.float32(1 / BASE_NM), 0, 1)
    grey += (value - grey) * share
