"""Cells made of signed distances: the geometry and the grey values of the generated data.

Everything is computed on a base grid of BASE_NM and interpolated to the voxels that are written. A field is positive
inside its structure and measures, in nanometres and approximately, the depth below the surface; a membrane is a
shell, so its field peaks at half its thickness. Shapes: D H W of the base grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BASE_NM = 8.0
COARSE = 2  # the smooth fields (cells, nuclei, warp, ER) are made on every second base voxel
FAR_NM = 1e3

FloatArray = npt.NDArray[np.float32]
Point = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What decides how hard the phantom is. Lengths in nanometres, grey values in 0–255, shares in [0, 1]."""

    cell_spacing: float = 2100.0
    """Distance of neighbouring cell centres; smaller cells show more plasma membrane."""
    warp: float = 70.0
    """Amplitude (standard deviation) by which all shapes are bent."""
    warp_period: float = 480.0
    nucleus_radius: tuple[float, float] = (380.0, 560.0)
    membrane: float = 19.0
    """Thickness of plasma, mitochondrial and ER membranes."""
    mito_per_um3: float = 18.0
    mito_radius: tuple[float, float] = (95.0, 150.0)
    mito_length: tuple[float, float] = (150.0, 520.0)
    crista_period: float = 78.0
    golgi_per_um3: float = 4.0
    golgi_sheets: tuple[int, int] = (3, 5)
    golgi_period: float = 46.0
    golgi_radius: tuple[float, float] = (120.0, 230.0)
    er_period: float = 230.0
    """Distance of ER sheets from one another, seen from the nucleus outwards."""
    er_bend: float = 110.0
    """How far (standard deviation) sheets leave their round course."""
    er_extent: float = -0.6
    """Threshold of the field that says where sheets may lie; higher means fewer sheets."""
    er_lamellae: float = 0.6
    """Threshold above which a second sheet runs beside each sheet, as Golgi cisternae do."""
    er_lamella_spacing: float = 80.0
    er_lumen: float = 7.0
    """Half the mean width of the lumen; below about 4 the two membranes of a sheet touch."""
    vesicles_per_um3: float = 35.0
    """Round membranes nobody annotates: distractors."""
    dark: dict[str, float] = None  # type: ignore[assignment]
    """Grey value of each membrane; set in __post_init__ where not given."""
    granules: float = 20.0
    """Darkness of ribosome-like granules in the cytoplasm."""
    texture: float = 7.0
    noise_base: float = 5.0
    """Standard deviation of noise that survives at 8 nm."""
    noise_voxel: float = 7.5
    """Standard deviation of noise from voxel to voxel as written."""

    def __post_init__(self) -> None:
        if self.dark is None:
            object.__setattr__(self, "dark", {"pm": 58.0, "mito_mem": 54.0, "er_mem": 82.0, "golgi_mem": 82.0})


@dataclass
class World:
    """The fields of one volume: `inside[name]` float32 (D, H, W), nucleus ids uint16 (D, H, W), grey float32."""

    inside: dict[str, FloatArray]
    nucleus_id: npt.NDArray[np.uint16]
    grey: FloatArray


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...], period: float) -> FloatArray:
    """Gaussian noise with unit variance and `period` voxels between knots: cubic B-spline over random knots."""
    z, y, x = (_spline_matrix(n, period, float(rng.uniform())) for n in shape)
    knots = rng.standard_normal((z.shape[1], y.shape[1], x.shape[1]), dtype=np.float32)
    knots /= np.float32(0.332)  # (∫B3²)^1.5, the spread the spline leaves
    field: FloatArray = np.matmul(y, np.tensordot(z, knots, axes=1)) @ x.T
    return field


def _spline_matrix(n: int, period: float, phase: float) -> FloatArray:
    t = np.arange(n) / period + phase
    base = np.floor(t).astype(int)
    u = (t - base)[:, None]
    weights = np.hstack([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]) / 6
    matrix = np.zeros((n, int(base[-1]) + 4), np.float32)
    matrix[np.arange(n)[:, None], base[:, None] + np.arange(4)] = weights
    return matrix


