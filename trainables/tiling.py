"""Volumes of any size predicted in windows that overlap, and only as much of them at a time as fits.

The windows lie on one grid over the whole volume, the last of each axis at its end. `span` says which part of an axis
holds all windows that touch a block; predicted by itself, that part gives the block's logits as the whole would. So
memory is that of a block, and no seam shows where two of them meet.

Shapes: K input channels, C classes, D H W space, voxels; a window (d, h, w), d = 1 for a 2D network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

GROUP_VOXELS = 1 << 22
"""Of a part of several slices, blended at once by a 2D network: 4 bytes per class and voxel, twice."""
MOST_LOGITS = 1 << 28
"""Of the planes that one layer of 3D windows covers: 4 bytes each, twice."""


def block_shape(window: Sequence[int], overlap: float, num_classes: int) -> tuple[int, int, int]:
    """Voxels to predict at once. In 3D windows beside each other as many as MOST_LOGITS allow, one at least."""
    depth, height, width = window
    if depth == 1:
        return 16, 1024, 1024
    across = math.sqrt(MOST_LOGITS / (num_classes * depth * height * width)) - 2 * overlap  # its neighbours reach in
    side = max(1, int(across))
    return 4 * depth, side * height, side * width


def step(window: int, overlap: float) -> int:
    """Voxels from one window to the next."""
    return max(1, int(window * (1 - overlap)))


def span(start: int, stop: int, length: int, window: int, overlap: float) -> tuple[int, int]:
    """The part of an axis of `length` ≥ `window` that holds all windows which touch [start, stop)."""
    between, last = step(window, overlap), length - window
    first = ((start - window) // between + 1) * between
    low = max(0, min(first, last // between * between))
    high = length if last < stop else (stop - 1) // between * between + window
    return low, min(high, length)


@torch.no_grad()
def blended(
    network: Callable[[Tensor], Tensor], em: Tensor, window: Sequence[int], overlap: float, batch_size: int
) -> Iterator[Tensor]:
    """Logits float32 (C, z, H, W) of em uint8 (K, D, H, W), D H W ≥ window, some planes z at a time, in order.

    Windows are weighed by a Gaussian whose σ is an eighth of them: within the planes by MONAI, then along z.
    network: uint8 (N, K, *window) to logits (N, C, *window), on the device of `em`.
    """
    from monai.data.utils import compute_importance_map  # both take seconds to import
    from monai.inferers.utils import sliding_window_inference

    depth, length = window[0], em.shape[1]
    plane = compute_importance_map(tuple(window[1:]), mode="gaussian", sigma_scale=0.125, device=em.device)

    def layer(part: Tensor) -> Tensor:
        """Logits (C, z, H, W) of a part (K, z, H, W): one window thick, or slices, each by itself."""
        whole = sliding_window_inference(
            part[None].float(),
            tuple(window),
            batch_size,
            lambda images: network(images.to(torch.uint8)),
            overlap=overlap,
            roi_weight_map=plane.expand(*window),
        )
        assert isinstance(whole, Tensor)
        return whole[0]

    if depth == 1:
        yield from map(layer, em.split(max(1, GROUP_VOXELS // em[0, 0].numel()), dim=1))
        return
    weight = compute_importance_map((depth,), mode="gaussian", sigma_scale=0.125, device=em.device)[:, None, None]
    starts = sorted({*range(0, length - depth, step(depth, overlap)), length - depth})
    before, norm_before = torch.zeros((), device=em.device), weight[:0]  # what the layers above have left
    for start, following in zip(starts, [*starts[1:], length]):
        total, norm = layer(em[:, start : start + depth]).mul_(weight), weight.clone()
        reached, done = len(norm_before), following - start
        total[:, :reached] += before
        norm[:reached] += norm_before
        yield total[:, :done] / norm[:done]
        before, norm_before = total[:, done:], norm[done:]
