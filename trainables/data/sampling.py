"""Patches out of packed crops: which crop, where, and with which augmentation. Pure functions of (seed, step).

Shapes: N batch, K input channels, P packed bytes, D H W the cut (the patch, or its context in training). Positions are
voxels of the crop's target grid, z y x; a negative start lies before the crop's first voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.data.expand import class_masks
from trainables.data.packed import PackedCrop, PackedDataset
from trainables.data.patch import PackedBatch, context_size
from trainables.errors import DataError

Position = NDArray[np.int64]
TRAIN_STREAM, VALIDATION_STREAM, MIRROR_Z_STREAM, GAIN_STREAM = 1, 2, 3, 4


class PatchSampler:
    """Batch number `step` of seed `seed`: the same arguments give the same batch, in any order, in any process.

    sampling: crop (every crop equally likely), volume (by its voxels) or class_aware (a class that has positives, each
    equally likely; then a crop that holds it; then a patch that contains one of its voxels). The last changes the class
    frequencies the loss sees and so confounds a comparison of loss weightings. None: as the dataset's settings say.
    learnt: the classes that class_aware draws from, those that the task learns; None: all of the dataset's.
    rank, world: of the same batch every world-th patch from `rank` on, so that all ranks together have all of it.
    Raises DataError when the side has no crops.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        side: str = "train",
        batch_size: int,
        seed: int,
        sampling: str | None = None,
        learnt: Sequence[str] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        settings = dataset.settings
        self.dataset, self.batch_size, self.seed, self.share = dataset, batch_size, seed, slice(rank, None, world)
        self.sampling = settings.sampling if sampling is None else sampling
        self.members = side_members(dataset, side)
        self.patch = np.array(settings.patch, dtype=np.int64)
        self.rotate = settings.rotate_degrees > 0
        self.context = np.array(context_size(settings.patch, rotate=self.rotate, transpose=settings.transpose))
        self._weights = self._crop_weights()
        drawn = [index for index, name in enumerate(dataset.classes) if learnt is None or name in learnt]
        self._holders = {c: held for c, held in class_holders(dataset, self.members).items() if c in drawn}
        if self.sampling == "class_aware" and not self._holders:
            none = "no class that is learnt has a positive voxel"
            raise DataError(f"data.sampling=class_aware: {none}. Use data.sampling=crop.")

    def _crop_weights(self) -> NDArray[np.float64]:
        crops = [self.dataset.crops[i] for i in self.members]
        sizes = np.array([np.prod(c.shape) if self.sampling == "volume" else 1 for c in crops], dtype=np.float64)
        return sizes / sizes.sum()

    def expected_voxels(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positive and annotated voxels of each class, (C,) each, that a patch holds in expectation over the draws.

        Computed from where patches can begin, not drawn. Rotation is left out: it trades voxels near the border of a
        crop for unknown ones, of all classes alike.
        """
        crops, patch = self.dataset.crops, self.patch
        total = np.zeros((2, len(self.dataset.classes)))
        if self.sampling == "class_aware":
            for index, members in self._holders.items():
                for member in members:
                    found = kept_positions(crops[member], index)
                    held = voxels_in_patches(crops[member], patch, *starts_at(crops[member].shape, patch, found))
                    total += held / (len(self._holders) * len(members))
        else:
            for member, weight in zip(self.members, self._weights):
                shape = np.array([crops[member].shape])
                total += weight * voxels_in_patches(crops[member], patch, *starts_within(shape, patch))
        return total[0], total[1]

    def batch(self, step: int) -> PackedBatch:
        """Batch `step` (≥ 0) with its augmentation draws. Nothing is remembered: resuming needs only the number."""
        rng = np.random.default_rng([TRAIN_STREAM, self.seed, step])
        draws = {name: values[self.share] for name, values in self._draws(rng, step).items()}
        members, starts = (drawn[self.share] for drawn in self._positions(rng))
        return cut(self.dataset, members, starts - (self.context - self.patch) // 2, self.context, draws)

    def chosen(self, step: int) -> NDArray[np.int64]:
        """The crops of batch `step`, without cutting anything out of them."""
        rng = np.random.default_rng([TRAIN_STREAM, self.seed, step])
        self._draws(rng, step)
        return self._positions(rng)[0][self.share]

    def views(self, member: int, *, plain: bool = False) -> PackedBatch:
        """A crop as a batch of its own, from its first voxel on: augmented `batch_size` times, or plain, once."""
        members, start = np.full(1 if plain else self.batch_size, member), np.zeros((1, 3), np.int64)
        if plain:
            return cut(self.dataset, members, start, self.patch, {})
        draws = self._draws(np.random.default_rng([TRAIN_STREAM, self.seed, member]), member)
        starts = np.repeat(start - (self.context - self.patch) // 2, self.batch_size, axis=0)
        return cut(self.dataset, members, starts, self.context, draws)

    def _positions(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], Position]:
        """Crop (N,) and first voxel (N, 3) of each patch."""
        if self.sampling == "class_aware":
            picks = []
            for _ in range(self.batch_size):
                index = sorted(self._holders)[rng.integers(len(self._holders))]
                member = int(rng.choice(self._holders[index]))
                picks.append((member, start_at_class(rng, self.dataset.crops[member], index, self.patch)))
            return np.array([p[0] for p in picks]), np.stack([p[1] for p in picks])
        members = rng.choice(self.members, size=self.batch_size, p=self._weights)
        shapes = np.array([self.dataset.crops[i].shape for i in members])
        return members, random_starts(rng, shapes, self.patch)

    def _draws(self, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """Draws for batch `step`; the random stream does not depend on which augmentations are on: those of mirror_z
        and gain, which came later, are others."""
        settings = self.dataset.settings
        coins = (rng.random((3, self.batch_size)) < 0.5).astype(np.float32)
        angle = rng.uniform(-1, 1, self.batch_size) * np.deg2rad(settings.rotate_degrees)
        mirror_y = settings.mirror and settings.mirror_y
        coins *= np.array([[mirror_y], [settings.mirror], [settings.transpose]], dtype=np.float32)
        if not (settings.mirror or settings.mirror_z or settings.transpose or self.rotate or settings.gain):
            return {}
        draws = dict(zip(("mirror_y", "mirror_x", "transpose"), torch.from_numpy(coins)))
        if settings.mirror_z:
            coin = np.random.default_rng([MIRROR_Z_STREAM, self.seed, step]).random(self.batch_size) < 0.5
            draws["mirror_z"] = torch.from_numpy(coin.astype(np.float32))
        if settings.gain:
            factors = np.random.default_rng([GAIN_STREAM, self.seed, step]).uniform(-1, 1, self.batch_size)
            draws["gain"] = torch.from_numpy((1 + settings.gain * factors).astype(np.float32))
        return draws | ({"angle": torch.from_numpy(angle.astype(np.float32))} if self.rotate else {})


def side_members(dataset: PackedDataset, side: str) -> NDArray[np.int64]:
    """Indices of the crops of `side`; DataError when there are none. With data.train_on=all, train is both sides."""
    sides = {side, "validate"} if side == "train" and dataset.settings.train_on == "all" else {side}
    members = np.array([i for i, crop in enumerate(dataset.crops) if crop.side in sides], dtype=np.int64)
    if len(members) == 0:
        raise DataError(
            f"The split has no crop on side {side!r}. Add one to datasplit.csv or let a new one be written."
        )
    return members


def class_holders(dataset: PackedDataset, members: NDArray[np.int64]) -> dict[int, list[int]]:
    """For each class index with positive voxels: the crops that hold some."""
    holders: dict[int, list[int]] = {}
    for member in members:
        for index in np.flatnonzero(dataset.crops[member].positive):
            holders.setdefault(int(index), []).append(int(member))
    return holders


def starts_within(shapes: Position, patch: Position) -> tuple[Position, Position]:
    """First and last start (N, 3): the patch inside a crop that is larger, else the crop inside the patch."""
    slack = shapes - patch
    return np.minimum(slack, 0), np.maximum(slack, 0)


def starts_at(shape: Sequence[int], patch: Position, voxels: Position) -> tuple[Position, Position]:
    """Those of `starts_within` whose patch holds one of `voxels` (N, 3)."""
    low, high = starts_within(np.array(shape), patch)
    return np.maximum(low, voxels - patch + 1), np.minimum(high, voxels)


def random_starts(rng: np.random.Generator, shapes: Position, patch: Position) -> Position:
    """Uniform first voxels (N, 3), see `starts_within`."""
    return rng.integers(*starts_within(shapes, patch), endpoint=True)


def kept_positions(crop: PackedCrop, index: int) -> Position:
    """The positive voxels (M, 3) of class `index` that class-aware sampling draws from."""
    return crop.positions[index][: min(int(crop.positive[index]), crop.positions.shape[1])]


def start_at_class(rng: np.random.Generator, crop: PackedCrop, index: int, patch: Position) -> Position:
    """A random first voxel (3,), within the limits of `random_starts`, whose patch holds a voxel of class `index`."""
    kept = kept_positions(crop, index)
    return rng.integers(*starts_at(crop.shape, patch, kept[rng.integers(len(kept))]), endpoint=True)


def voxels_in_patches(crop: PackedCrop, patch: Position, low: Position, high: Position) -> NDArray[np.float64]:
    """Positive and annotated voxels (2, C) in a patch that starts anywhere in [low, high], the mean over N such boxes.

    low, high: (N, 3). How often a patch covers a voxel is a product over the axes, so they are summed one by one.
    """
    z, y, x = (_coverage(n, int(p), a, b) for n, p, a, b in zip(crop.shape, patch, low.T, high.T))
    if all((axis == axis[:, :1]).all() for axis in (z, y, x)):  # every voxel alike: no need to look where they are
        return np.stack([crop.positive, crop.known]) * (z[:, 0] * y[:, 0] * x[:, 0]).mean()
    num_classes = len(crop.positive)
    total = np.zeros((2, num_classes))
    for row, plane in enumerate(z.T):
        reached = np.flatnonzero(plane)
        if len(reached) == 0:
            continue
        planes = np.asarray(crop.labels[:, row])
        for index in range(num_classes):
            for kind, mask in enumerate(class_masks(planes, index, num_classes)):
                covered = y[reached] @ mask.astype(np.float64)
                total[kind, index] += plane[reached] @ (covered * x[reached]).sum(axis=1)
    return total / len(low)


def _coverage(length: int, patch: int, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, length): how likely voxel i of an axis is in a patch whose start is uniform in [low, high] (N,)."""
    voxel, low, high = np.arange(length), low[:, None], high[:, None]
    starts = np.minimum(voxel, high) - np.maximum(voxel - patch + 1, low) + 1
    return np.clip(starts, 0, None) / (high - low + 1)


def cut(
    dataset: PackedDataset, members: NDArray[np.int64], starts: Position, size: Position, draws: dict[str, Tensor]
) -> PackedBatch:
    """Copy boxes of `size` (3,) at `starts` (N, 3) out of the crops `members` (N,); what no crop holds stays 0."""
    shape = tuple(int(v) for v in size)
    em = np.zeros((len(members), dataset.in_channels, *shape), dtype=np.uint8)
    labels = np.zeros((len(members), len(dataset.crops[0].labels), *shape), dtype=np.uint8)
    for n, (member, start) in enumerate(zip(members.tolist(), starts.tolist())):
        crop = dataset.crops[member]
        _copy_box(crop.em, [s - o for s, o in zip(start, crop.offset)], em[n])
        _copy_box(crop.labels, start, labels[n])
    crops = torch.from_numpy(np.asarray(members, dtype=np.int64))
    return PackedBatch(torch.from_numpy(em), torch.from_numpy(labels), crops, draws)


def _copy_box(source: NDArray[np.uint8], start: Sequence[int], out: NDArray[np.uint8]) -> None:
    """out (…, D, H, W) ← source (…, D', H', W') from voxel `start`, where the two overlap."""
    taken: list[Any] = [...]  # leading planes as they are
    placed: list[Any] = [...]
    for first, length, size in zip(start, source.shape[-3:], out.shape[-3:]):
        low, high = max(first, 0), min(first + size, length)
        if low >= high:
            return
        taken.append(slice(low, high))
        placed.append(slice(low - first, high - first))
    out[tuple(placed)] = source[tuple(taken)]


class ValidationSet:
    """Fixed validation patches in batches, cut out of the mapped crops each time a batch is asked for.

    A copy in every trial of a node would weigh more than the cache that they share.
    """

    def __init__(self, dataset: PackedDataset, batches: list[tuple[NDArray[np.int64], Position]], size: Position):
        self._dataset, self._batches, self._size = dataset, batches, size
        self.batch_size = len(batches[0][0])

    def __len__(self) -> int:
        return len(self._batches)

    def members(self, number: int) -> NDArray[np.int64]:
        """The crops of a batch, (N,)."""
        return self._batches[number][0]

    def __getitem__(self, number: int) -> PackedBatch:
        members, starts = self._batches[number]
        return cut(self._dataset, members, starts, self._size, {})


def validation_set(
    dataset: PackedDataset, *, batch_size: int, num_batches: int, seed: int, whole_crops: bool = False
) -> ValidationSet:
    """Fixed patches of the validation crops, patch-sized, not augmented: the same for every trial of a sweep.

    Stratified: the crops take turns (each appears ⌊n/K⌋ or one more times), and every class with positive voxels on
    the validation side has some in the set, as far as n ≥ the number of such classes. With data.validation_patch these
    are boxes of that size, which do not depend on the patch; they are tiled by patches, in as many batches as it takes,
    each of the largest size up to `batch_size` that divides their number. whole_crops: every crop once, from its first
    voxel on, in batches of such a size, whatever `num_batches` says. Raises DataError without crops.
    """
    rng = np.random.default_rng([VALIDATION_STREAM, seed])
    members, settings = side_members(dataset, "validate"), dataset.settings
    patch = np.array(settings.patch, dtype=np.int64)
    box = np.array(settings.validation_patch or patch, dtype=np.int64)
    if whole_crops:
        picks = [(int(member), np.zeros(3, np.int64)) for member in members]
        return _in_batches(rng, dataset, picks, _even(len(picks), batch_size), patch)
    num_boxes = settings.validation_boxes or batch_size * num_batches
    required = _class_patches(rng, dataset, members, box)[:num_boxes]
    picks = required + _turns(rng, dataset, members, [m for m, _ in required], num_boxes, box)
    tiles = np.stack(np.meshgrid(*map(np.arange, box // patch), indexing="ij"), axis=-1).reshape(-1, 3) * patch
    picks = [(member, start + tile) for member, start in picks for tile in tiles]
    if settings.validation_patch:
        num_batches = _even(len(picks), batch_size)
    return _in_batches(rng, dataset, picks, num_batches, patch)


def _even(patches: int, batch_size: int) -> int:
    """The fewest batches of equal size, at most `batch_size`, that hold so many patches."""
    return next(n for n in range(math.ceil(patches / batch_size), patches + 1) if patches % n == 0)


def _in_batches(
    rng: np.random.Generator, dataset: PackedDataset, picks: list[tuple[int, Position]], number: int, patch: Position
) -> ValidationSet:
    """The picks, shuffled, in `number` batches of equal size."""
    chosen = np.split(rng.permutation(len(picks)), number)
    batches = [(np.array([picks[i][0] for i in order]), np.stack([picks[i][1] for i in order])) for order in chosen]
    return ValidationSet(dataset, batches, patch)


def _class_patches(
    rng: np.random.Generator, dataset: PackedDataset, members: NDArray[np.int64], patch: Position
) -> list[tuple[int, Position]]:
    """Patches that together hold a voxel of every class with positives; the class in the fewest crops first."""
    holders = class_holders(dataset, members)
    picks: list[tuple[int, Position]] = []
    seen: set[int] = set()
    for index in sorted(holders, key=lambda c: (len(holders[c]), c)):
        if index not in seen:
            member = int(rng.choice(holders[index]))
            start = start_at_class(rng, dataset.crops[member], index, patch)
            picks.append((member, start))
            planes = cut(dataset, np.array([member]), start[None], patch, {}).labels[0].numpy()
            count = len(dataset.classes)
            seen |= {c for c in range(count) if class_masks(planes, c, count)[0].any()}
    return picks


def _turns(
    rng: np.random.Generator,
    dataset: PackedDataset,
    members: NDArray[np.int64],
    taken: list[int],
    num_patches: int,
    patch: Position,
) -> list[tuple[int, Position]]:
    """Patches at random places that fill up to `num_patches`, always from a crop that has the fewest so far."""
    counts = {int(m): taken.count(int(m)) for m in members}
    picks: list[tuple[int, Position]] = []
    for _ in range(num_patches - len(taken)):
        fewest = min(counts.values())
        member = int(rng.choice([m for m, n in counts.items() if n == fewest]))
        counts[member] += 1
        picks.append((member, random_starts(rng, np.array([dataset.crops[member].shape]), patch)[0]))
    return picks
