"""What a patch is on its way: packed bytes as cut from a crop, and how much to cut for it.

Shapes: N batch, P packed bytes, D space along z, H W the context (enlarged patch).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class PackedBatch:
    """Patches as they lie in the cache. In training D H W is the context and `draws` says what `augment` does."""

    em: Tensor
    """uint8 (N, K, D, H, W) of K input channels, 0 where the volume has no data."""
    labels: Tensor
    """uint8 (N, P, D, H, W), all bits 0 (unknown) beyond the crop."""
    crop: Tensor
    """int64 (N,), index into `dataset.crops`."""
    draws: dict[str, Tensor] = field(default_factory=dict)
    """mirror_y, mirror_x, transpose, mirror_z (0 or 1), angle (radians) and gain (a factor), float32 (N,). mirror_z is
    absent without data.mirror_z, angle without rotation, gain without data.gain, all in validation."""

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> PackedBatch:
        """A copy on `device`."""
        em, labels, crop = (t.to(device, non_blocking=non_blocking) for t in (self.em, self.labels, self.crop))
        draws = {name: t.to(device, non_blocking=non_blocking) for name, t in self.draws.items()}
        return PackedBatch(em, labels, crop, draws)

    def pin_memory(self) -> PackedBatch:
        """A copy in page-locked memory, for asynchronous transfer to CUDA."""
        draws = {name: t.pin_memory() for name, t in self.draws.items()}
        return PackedBatch(self.em.pin_memory(), self.labels.pin_memory(), self.crop.pin_memory(), draws)


def context_size(patch: Sequence[int], *, rotate: bool, transpose: bool) -> tuple[int, int, int]:
    """Size (D, H, W) in voxels to cut for `patch` so that no augmentation reaches outside.

    Rotation needs the diagonal of the patch (√2 of a square one), a transpose the longer side. Each side keeps the
    parity of the patch's, so both have the same centre and an unrotated patch is an exact copy.
    """
    depth, height, width = (int(v) for v in patch)
    reach = 0
    if rotate:
        reach = math.ceil(math.hypot(height, width))
    elif transpose and height != width:
        reach = max(height, width)
    return depth, _same_parity(max(reach, height), height), _same_parity(max(reach, width), width)


def em_margin(patch: Sequence[int], shape: Sequence[int]) -> list[int]:
    """Voxels of image to keep on each side of a crop of `shape`, per axis: no patch or rotated context lacks any.

    A patch wider than the crop sticks out by at most their difference; its context by half of what it adds.
    """
    context = context_size(patch, rotate=True, transpose=True)
    return [max(0, int(p) - n) + (c - int(p)) // 2 for p, c, n in zip(patch, context, shape)]


def _same_parity(size: int, like: int) -> int:
    return size + (size - like) % 2
