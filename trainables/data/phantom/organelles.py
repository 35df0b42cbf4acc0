"""Golgi stacks, mitochondria and vesicles of the generated data, placed one by one.

Fields are positive inside and measure depth in nanometres, as in phantom_shapes. Shapes: D H W of the base grid.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trainables.data.phantom.fields import BASE_NM, FAR_NM, FloatArray, FourteenRecipe, Recipe


class Organelles:
    """Organelles placed one by one, each in its own box: Golgi stacks, mitochondria, vesicles, and endosomes where the
    recipe has some."""

    def __init__(self, rng: np.random.Generator, grid: list[FloatArray], cytoplasm: FloatArray, recipe: Recipe):
        self.rng, self.grid, self.cytoplasm, self.recipe = rng, grid, cytoplasm, recipe
        shape = cytoplasm.shape
        self.um3 = float(np.prod(shape)) * (BASE_NM / 1e3) ** 3
        self.clearance = np.full(shape, FAR_NM, np.float32)
        self.mito, self.mito_mem, self.golgi, self.golgi_mem, self.vesicle, self.vesicle_mem = (
            np.full(shape, -FAR_NM, np.float32) for _ in range(6)
        )
        if isinstance(recipe, FourteenRecipe):
            self.endosome = np.full(shape, -FAR_NM, np.float32)

    def place(self) -> None:
        self._place(self.recipe.golgi_per_um3, self._golgi, margin=130.0)
        self._place(self.recipe.mito_per_um3, self._mitochondrion, margin=125.0)
        if isinstance(self.recipe, FourteenRecipe):
            self._place(self.recipe.endosomes_per_um3, self._endosome, margin=90.0)
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

    def _endosome(self, at: tuple[int, ...]) -> bool:
        assert isinstance(self.recipe, FourteenRecipe)
        radius = self.rng.uniform(*self.recipe.endosome_radius)
        view, offset = self._box(at, radius)
        depth = np.float32(radius) - np.sqrt(sum(o**2 for o in offset))
        free = np.minimum(self.cytoplasm[view] - 30, self.clearance[view] - 25)
        if not _fits(depth, free):
            return False
        np.maximum(self.endosome[view], np.minimum(depth, free), out=self.endosome[view])
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