def resample(field: npt.NDArray, positions: list[npt.NDArray]) -> FloatArray:
    """Linear interpolation of `field` (D, H, W) at the grid of `positions` (one 1-D array per axis, in voxels)."""
    for axis, position in enumerate(positions):
        limit = field.shape[axis] - 1
        low = np.clip(np.floor(position).astype(int), 0, max(limit - 1, 0))
        high = np.minimum(low + 1, limit)
        weight = np.clip(position - low, 0, 1).astype(np.float32)
        weight = weight.reshape([-1 if a == axis else 1 for a in range(3)])
        below = np.take(field, low, axis)
        field = below + (np.take(field, high, axis) - below) * weight
    return field


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
    objects = _Objects(rng, grid, cytoplasm, recipe)
    objects.place_golgi()
    objects.place_mitochondria()
    objects.place_vesicles()
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


class _Objects:
    """Organelles placed one by one, each in its own box: Golgi stacks, mitochondria, vesicles."""

    def __init__(self, rng: np.random.Generator, grid: list[FloatArray], cytoplasm: FloatArray, recipe: Recipe):
        self.rng, self.grid, self.cytoplasm, self.recipe = rng, grid, cytoplasm, recipe
        shape = cytoplasm.shape
        self.um3 = float(np.prod(shape)) * (BASE_NM / 1e3) ** 3
        self.clearance = np.full(shape, FAR_NM, np.float32)
        self.mito, self.mito_mem, self.golgi, self.golgi_mem, self.vesicle, self.vesicle_mem = (
            np.full(shape, -FAR_NM, np.float32) for _ in range(6)
        )

    def place_golgi(self) -> None:
        self._place(self.recipe.golgi_per_um3, self._golgi, margin=130.0)

    def place_mitochondria(self) -> None:
        self._place(self.recipe.mito_per_um3, self._mitochondrion, margin=125.0)

    def place_vesicles(self) -> None:
        self._place(self.recipe.vesicles_per_um3, self._vesicle, margin=50.0)

    def _place(self, per_um3: float, draw: Callable[..., bool], *, margin: float) -> None:
        """Up to per_um3 · volume objects at random places with `margin` nm of free cytoplasm around the centre.

        `draw` refuses (returns False) where too much of its object would be cut off by what is there already.
        """
        shape = np.array(self.cytoplasm.shape)
        for _ in range(round(per_um3 * self.um3)):
            for _attempt in range(12):
                at = tuple(int(v) for v in self.rng.integers(0, shape))
                if min(self.cytoplasm[at], self.clearance[at]) > margin and draw(at):
                    break

    def _box(self, at: tuple[int, ...], reach: float) -> tuple[tuple[slice, ...], list[FloatArray]]:
        """The voxels within about `reach` nm of `at`, and their warped offsets from it."""
        half = int(np.ceil((reach + self.recipe.warp) / BASE_NM))
        view = tuple(slice(max(a - half, 0), a + half + 1) for a in at)
        return view, [g[view] - g[at] for g in self.grid]

    def _frame(self, tilt: float) -> npt.NDArray[np.float64]:
        """A random orthonormal frame (3, 3) whose first vector leaves the slice plane by at most `tilt`."""
        angle = self.rng.uniform(0, 2 * np.pi)
        first = np.array([self.rng.uniform(-tilt, tilt), np.sin(angle), np.cos(angle)])
        first /= np.linalg.norm(first)
        second = np.cross(first, [1.0, 0.0, 0.0])
        second /= np.linalg.norm(second)
        return np.stack([first, second, np.cross(first, second)])

    def _project(self, offset: list[FloatArray], frame: npt.NDArray[np.float64]) -> list[FloatArray]:
        z, y, x = offset
        return [z * np.float32(row[0]) + y * np.float32(row[1]) + x * np.float32(row[2]) for row in frame]

    def _golgi(self, at: tuple[int, ...]) -> bool:
        recipe, rng = self.recipe, self.rng
        radius = rng.uniform(*recipe.golgi_radius)
        view, offset = self._box(at, 1.1 * radius)
        across, along, deep = self._project(offset, self._frame(0.45))
        radial = np.sqrt(along**2 + deep**2)
        across = across + np.float32(rng.uniform(-1, 1) / 450) * radial**2
        count = int(rng.integers(recipe.golgi_sheets[0], recipe.golgi_sheets[1] + 1))
        reach = np.minimum(count * recipe.golgi_period / 2 - np.abs(across), radius - radial)
        free = np.minimum(self.cytoplasm[view] - 40, self.clearance[view] - 40)
        if not _fits(reach, free):
            return False
        for i in range(count):
            sheet = across - np.float32((i - (count - 1) / 2) * recipe.golgi_period)
            edge = np.float32(radius * rng.uniform(0.65, 1.0)) - np.abs(along + np.float32(rng.uniform(-40, 40)))
            membrane = np.minimum(recipe.membrane / 2 - np.abs(sheet), np.minimum(edge, radius - np.abs(deep)))
            np.maximum(self.golgi_mem[view], np.minimum(membrane, free), out=self.golgi_mem[view])
        np.maximum(self.golgi[view], np.minimum(reach, free), out=self.golgi[view])
        np.minimum(self.clearance[view], -reach, out=self.clearance[view])
        return True

    def _mitochondrion(self, at: tuple[int, ...]) -> bool:
        recipe, rng = self.recipe, self.rng
        half, radius = rng.uniform(*recipe.mito_length) / 2, np.float32(rng.uniform(*recipe.mito_radius))
        view, offset = self._box(at, float(half + radius))
        along, across, deep = self._project(offset, self._frame(0.6))
        across = across + np.float32(rng.uniform(-1, 1) / 900) * along**2
        rest = along - np.clip(along, -half, half)
        depth = radius - np.sqrt(rest**2 + across**2 + deep**2)
        free = np.minimum(self.cytoplasm[view] - 30, self.clearance[view] - 25)
        if not _fits(depth, free):
            return False
        depth = np.minimum(depth, free)
        t = recipe.membrane
        phase = along + 0.25 * across + np.float32(rng.uniform(0, recipe.crista_period))
        ridge = np.abs(np.mod(phase, recipe.crista_period) - recipe.crista_period / 2)
        crista = np.minimum(
            np.minimum(0.42 * t - ridge, depth - t * 0.7), 60 - np.abs(across - 35 * np.sign(phase % 2))
        )
        membrane = np.maximum(0.55 * t - np.abs(depth - 0.55 * t), crista)
        np.maximum(self.mito[view], depth, out=self.mito[view])
        np.maximum(self.mito_mem[view], np.where(depth > -20, membrane, -FAR_NM), out=self.mito_mem[view])
        np.minimum(self.clearance[view], -depth, out=self.clearance[view])
        return True

    def _vesicle(self, at: tuple[int, ...]) -> bool:
        view, offset = self._box(at, 45)
        depth = np.float32(self.rng.uniform(22, 45)) - np.sqrt(sum(o**2 for o in offset))
        depth = np.minimum(depth, self.clearance[view] - 20)
        np.maximum(self.vesicle[view], depth, out=self.vesicle[view])
        np.maximum(self.vesicle_mem[view], 7 - np.abs(depth - 7), out=self.vesicle_mem[view])
        np.minimum(self.clearance[view], -depth, out=self.clearance[view])
        return True


