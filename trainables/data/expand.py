"""Packed labels to float targets, on the device.

Shapes: N batch, C classes, P = ceil(2C / 8) bytes per voxel, D H W space.
Bit i of a voxel lies in byte i // 8 at position i % 8. Bit c: class c is present; bit C + c: class c is annotated.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE_VOXELS = 1 << 16
"""Expanded at once on the CPU."""


def packed_bytes(num_classes: int) -> int:
    """Bytes per voxel for `num_classes` classes: P = ceil(2C / 8)."""
    return math.ceil(2 * num_classes / 8)


def expand_labels(labels: Tensor, num_classes: int) -> Tensor:
    """Targets float32 (N, C, D, H, W): 1 present, 0 absent, NaN unknown.

    labels: uint8 (N, P, D, H, W). Pure, static shapes, no data-dependent control flow: compiles as one graph. Planes
    stay uint8 because torch cannot shift uint16 on the CPU and the wider integers are twenty times slower there.
    """
    if labels.device.type == "cpu" and not torch.compiler.is_compiling():
        return _expand_in_pieces(labels, num_classes)
    # One broadcast instead of a stack of classes, and comparisons of floats instead of bytes: Inductor writes a stack
    # through a transposed temporary and turns masks of bytes into masks of floats lane by lane (6 times slower).
    bit = (1 << torch.arange(8, dtype=torch.uint8, device=labels.device)).view(1, 1, 8, 1, 1, 1)
    bits = (labels[:, :, None] & bit).flatten(1, 2)
    present, known = bits[:, :num_classes], bits[:, num_classes : 2 * num_classes]
    return torch.where(known.to(torch.float32) > 0, present.to(torch.float32).clamp(max=1), float("nan"))


def _expand_in_pieces(labels: Tensor, num_classes: int) -> Tensor:
    """`expand_labels` where nothing fuses: pieces that fit the cache, and only operations that torch vectorises.

    Masks are slow there (`where`, bool to float), quotients are not: (present and known) / known is 1, 0, or 0/0 = NaN.
    """
    space = labels.shape[2:]
    step = max(1, PIECE_VOXELS // space.numel())
    bit = [torch.tensor(1 << i, dtype=torch.uint8) for i in range(8)]
    out = torch.empty(len(labels), num_classes, *space)
    whole_known, whole_masked = torch.empty(step, *space), torch.empty(step, *space, dtype=torch.uint8)
    for piece, target in zip(labels.split(step), out.split(step)):
        known, masked = whole_known[: len(piece)], whole_masked[: len(piece)]
        for first in range(0, num_classes, 8):
            known_byte = _byte_at(piece, num_classes + first)
            present_byte = piece[:, first // 8] & known_byte
            for index in range(first, min(first + 8, num_classes)):
                known.copy_(torch.bitwise_and(known_byte, bit[index - first], out=masked))
                value = target[:, index].copy_(torch.bitwise_and(present_byte, bit[index - first], out=masked))
                value.div_(known)
    return out


def _byte_at(labels: Tensor, first: int) -> Tensor:
    """Bits first … first + 7 of labels (N, P, D, H, W) as one byte (N, D, H, W); bits beyond the last are 0."""
    byte, shift = divmod(first, 8)
    if shift == 0:
        return labels[:, byte]
    low = labels[:, byte] >> shift
    return low | (labels[:, byte + 1] << (8 - shift)) if byte + 1 < labels.shape[1] else low


def pack_class(planes: NDArray[np.uint8], index: int, num_classes: int, present: NDArray[np.bool_],
               known: NDArray[np.bool_]) -> None:  # fmt: skip
    """Set the two bits of class `index` in planes (P, D, H, W) in place; present counts only where known."""
    for bit, mask in ((index, present & known), (num_classes + index, known)):
        planes[bit // 8] |= mask.astype(np.uint8) << np.uint8(bit % 8)


def class_masks(planes: NDArray[np.uint8], index: int, num_classes: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(present, known) of class `index` from planes (P, D, H, W), each bool (D, H, W): the inverse of `pack_class`."""
    present, known = (
        (planes[bit // 8] >> np.uint8(bit % 8)) & 1 != 0 for bit in (index, num_classes + index)
    )  # fmt: skip
    return present, known
