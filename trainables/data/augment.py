"""Mirror, transpose and rotation in the slice plane, mirrors of z, and gain, on whatever device the batch lies.

Shapes: N batch, K input channels, P packed bytes, D space along z, H W the context (enlarged patch), h w the patch.
Those in the plane are one linear map of patch coordinates about the centre, so a patch is resampled once. The context
is large enough for every angle (`context_size`): no corner is blank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from trainables.data.augment_cpu import permute_patches, rotate_patches

if TYPE_CHECKING:
    from trainables.data.patch import PackedBatch


def augment(batch: PackedBatch, patch: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The batch's patches: em uint8 (N, K, D, h, w) bilinear, labels uint8 (N, P, D, h, w) nearest.

    patch: (D, h, w) voxels. A batch without draws (validation) is cut to its centre. No host synchronisation.
    """
    height, width = int(patch[1]), int(patch[2])
    if not batch.draws:
        return centre(batch.em, height, width), centre(batch.labels, height, width)
    in_plane = {name: values for name, values in batch.draws.items() if name not in ("mirror_z", "gain")}
    em, labels = _augment_plane(batch, in_plane, height, width)
    if "gain" in batch.draws:
        em = (em * batch.draws["gain"].view(-1, 1, 1, 1, 1)).round_().clamp_(0, 255).to(torch.uint8)
    if "mirror_z" not in batch.draws:
        return em, labels
    turned = batch.draws["mirror_z"].view(-1, 1, 1, 1, 1) > 0
    return torch.where(turned, em.flip(2), em), torch.where(turned, labels.flip(2), labels)


def _augment_plane(batch: PackedBatch, draws: dict[str, Tensor], height: int, width: int) -> tuple[Tensor, Tensor]:
    matrix = plane_map(**draws)
    exact = "angle" not in draws
    on_cpu = batch.em.device.type == "cpu" and not torch.compiler.is_compiling()
    if on_cpu and not exact:
        return rotate_patches(batch.em, batch.labels, matrix, height, width, gather=_gather)
    permuted = permute_patches(batch.em, batch.labels, draws, height, width) if on_cpu else None
    return permuted or resample_plane(batch.em, batch.labels, matrix, height, width, exact=exact)


def centre(image: Tensor, height: int, width: int) -> Tensor:
    """The central (…, height, width) of image (…, H, W)."""
    top, left = (image.shape[-2] - height) // 2, (image.shape[-1] - width) // 2
    return image[..., top : top + height, left : left + width]


def plane_map(mirror_y: Tensor, mirror_x: Tensor, transpose: Tensor, angle: Tensor | None = None) -> Tensor:
    """Map from centred patch coordinates (y, x) to centred context coordinates, float32 (N, 2, 2).

    mirror_y, mirror_x, transpose: (N,), 0 or 1. angle: (N,), radians. Mirror first, then transpose, then rotation.
    """
    flip_y, flip_x = 1 - 2 * mirror_y, 1 - 2 * mirror_x
    straight, swapped = 1 - transpose, transpose
    row_y = torch.stack([straight * flip_y, swapped * flip_x], dim=1)
    row_x = torch.stack([swapped * flip_y, straight * flip_x], dim=1)
    if angle is None:
        return torch.stack([row_y, row_x], dim=1)
    cos, sin = torch.cos(angle)[:, None], torch.sin(angle)[:, None]
    return torch.stack([cos * row_y - sin * row_x, sin * row_y + cos * row_x], dim=1)


def resample_plane(
    em: Tensor, labels: Tensor, matrix: Tensor, height: int, width: int, *, exact: bool
) -> tuple[Tensor, Tensor]:
    """Patches at the coordinates `matrix` (N, 2, 2) gives: em (N, K, D, H, W) and labels (N, P, D, H, W), uint8.

    exact: the map only permutes voxels (no rotation), so EM is gathered as the labels are. Pure; compiles.
    """
    rows, columns = _coordinates(matrix, em.shape[-2], em.shape[-1], height, width)
    index = _flat_index(rows, columns, em.shape[-2], em.shape[-1])
    new_labels = _gather(labels, index, height, width)
    if exact:
        return _gather(em, index, height, width), new_labels
    return _bilinear(em, rows, columns), new_labels


def _coordinates(matrix: Tensor, source_h: int, source_w: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Row and column in the context of every patch voxel, each float32 (N, h, w)."""
    y = torch.arange(height, device=matrix.device, dtype=torch.float32)[None, :, None] - (height - 1) / 2
    x = torch.arange(width, device=matrix.device, dtype=torch.float32)[None, None, :] - (width - 1) / 2
    a = matrix[:, :, :, None, None]
    rows = (a[:, 0, 0] * y + (source_h - 1) / 2) + a[:, 0, 1] * x
    columns = (a[:, 1, 0] * y + (source_w - 1) / 2) + a[:, 1, 1] * x
    return rows, columns


def _flat_index(rows: Tensor, columns: Tensor, source_h: int, source_w: int) -> Tensor:
    """Index of the nearest context voxel in the flattened plane, int64 (N, h·w)."""
    near_y = rows.round().clamp_(0, source_h - 1)
    near_x = columns.round().clamp_(0, source_w - 1)
    # exact in float32: a plane has far fewer than 2**24 voxels
    return near_y.mul_(source_w).add_(near_x).to(torch.int64).flatten(1)


def _gather(image: Tensor, index: Tensor, height: int, width: int) -> Tensor:
    """image uint8 (N, K, D, H, W) at index (N, h·w) of every plane: (N, K, D, h, w)."""
    n, k, d = image.shape[:3]
    planes = image.reshape(n, k * d, -1)
    return torch.gather(planes, 2, index[:, None].expand(-1, k * d, -1)).view(n, k, d, height, width)


def _bilinear(em: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """em uint8 (N, K, D, H, W) at rows, columns (N, h, w), rounded: uint8 (N, K, D, h, w)."""
    source_h, source_w = em.shape[-2:]
    grid = torch.stack([columns * (2 / (source_w - 1)) - 1, rows * (2 / (source_h - 1)) - 1], dim=-1)
    image = em.flatten(1, 2).to(torch.float32)
    sampled = grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled.round_().to(torch.uint8).unflatten(1, em.shape[1:3])
