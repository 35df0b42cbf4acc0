"""What `augment` does, on the CPU: the same voxels, bit for bit, one patch after the other in few passes over memory.

Shapes: N batch, K input channels, P packed bytes, D space along z, H W the context, h w the patch. One patch and its
scratch memory fit the CPU's cache, and views and small integers replace what is slow there: reversed views for mirrors,
a complex number per voxel for its two coordinates (grid_sample wants them side by side), and float to uint8 by way of
int32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import grid_sample

Patches = tuple[Tensor, Tensor]


def permute_patches(em: Tensor, labels: Tensor, draws: dict[str, Tensor], height: int, width: int) -> Patches | None:
    """Mirrored and transposed patches, em uint8 (N, K, D, h, w) and labels (N, P, D, h, w); None where the context is
    too small or its centre lies between voxels for one of them."""
    flags = list(zip(*(draws[name].bool().tolist() for name in ("mirror_y", "mirror_x", "transpose"))))
    sizes = {(width, height) if transpose else (height, width) for *_, transpose in flags}
    slack = [(em.shape[-2] - rows, em.shape[-1] - columns) for rows, columns in sizes]
    if any(s < 0 or s % 2 for pair in slack for s in pair):
        return None
    return _permute(em, flags, height, width), _permute(labels, flags, height, width)


def _permute(image: Tensor, flags: list[tuple[bool, ...]], height: int, width: int) -> Tensor:
    out = image.new_empty(*image.shape[:3], height, width)
    for source, target, (mirror_y, mirror_x, transpose) in zip(image.numpy(), out.numpy(), flags):
        if transpose:  # the mirrors come first: the patch's x runs along the context's rows
            target[...] = _centre(source, width, height, mirror_x, mirror_y).swapaxes(-1, -2)
        else:
            target[...] = _centre(source, height, width, mirror_y, mirror_x)
    return out


def _centre(image: NDArray, height: int, width: int, flip_rows: bool, flip_columns: bool) -> NDArray:
    """View of the central (…, height, width) of image (…, H, W), its rows and columns reversed if asked for."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    view = image[..., top : top + height, left : left + width]
    return view[..., :: -1 if flip_rows else 1, :: -1 if flip_columns else 1]


def rotate_patches(
    em: Tensor,
    labels: Tensor,
    matrix: Tensor,
    height: int,
    width: int,
    *,
    gather: Callable[[Tensor, Tensor, int, int], Tensor],
) -> Patches:
    """Patches at the coordinates `matrix` (N, 2, 2) gives: em bilinear (N, K, D, h, w), labels nearest (N, P, D, h, w).

    gather: takes image (1, P, D, H, W) at a flat index (1, h·w). The arithmetic is that of `augment.resample_plane`,
    operation by operation.
    """
    source_h, source_w = em.shape[-2:]
    y = torch.arange(height, dtype=torch.float32)[None, :, None] - (height - 1) / 2
    x = torch.arange(width, dtype=torch.float32)[None, None, :] - (width - 1) / 2
    a = matrix[:, :, :, None, None]
    down_y, along_y = a[:, 0, 0] * y + (source_h - 1) / 2, a[:, 0, 1] * x
    down_x, along_x = a[:, 1, 0] * y + (source_w - 1) / 2, a[:, 1, 1] * x
    down, along = torch.complex(down_x, down_y), torch.complex(along_x, along_y)
    new_em = em.new_empty(*em.shape[:3], height, width)
    new_labels = labels.new_empty(*labels.shape[:3], height, width)
    scratch = _Scratch(em.shape[1] * em.shape[2], source_h, source_w, height, width)
    for n in range(len(em)):
        index = scratch.nearest(down_y[n] + along_y[n], down_x[n] + along_x[n])
        new_labels[n : n + 1] = gather(labels[n : n + 1], index, height, width)
        scratch.bilinear(em[n].flatten(0, 1), down[n], along[n], out=new_em[n].flatten(0, 1))
    return new_em, new_labels


class _Scratch:
    """Memory for one patch at a time."""

    def __init__(self, planes: int, source_h: int, source_w: int, height: int, width: int) -> None:
        self.context = torch.empty(1, planes, source_h, source_w)
        self.at = torch.empty(height, width, dtype=torch.complex64)
        self.whole = torch.empty(height, width, dtype=torch.int32)
        self.index = torch.empty(height, width, dtype=torch.int64)
        self.value = torch.empty(planes, height, width, dtype=torch.int32)

    def nearest(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Index of the nearest context voxel in the flattened plane, int64 (1, h·w), from rows and columns (h, w)."""
        source_h, source_w = self.context.shape[-2:]
        flat = rows.round_().clamp_(0, source_h - 1).mul_(source_w).add_(columns.round_().clamp_(0, source_w - 1))
        return self.index.copy_(self.whole.copy_(flat)).view(1, -1)

    def bilinear(self, em: Tensor, down: Tensor, along: Tensor, *, out: Tensor) -> None:
        """out (K·D, h, w) ← em (K·D, H, W) at column + i · row = down (h, 1) + along (1, w), rounded; uint8."""
        source_h, source_w = self.context.shape[-2:]
        torch.add(down, along, out=self.at)
        grid = torch.view_as_real(self.at)
        for axis, size in zip(grid.split(1, dim=2) if source_h != source_w else [grid], (source_w, source_h)):
            axis.mul_(2 / (size - 1)).sub_(1)
        self.context[0].copy_(em)
        sampled = grid_sample(self.context, grid[None], mode="bilinear", padding_mode="border", align_corners=True)
        out.copy_(self.value.copy_(sampled[0].round_()))