def _fits(depth: FloatArray, free: FloatArray) -> bool:
    """Whether at least nine tenths of the object (depth > 0) lie where there is room (free > 0)."""
    inside = depth > 0
    return bool(np.count_nonzero(inside & (free > 0)) >= 0.9 * np.count_nonzero(inside))


def _grey(
    rng: np.random.Generator,
    inside: dict[str, FloatArray],
    cell: FloatArray,
    er_body: FloatArray,
    objects: _Objects,
    recipe: Recipe,
) -> FloatArray:
    """Grey values (D, H, W) before the contrast and the noise of a microscope: membranes dark, lumens bright."""
    shape = cell.shape
    grey = np.full(shape, 214, np.float32) + 4 * smooth_noise(rng, shape, 20.0)
    grain = rng.standard_normal(shape, dtype=np.float32)
    granules = np.maximum(_soften(grain) - 0.55, 0) * (recipe.granules / 0.5)
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


def _soften(field: FloatArray) -> FloatArray:
    """Mean of each voxel and its next neighbour along every axis: noise becomes grains of two voxels."""
    for axis in range(3):
        field = 0.5 * (field + np.roll(field, 1, axis))
    return field * np.float32(2.0)


def _blend(grey: FloatArray, value: FloatArray | float, inside: FloatArray) -> None:
    """Mix `value` into `grey` in place by the share of each base voxel that lies inside (partial volume)."""
    share = np.clip(0.5 + inside * np.float32(1 / BASE_NM), 0, 1)
    grey += (value - grey) * share
