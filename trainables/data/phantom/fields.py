"""The knobs of the generated data, and the smooth random fields and interpolation its shapes are made of.

Shapes: D H W of the base grid, whose voxels measure BASE_NM.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

BASE_NM = 8.0
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
    dark: dict[str, float] = field(
        default_factory=lambda: {"pm": 58.0, "mito_mem": 54.0, "er_mem": 82.0, "golgi_mem": 82.0}
    )
    """Grey value of each membrane."""
    granules: float = 20.0
    """Darkness of ribosome-like granules in the cytoplasm."""
    texture: float = 7.0
    noise_base: float = 5.0
    """Standard deviation of noise that survives at 8 nm."""
    noise_voxel: float = 7.5
    """Standard deviation of noise from voxel to voxel as written."""


@dataclass(frozen=True, kw_only=True)
class FourteenRecipe(Recipe):
    """The edition of fourteen classes: lumens wide enough to be labelled, mitochondrial ribosomes, endosomes."""

    er_lumen: float = 17.0
    vesicles_per_um3: float = 60.0
    endosomes_per_um3: float = 7.0
    endosome_radius: tuple[float, float] = (75.0, 120.0)
    ribosomes: float = 1.1
    """Threshold of the grains in mitochondria that are ribosomes; higher means fewer."""


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


def grains(field: FloatArray) -> FloatArray:
    """Mean of each voxel and its next neighbour along every axis: noise becomes grains of two voxels."""
    for axis in range(3):
        field = 0.5 * (field + np.roll(field, 1, axis))
    return field * np.float32(2.0)
