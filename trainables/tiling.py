"""Slices of any size predicted in windows that overlap, by MONAI, and only as much of them at a time as fits.

The windows lie on one grid over the whole slice, the last of each axis at its end. `span` says which part of the slice
holds all windows that touch a block; predicted by itself, that part gives the block's logits as the whole would. So
memory is that of a block, and no seam shows where two of them meet.

Shapes: Z slices, C classes, H W space, voxels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

GROUP_VOXELS = 1 << 22
"""Of a slice's part, times slices, blended at once: 4 bytes per class and voxel, twice."""


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
    """Logits float32 (z, C, H, W) of em uint8 (Z, H, W), H W ≥ window, a few slices z at a time.

    Windows are weighed by a Gaussian whose σ is an eighth of them. network: uint8 (N, 1, *window) to logits
    (N, C, *window), on the device of `em`.
    """
    from monai.inferers.utils import sliding_window_inference  # takes seconds to import

    def logits(images: Tensor) -> Tensor:
        return network(images.to(torch.uint8))

    for part in em.split(max(1, GROUP_VOXELS // em[0].numel())):
        whole = sliding_window_inference(
            part[:, None].float(), tuple(window), batch_size, logits, overlap=overlap, mode="gaussian"
        )
        assert isinstance(whole, Tensor)
        yield whole
